"""Pairs of genes: sorted, once, without self-pairs, with an account of what was dropped."""

from pathlib import Path

import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.evaluation import ColumnSchema, Profiles, Relationships, aggregate, correct, recall


def test_sorted_unique_without_self_pairs() -> None:
    r = Relationships.of("db", [("B", "A"), ("A", "B"), ("A", "A"), ("C", "A"), ("B", "A")])
    assert r.pairs.tolist() == [["A", "B"], ["A", "C"]]
    assert (r.rows, r.self_pairs, r.duplicates, len(r)) == (5, 1, 2, 2)


def test_within_a_map() -> None:
    r = Relationships.of("db", [("B", "A"), ("A", "X"), ("C", "B")])
    at, kept = r.within(["C", "B", "A"])
    assert at.tolist() == [[1, 2], [0, 1]]
    assert r.pairs[kept].tolist() == [["A", "B"], ["B", "C"]]


def test_round_trip_and_bad_files(tmp_path: Path) -> None:
    r = Relationships.of("db", [("B", "A"), ("A", "X")])
    again = Relationships.read(r.write(tmp_path / "db.csv"))
    assert again.name == "db"
    np.testing.assert_array_equal(again.pairs, r.pairs)
    with pytest.raises(InputError, match="does not exist"):
        Relationships.read(tmp_path / "none.csv")
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="needs entity1"):
        Relationships.read(tmp_path / "odd.csv")
    (tmp_path / "hole.csv").write_text("entity1,entity2\nA,B\n,C\n")
    with pytest.raises(InputError, match="relationship 2 of hole lacks a gene"):
        Relationships.read(tmp_path / "hole.csv")


def test_real_databases(shared_data: Path) -> None:
    counts = {"CORUM": 37649, "HuMAP": 58538, "Reactome": 18565, "SIGNOR": 11617, "StringDB": 58059}
    every: list[str] = []
    for name, unique in counts.items():
        r = Relationships.read(shared_data / "relationships" / f"{name}.txt")
        assert len(r) == unique
        assert r.rows == unique + r.self_pairs + r.duplicates
        every.extend(r.pairs.ravel())
    assert len(set(every)) > 10_000


def test_real_l1000_from_wells_to_recall(shared_data: Path) -> None:
    """3 real plates: TVN and recall are those of the definitions, spelled out."""
    import pandas as pd
    import scipy.linalg
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler, normalize

    wells = Profiles.read(shared_data / "profiles" / "taoe_l1000_u2os_orf_1092x978.parquet")
    gene = "Metadata_x_genesymbol_mutation"
    schema = ColumnSchema(controls="Metadata_pert_type=ctl_vector|ctl_untrt")
    database = Relationships.read(shared_data / "relationships" / "StringDB.txt")
    corrected = correct(wells, "tvn", batch="Metadata_rna_plate", schema=schema)
    got = recall(aggregate(corrected, gene, controls=schema.controls), [database], by=gene)[0]

    control = wells.controls(schema.controls)
    x = wells.features.astype(np.float64)
    x = StandardScaler().fit(x[control]).transform(x)
    # 158 controls span 157 axes; scikit-learn's 158th is rounding.
    x = PCA(157).fit(x[control]).transform(x)
    x = StandardScaler().fit(x[control]).transform(x)
    plate = wells.metadata["Metadata_rna_plate"].to_numpy()
    for p in set(plate):
        mine = plate == p
        cov = np.cov(x[mine & control], rowvar=False) + 0.5 * np.eye(157)
        x[mine] = x[mine] @ np.real(scipy.linalg.fractional_matrix_power(cov, -0.5))
    x = pd.DataFrame(normalize(x - x[control].mean(axis=0))[~control])
    genes = x.groupby(wells.metadata[gene].to_numpy()[~control]).mean()
    cosines = normalize(genes.to_numpy())
    cosines = cosines @ cosines.T
    null = np.sort(cosines[np.triu_indices(len(genes), 1)])
    low, high = null[int(0.05 * len(null))], null[int(np.ceil(0.95 * len(null))) - 1]
    known = database.pairs[np.isin(database.pairs, genes.index).all(axis=1)]
    q = cosines[genes.index.get_indexer(known[:, 0]), genes.index.get_indexer(known[:, 1])]

    assert (got.genes, got.pairs_used) == (222, 736) == (len(genes), len(known))
    order = got.pairs.set_index(["entity1", "entity2"])["cosine"]
    np.testing.assert_allclose(order.loc[list(map(tuple, known))], q, atol=1e-4)
    # float32 may carry one pair over a threshold.
    assert abs(got.recall - ((q < low) | (q > high)).mean()) <= 2 / 736
