"""Batch effects: mixing of batches, and retrieval by position and plate, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.batch_mixing import batch_mixing
from mae_jax.evaluation.corrections import DEFAULT, correct
from mae_jax.evaluation.leakage import CHECKS, leakage
from mae_jax.evaluation.neighbors import METRICS, neighbor_accuracy
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.protocols.base import CORRECTION, Progress, WellsSpec
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.results import Result


@dataclass(frozen=True, kw_only=True)
class TreatedWellsSpec(WellsSpec):
    """Scores of treated wells among each other: controls enter the correction alone.

    Attributes:
      correction: a correction or chain.
    """

    correction: Annotated[str, CORRECTION] = DEFAULT

    def treated(self, profiles: Profiles) -> Profiles:
        """The corrected wells without negative controls."""
        wells = correct(
            profiles, self.correction, fit_on=self.fit_on, batch=self.batch, schema=self.schema
        )
        keep = (wells.column(self.schema.perturbation) != "").to_numpy(dtype=bool)
        if self.schema.controls != "none":
            keep = keep & ~wells.controls(self.schema.controls)
        if not keep.any():
            raise InputError(f"no treated well has a value in {self.schema.perturbation}.")
        return wells.take(keep)


@dataclass(frozen=True, kw_only=True)
class BatchEffectsSpec(TreatedWellsSpec):
    """Mixing of batches, and retrieval by position and plate.

    Attributes:
      mixing_of: the batches that should be mixed: "plate", "experiment" or a column.
      neighbors, permutations: see `batch_mixing`.
      within: columns of strata, for the retrieval.
    """

    name: ClassVar[str] = "batch-effects"
    mixing_of: Annotated[
        str, Option("plate, experiment or a column: what should be mixed", metavar="COLUMN")
    ] = "plate"
    neighbors: Annotated[int, Option("nearest wells that count", metavar="K")] = 90
    permutations: Annotated[int, Option("permutations of batches and positions")] = 20
    within: Annotated[
        Sequence[str],
        Option("retrieval within the values of these columns", nargs="+", metavar="COLUMN,…"),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class NeighborsSpec(TreatedWellsSpec):
    """Accuracy of labels predicted by the nearest wells.

    Attributes:
      label: column of the labels; None: the perturbation.
      neighbors: wells that vote.
      metric, permutations: see `neighbor_accuracy`.
    """

    name: ClassVar[str] = "neighbors"
    label: Annotated[
        str | None, Option("column to predict, instead of the perturbation", metavar="COLUMN")
    ] = None
    neighbors: Annotated[int, Option("nearest wells that vote", metavar="K")] = 1
    metric: Annotated[str, Option("distance between wells", choices=METRICS)] = "cosine"
    permutations: Annotated[int, Option("permutations of the labels within plates")] = 1000


def run_batch_effects(spec: BatchEffectsSpec, progress: Progress) -> Result:
    """Tables `mixing`, `leakage`, and of the retrievals `positions` and `plates`."""
    result = Result(settings=spec.settings(), main="mixing.csv")
    by = spec.schema.perturbation
    tables: dict[str, list[pd.DataFrame]] = {}
    for name, profiles in spec.load(progress).items():
        progress(name)
        wells = spec.treated(profiles)
        mixing = batch_mixing(
            wells.features,
            wells.metadata[by].to_numpy(dtype=str),
            wells.batches(spec.mixing_of, spec.schema),
            k=spec.neighbors,
            permutations=spec.permutations,
            seed=spec.seed,
        )
        tables.setdefault("mixing", []).append(mixing.assign(embeddings=name))
        result.summary += [
            f"{name}: {row['score']} {row['value']:.3f}; {row['permuted']:.3f} ± "
            f"{row['permuted_std']:.3f} (standard deviation) with exchanged labels"
            for _, row in mixing.iterrows()
        ]
        for check in CHECKS:
            scores = leakage(
                wells,
                check,
                by=by,
                within=spec.within,
                schema=replace(spec.schema, controls="none"),
                permutations=spec.permutations,
                seed=spec.seed,
            )
            if scores.note:
                result.summary.append(f"{name}: {scores.note}")
                continue
            row = {
                "check": check,
                "groups": len(scores.groups),
                "nap": scores.nap,
                "permuted": scores.nap_permuted,
                "permuted_std": scores.nap_permuted_std,
                "significant": scores.groups["retrieved"].mean(),
                "embeddings": name,
            }
            tables.setdefault("leakage", []).append(pd.DataFrame([row]))
            tables.setdefault(check + "s", []).append(scores.groups.assign(embeddings=name))
            result.summary.append(
                f"{name}: by {check}, normalized AP {scores.nap:.4f}; {scores.nap_permuted:.4f} ± "
                f"{scores.nap_permuted_std:.4f} (standard deviation) with exchanged {check}s; "
                f"{row['significant']:.3f} of {len(scores.groups)} {check}s found (q < 0.05)"
            )
    result.tables = {name: pd.concat(parts) for name, parts in tables.items()}
    return result


def run_neighbors(spec: NeighborsSpec, progress: Progress) -> Result:
    """Tables `accuracy` (by what is excluded) and `perturbations` (one row per label)."""
    result = Result(settings=spec.settings(), main="accuracy.csv")
    label = spec.label or spec.schema.perturbation
    rows, perturbations = [], []
    for name, profiles in spec.load(progress).items():
        progress(name)
        wells = spec.treated(profiles)
        for unlike in (None, "plate", "experiment"):
            column = {"plate": spec.schema.plate, "experiment": spec.schema.experiment}
            if unlike and wells.metadata.get(column[unlike], pd.Series()).nunique() < 2:
                continue
            try:
                scores = neighbor_accuracy(
                    wells,
                    label=label,
                    k=spec.neighbors,
                    unlike=unlike,
                    metric=spec.metric,
                    permutations=spec.permutations,
                    schema=replace(spec.schema, controls="none"),
                    seed=spec.seed,
                )
            except InputError as error:
                if unlike is None:
                    raise
                result.summary.append(f"{name}: neighbors of another {unlike}: {error}")
                continue
            which = f"of another {unlike}" if unlike else "any"
            if unlike in (None, "plate"):  # of another plate, where there are several
                table = scores.labels.assign(neighbors=which, embeddings=name)
            row = {
                "neighbors": which,
                "k": spec.neighbors,
                "accuracy": scores.accuracy,
                "macro": scores.macro,
                "chance": scores.chance,
                "p": scores.p,
                "wells": scores.wells,
                "embeddings": name,
            }
            rows.append(row)
            result.summary.append(
                f"{name}: nearest wells ({which}) have the label in {scores.accuracy:.3f} of "
                f"{scores.wells} wells, {scores.chance:.3f} by chance (p {scores.p:.3g})"
            )
        perturbations.append(table)
    result.tables = {"accuracy": pd.DataFrame(rows), "perturbations": pd.concat(perturbations)}
    return result
