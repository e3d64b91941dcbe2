"""Compound–gene interactions, as tables."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.compound_gene import MAX, compound_gene_benchmark, dose_map
from mae_jax.evaluation.corrections import correct
from mae_jax.evaluation.protocols.base import Progress, WellsSpec
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.results import Result


@dataclass(frozen=True, kw_only=True)
class CompoundGeneSpec(WellsSpec):
    """The rule of EFAAR's RxRx3-core benchmark. Controls enter the correction alone.

    Attributes:
      interactions: table of known interactions: treatment, gene_symbol, nM_value.
      correction: see `corrections.fit`.
      treatment, kind, dose, compound_kind: columns, see `dose_map`.
      draws: of the negatives, with the seeds `seed`, `seed` + 1, …
    """

    name: ClassVar[str] = "compound-gene"
    interactions: Annotated[
        pd.DataFrame | str | os.PathLike[str],
        Option("CSV of known interactions: treatment, gene_symbol, nM_value", metavar="FILE"),
    ]
    correction: Annotated[str, Option("name of a correction")] = "pca-standardize-experiment"
    treatment: Annotated[str, Option("column of the treatment", metavar="COLUMN")] = (
        "Metadata_treatment"
    )
    kind: Annotated[str, Option("column of the kind of perturbation", metavar="COLUMN")] = (
        "Metadata_perturbation_type"
    )
    dose: Annotated[str, Option("column of the dose in µM", metavar="COLUMN")] = (
        "Metadata_concentration"
    )
    compound_kind: Annotated[str, Option("the kind of perturbation of compounds")] = "COMPOUND"
    draws: Annotated[int, Option("draws of the negatives", metavar="N")] = 100


def run_compound_gene(spec: CompoundGeneSpec, progress: Progress) -> Result:
    """Tables `doses` (means over compounds) and `perturbations` (one row per compound)."""
    truth = spec.interactions
    if not isinstance(truth, pd.DataFrame):
        if not Path(truth).is_file():
            raise InputError(f"{truth} does not exist; give the table of known interactions.")
        truth = pd.read_csv(truth)
    result = Result(settings=spec.settings(), main="doses.csv")
    doses, perturbations = [], []
    for name, profiles in spec.load(progress).items():
        progress(name)
        wells = correct(
            profiles, spec.correction, fit_on=spec.fit_on, batch=spec.batch, schema=spec.schema
        )
        compounds, genes = dose_map(
            wells,
            treatment=spec.treatment,
            kind=spec.kind,
            dose=spec.dose,
            compound_kind=spec.compound_kind,
        )
        scores = compound_gene_benchmark(
            compounds, genes, truth, seeds=range(spec.seed, spec.seed + spec.draws)
        )
        doses.append(scores.summary.assign(embeddings=name))
        perturbations.append(scores.compounds.assign(embeddings=name))
        best = scores.summary.set_index("dose").loc[MAX]
        result.summary += [
            f"{name}: mean AP {best['ap']:.3f} ± {best['ap_std']:.3f} (standard deviation, ddof 1, "
            f"over {spec.draws} draws of negatives; {best['ap_random']:.3f} at random), AUC "
            f"{best['auc']:.3f}, {best['compounds']:.0f} compounds at their highest similarity",
            f"{name}: {scores.note}",
        ]
    result.tables = {"doses": pd.concat(doses), "perturbations": pd.concat(perturbations)}
    return result
