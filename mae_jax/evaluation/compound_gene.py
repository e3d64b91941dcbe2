"""Compound–gene interactions: does a compound look like the knock-out of a gene that it acts on?

The rule of EFAAR's RxRx3-core benchmark, made deterministic. There the negatives are drawn from a
Python set, whose order changes from process to process; here from the sorted list of eligible
genes. The draws of one seed are therefore not EFAAR's, but means over seeds estimate the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.average_precision import (
    average_precision,
    benjamini_hochberg,
    expected_average_precision,
    ranking_null,
    share_at_least,
)
from mae_jax.evaluation.profiles import Profiles

RXRX3_CORE_DOSES = (0.0025, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0)  # µM
MAX = "max"
_COLUMNS = ("treatment", "gene_symbol", "nM_value")


@dataclass(frozen=True)
class CompoundGene:
    """Scores of a map.

    Attributes:
      summary: one row per dose and for "max": dose, compounds, ap and auc (mean over compounds,
        then over seeds), ap_std and auc_std (over seeds, ddof 1), ap_random (expected of random
        similarities), z ((ap − its mean for random similarities)/their std over seeds).
      compounds: one row per compound: perturbation, n (its genes), score (mean over seeds of the
        AP at "max"), p, q, auc, eligible (genes), ap_all (AP among all eligible genes).
      note: what of the truth table could not be used.
    """

    summary: pd.DataFrame
    compounds: pd.DataFrame
    note: str


def dose_map(
    profiles: Profiles,
    *,
    treatment: str = "Metadata_treatment",
    kind: str = "Metadata_perturbation_type",
    dose: str = "Metadata_concentration",
    compound_kind: str = "COMPOUND",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean profiles of compounds at each dose, and of genes (all guides of a gene pooled).

    The perturbation is the treatment up to the first "_" (`BRCA1_guide_2`), except in names with
    "_control"; compounds with "_control" in the name are left out.

    Returns:
      Compounds, with the index (compound, dose in µM as float), and genes, with the gene as index.

    Raises:
      InputError: no such column, a dose that is not a number, no compounds or no genes.
    """
    names = profiles.column(treatment).astype(str)
    control = names.str.contains("_control", regex=False)
    perturbation = names.where(control, names.str.split("_").str[0])
    is_compound = (profiles.column(kind) == compound_kind).to_numpy(dtype=bool)
    features = pd.DataFrame(profiles.features)
    genes = features[~is_compound & (names != "").to_numpy(dtype=bool)].groupby(perturbation).mean()
    wells = is_compound & ~control.to_numpy(dtype=bool)
    doses = pd.to_numeric(profiles.column(dose), errors="coerce")
    wrong = wells & doses.isna().to_numpy(dtype=bool)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{dose} of {names.iloc[row]} is '{profiles.metadata[dose].iloc[row]}', not a number "
            "of µM; give the dose of every compound well."
        )
    if not wells.any() or genes.empty:
        values = ", ".join(repr(v) for v in sorted(set(profiles.metadata[kind].astype(str)))[:5])
        raise InputError(
            f"no wells of {'genes' if wells.any() else 'compounds'}: column {kind} should be "
            f"'{compound_kind}' for compounds alone, and has {values}."
        )
    compounds = features[wells].groupby([perturbation[wells], doses[wells]]).mean()
    return compounds.rename_axis(["compound", "dose"]), genes.rename_axis("gene")


def compound_gene_benchmark(
    compounds: pd.DataFrame,
    genes: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    doses: Sequence[float] = RXRX3_CORE_DOSES,
    seeds: Sequence[int] = range(100),
    active: float = 1_000.0,
    inactive: float = 10_000.0,
    min_negatives: int = 20,
    null_size: int = 10_000,
) -> CompoundGene:
    """Rank a compound's genes among others by |cosine|.

    Positives of a compound are the genes of the truth table with nM ≤ `active`; genes up to
    `inactive` are left out; all other genes of the table are eligible as negatives, of which
    max(2 · positives, `min_negatives`) are drawn for each seed. "max" takes every gene's largest
    similarity over the doses. Compounds without a positive, or with too few eligible genes, are
    left out, and so are genes that the map does not hold.

    p compares the AP of a compound's genes among all eligible genes with random rankings. It
    takes genes for exchangeable: where a compound's genes are alike, small p come too often.

    Args:
      compounds: features by (compound, dose), see `dose_map`.
      genes: features by gene.
      truth: columns treatment, gene_symbol, nM_value.
      doses: in µM; other doses are left out.
      seeds: of the draws of negatives.
      active, inactive: in nM.
      min_negatives, null_size: as above; random rankings for p.

    Raises:
      InputError: a column is missing, or no compound can be tested.
    """
    truth = _checked(truth)
    pool = sorted(set(truth["gene_symbol"]) & set(genes.index))
    at = {gene: i for i, gene in enumerate(pool)}
    gene_rows = l2_normalize(genes.loc[pool].to_numpy(np.float32))
    known = truth[truth["gene_symbol"].isin(pool)]
    values = compounds.index.get_level_values("dose").to_numpy(float)
    nearest = np.abs(values[:, None] - np.asarray(doses, float)).argmin(axis=1)
    kept = np.isclose(values, np.asarray(doses, float)[nearest], rtol=1e-3)
    names = compounds.index.get_level_values("compound").astype(str).to_numpy()
    labels = [f"{dose:g}" for dose in doses] + [MAX]
    seed_list = list(seeds)
    ap: dict[str, list[np.ndarray]] = {label: [] for label in labels}
    auc: dict[str, list[np.ndarray]] = {label: [] for label in labels}
    random_ap: dict[str, list[np.ndarray]] = {label: [] for label in labels}
    expected: dict[str, list[float]] = {label: [] for label in labels}
    rows, absent = [], 0
    for name in sorted(set(truth["treatment"])):
        own = known[known["treatment"] == name]
        positive = sorted({at[g] for g in own.loc[own["nM_value"] <= active, "gene_symbol"]})
        near = {at[g] for g in own.loc[own["nM_value"] <= inactive, "gene_symbol"]}
        eligible = np.array([i for i in range(len(pool)) if i not in near], dtype=int)
        count = max(2 * len(positive), min_negatives)
        mine = np.flatnonzero((names == name) & kept)
        if not positive or len(eligible) < count:
            continue
        if not len(mine):
            absent += 1
            continue
        vectors = l2_normalize(compounds.iloc[mine].to_numpy(np.float32))
        similarity = np.abs(vectors @ np.ascontiguousarray(gene_rows.T))
        similarity = np.concatenate([similarity, similarity.max(axis=0, keepdims=True)])
        own_labels = [*(labels[i] for i in nearest[mine]), MAX]
        truth_row = np.arange(len(positive) + count) < len(positive)
        scores = np.empty((3, len(own_labels), len(seed_list)))
        for s, seed in enumerate(seed_list):
            rng = np.random.default_rng(seed)
            items = np.r_[positive, rng.choice(eligible, count, replace=False)].astype(int)
            scores[0, :, s], scores[1, :, s] = _ap_and_auc(similarity[:, items], truth_row)
            scores[2, :, s] = _ap_and_auc(rng.random((len(own_labels), len(items))), truth_row)[0]
        mean = float(expected_average_precision(len(positive), count))
        for i, label in enumerate(own_labels):
            ap[label].append(scores[0, i])
            auc[label].append(scores[1, i])
            random_ap[label].append(scores[2, i])
            expected[label].append(mean)
        everything = average_precision(
            similarity[-1, positive].astype(np.float64),
            np.sort(similarity[-1, eligible]).astype(np.float64),
        )
        m, n = len(positive), len(eligible)
        p = share_at_least(ranking_null(m, n, null_size), everything)
        rows.append((name, m, scores[0, -1].mean(), p, scores[1, -1].mean(), n, everything))
    if not rows:
        raise InputError(
            "no compound of the truth table can be tested: the map must hold compounds of its "
            f"column treatment at doses {', '.join(labels[:-1])} µM and genes of gene_symbol."
        )
    columns = ["perturbation", "n", "score", "p", "auc", "eligible", "ap_all"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(4, "q", benjamini_hochberg(table["p"].to_numpy()))
    summary = [
        _summary(
            label,
            np.array(ap[label]),
            np.array(auc[label]),
            np.array(random_ap[label]),
            expected[label],
        )
        for label in labels
        if ap[label]
    ]
    missing = truth["gene_symbol"].nunique() - len(pool)
    note = (
        f"{missing} genes of the truth table are not in the map, and {absent} of its compounds "
        "with known genes; negatives are drawn from the sorted list of eligible genes"
    )
    return CompoundGene(pd.DataFrame(summary), table, note)


def _checked(truth: pd.DataFrame) -> pd.DataFrame:
    for name in _COLUMNS:
        if name not in truth:
            raise InputError(f"the truth table has no column '{name}'; it needs {_COLUMNS}.")
    numbers = pd.to_numeric(truth["nM_value"], errors="coerce")
    if numbers.isna().any():
        row = int(np.argmax(numbers.isna().to_numpy()))
        raise InputError(
            f"row {row + 1} of the truth table has no number in nM_value; give the "
            "concentration in nM."
        )
    return truth.assign(
        nM_value=numbers,
        treatment=truth["treatment"].astype(str),
        gene_symbol=truth["gene_symbol"].astype(str),
    )


def _ap_and_auc(
    scores: Float[np.ndarray, "doses items"], truth: Bool[np.ndarray, " items"]
) -> tuple[Float[np.ndarray, " doses"], Float[np.ndarray, " doses"]]:
    """AP and area under the ROC curve of every dose."""
    from scipy.stats import rankdata

    positives = int(truth.sum())
    order = np.argsort(scores, axis=1)[:, ::-1]
    found = np.cumsum(truth[order], axis=1)
    precision = found / np.arange(1, len(truth) + 1)
    ap = (precision * truth[order]).sum(axis=1) / positives
    ranks = rankdata(scores, axis=1)[:, truth].sum(axis=1)
    auc = (ranks - positives * (positives + 1) / 2) / (positives * (len(truth) - positives))
    return ap, auc


def _summary(
    dose: str, ap: np.ndarray, auc: np.ndarray, random_ap: np.ndarray, expected: list[float]
) -> dict[str, object]:
    """One dose's row: arrays are (compounds, seeds)."""
    means, areas, chance = ap.mean(axis=0), auc.mean(axis=0), random_ap.mean(axis=0)
    several = len(means) > 1
    spread = float(chance.std(ddof=1)) if several else float("nan")
    return {
        "dose": dose,
        "compounds": len(ap),
        "ap": means.mean(),
        "ap_std": means.std(ddof=1) if several else float("nan"),
        "auc": areas.mean(),
        "auc_std": areas.std(ddof=1) if several else float("nan"),
        "ap_random": float(np.mean(expected)),
        "z": (means.mean() - chance.mean()) / spread if spread > 0 else float("nan"),
    }
