import numpy as np

from mae_jax.synth import PARAMETERS, ScreenConfig, gene_effects, known_relationships


def _unit(table):
    effects = table[list(PARAMETERS)].to_numpy()
    return effects / np.linalg.norm(effects, axis=1, keepdims=True)


def test_every_gene_has_an_effect_and_most_are_in_complexes() -> None:
    table = gene_effects(ScreenConfig())
    assert table["Metadata_Gene"].nunique() == len(table) == 48
    assert sorted(table.loc[table["Complex"] != "", "Complex"].value_counts()) == [3] * 12 + [4] * 2


def test_genes_of_a_complex_share_a_direction_and_others_do_not() -> None:
    for seed in range(3):
        table = gene_effects(ScreenConfig(seed=seed))
        cosines = _unit(table) @ _unit(table).T
        name = table["Complex"].to_numpy()
        same = (name[:, None] == name[None]) & (name != "")[:, None]
        upper = np.triu(np.ones_like(same), 1)
        assert cosines[same & upper].min() > 0.5
        assert np.quantile(np.abs(cosines[~same & upper]), 0.95) < 0.6


def test_strength_scales_the_effect() -> None:
    table = gene_effects(ScreenConfig())
    members = table[table["Complex"] == "complex-01"]
    lengths = np.linalg.norm(members[list(PARAMETERS)].to_numpy(), axis=1)
    assert (lengths[members["Strength"].argmin()] < lengths[members["Strength"].argmax()]).all()
    double = gene_effects(ScreenConfig(phenotype_strength=2.0))
    np.testing.assert_allclose(
        double[list(PARAMETERS)], 2 * table[list(PARAMETERS)], atol=2e-4, rtol=0
    )


def test_known_relationships_are_the_pairs_within_complexes() -> None:
    config = ScreenConfig(seed=5)
    pairs = known_relationships(config)
    assert list(pairs.columns) == ["entity1", "entity2"]
    assert len(pairs) == 12 * 3 + 2 * 6
    assert not pairs.duplicated().any()
    assert (pairs["entity1"] < pairs["entity2"]).all()
    complexes = gene_effects(config).set_index("Metadata_Gene")["Complex"]
    first, second = complexes[pairs["entity1"]], complexes[pairs["entity2"]]
    assert (first.to_numpy() == second.to_numpy()).all()
    assert (first != "").all()


def test_the_seed_decides() -> None:
    assert gene_effects(ScreenConfig(seed=1)).equals(gene_effects(ScreenConfig(seed=1)))
    assert not gene_effects(ScreenConfig(seed=1)).equals(gene_effects(ScreenConfig(seed=2)))


def test_what_is_returned_can_be_changed_safely() -> None:
    config = ScreenConfig(seed=9)
    mine = gene_effects(config)
    mine["nucleus_size"] = 100.0
    assert gene_effects(config)["nucleus_size"].abs().max() < 10
