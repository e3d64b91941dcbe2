"""Chromosome-arm correction of CRISPR maps (section 5.1).

Cas9 cuts shed what lies towards the chromosome's end, so genes on one arm look alike whatever
they do. The correction takes from each gene the mean of its arm.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.profiles import Profiles

MIN_GENES_PER_ARM = 20  # an arm is corrected only if more genes than this make up its mean
UNEXPRESSED = -3.0  # zFPKM


@dataclass(frozen=True)
class ArmCorrection:
    """What was corrected.

    Attributes:
      genes: the corrected map.
      arms: arm, genes (on it, in the map), used (for its mean), corrected.
      unplaced: genes of the map that the table of arms does not have.
      note: which genes made up the means, in words.
    """

    genes: Profiles
    arms: pd.DataFrame
    unplaced: tuple[str, ...]
    note: str


def read_chromosome_arms(
    path: str | os.PathLike[str], centromeres: str | os.PathLike[str] | None = None
) -> dict[str, str]:
    """Gene -> chromosome arm, such as "chr1p".

    Args:
      path: CSV with `gene` and `chromosome_arm`, or with `gene`, `chrom`, `start`, `end`.
      centromeres: for the second kind: CSV with `chrom`, `start`, `end` of the centromeres. A
        gene lies on arm q if its end is beyond the centromere's midpoint, else on p.

    Raises:
      InputError: no such file, or other columns.
    """
    table = _table(path)
    if "chromosome_arm" in table and "gene" in table:
        arms = table["chromosome_arm"]
    else:
        _needs(table, path, ["gene", "chrom", "start", "end"])
        if centromeres is None:
            raise InputError(
                f"{path} names no chromosome_arm; give the centromeres with --centromeres."
            )
        middle = _table(centromeres)
        _needs(middle, centromeres, ["chrom", "start", "end"])
        # A centromere may come in several pieces (UCSC's acen bands): the middle of them all.
        spans = middle.astype({"start": float, "end": float}).groupby("chrom")
        midpoint = (spans["start"].min() + spans["end"].max()) / 2
        center = table["chrom"].map(midpoint)
        beyond = table["end"].astype(float) > center
        arms = (table["chrom"] + np.where(beyond, "q", "p")).where(center.notna(), "")
    return {g: a for g, a in zip(table["gene"], arms, strict=True) if g and a}


def read_unexpressed(path: str | os.PathLike[str], below: float = UNEXPRESSED) -> set[str]:
    """The genes whose zFPKM lies below −3: CSV with `gene` and `zFPKM`."""
    table = _table(path)
    _needs(table, path, ["gene", "zFPKM"])
    values = pd.to_numeric(table["zFPKM"], errors="coerce")
    return set(table.loc[values < below, "gene"])


def correct_chromosome_arms(
    genes: Profiles,
    arms: dict[str, str],
    *,
    unexpressed: Collection[str] | None = None,
    by: str = "Metadata_Gene",
    min_genes: int = MIN_GENES_PER_ARM,
) -> ArmCorrection:
    """x_g ← x_g − μ_arm(g), μ_a the mean of the unexpressed genes on arm a.

    Genes that are not expressed have no phenotype of their own when knocked out: what they share
    with their arm is the artifact. Arms on which `min_genes` or fewer of them lie stay as they are.

    Args:
      genes: one row per gene.
      arms: gene -> arm.
      unexpressed: genes that make up the means; None: all genes do, which takes some biology
        along, and `note` says so.
      by: the column that names the gene.
      min_genes: an arm needs more genes than this.

    Raises:
      InputError: no gene of the map is in `arms`.
    """
    names = np.array([str(v) for v in genes.column(by)], dtype=object)
    arm_of = np.array([arms.get(n, "") for n in names], dtype=object)
    if not (arm_of != "").any():
        raise InputError(
            f"none of the map's genes (such as {', '.join(names[:3])}) is in the table of "
            "chromosome arms; check that both name genes in the same way."
        )
    counts = np.ones(len(names), bool) if unexpressed is None else np.isin(names, list(unexpressed))
    features = genes.features.copy()
    rows = []
    for arm in sorted(set(arm_of) - {""}):
        on_arm = arm_of == arm
        used = on_arm & counts
        enough = int(used.sum()) > min_genes
        if enough:
            mean = genes.features[used].mean(axis=0, dtype=np.float64)
            features[on_arm] = (genes.features[on_arm] - mean).astype(np.float32)
        rows.append((arm, int(on_arm.sum()), int(used.sum()), enough))
    table = pd.DataFrame(rows, columns=["arm", "genes", "used", "corrected"])
    source = (
        "all genes (no expression table was given)"
        if unexpressed is None
        else (f"{int((counts & (arm_of != '')).sum())} unexpressed genes")
    )
    note = (
        f"Chromosome arms: {int(table['corrected'].sum())} of {len(table)} corrected, by the mean "
        f"of {source}."
    )
    unplaced = tuple(str(n) for n in names[arm_of == ""])
    return ArmCorrection(Profiles(genes.metadata, features, genes.names), table, unplaced, note)


def _table(path: str | os.PathLike[str]) -> pd.DataFrame:
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; check the path.")
    separator = "\t" if Path(path).suffix in (".tsv", ".txt") else ","
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)


def _needs(table: pd.DataFrame, path: str | os.PathLike[str], columns: Sequence[str]) -> None:
    missing = [c for c in columns if c not in table]
    if missing:
        raise InputError(f"{path} lacks column {missing[0]}; it needs {', '.join(columns)}.")
