"""Mechanisms of action by the nearest treatment (NSC, NSCB), as tables."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import pandas as pd

from mae_jax.evaluation.corrections import DEFAULT, correct
from mae_jax.evaluation.mechanism import AGGREGATES, mechanism_accuracy
from mae_jax.evaluation.protocols.base import CORRECTION, Progress, WellsSpec
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.results import Result


@dataclass(frozen=True, kw_only=True)
class MechanismSpec(WellsSpec):
    """NSC and NSCB; the perturbation column names the treatment, a compound at a dose.

    The negative controls enter the correction alone, so none are held out.

    Attributes:
      correction: see `corrections.fit`.
      compound, mechanism: columns.
      not_same: what NSCB excludes besides the compound; None: no NSCB.
      aggregate, permutations: see `mechanism_accuracy`.
    """

    name: ClassVar[str] = "mechanism"
    correction: Annotated[str, CORRECTION] = DEFAULT
    compound: Annotated[str, Option("column of the compound, at any dose", metavar="COLUMN")] = (
        "Metadata_Compound"
    )
    mechanism: Annotated[str, Option("column of the mechanism of action", metavar="COLUMN")] = (
        "Metadata_MoA"
    )
    not_same: Annotated[
        str | None,
        Option(
            "NSCB excludes wells of the same plate, experiment, or value of this column; none: "
            "NSC alone",
            metavar="COLUMN",
        ),
    ] = "experiment"
    aggregate: Annotated[
        str, Option("how wells make the profile of a treatment", choices=AGGREGATES)
    ] = "mean"
    permutations: Annotated[int, Option("of the mechanisms, for the chance level")] = 1000


def run_mechanism(spec: MechanismSpec, progress: Progress) -> Result:
    """Tables `accuracy` (NSC and NSCB) and `treatments` (what was predicted)."""
    result = Result(settings=spec.settings(), main="accuracy.csv")
    rows, treatments = [], []
    for name, profiles in spec.load(progress).items():
        progress(name)
        wells = correct(
            profiles, spec.correction, fit_on=spec.fit_on, batch=spec.batch, schema=spec.schema
        )
        scores = mechanism_accuracy(
            wells,
            treatment=spec.schema.perturbation,
            compound=spec.compound,
            mechanism=spec.mechanism,
            batch=None if spec.not_same in (None, "none") else spec.not_same,
            aggregate=spec.aggregate,
            permutations=spec.permutations,
            schema=spec.schema,
            seed=spec.seed,
        )
        for score, accuracy in (("NSC", scores.nsc), ("NSCB", scores.nscb)):
            if accuracy is None:
                continue
            low, high = accuracy.interval
            rows.append(
                {
                    "score": score,
                    "accuracy": accuracy.value,
                    "low": low,
                    "high": high,
                    "chance": accuracy.chance,
                    "p": accuracy.p,
                    "treatments": accuracy.treatments,
                    "embeddings": name,
                }
            )
            result.summary.append(
                f"{name}: {score} {accuracy.value:.4f} [{low:.3f}, {high:.3f}] of "
                f"{accuracy.treatments} treatments, {accuracy.chance:.3f} by chance"
            )
        treatments.append(scores.treatments.assign(embeddings=name))
    result.tables = {"accuracy": pd.DataFrame(rows), "treatments": pd.concat(treatments)}
    return result
