"""Recall of known relationships by embeddings and correction (Tables 2, 3 and 6, Fig. 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from mae_jax.evaluation.corrections import DEFAULT, TABLE2, split_methods
from mae_jax.evaluation.model_comparison import compare_recall, probe_blocks
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.protocols.base import CORRECTION, MapSpec, Progress
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.recall_tables import (
    RecallTables,
    best_of_each,
    random_profiles,
    recall_tables,
)
from mae_jax.evaluation.relationship_recall import recall
from mae_jax.evaluation.relationships import Relationships
from mae_jax.evaluation.results import Result

CORRECTIONS_OPTION = Option(
    "corrections or chains (see `mae-jax correct --help`), or all for Table 2's nine",
    nargs="+",
    metavar="NAME,…",
    split=split_methods,
)


@dataclass(frozen=True, kw_only=True)
class RecallSpec(MapSpec):
    """Recall of every embedding under every correction.

    Attributes:
      corrections: see `corrections.fit`, or ("all",) for Table 2's nine.
      random: width of random embeddings to add as a baseline, or None.
    """

    name: ClassVar[str] = "recall"
    corrections: Annotated[Sequence[str], CORRECTIONS_OPTION] = (DEFAULT,)
    random: Annotated[
        int | None, Option("add random embeddings of this width", parse=int, metavar="WIDTH")
    ] = None


@dataclass(frozen=True, kw_only=True)
class CompareSpec(MapSpec):
    """Paired comparison of the recall of two or more embeddings under one correction."""

    name: ClassVar[str] = "compare"
    correction: Annotated[str, CORRECTION] = DEFAULT


@dataclass(frozen=True, kw_only=True)
class BlocksSpec(CompareSpec):
    """Recall by block of an encoder; `embeddings` are the blocks, in order."""

    name: ClassVar[str] = "blocks"


def run_recall(spec: RecallSpec, progress: Progress) -> Result:
    """Tables `recall`, `sweep` and, of two embeddings or more, `compare`; matrix `cosines`."""
    tables = make_tables(
        spec, spec.load(progress), spec.databases(), spec.corrections, progress, progress
    )
    result = Result(tables={"recall": tables.table, "sweep": tables.sweep}, main="recall.csv")
    at_best = best_of_each(tables)
    if len(at_best) > 1:
        result.tables["compare"] = compare_recall(at_best)
    if tables.cosines is not None:
        result.matrices["cosines"] = tables.cosines
    best = {"embeddings": tables.best[0], "correction": tables.best[1]}
    result.settings = {**spec.settings(), "best": best}
    wide = tables.table.pivot(
        index=["embeddings", "correction"], columns="database", values="recall"
    )
    result.summary = [wide.round(3).to_string()]
    return result


def run_compare(spec: CompareSpec, progress: Progress) -> Result:
    """Table `compare`: every two embeddings on every database."""
    databases, arms = spec.databases(), spec.arm_correction(progress)
    results = {
        name: recall(spec.gene_map(profiles, spec.correction, arms), databases, by=spec.by)
        for name, profiles in spec.load(progress).items()
    }
    table = compare_recall(results)
    return Result(
        tables={"compare": table},
        settings=spec.settings(),
        summary=[table.round(4).to_string(index=False)],
        main="compare.csv",
    )


def run_blocks(spec: BlocksSpec, progress: Progress) -> Result:
    """Tables `blocks` (recall by block, in the order given) and `against_last`."""
    arms = spec.arm_correction(progress)
    maps = {n: spec.gene_map(p, spec.correction, arms) for n, p in spec.load(progress).items()}
    table, against = probe_blocks(maps, spec.databases(), by=spec.by)
    return Result(
        tables={"blocks": table, "against_last": against},
        settings=spec.settings(),
        summary=[table.round(3).to_string(index=False)],
        main="blocks.csv",
    )


def make_tables(
    spec: MapSpec,
    embeddings: dict[str, Profiles],
    databases: Sequence[Relationships],
    corrections: Sequence[str],
    progress: Progress,
    notes: Progress,
) -> RecallTables:
    """Recall tables of a specification that may have `random` (recall, paper)."""
    width: int | None = getattr(spec, "random", None)
    if width:
        first = next(iter(embeddings.values()))
        embeddings = {**embeddings, "random": random_profiles(first, width, spec.seed)}
    return recall_tables(
        embeddings,
        databases,
        list(TABLE2) if list(corrections) == ["all"] else list(corrections),
        by=spec.by,
        levels=spec.levels,
        fit_on=spec.fit_on,
        batch=spec.batch,
        schema=spec.schema,
        chromosome_arms=spec.arm_correction(notes),
        progress=progress,
    )
