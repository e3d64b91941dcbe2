"""Wells held out of a correction's fit, so that scores are not flattered by it.

A correction shrinks the controls that it is fitted on. A score that ranks treated wells against
those same controls, or takes its null from them, is too good. Here the controls of every plate
are split: one part is for the fit, the other for the score. Treatments can be held out too (steps
that are fitted on all wells see them, and so does whoever chooses a correction by a score), and
whole plates, which then meet a correction whose part for all wells was fitted without them.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from mae_jax.errors import InputError
from mae_jax.evaluation.corrections import Correction, Source, correct, fit, is_transductive
from mae_jax.evaluation.profiles import ColumnSchema, Profiles, batch_labels, column, control_mask


def held_out_controls(
    profiles: Source, fraction: float = 0.5, *, schema: ColumnSchema | None = None, seed: int = 0
) -> Bool[np.ndarray, " rows"]:
    """The mask (N,) of the negative controls that a correction must not see.

    The draw is made plate by plate and does not depend on the order of the rows, nor on the
    other plates.

    Args:
      profiles: wells, in memory or streamed.
      fraction: share of each plate's negative controls to hold out, in [0, 1); rounded to a
        whole number that leaves at least one control on each side.
      schema: the metadata columns and which rows are controls.
      seed: of the draw.

    Raises:
      InputError: a fraction outside [0, 1), no controls, or a plate with a single control.
    """
    schema = schema or ColumnSchema()
    if not 0 <= fraction < 1:
        raise InputError(
            f"the share of held-out controls must be in [0, 1), not {fraction}; 0.5 is usual."
        )
    metadata = profiles.metadata
    held_out = np.zeros(len(metadata), bool)
    if fraction == 0:
        return held_out
    controls = control_mask(metadata, schema.controls)
    plates = batch_labels(metadata, "plate", schema).astype(str)
    wells = np.full(len(metadata), "", dtype=object)
    if schema.well in metadata:
        wells = metadata[schema.well].to_numpy(dtype=object)
    for plate in np.unique(plates[controls]):
        rows = np.flatnonzero(controls & (plates == plate))
        if len(rows) < 2:
            raise InputError(
                f"plate {plate} has a single negative control, which cannot be split into controls "
                "to fit on and to score against; drop the plate, or score against the controls of "
                "the fit with --holdout-controls 0."
            )
        rows = rows[np.argsort(wells[rows].astype(str), kind="stable")]
        count = min(max(int(fraction * len(rows) + 0.5), 1), len(rows) - 1)
        rng = np.random.default_rng([seed, zlib.crc32(plate.encode())])
        held_out[rng.choice(rows, count, replace=False)] = True
    return held_out


def held_out_treatments(
    profiles: Source,
    fraction: float,
    *,
    by: str | None = None,
    strata: str | None = None,
    schema: ColumnSchema | None = None,
    seed: int = 0,
) -> Bool[np.ndarray, " rows"]:
    """The mask (N,) of the wells of the treatments that a correction must not see.

    The rule of JUMP-lite's strict split: in each stratum the treatments are sorted by the SHA-256
    of "seed\\0stratum\\0treatment"; the first ⌊(1 − fraction)·n + 1/2⌋ are for the fit and for
    choices, the others for the score. A treatment in several strata belongs to the stratum of all
    their names, sorted and joined by "|". Controls and wells without a treatment are not held out.

    Args:
      profiles: wells, in memory or streamed.
      fraction: share of the treatments to hold out, in [0, 1).
      by: the column of the treatment; None: `schema.perturbation`.
      strata: a column of strata; None: all are one stratum, whose name is "".
      schema: the metadata columns and which rows are controls.
      seed: of the order.

    Raises:
      InputError: a fraction outside [0, 1), no such column, or no treatment on one of the sides.
    """
    schema = schema or ColumnSchema()
    _check_share("treatments", fraction)
    metadata = profiles.metadata
    if fraction == 0:
        return np.zeros(len(metadata), bool)
    names = column(metadata, by or schema.perturbation).to_numpy(dtype=object).astype(str)
    treated = names != ""
    if schema.controls != "none":
        treated &= ~control_mask(metadata, schema.controls)
    groups = np.full(len(metadata), "", dtype=object)
    if strata is not None:
        groups = column(metadata, strata).to_numpy(dtype=object)
    stratum_of: dict[str, set[str]] = {}
    for name, group in zip(names[treated], groups[treated], strict=True):
        stratum_of.setdefault(name, set()).add(str(group))
    members: dict[str, list[str]] = {}
    for name, own in stratum_of.items():
        members.setdefault("|".join(sorted(own)), []).append(name)
    held_out: set[str] = set()
    for stratum, inside in members.items():
        held_out.update(_last(inside, fraction, f"{seed}\0{stratum}\0"))
    if not held_out or len(held_out) == len(stratum_of):
        raise InputError(
            f"{len(stratum_of)} treatments cannot be split with {fraction:g} of them held out; "
            "hold out another share, or none with --holdout-treatments 0."
        )
    return treated & np.isin(names, sorted(held_out))


def held_out_plates(
    profiles: Source, fraction: float, *, schema: ColumnSchema | None = None, seed: int = 0
) -> Bool[np.ndarray, " rows"]:
    """The mask (N,) of the plates that a correction must not see, by the same rule.

    Args:
      profiles: wells, in memory or streamed.
      fraction: share of the plates to hold out, in [0, 1).
      schema: the metadata columns.
      seed: of the order.

    Raises:
      InputError: a fraction outside [0, 1), or no plate on one of the sides.
    """
    schema = schema or ColumnSchema()
    _check_share("plates", fraction)
    if fraction == 0:
        return np.zeros(len(profiles.metadata), bool)
    plates = batch_labels(profiles.metadata, "plate", schema).astype(str)
    names = np.unique(plates).tolist()
    held_out = _last(names, fraction, f"{seed}\0\0")
    if not held_out or len(held_out) == len(names):
        raise InputError(
            f"{len(names)} plates cannot be split with {fraction:g} of them held out; hold out "
            "another share, or none with --holdout-plates 0."
        )
    return np.isin(plates, held_out)


def _last(names: Sequence[str], fraction: float, prefix: str) -> list[str]:
    """The names after the first ⌊(1 − fraction)·n + 1/2⌋, by the SHA-256 of prefix + name."""
    ordered = sorted(names, key=lambda name: hashlib.sha256((prefix + name).encode()).hexdigest())
    return ordered[int((1 - fraction) * len(ordered) + 0.5 + 1e-9) :]


def _check_share(what: str, fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise InputError(f"the share of held-out {what} must be in [0, 1), not {fraction}.")


@dataclass(frozen=True)
class Holdout:
    """What a correction must not see and a score uses alone.

    Attributes:
      controls: share of each plate's negative controls, see `held_out_controls`; 0 is the paper's
        design: the score uses the controls of the fit.
      treatments: share of the treatments, see `held_out_treatments`; 0: the score uses all.
      plates: share of the plates, see `held_out_plates`; 0: the score uses all. The part of a
        correction for all wells is fitted on the other plates; each held-out plate's own part is
        fitted on its controls that are for the fit.
      seed: of all draws.
      by, strata: columns, see `held_out_treatments`.
    """

    controls: float = 0.5
    treatments: float = 0.0
    plates: float = 0.0
    seed: int = 0
    by: str | None = None
    strata: str | None = None

    def describe(self) -> str:
        """Which wells the scores used, in words."""
        text = "paper protocol: scored against the controls of the fit"
        if self.controls:
            text = f"scored against held-out controls ({self.controls:g} of each plate)"
        for what in ("treatments", "plates"):
            if share := getattr(self, what):
                text += f", {what} held out ({share:g})"
        return text


def correct_with_holdout(
    profiles: Profiles,
    method: str,
    *,
    fraction: float = 0.5,
    fit_on: str = "controls",
    batch: str | None = None,
    schema: ColumnSchema | None = None,
    seed: int = 0,
    holdout: Holdout | None = None,
) -> tuple[Profiles, Correction | None]:
    """Fit a correction without the held-out wells and apply it.

    Args:
      profiles: wells.
      method, fit_on, batch, schema: see `corrections.fit`.
      fraction, seed: see `held_out_controls`.
      holdout: what to hold out, in place of `fraction` and `seed`.

    Returns:
      The corrected wells to score: treated wells and held-out controls (all controls if none are
      held out), on held-out plates and of held-out treatments alone where there are such; and the
      fitted correction, or None for chains with Harmony, which runs on all wells together.
    """
    schema = schema or ColumnSchema()
    holdout = holdout or Holdout(controls=fraction, seed=seed)
    scored = np.ones(len(profiles), bool)
    held_out = held_out_controls(profiles, holdout.controls, schema=schema, seed=holdout.seed)
    unseen = held_out.copy()
    if holdout.controls:
        scored = held_out | ~profiles.controls(schema.controls)
    treatments = held_out_treatments(
        profiles,
        holdout.treatments,
        by=holdout.by,
        strata=holdout.strata,
        schema=schema,
        seed=holdout.seed,
    )
    if holdout.treatments:
        unseen |= treatments
        scored &= treatments | profiles.controls(schema.controls)
    own_plates = ~unseen
    plates = held_out_plates(profiles, holdout.plates, schema=schema, seed=holdout.seed)
    if holdout.plates:
        unseen |= plates
        scored &= plates
    if is_transductive(method):
        corrected = correct(
            profiles, method, fit_on=fit_on, batch=batch, schema=schema, fit_rows=~unseen
        )
        return corrected.take(scored), None
    seen = profiles.take(~unseen) if unseen.any() else profiles
    fitted = fit(seen, method, fit_on=fit_on, batch=batch, schema=schema)
    if holdout.plates:
        fitted = fitted.fit_missing_batches(profiles.take(own_plates))
    return fitted.transform(profiles if scored.all() else profiles.take(scored)), fitted


# Marks the wells that a correction was fitted on in the tables that `mae-jax correct` writes.
SEEN = "Metadata_SeenByCorrection"


def mark_seen(profiles: Profiles, correction: Correction) -> Profiles:
    """Corrected profiles with a column that says "yes" for the wells of the fit."""
    seen = np.where(correction.saw(profiles.metadata), "yes", "")
    return replace(profiles, metadata=profiles.metadata.assign(**{SEEN: seen}))


def seen_controls(profiles: Profiles, schema: ColumnSchema) -> int:
    """How many of the negative controls an earlier correction was fitted on, if that is marked."""
    return int((_seen(profiles) & profiles.controls(schema.controls)).sum())


def seen_treated(profiles: Profiles, schema: ColumnSchema) -> int:
    """How many of the treated wells an earlier correction was fitted on, if that is marked."""
    return int((_seen(profiles) & ~profiles.controls(schema.controls)).sum())


def _seen(profiles: Profiles) -> Bool[np.ndarray, " rows"]:
    if SEEN not in profiles.metadata:
        return np.zeros(len(profiles), bool)
    return (profiles.metadata[SEEN] == "yes").to_numpy(dtype=bool)


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and t interval of a score over repeated splits; NaN bounds for a single one.

    It says how much the choice of the split matters. The splits share wells, so that it is not the
    interval of another experiment.
    """
    from scipy.stats import t

    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return mean, float("nan"), float("nan")
    error = array.std(ddof=1) / np.sqrt(len(array))
    half = float(t.ppf(0.5 + level / 2, len(array) - 1) * error)
    return mean, mean - half, mean + half
