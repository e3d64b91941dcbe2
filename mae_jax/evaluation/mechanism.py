"""Mechanism of action by the nearest treatment: NSC and NSCB (BBBC021's protocol).

NSC, "not same compound": the mechanism predicted for a treatment is that of the nearest treatment
by cosine among those of other compounds. NSCB, "not same compound or batch": wells of the
treatment's batch are excluded too. NSC alone says nothing of batch effects: where compounds of one
mechanism were imaged together, the batch gives the mechanism away.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.pair_intervals import Interval, clustered_interval
from mae_jax.evaluation.profiles import ColumnSchema, Profiles

AGGREGATES = ("mean", "median")


@dataclass(frozen=True)
class Accuracy:
    """The share of testable treatments whose mechanism is predicted right.

    Attributes:
      value: the share; NaN where nothing can be tested.
      interval: of 95 %, with the compounds as clusters.
      chance: the mean share with the mechanisms exchanged at random between compounds.
      p: (1 + #{permuted share ≥ value})/(1 + permutations).
      treatments: how many could be tested.
    """

    value: float
    interval: Interval
    chance: float
    p: float
    treatments: int


@dataclass(frozen=True)
class MechanismAccuracy:
    """Predicted mechanisms.

    Attributes:
      nsc, nscb: the accuracies; nscb is None where no batch was named.
      treatments: one row per treatment with a mechanism: treatment, compound, mechanism, wells,
        and for nsc and nscb `<name>_predicted` and `<name>_correct` (1, 0, or NaN if not testable).
    """

    nsc: Accuracy
    nscb: Accuracy | None
    treatments: pd.DataFrame


def mechanism_accuracy(
    profiles: Profiles,
    *,
    treatment: str = "Metadata_Perturbation",
    compound: str = "Metadata_Compound",
    mechanism: str = "Metadata_MoA",
    batch: str | None = None,
    aggregate: str = "mean",
    permutations: int = 1000,
    schema: ColumnSchema | None = None,
    seed: int = 0,
) -> MechanismAccuracy:
    """Predict each treatment's mechanism by its nearest neighbor.

    A treatment (a compound at a dose) is testable if a treatment of its mechanism is among its
    candidates; the others are left out of the accuracy. A treatment with wells in several batches
    is, for NSCB, predicted once for each of them, from the wells of the other batches, and counts
    as the share that is right. For the chance level, compounds exchange their mechanisms.

    Treatments of one compound are dependent, which the intervals count; p assumes that all
    compounds are exchangeable, so that mechanisms imaged together make it small as well.

    Args:
      profiles: corrected wells.
      treatment, compound, mechanism: columns; wells without a mechanism are left out.
      batch: "plate", "experiment" or a column, such as the week; None: no NSCB.
      aggregate: how wells make a treatment's profile: "mean" (as published) or "median".
      permutations, seed: of the chance level.
      schema: names the columns.

    Raises:
      InputError: no such column, nothing with a mechanism, or a treatment with two compounds or
        mechanisms.
    """
    if aggregate not in AGGREGATES:
        raise InputError(f"wells are aggregated by {' or '.join(AGGREGATES)}, not '{aggregate}'.")
    names = [treatment, compound, mechanism]
    keep = ((profiles.column(mechanism) != "") & (profiles.column(treatment) != "")).to_numpy(bool)
    profiles.column(compound)
    if not keep.any():
        raise InputError(f"no well has a value in {mechanism}; name the column with --mechanism.")
    wells = profiles.take(keep)
    table = wells.metadata[names].astype(str).value_counts().reset_index(name="wells")
    table = table.sort_values(treatment, ignore_index=True)
    twice = table[treatment].duplicated()
    if twice.any():
        which = str(table[treatment].iloc[int(np.argmax(twice))])
        raise InputError(
            f"treatment {which} has several compounds or mechanisms; give every treatment one."
        )
    codes = pd.Index(table[treatment]).get_indexer(wells.metadata[treatment].astype(str))
    batches = np.zeros(len(wells), np.int64)
    if batch is not None:
        batches = pd.factorize(wells.batches(batch, schema), sort=True)[0]
    compounds, compound_codes = np.unique(table[compound], return_inverse=True)
    labels, label_codes = np.unique(table[mechanism], return_inverse=True)
    out = table.set_axis(["treatment", "compound", "mechanism", "wells"], axis=1)
    combine = np.mean if aggregate == "mean" else np.median

    def profile(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Treatments with a well among `rows`, and their unit profiles."""
        present = np.unique(codes[rows])
        means = [combine(wells.features[rows & (codes == t)], axis=0) for t in present]
        return present, l2_normalize(np.array(means, np.float32))

    def nearest(
        queries: tuple[np.ndarray, np.ndarray], candidates: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Query, its nearest candidate of another compound (−1: none), and the candidates."""
        if not len(candidates[0]):
            empty = np.zeros((len(queries[0]), 0), bool)
            return queries[0], np.full(len(queries[0]), -1), empty
        cosines = queries[1] @ np.ascontiguousarray(candidates[1].T)
        allowed = compound_codes[queries[0]][:, None] != compound_codes[candidates[0]]
        cosines[~allowed] = -np.inf  # by assignment: a factor would flip negative cosines
        best = candidates[0][cosines.argmax(axis=1)]
        possible = np.zeros((len(queries[0]), len(table)), bool)
        possible[:, candidates[0]] = allowed
        return queries[0], np.where(allowed.any(axis=1), best, -1), possible

    everything = profile(np.ones(len(wells), bool))
    tests = {"nsc": [nearest(everything, everything)]}
    if batch is not None:
        tests["nscb"] = [
            nearest(profile(batches == code), profile(batches != code))
            for code in np.unique(batches)
        ]
    permuted = _permuted(label_codes, compound_codes, len(compounds), permutations, seed)
    accuracies = {}
    for name, parts in tests.items():
        queries, found, possible = (np.concatenate(part) for part in zip(*parts, strict=True))
        right = _share_right(queries, found, possible, label_codes)
        null = [_mean(_share_right(queries, found, possible, other)) for other in permuted]
        accuracies[name] = _accuracy(right, compound_codes, np.array(null))
        first = pd.Series(found, index=queries).groupby(level=0).first().reindex(out.index)
        predicted = [str(labels[label_codes[int(i)]]) if i >= 0 else "" for i in first]
        out[f"{name}_predicted"] = pd.Series(predicted, index=out.index)
        out[f"{name}_correct"] = right
    return MechanismAccuracy(accuracies["nsc"], accuracies.get("nscb"), out)


def _mean(right: np.ndarray) -> float:
    """The mean over the treatments that could be tested."""
    tested = right[np.isfinite(right)]
    return float(tested.mean()) if len(tested) else float("nan")


def _accuracy(right: np.ndarray, compounds: np.ndarray, null: np.ndarray) -> Accuracy:
    tested = np.isfinite(right)
    if not tested.any():
        nan = float("nan")
        return Accuracy(nan, Interval(nan, nan), nan, nan, 0)
    value = _mean(right)
    low, high = clustered_interval(right[tested], compounds[tested])
    reached = int((null >= value - 1e-12).sum())
    return Accuracy(
        value,
        Interval(max(low, 0.0), min(high, 1.0)),
        _mean(null),
        (1 + reached) / (1 + len(null)),
        int(tested.sum()),
    )


def _share_right(
    queries: np.ndarray, found: np.ndarray, possible: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Per treatment: the share of its queries that find its label; NaN where none can."""
    can = (possible & (labels[queries][:, None] == labels)).any(axis=1)
    right = (found >= 0) & (labels[queries] == labels[found])
    tested = np.bincount(queries, can, len(labels))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(queries, can & right, len(labels)) / tested)


def _permuted(
    labels: np.ndarray, compounds: np.ndarray, count: int, permutations: int, seed: int
) -> list[np.ndarray]:
    """Labels of the treatments after compounds have exchanged theirs."""
    rng = np.random.default_rng(seed)
    own = np.zeros(count, np.int64)
    own[compounds] = labels
    return [own[rng.permutation(count)][compounds] for _ in range(permutations)]
