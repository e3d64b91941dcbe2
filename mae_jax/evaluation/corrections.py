"""Batch correction: steps and chains of steps, fitted once and applied to any plates.

The nine rows of the paper's Table 2 are affine maps in two parts: one for all wells (scale,
rotate), one for each batch (shift, scale or whiten). `correction_spec` lists them and all other
steps. By default the fit uses the negative controls, since they are the same cells with the same
treatment in every batch: only the batch makes them differ. Fitting on all wells assumes that all
batches have similar biology, which holds for randomized layouts but not for whole-genome screens,
with other genes on other plates; there it removes biology too.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from mae_jax.errors import InputError
from mae_jax.evaluation.affine_step import AffineStep, BatchTransform
from mae_jax.evaluation.correction_spec import (
    CORRECTIONS,
    DEFAULT,
    TABLE2,
    AffineSpec,
    HarmonySpec,
    Step,
    StepSpec,
    label,
    split_methods,
    steps_of,
)
from mae_jax.evaluation.fitted_correction import Correction, FittedStep, fit_step, fit_steps
from mae_jax.evaluation.harmony import apply_harmony
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.sources import Source

__all__ = [
    "CORRECTIONS",
    "DEFAULT",
    "TABLE2",
    "AffineSpec",
    "AffineStep",
    "BatchTransform",
    "Correction",
    "FittedStep",
    "Source",
    "Step",
    "StepSpec",
    "correct",
    "fit",
    "is_transductive",
    "label",
    "split_methods",
    "steps_of",
]


def fit(
    source: Source,
    method: str,
    *,
    fit_on: str = "controls",
    batch: str | None = None,
    schema: ColumnSchema | None = None,
) -> Correction:
    """Fit a correction.

    PCA keeps all axes that have variance. TVN is EFAAR's: (1) z-score with the pooled controls,
    (2) PCA of full rank fitted on the controls, (3) z-score with the pooled controls again,
    (4) per batch X_b ← X_b (cov(controls of b, ddof 1) + 0.5 I)^(−1/2), without moving the
    batch's mean: plate offsets survive it. "tvn-centered" first subtracts the mean of each
    batch's controls. Steps 1 to 3 are one affine map, and so is step 4 for each batch.

    Args:
      source: `Profiles`, or a stream of them.
      method: a step or a chain of steps, such as "pca:components=128|tvn", see
        `correction_spec.steps_of`.
      fit_on: "controls" (default: see the module) or "all"; steps with an option `fit` of their
        own follow that, and feature selection and the inverse normal use all wells by default.
      batch: the grouping, in place of the steps' own: "plate", "experiment" or a column. For
        TVN the default is "experiment".
      schema: the metadata columns and which rows are controls.

    Raises:
      InputError: an unknown step or option, a step that cannot be fitted and applied later
        (Harmony), no controls, or a batch with too few of them.
    """
    steps = _checked(method, fit_on, batch)
    for step in steps:
        if step.transductive:
            raise InputError(
                f"{step.label} moves each well by all the others, so it cannot be fitted on some "
                "wells, saved, streamed or applied to others; correct a table with it as a whole."
            )
    return fit_steps(source, method, steps, fit_on, schema or ColumnSchema())


def correct(
    profiles: Profiles,
    method: str,
    *,
    fit_on: str = "controls",
    batch: str | None = None,
    schema: ColumnSchema | None = None,
    fit_rows: Bool[np.ndarray, " rows"] | None = None,
) -> Profiles:
    """Fit a correction on profiles and apply it to them: `fit`, then `Correction.transform`.

    Args:
      profiles, method, fit_on, batch, schema: see `fit`. Harmony is possible here.
      fit_rows: the wells that may be fitted on; None: all. Harmony, which has no fit and uses no
        labels, runs on all wells.
    """
    steps = _checked(method, fit_on, batch)
    schema = schema or ColumnSchema()
    if not is_transductive(method):
        seen = profiles if fit_rows is None else profiles.take(fit_rows)
        return fit_steps(seen, method, steps, fit_on, schema).transform(profiles)
    for step in steps:
        if isinstance(step.spec, HarmonySpec):
            profiles = apply_harmony(profiles, step.spec, schema)
        else:
            seen = profiles if fit_rows is None else profiles.take(fit_rows)
            fitted = fit_step(seen, step, step.spec.fit or fit_on, schema)
            profiles = fitted.with_batches(profiles).transform(profiles)
    return profiles


def is_transductive(method: str) -> bool:
    """Whether a chain has a step that moves each well by all the others.

    Raises:
      InputError: an unknown step or option.
    """
    return any(step.transductive for step in steps_of(method))


def _checked(method: str, fit_on: str, batch: str | None) -> Sequence[Step]:
    if fit_on not in ("controls", "all"):
        raise InputError(f"a correction is fitted on 'controls' or 'all', not '{fit_on}'.")
    return steps_of(method, batch)
