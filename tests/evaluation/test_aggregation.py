"""Spherical means against loops, and what must not change them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles, aggregate
from mae_jax.evaluation.aggregation import l2_normalize, spherical_means


def by_hand(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_is_normalize_mean_normalize_from_the_controls(screen: Profiles) -> None:
    genes = aggregate(screen)
    assert genes.metadata["Metadata_Gene"].tolist() == [f"G{i:03d}" for i in range(40)]
    assert set(genes.metadata["Metadata_Replicates"]) == {"6"}
    origin = screen.features[screen.controls()].mean(axis=0)
    for i in (0, 17, 39):
        rows = screen.features[(screen.metadata["Metadata_Gene"] == f"G{i:03d}").to_numpy()]
        np.testing.assert_allclose(genes.features[i], by_hand(rows - origin), atol=1e-5)


def test_metadata_that_vary_within_a_gene_go(screen: Profiles) -> None:
    metadata = aggregate(screen).metadata
    assert "Metadata_Perturbation" in metadata
    assert "Metadata_Plate" not in metadata


def test_through_guides_each_guide_weighs_the_same(screen: Profiles) -> None:
    names = screen.metadata["Metadata_Gene"].to_numpy(dtype=object)
    guide = np.where(np.arange(len(screen)) < 60, "g1", "g2").astype(object)
    metadata = screen.metadata.assign(Metadata_Perturbation=names + "_" + guide)
    profiles = Profiles(metadata, screen.features, screen.names)
    genes = aggregate(profiles, levels=["Metadata_Perturbation"])
    assert set(genes.metadata["Metadata_Replicates"]) == {"6"}
    x = screen.features - screen.features[screen.controls()].mean(axis=0)
    of_gene = names == "G005"
    one = by_hand(x[of_gene & (guide == "g1")])  # one well
    other = by_hand(x[of_gene & (guide == "g2")])  # five
    np.testing.assert_allclose(genes.features[5], by_hand(np.stack([one, other])), atol=1e-5)


def test_controls_may_be_absent_or_kept(screen: Profiles) -> None:
    treated = screen.take(~screen.controls())
    with pytest.raises(InputError, match="negative control"):
        aggregate(treated)
    assert len(aggregate(treated, controls=None)) == 40
    kept = aggregate(screen, "Metadata_Perturbation", keep_controls=True)
    assert "DMSO" in set(kept.metadata["Metadata_Perturbation"])
    with pytest.raises(InputError, match="did you mean 'Metadata_Gene'"):
        aggregate(screen, "Metadata_gene")
    with pytest.raises(InputError, match="nothing to aggregate"):
        aggregate(screen.take(screen.controls()))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), groups=st.integers(1, 1200), rows=st.integers(1, 60))
def test_groups_of_any_size(seed: int, groups: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, groups, rows)
    features = rng.standard_normal((rows, 3)).astype(np.float32)
    got = spherical_means(features, codes, groups)
    for g in range(groups):
        if (codes == g).any():
            np.testing.assert_allclose(got[g], by_hand(features[codes == g]), atol=1e-4)
        else:
            assert (got[g] == 0).all()


def test_a_row_of_zeros_stays_zero() -> None:
    assert (l2_normalize(np.zeros((2, 3))) == 0).all()
