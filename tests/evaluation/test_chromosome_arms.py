"""Chromosome-arm correction against its definition, on made-up and on real arms."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles
from mae_jax.evaluation.chromosome_arms import (
    correct_chromosome_arms,
    read_chromosome_arms,
    read_unexpressed,
)


def gene_map(names: list[str], width: int = 5, seed: int = 0) -> Profiles:
    features = np.random.default_rng(seed).standard_normal((len(names), width), np.float32)
    metadata = pd.DataFrame({"Metadata_Gene": names})
    return Profiles(metadata, features, tuple(f"f{i}" for i in range(width)))


def test_is_the_definition() -> None:
    names = [f"G{i:03d}" for i in range(75)]
    arms = {n: "chr1p" if i < 30 else "chr1q" for i, n in enumerate(names[:70])}
    silent = set(names[:21]) | set(names[30:50])  # 21 on chr1p, 20 on chr1q
    genes = gene_map(names)
    got = correct_chromosome_arms(genes, arms, unexpressed=silent)
    want = genes.features.copy()
    want[:30] -= genes.features[:21].mean(axis=0)  # all genes of the arm, by the silent ones' mean
    np.testing.assert_allclose(got.genes.features, want, atol=1e-6)  # 20 are not more than 20
    table = got.arms.set_index("arm")
    assert table["corrected"].to_dict() == {"chr1p": True, "chr1q": False}
    assert table["used"].to_dict() == {"chr1p": 21, "chr1q": 20}
    assert got.unplaced == tuple(names[70:])
    assert "41 unexpressed" in got.note
    assert genes.features is not got.genes.features


def test_without_an_expression_table_all_genes_count_and_it_says_so() -> None:
    names = [f"G{i:03d}" for i in range(40)]
    got = correct_chromosome_arms(gene_map(names), dict.fromkeys(names, "chr2p"))
    np.testing.assert_allclose(got.genes.features.mean(axis=0), 0, atol=1e-6)
    assert "no expression table was given" in got.note


def test_arms_from_coordinates(tmp_path: Path) -> None:
    (tmp_path / "genes.csv").write_text(
        "gene,chrom,start,end\nA,chr1,10,40\nB,chr1,40,60\nC,chr1,70,80\nD,chrM,1,2\n"
    )
    (tmp_path / "cen.csv").write_text("chrom,start,end\nchr1,30,50\nchr1,50,70\n")
    got = read_chromosome_arms(tmp_path / "genes.csv", tmp_path / "cen.csv")
    assert got == {"A": "chr1p", "B": "chr1q", "C": "chr1q"}  # the midpoint is 50
    with pytest.raises(InputError, match="give the centromeres"):
        read_chromosome_arms(tmp_path / "genes.csv")
    (tmp_path / "x.csv").write_text("gene,zFPKM\nA,-3.1\nB,-3\nC,\nD,2\n")
    assert read_unexpressed(tmp_path / "x.csv") == {"A"}
    with pytest.raises(InputError, match="lacks column zFPKM"):
        read_unexpressed(tmp_path / "genes.csv")


def test_foreign_names_are_refused() -> None:
    with pytest.raises(InputError, match="none of the map's genes"):
        correct_chromosome_arms(gene_map(["a", "b"]), {"A": "chr1p"})


def test_real_arms_remove_a_bias(shared_data: Path) -> None:
    arms = read_chromosome_arms(shared_data / "gene_chromosome_arm_hg38.csv")
    assert len(arms) > 28_000
    assert arms["DDX11L1"] == "chr1p"
    names = sorted(arms)[::9]
    genes = gene_map(names, 16)
    rng = np.random.default_rng(0)
    bias = {a: rng.standard_normal(16).astype(np.float32) for a in sorted(set(arms.values()))}
    biased = genes.features + np.stack([bias[arms[n]] for n in names])
    got = correct_chromosome_arms(Profiles(genes.metadata, biased, genes.names), arms)
    big = set(got.arms.loc[got.arms["corrected"], "arm"])
    rows = np.array([arms[n] in big for n in names])
    assert rows.mean() > 0.9
    plain = correct_chromosome_arms(genes, arms)
    np.testing.assert_allclose(got.genes.features[rows], plain.genes.features[rows], atol=1e-4)
