"""Negative controls held out of a correction's fit, so that scores are not flattered by it.

A correction shrinks the controls that it is fitted on. A score that ranks treated wells against
those same controls, or takes its null from them, is too good. Here the controls of every plate
are split: one part is for the fit, the other for the score.
"""

import zlib
from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from mae_jax.errors import InputError
from mae_jax.evaluation.corrections import Correction, Source, correct, fit, is_transductive
from mae_jax.evaluation.profiles import ColumnSchema, Profiles, batch_labels, control_mask


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


def correct_with_holdout(
    profiles: Profiles,
    method: str,
    *,
    fraction: float = 0.5,
    fit_on: str = "controls",
    batch: str | None = None,
    schema: ColumnSchema | None = None,
    seed: int = 0,
) -> tuple[Profiles, Correction | None]:
    """Fit a correction without the held-out controls and apply it.

    Args:
      profiles: wells.
      method, fit_on, batch, schema: see `corrections.fit`.
      fraction, seed: see `held_out_controls`. 0 is the paper's design: the score uses the
        controls of the fit.

    Returns:
      The corrected wells to score: all treated wells and the held-out controls (all controls if
      `fraction` is 0); and the fitted correction, or None for chains with Harmony, which runs on
      all wells together.
    """
    schema = schema or ColumnSchema()
    if is_transductive(method):
        held_out = held_out_controls(profiles, fraction, schema=schema, seed=seed)
        corrected = correct(
            profiles, method, fit_on=fit_on, batch=batch, schema=schema, fit_rows=~held_out
        )
        if fraction == 0:
            return corrected, None
        return corrected.take(held_out | ~profiles.controls(schema.controls)), None
    if fraction == 0:
        fitted = fit(profiles, method, fit_on=fit_on, batch=batch, schema=schema)
        return fitted.transform(profiles), fitted
    held_out = held_out_controls(profiles, fraction, schema=schema, seed=seed)
    seen = profiles.take(~held_out)
    fitted = fit(seen, method, fit_on=fit_on, batch=batch, schema=schema)
    scored = held_out | ~profiles.controls(schema.controls)
    return fitted.transform(profiles.take(scored)), fitted


# Marks the wells that a correction was fitted on in the tables that `mae-jax correct` writes.
SEEN = "Metadata_SeenByCorrection"


def mark_seen(profiles: Profiles, correction: Correction) -> Profiles:
    """Corrected profiles with a column that says "yes" for the wells of the fit."""
    seen = np.where(correction.saw(profiles.metadata), "yes", "")
    return replace(profiles, metadata=profiles.metadata.assign(**{SEEN: seen}))


def seen_controls(profiles: Profiles, schema: ColumnSchema) -> int:
    """How many of the negative controls an earlier correction was fitted on, if that is marked."""
    if SEEN not in profiles.metadata:
        return 0
    marked = (profiles.metadata[SEEN] == "yes").to_numpy(dtype=bool)
    return int((marked & profiles.controls(schema.controls)).sum())


def describe(fraction: float) -> str:
    """Which controls the scores used, in words."""
    if fraction == 0:
        return "paper protocol: scored against the controls of the fit"
    return f"scored against held-out controls ({fraction:g} of each plate)"
