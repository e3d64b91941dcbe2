"""JUMP-lite: phenotypic activity and consistency of wells from six sources, strictly held out.

Treatments are divided into those that select the post-processing and those that are scored
(`selection_mask`). Every fit takes the selection treatments and the controls. As published, scores
use the controls of the fit; here they are also measured against controls that were held out.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Bool

from mae_jax.errors import InputError
from mae_jax.evaluation.benchmarks.base import (
    HELD_OUT,
    OF_THE_FIT,
    BenchmarkSpec,
    Model,
    Scores,
)
from mae_jax.evaluation.corrections import correct, split_methods
from mae_jax.evaluation.holdout import held_out_controls
from mae_jax.evaluation.pair_intervals import clustered_interval
from mae_jax.evaluation.phenotypic import by_perturbation, phenotypic_consistency
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.protocols.base import Progress
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.results import Result, ScoredWells
from mae_jax.evaluation.retrieval import Retrieval, perturbation_retrieval

ACTIVITY, CONSISTENCY = "phenotypic activity (NAP)", "phenotypic consistency (NAP)"
SCHEMA = ColumnSchema(
    experiment="Metadata_Batch",
    perturbation="Metadata_JCP2022",
    controls="Metadata_pert_type=negcon",
)
GROUP = "Metadata_Group"
COMPOUND_GROUPS = ("group_high", "group_low")
TIERS = ("Tier0", "Tier1", "Tier2", "Tier3")
SELECTION_SHARE = 0.2
FIRST_SEED = 20260811
MAX_TARGETS, MIN_COMPOUNDS = 50, 3
_OF_COUNTS = "standardize-plate:fit=all"
# Features with few distinct values go first, as published.
_CLEAN = "select:na=none,variance=none,outliers=none,correlation=none"
_NORMS = {"std": "standardize-plate", "robustmad": "mad:factor=1,epsilon=1e-18"}


def recipe(name: str) -> str:
    """The chain of corrections of a JUMP-lite recipe, such as `std_ctrl__tvn_efaar_e0.1_c304`.

    Anything else is returned as it is: a chain of one's own.
    """
    match = re.fullmatch(
        r"(?:(std|robustmad)_(ctrl|all)|none)__tvn_efaar_e([0-9.]+)(?:_c([0-9]+))?", name
    )
    if match is None:
        return name
    norm, wells, ridge, components = match.groups()
    steps = [_CLEAN]
    if norm:
        text = _NORMS[norm]
        fit = "controls" if wells == "ctrl" else "all"
        steps.append(f"{text}{',' if ':' in text else ':'}fit={fit}")
    steps.append(
        f"tvn:components={components or 128},clamp=2.5,ridge={ridge},scale=yes,recolor=yes"
    )
    return "|".join(steps)


def all_recipes() -> list[str]:
    """The 175 recipes that JUMP-lite swept for learned models."""
    norms = [f"{n}_{w}" for n in ("robustmad", "std") for w in ("ctrl", "all")] + ["none"]
    ridges = ("0.05", "0.1", "0.2", "0.5", "1.0")
    components = ("_c96", "", "_c150", "_c170", "_c196", "_c256", "_c304")
    return [f"{n}__tvn_efaar_e{e}{c}" for n in norms for e in ridges for c in components]


@dataclass(frozen=True, kw_only=True)
class JumpLiteSpec(BenchmarkSpec):
    """JUMP-lite's wells.

    Attributes:
      recipes: post-processing to select from, by the product of the scores on the selection
        treatments; names of JUMP-lite's, chains of corrections, or ("all",) for all 175.
      splits: divisions of the treatments; intervals are over them.
      split_seed: of the first; the others follow it (JUMP-lite published its first seed alone).
      null_size: random rankings, for the p of each perturbation.
    """

    name: ClassVar[str] = "jump-lite"
    recipes: Annotated[
        Sequence[str],
        Option(
            "post-processing to select from: JUMP-lite's names, chains of corrections, or all "
            "for JUMP-lite's 175",
            nargs="+",
            metavar="RECIPE,…",
            split=split_methods,
        ),
    ] = (
        "std_all__tvn_efaar_e0.1",
        "std_all__tvn_efaar_e0.1_c256",
        "std_all__tvn_efaar_e0.5",
        "std_all__tvn_efaar_e0.5_c256",
        "std_ctrl__tvn_efaar_e0.1",
        "std_ctrl__tvn_efaar_e0.1_c256",
        "std_ctrl__tvn_efaar_e0.5",
        "std_ctrl__tvn_efaar_e0.5_c256",
    )
    splits: Annotated[int, Option("divisions of the treatments", metavar="N")] = 5
    split_seed: Annotated[int, Option("of the first division")] = FIRST_SEED
    null_size: Annotated[int, Option("random rankings")] = 10_000


def well_table(spec: BenchmarkSpec) -> pd.DataFrame:
    """JUMP-lite's wells and their annotation, from jump_lite_perturbation_metadata.parquet.

    Returns:
      Its columns, and Metadata_Targets: the compound's targets in RefChemDB (tiers 0 to 3 within
      its modality), joined by "|".

    Raises:
      InputError: a file or a column is missing.
    """
    path = spec.file("jump_lite_perturbation_metadata.parquet")
    wells = pd.read_parquet(path)
    needed = [
        "Metadata_Plate", "Metadata_Well", SCHEMA.experiment, SCHEMA.perturbation,
        "Metadata_pert_type", GROUP,
    ]  # fmt: skip
    for name in needed:
        if name not in wells:
            raise InputError(f"{path} has no column {name}.")
    chemistry = spec.file("jump_lite_refchem_annotations.parquet")
    known = pd.read_parquet(chemistry)
    for name in ("Metadata_JCP2022", "target", "WithinModalityTier"):
        if name not in known:
            raise InputError(f"{chemistry} has no column {name}.")
    known = known[known["WithinModalityTier"].isin(TIERS)].dropna(subset=["target"])
    targets = known.groupby("Metadata_JCP2022")["target"].agg(lambda t: "|".join(sorted(set(t))))
    own = wells[SCHEMA.perturbation].map(targets)
    return wells.assign(Metadata_Targets=own).fillna("").reset_index(drop=True)


def selection_mask(metadata: pd.DataFrame, seed: int) -> Bool[np.ndarray, " wells"]:
    """Which wells hold treatments that select the post-processing (protocol v5 of JUMP-lite).

    Within each stratum, the sorted groups of a treatment joined by "|", treatments are ordered by
    SHA-256 of "seed NUL stratum NUL treatment"; the first ⌊0.2 n + 0.5⌋ select. Controls do not.
    """
    treated = (metadata["Metadata_pert_type"] != "negcon").to_numpy(dtype=bool)
    wells = metadata.loc[treated, [SCHEMA.perturbation, GROUP]].astype(str)
    strata = wells.groupby(SCHEMA.perturbation)[GROUP].agg(lambda g: "|".join(sorted(set(g))))
    chosen: set[str] = set()
    for stratum, members in strata.groupby(strata):
        names = [str(name) for name in members.index]
        names.sort(key=lambda n: hashlib.sha256(f"{seed}\0{stratum}\0{n}".encode()).hexdigest())
        chosen.update(names[: int(SELECTION_SHARE * len(names) + 0.5)])
    return treated & metadata[SCHEMA.perturbation].isin(chosen).to_numpy(dtype=bool)


def run_jump_lite(spec: JumpLiteSpec, scores: Scores, progress: Progress) -> Result:
    """Rows of activity and consistency, both protocols; table `recipes`: what was selected."""
    if spec.splits < 1:
        raise InputError(f"splits must be 1 or more, not {spec.splits}.")
    names = all_recipes() if tuple(spec.recipes) == ("all",) else list(spec.recipes)
    if not names:
        raise InputError("jump-lite needs at least one recipe.")
    selected: list[dict[str, object]] = []
    kept: dict[str, ScoredWells] = {}
    for model in scores.models:
        candidates = [_OF_COUNTS] if model.is_count else names
        for protocol in (OF_THE_FIT, HELD_OUT):
            values: dict[str, list[float]] = {ACTIVITY: [], CONSISTENCY: []}
            units: dict[str, tuple[int, tuple[float, float]]] = {}
            for i in range(spec.splits):
                seed = spec.split_seed + i
                progress(f"{model.name}: {protocol}, split {i + 1} of {spec.splits}")
                split = _Split(spec, model, seed, protocol == HELD_OUT)
                best, trials = split.select(candidates, scores, progress)
                selected += [
                    {"model": model.name, "protocol": protocol, "seed": seed, **trial,
                     "selected": trial["recipe"] == best} for trial in trials
                ]  # fmt: skip
                wells = split.corrected(best)
                active, consistent = split.score(wells, split.tested, spec.null_size)
                for metric, found in ((ACTIVITY, active), (CONSISTENCY, consistent)):
                    values[metric].append(_mean(found))
                    units.setdefault(metric, (len(found.groups), _over_units(found)))
                if i == 0 and protocol == HELD_OUT:
                    table = by_perturbation(active, SCHEMA.perturbation, [GROUP])
                    scores.perturbations.append(table.assign(embeddings=model.name))
                    if not model.is_count:
                        kept[model.name] = ScoredWells(
                            model.profiles, wells.take(split.tested), SCHEMA, best
                        )
            for metric, means in values.items():
                count, interval = units[metric]
                several = over_splits(means) if len(means) > 1 else interval
                scores.add(model.name, metric, float(np.mean(means)), several, count, protocol)
    scores.notes.append(
        f"intervals of 95 %: Student's t over {spec.splits} divisions of the treatments, as "
        "published"
        if spec.splits > 1
        else "intervals of 95 %: over perturbations or targets, of one division of the treatments"
    )
    result = scores.result((ACTIVITY, CONSISTENCY))
    result.tables["recipes"] = pd.DataFrame(selected)
    result.wells = kept
    return result


class _Split:
    """One division of the treatments, and of the controls if some are held out."""

    def __init__(self, spec: JumpLiteSpec, model: Model, seed: int, holdout: bool) -> None:
        self.profiles = model.profiles
        self.similarity = "euclidean" if model.is_count else "cosine"
        self.seed = spec.seed
        self.key = (model.digest, holdout, seed)
        metadata = self.profiles.metadata
        controls = self.profiles.controls(SCHEMA.controls)
        chosen = selection_mask(metadata, seed)
        held = np.zeros(len(metadata), bool)
        if holdout:
            held = held_out_controls(self.profiles, 0.5, schema=SCHEMA, seed=seed)
        scored_controls = held if holdout else controls
        self.fitted = chosen | (controls & ~held)
        self.selecting = chosen | scored_controls
        self.tested = (~controls & ~chosen) | scored_controls

    def corrected(self, name: str) -> Profiles:
        """All wells, by a recipe fitted on selection treatments and controls."""
        return correct(self.profiles, recipe(name), schema=SCHEMA, fit_rows=self.fitted)

    def select(
        self, names: Sequence[str], scores: Scores, progress: Progress
    ) -> tuple[str, list[dict[str, object]]]:
        """The recipe with the largest product of both scores, each scaled to 0 … 1."""
        if len(names) == 1:
            return names[0], [{"recipe": names[0], "activity": np.nan, "consistency": np.nan}]
        rows = self.fitted | self.selecting
        wells = self.profiles.take(rows)

        def trial(name: str) -> list[float]:
            progress(f"  {name}")
            corrected = correct(wells, recipe(name), schema=SCHEMA, fit_rows=self.fitted[rows])
            pair = self.score(corrected, self.selecting[rows], null_size=1)
            return [_mean(each) for each in pair]

        found = [
            scores.remembered((*self.key, len(wells), name), partial(trial, name)) for name in names
        ]
        table = np.nan_to_num(np.array(found))
        spread = np.ptp(table, axis=0)
        scaled = (table - table.min(axis=0)) / np.where(spread > 0, spread, 1)
        scaled[:, spread == 0] = 1.0  # no difference: the other score decides
        product = scaled.prod(axis=1)
        best = min(n for n, p in zip(names, product, strict=True) if p == product.max())
        trials: list[dict[str, object]] = [
            {"recipe": n, "activity": a, "consistency": c}
            for n, (a, c) in zip(names, found, strict=True)
        ]
        return best, trials

    def score(
        self, wells: Profiles, rows: Bool[np.ndarray, " wells"], null_size: int
    ) -> tuple[Retrieval, Retrieval]:
        """Activity and consistency among some wells."""
        part = wells.take(rows)
        active = perturbation_retrieval(
            part, by=SCHEMA.perturbation, within=[GROUP], similarity=self.similarity,
            schema=SCHEMA, null_size=null_size, seed=self.seed,
        )  # fmt: skip
        compounds = part.take(part.column(GROUP).isin(COMPOUND_GROUPS).to_numpy(dtype=bool))
        no_controls = compounds.take(~_controls(compounds))
        consistent = phenotypic_consistency(
            no_controls, by=SCHEMA.perturbation, targets="Metadata_Targets", within=[GROUP],
            similarity=self.similarity, min_perturbations=MIN_COMPOUNDS, max_targets=MAX_TARGETS,
            schema=ColumnSchema(controls="none"), null_size=null_size, seed=self.seed,
        )  # fmt: skip
        return active, consistent


def _controls(profiles: Profiles) -> Bool[np.ndarray, " wells"]:
    return (profiles.metadata["Metadata_pert_type"] == "negcon").to_numpy(dtype=bool)


def _mean(found: Retrieval) -> float:
    return float(found.groups["nap"].astype(float).mean()) if len(found.groups) else float("nan")


def _over_units(found: Retrieval) -> tuple[float, float]:
    """The interval over perturbations or targets, one name in several groups as one unit."""
    if len(found.groups) < 2:
        return float("nan"), float("nan")
    names = found.groups[found.groups.columns[0]].to_numpy(dtype=object).astype(str)
    return clustered_interval(found.groups["nap"].to_numpy(float), names)


def over_splits(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean over splits, by Student's t."""
    return clustered_interval(np.array(values, float), np.arange(len(values)))
