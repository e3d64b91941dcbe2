"""Prediction of CellProfiler features from embeddings (Table 7, Fig. 6 and 9)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from mae_jax.evaluation.cellprofiler import predict_features
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.protocols.base import Progress, Source, Spec
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.results import Result

_PAIR = "EMBEDDINGS,FEATURES"


@dataclass(frozen=True, kw_only=True)
class FeaturesSpec(Spec):
    """Regressors trained on one experiment and scored on another.

    Attributes:
      train: two sources: (embeddings, CellProfiler features) of the wells of one experiment.
      test: the same of another experiment.
      on: the metadata columns that identify a well in both tables.
      scale_per_experiment, selection, workers: see `predict_features`.
    """

    name: ClassVar[str] = "features"
    train: Annotated[Sequence[Source], Option("one experiment", nargs=2, metavar=_PAIR)]
    test: Annotated[Sequence[Source], Option("another experiment", nargs=2, metavar=_PAIR)]
    on: Annotated[
        Sequence[str],
        Option("columns that identify a well in both tables", nargs="+", metavar="COLUMN,…"),
    ] = ("Metadata_Plate", "Metadata_Well")
    scale_per_experiment: Annotated[
        bool,
        Option(
            "center and scale the embeddings of each experiment separately", old_flags=("--each",)
        ),
    ] = False
    selection: Annotated[
        str,
        Option(
            "choose penalties by the exact solutions, or as scikit-learn's descent leaves them "
            "(over ten times slower)",
            choices=("converged", "scikit-learn"),
        ),
    ] = "converged"
    workers: Annotated[int, Option("threads")] = 2


def run_features(spec: FeaturesSpec, progress: Progress) -> Result:
    """Tables `features` (one row per feature) and `categories` (Table 7); figure `features`."""
    from mae_jax.viz.plots import feature_r2

    def report(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            progress(f"{done}/{total} features")

    def pair(sources: Sequence[Source]) -> tuple[Profiles, Profiles]:
        wells, features = (s if isinstance(s, Profiles) else Profiles.read(s) for s in sources)
        return wells.checked(nan="rows"), features.checked(nan="features")

    train, test = pair(spec.train), pair(spec.test)
    common = set(train[1].names) & set(test[1].names)
    left_out = sorted((set(train[1].names) | set(test[1].names)) - common)
    if left_out and common:
        progress(
            f"{len(left_out)} features that are not finite in both experiments are left out: "
            f"{', '.join(left_out[:5])}{' …' if len(left_out) > 5 else ''}"
        )
    prediction = predict_features(
        (train[0], train[1].with_features(common)),
        (test[0], test[1].with_features(common)),
        on=spec.on,
        scale_per_experiment=spec.scale_per_experiment,
        selection=spec.selection,
        workers=spec.workers,
        progress=report,
    )
    first = spec.train[0]
    label = Path(first).name if isinstance(first, (str, os.PathLike)) else "embeddings"
    categories = prediction.by_category()
    return Result(
        tables={"features": prediction.table, "categories": categories},
        figures={"features": feature_r2({label: prediction.table})},
        settings=spec.settings(),
        summary=[categories.round(3).to_string(index=False)],
        main="categories.csv",
    )
