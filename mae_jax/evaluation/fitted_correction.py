"""A fitted correction: applied to wells, extended to new batches, saved and loaded."""

import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, UInt64

from mae_jax import config
from mae_jax.errors import InputError
from mae_jax.evaluation.affine_step import AffineStep, fit_affine
from mae_jax.evaluation.correction_spec import (
    CORRECTIONS,
    InverseNormalSpec,
    SelectSpec,
    Step,
)
from mae_jax.evaluation.feature_steps import (
    InverseNormalStep,
    SelectStep,
    fit_inverse_normal,
    fit_select,
)
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.sources import Source, Transformed, reference_mask, well_hashes
from mae_jax.files import replacing

# Keys of saved fits: what earlier versions wrote -> today's name.
_RENAMED_KEYS = {"plan": "spec", "layout": "schema"}


# Each transforms profiles, knows the batches that it lacks (`missing`) and fits them
# (`with_batches`), and gives and takes its `settings` and `arrays` (`restored`).
FittedStep = AffineStep | InverseNormalStep | SelectStep


def fit_step(source: Source, step: Step, fit_on: str, schema: ColumnSchema) -> FittedStep:
    """Fit one step on the reference wells of a source."""
    if isinstance(step.spec, InverseNormalSpec):
        return fit_inverse_normal(source, step, fit_on, schema)
    if isinstance(step.spec, SelectSpec):
        return fit_select(source, step, fit_on, schema)
    return fit_affine(source, step, fit_on, schema)


def _unfitted(step: Step, fit_on: str, schema: ColumnSchema, names: tuple[str, ...]) -> FittedStep:
    if isinstance(step.spec, InverseNormalSpec):
        return InverseNormalStep(step, fit_on, schema, names)
    if isinstance(step.spec, SelectSpec):
        return SelectStep(step, fit_on, schema, names)
    return AffineStep(step, fit_on, schema, names)


def transformed(source: Source, step: FittedStep) -> Source:
    """What a fitted step makes of a source: at once in memory, block by block of a stream."""
    if isinstance(source, Profiles):
        return step.transform(source)
    return Transformed(source, step.out_names, step.transform)


@dataclass(frozen=True)
class Correction:
    """A fitted correction: a chain of fitted steps.

    Attributes:
      method: the chain as text, see `correction_spec.steps_of`.
      fit_on: "controls" or "all": the wells of the fit, where a step has no choice of its own.
      schema: the metadata columns it was fitted with.
      steps: the fitted steps, in order.
      fit_wells: hashes of the wells that it was fitted on (`well_hashes`).
    """

    method: str
    fit_on: str
    schema: ColumnSchema
    steps: tuple[FittedStep, ...]
    fit_wells: UInt64[np.ndarray, " wells"] = field(default_factory=lambda: np.empty(0, np.uint64))

    @property
    def names(self) -> tuple[str, ...]:
        """The F features it takes."""
        return self.steps[0].names

    @property
    def out_names(self) -> tuple[str, ...]:
        """The K features it gives."""
        return self.steps[-1].out_names

    @property
    def spec(self) -> tuple[Step, ...]:
        """What the steps consist of."""
        return tuple(fitted.step for fitted in self.steps)

    def transform(self, profiles: Profiles) -> Profiles:
        """Correct profiles: those it was fitted on, or new ones.

        A batch that the fit never saw is fitted here from its own reference wells (the parts for
        all wells stay as they were), so that new plates land in the same space.

        Raises:
          InputError: other features than those of the fit, or a new batch without controls.
        """
        fitted = self.fit_missing_batches(profiles)
        for step in fitted.steps:
            profiles = step.transform(profiles)
        return profiles

    def fit_missing_batches(self, source: Source) -> "Correction":
        """The correction with the batches that it lacked, fitted from their own reference wells."""
        if source.names != self.names:
            raise InputError(
                f"the correction was fitted on {len(self.names)} features "
                f"({self.names[0]} …), these profiles have {len(source.names)} "
                f"({source.names[0]} …); give profiles of the same model."
            )
        lacking = [bool(step.missing(source.metadata)) for step in self.steps]
        if not any(lacking):
            return self
        steps, seen = list(self.steps), np.zeros(len(source.metadata), bool)
        current = source
        last = max(i for i, lacks in enumerate(lacking) if lacks)
        for i, step in enumerate(self.steps[: last + 1]):
            if lacking[i]:
                assert isinstance(step, AffineStep)
                mask = reference_mask(current, step.fit_on, self.schema)
                labels = step.batch_labels(source.metadata).astype(str)
                seen |= mask & np.isin(labels, step.missing(source.metadata))
                steps[i] = step.with_batches(current)
            if i < last:
                current = transformed(current, steps[i])
        hashes = well_hashes(source.metadata[seen], self.schema)
        return replace(self, steps=tuple(steps), fit_wells=np.union1d(self.fit_wells, hashes))

    def saw(self, metadata: pd.DataFrame) -> Bool[np.ndarray, " rows"]:
        """Which wells the correction was fitted on; all False for fits of earlier versions."""
        hashes = well_hashes(metadata, self.schema)
        return (hashes != 0) & np.isin(hashes, self.fit_wells)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fit as one .npz file, to be applied to new plates later (`load`)."""
        steps, arrays = [], {"fit_wells": self.fit_wells}
        for i, fitted in enumerate(self.steps):
            spec = {k: v for k, v in config.to_dict(fitted.step.spec).items() if k != "label"}
            about = {"name": fitted.step.name, "spec": spec, "fit_on": fitted.fit_on}
            steps.append({**about, **fitted.settings()})
            arrays |= {f"step_{i}_{key}": array for key, array in fitted.arrays().items()}
        settings = {
            "method": self.method,
            "fit_on": self.fit_on,
            "schema": asdict(self.schema),
            "names": list(self.names),
            "steps": steps,
        }
        arrays["settings"] = np.array(json.dumps(settings))
        with replacing(path) as tmp_path, open(tmp_path, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        return Path(path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Correction":
        """Read what `save` wrote.

        Raises:
          InputError: no such file, or not a fitted correction.
        """
        if not Path(path).is_file():
            raise InputError(f"{path} does not exist; write it with `mae-jax correct --save-fit`.")
        try:
            # Opened here, since numpy leaves a damaged file open.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
            correction = _from_arrays(json.loads(str(arrays["settings"])), arrays)
        except (
            AttributeError, EOFError, IndexError, KeyError, MemoryError, OSError, RuntimeError,
            TypeError, ValueError, zipfile.BadZipFile, zlib.error,
        ):  # fmt: skip
            raise InputError(f"{path} is not a fitted correction; write it anew.") from None
        return correction


def fit_steps(
    source: Source, method: str, steps: Sequence[Step], fit_on: str, schema: ColumnSchema
) -> Correction:
    """Fit the steps of a chain, each on what the steps before it make of the source."""
    fitted: list[FittedStep] = []
    seen = np.zeros(len(source.metadata), bool)
    current = source
    for i, step in enumerate(steps):
        fitted.append(fit_step(current, step, step.spec.fit or fit_on, schema))
        if fitted[-1].learns:
            seen |= reference_mask(source, fitted[-1].fit_on, schema)
        if i + 1 < len(steps):
            current = transformed(current, fitted[-1])
    wells = np.unique(well_hashes(source.metadata[seen], schema))
    return Correction(method, fit_on, schema, tuple(fitted), wells)


def _from_arrays(settings: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Correction:
    for old, new in _RENAMED_KEYS.items():
        if old in settings:
            settings[new] = settings.pop(old)
    if "steps" not in settings:  # an earlier version: one step, whose arrays have no prefix
        one = {key: settings[key] for key in ("spec", "fit_on", "batches")}
        settings["steps"] = [{"name": settings["method"], **one}]
        arrays = {f"step_0_{key}": array for key, array in arrays.items()} | dict(arrays)
    schema, names = ColumnSchema(**settings["schema"]), tuple(settings["names"])
    steps: list[FittedStep] = []
    for i, saved in enumerate(settings["steps"]):
        own = CORRECTIONS[saved["name"]]
        spec = config.from_dict(type(own), {**saved["spec"], "label": own.label}, "spec")
        prefix = f"step_{i}_"
        mine = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        empty = _unfitted(Step(saved["name"], spec), saved["fit_on"], schema, names)
        steps.append(empty.restored(saved, mine))
        names = steps[-1].out_names
    return Correction(
        method=settings["method"],
        fit_on=settings["fit_on"],
        schema=schema,
        steps=(steps[0], *steps[1:]),
        fit_wells=arrays.get("fit_wells", np.empty(0, np.uint64)),
    )
