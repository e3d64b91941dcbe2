"""The paper's tables and figures, next to the published numbers."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import pandas as pd

from mae_jax.config import from_dict
from mae_jax.errors import InputError
from mae_jax.evaluation import cpjump1
from mae_jax.evaluation.cellprofiler import FeaturePrediction
from mae_jax.evaluation.gene_sets import recall_at_false_positives
from mae_jax.evaluation.holdout import Holdout
from mae_jax.evaluation.paper_tables import Paper, with_flops
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.protocols.base import Progress, Source
from mae_jax.evaluation.protocols.gene_sets import GeneSets, read_sets
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.protocols.recall import CORRECTIONS_OPTION, RecallSpec, make_tables
from mae_jax.evaluation.protocols.retrieval import (
    DEFAULT_NULL_SIZE,
    NULL_SIZE,
    CPJUMP1Spec,
    score_cpjump1,
)
from mae_jax.evaluation.relationships import Relationships
from mae_jax.evaluation.results import Result
from mae_jax.files import read_json
from mae_jax.flops import MAEShape, PublishedMAE

Shapes = Mapping[str, tuple[MAEShape, float]] | str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class PaperSpec(RecallSpec):
    """Tables 2 to 9 of whatever inputs are given; all by the paper's own protocol.

    Attributes:
      corrections: as of `RecallSpec`, but TVN by default, as in the paper.
      table3_correction: the correction of Tables 3 to 6, 8 and 9.
      sets: gene sets, for Table 5.
      cpjump1: name -> embeddings of CPJUMP1's plates, for Tables 4, 8 and 9.
      design: folder of CPJUMP1's metadata.
      null_size: random rankings of the retrieval.
      features: name -> table of `run(FeaturesSpec)`, for Table 7.
      shapes: embeddings -> (shape, crops seen), or a JSON file of that, for the scaling plots.
    """

    name: ClassVar[str] = "paper"
    corrections: Annotated[Sequence[str], CORRECTIONS_OPTION] = ("tvn",)
    table3_correction: Annotated[
        str, Option("the correction of Table 3", old_flags=("--main",))
    ] = "tvn"
    sets: Annotated[GeneSets | None, Option("gene sets, for Table 5", metavar="FILE")] = None
    cpjump1: Annotated[
        Mapping[str, Source],
        Option(
            "embeddings of CPJUMP1's plates, for Tables 4, 8, 9",
            nargs="+",
            metavar="[NAME=]PATH,…",
            named=True,
        ),
    ] = field(default_factory=dict)
    design: Annotated[
        str | os.PathLike[str] | None,
        Option("folder of CPJUMP1's metadata, for Tables 4, 8, 9", metavar="FOLDER"),
    ] = None
    null_size: Annotated[int, NULL_SIZE] = DEFAULT_NULL_SIZE
    features: Annotated[
        Mapping[str, pd.DataFrame | str | os.PathLike[str]],
        Option("`features` tables, for Table 7", nargs="+", metavar="NAME=CSV,…", named=True),
    ] = field(default_factory=dict)
    shapes: Annotated[
        Shapes | None,
        Option(
            '{"NAME": {"size": "L", "patch": 8, "crops": 3.5e9}}, for the scaling plots',
            metavar="JSON",
        ),
    ] = None

    def settings(self) -> dict[str, object]:
        """Add which controls the scores used."""
        return {**super().settings(), "controls_of_the_score": Holdout(controls=0.0).describe()}


def run_paper(spec: PaperSpec, progress: Progress) -> Result:
    """`table<N>` of every table that the inputs allow, figures, and the page `paper.html`."""
    from mae_jax.viz import plots

    if spec.cpjump1 and spec.design is None:
        raise InputError("cpjump1 embeddings need --design, the folder of CPJUMP1's metadata.")
    result, paper = Result(settings=spec.settings(), main="paper.html"), Paper()

    def note(message: str) -> None:
        progress(message)
        paper.notes.append(message)

    embeddings, databases = spec.load(progress), spec.databases()
    corrections = list(spec.corrections)
    if corrections != ["all"]:
        corrections = list(dict.fromkeys([*corrections, spec.table3_correction]))
    tables = make_tables(spec, embeddings, databases, corrections, progress, note)
    result.tables |= {"recall": tables.table, "sweep": tables.sweep}
    paper.add_recall(tables.table, spec.table3_correction)
    chosen = tables.sweep[tables.sweep["correction"] == spec.table3_correction]
    paper.figures["fig5_percentiles"] = plots.recall_against_percentile(chosen)
    if tables.cosines is not None:
        paper.figures["cosines"] = plots.cosine_heatmap(
            tables.cosines, title=", ".join(tables.best)
        )
    if spec.shapes is not None:
        main = tables.table[tables.table["correction"] == spec.table3_correction]
        scaling = with_flops(main, read_shapes(spec.shapes))
        if scaling.empty:
            raise InputError(f"the shapes name none of the embeddings {', '.join(embeddings)}.")
        result.tables["scaling"] = scaling
        paper.figures["fig5_scaling_papers_count"] = plots.recall_against_flops(
            scaling, "paper_flops"
        )
        paper.figures["fig8_scaling_true_count"] = plots.recall_against_flops(scaling, "true_flops")
    if spec.sets is not None:
        _add_gene_sets(paper, spec, embeddings, databases)
    for name, source in spec.cpjump1.items():
        table = score_cpjump1(
            _cpjump1_spec(spec, name, source), spec.load_one(source, progress), progress
        )
        paper.add_cpjump1(name, table, cpjump1.summary(table))
    if spec.cpjump1:
        paper.notes.append(f"Tables 4, 8 and 9: {Holdout(controls=0.0).describe()}.")
    predictions = {
        name: table if isinstance(table, pd.DataFrame) else pd.read_csv(table)
        for name, table in spec.features.items()
    }
    for name, table in predictions.items():
        paper.add_features(name, FeaturePrediction.summarize(table))
    if predictions:
        paper.figures["fig6_features"] = plots.feature_r2(predictions)
    for database in databases:
        paper.notes.append(
            f"{database.name}: {len(database):,} pairs; {database.self_pairs:,} self-pairs and "
            f"{database.duplicates:,} repeats left out."
        )
    result.tables |= {f"table{number}": rows for number, rows in paper.tables().items()}
    result.figures |= paper.figures
    result.pages["paper.html"] = paper.page()
    return result


def read_shapes(shapes: Shapes) -> dict[str, tuple[MAEShape, float]]:
    """Shapes of networks and the crops they saw in training, by embeddings.

    Raises:
      InputError: an unknown key, or no `crops`.
    """
    if isinstance(shapes, Mapping):
        return dict(shapes)
    return {str(name): _shape(str(name), values) for name, values in read_json(shapes).items()}


def _shape(name: str, values: Mapping[str, object]) -> tuple[MAEShape, float]:
    crops = values.get("crops")
    if not isinstance(crops, int | float):
        raise InputError(f"the shape of {name} lacks 'crops', the crops seen in training.")
    rest = {k: v for k, v in values.items() if k != "crops"}
    return from_dict(PublishedMAE, rest, where=name).shape, float(crops)


def _add_gene_sets(
    paper: Paper,
    spec: PaperSpec,
    embeddings: Mapping[str, Profiles],
    databases: list[Relationships],
) -> None:
    # Table 5 is StringDB's, where that is given.
    database = next((d for d in databases if "string" in d.name.lower()), databases[-1])
    assert spec.sets is not None
    sets, arms = read_sets(spec.sets), spec.arm_correction(lambda message: None)
    for name, profiles in embeddings.items():
        genes = spec.gene_map(profiles, spec.table3_correction, arms)
        paper.add_gene_sets(name, recall_at_false_positives(genes, database, sets, by=spec.by))
    paper.notes.append(f"Table 5 was measured on {database.name}.")


def _cpjump1_spec(spec: PaperSpec, name: str, source: Source) -> CPJUMP1Spec:
    assert spec.design is not None
    return CPJUMP1Spec(
        embeddings={name: source},
        nan=spec.nan,
        duplicates=spec.duplicates,
        fit_on=spec.fit_on,
        batch=spec.batch,
        seed=spec.seed,
        correction=spec.table3_correction,
        holdout_controls=0.0,
        null_size=spec.null_size,
        design=spec.design,
    )
