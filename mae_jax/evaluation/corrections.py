"""Batch correction: the nine rows of Table 2, fitted once and applied to any plates.

Every row is an affine map in two parts: one for all wells (scale, rotate), one for each batch
(shift, scale or whiten). By default the fit uses the negative controls, since they are the same
cells with the same treatment in every batch: only the batch makes them differ. Fitting on all wells
assumes that all batches have similar biology, which holds for randomized layouts but not for
whole-genome screens, with other genes on other plates; there it removes biology too.
"""

from dataclasses import replace

import numpy as np

from mae_jax.errors import InputError
from mae_jax.evaluation.correction_spec import CORRECTIONS, TABLE2, CorrectionSpec, label
from mae_jax.evaluation.fitted_correction import (
    BatchTransform,
    Correction,
    Source,
    fit_batches,
    reference_mask,
    reference_rows,
    well_hashes,
)
from mae_jax.evaluation.moments import Moments, principal_axes
from mae_jax.evaluation.profiles import ColumnSchema, Profiles

__all__ = [
    "CORRECTIONS",
    "TABLE2",
    "BatchTransform",
    "Correction",
    "CorrectionSpec",
    "Source",
    "correct",
    "fit",
    "label",
]


def fit(
    source: Source,
    method: str,
    *,
    fit_on: str = "controls",
    batch: str | None = None,
    schema: ColumnSchema | None = None,
) -> Correction:
    """Fit a correction of Table 2.

    PCA keeps all axes that have variance. TVN is EFAAR's: (1) z-score with the pooled controls,
    (2) PCA of full rank fitted on the controls, (3) z-score with the pooled controls again,
    (4) per batch X_b ← X_b (cov(controls of b, ddof 1) + 0.5 I)^(−1/2), without moving the
    batch's mean: plate offsets survive it. "tvn-centered" first subtracts the mean of each
    batch's controls. Steps 1 to 3 are one affine map, and so is step 4 for each batch.

    Args:
      source: `Profiles`, or a stream of them.
      method: a name in `CORRECTIONS`.
      fit_on: "controls" (default: see the module) or "all".
      batch: the grouping, in place of the method's own: "plate", "experiment" or a column. For
        TVN the default is "experiment".
      schema: the metadata columns and which rows are controls.

    Raises:
      InputError: an unknown method, no controls, or a batch with too few of them.
    """
    schema = schema or ColumnSchema()
    spec = CorrectionSpec.from_name(method, batch)
    if fit_on not in ("controls", "all"):
        raise InputError(f"a correction is fitted on 'controls' or 'all', not '{fit_on}'.")
    fitted = Correction(method, spec, fit_on, schema, source.names, None, None, None, {})
    if spec.axes:
        moments = Moments.empty(len(source.names), full=True)
        for block in reference_rows(source, fit_on, schema):
            moments.add(block.features)
        fitted = _fit_axes(fitted, moments)
    if spec.batch:
        names = sorted(set(fitted.batch_labels(source.metadata)))
        fitted = replace(fitted, batches=fit_batches(fitted, source, names))
    if spec.axes or spec.batch:
        seen = source.metadata[reference_mask(source, fit_on, schema)]
        fitted = replace(fitted, fit_wells=np.unique(well_hashes(seen, schema)))
    return fitted


def correct(
    profiles: Profiles,
    method: str,
    *,
    fit_on: str = "controls",
    batch: str | None = None,
    schema: ColumnSchema | None = None,
) -> Profiles:
    """Fit a correction on profiles and apply it to them: `fit`, then `Correction.transform`."""
    return fit(profiles, method, fit_on=fit_on, batch=batch, schema=schema).transform(profiles)


def _fit_axes(fitted: Correction, moments: Moments) -> Correction:
    if moments.count < 3:
        raise InputError(
            f"{label(fitted.method)} needs at least 3 wells to fit on, there are {moments.count}; "
            "fit on all wells or choose another correction."
        )
    covariance = moments.covariance()
    scale = None
    if fitted.spec.axes == "tvn":
        scale = moments.deviation()
        covariance = covariance / np.outer(scale, scale)
    axes, variances = principal_axes(covariance, moments.count)
    if not len(variances):
        raise InputError(
            f"{label(fitted.method)}: all features of the wells to fit on are constant."
        )
    if fitted.spec.axes == "tvn":
        axes = axes / np.sqrt(variances)
    return replace(
        fitted, shift=moments.mean, scale=scale, rotation=np.ascontiguousarray(axes, np.float32)
    )
