"""RxRx3-core (compounds and the genes they act on) and RxRx3 (recall of known relationships)."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import aggregate
from mae_jax.evaluation.benchmarks.base import BenchmarkSpec, Model, Scores
from mae_jax.evaluation.benchmarks.cell_counts import on_arc
from mae_jax.evaluation.benchmarks.published import paper_rows
from mae_jax.evaluation.chromosome_arms import correct_chromosome_arms, read_chromosome_arms
from mae_jax.evaluation.compound_gene import MAX, compound_gene_benchmark, dose_map
from mae_jax.evaluation.corrections import correct
from mae_jax.evaluation.pair_intervals import clustered_interval
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.protocols.base import Progress
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.relationship_databases import read_database
from mae_jax.evaluation.relationship_recall import recall
from mae_jax.evaluation.results import Result, ScoredWells

WELL_ID = "Metadata_well_id"
_COLUMNS = (
    "well_id", "experiment_name", "plate", "address", "gene", "treatment", "perturbation_type",
)  # fmt: skip
_BASE = ColumnSchema(
    experiment="Metadata_experiment_name",
    plate="Metadata_plate",
    well="Metadata_address",
    gene="Metadata_gene",
)
CORE_SCHEMA = replace(
    _BASE, perturbation="Metadata_treatment", controls="Metadata_treatment=EMPTY_control"
)
GENE_SCHEMA = replace(_BASE, perturbation="Metadata_gene", controls="Metadata_gene=EMPTY_control")
AP = "compound-gene AP, maximum over doses"
DATABASES = ("CORUM", "HuMAP", "Reactome", "StringDB")


def with_well_ids(table: Profiles) -> Profiles:
    """Profiles with Metadata_well_id, such as gene-001_1_AA15.

    Where they lack it, it is made from Metadata_Experiment, _Plate (1 or Plate1) and _Well.
    """
    parts = ("Metadata_Experiment", "Metadata_Plate", "Metadata_Well")
    if WELL_ID in table.metadata or not set(parts) <= set(table.metadata.columns):
        return table
    experiment, plate, well = (table.metadata[name].astype(str) for name in parts)
    number = plate.str.replace(re.compile("^plate", re.IGNORECASE), "", regex=True)
    identity = experiment + "_" + number + "_" + well
    return replace(table, metadata=table.metadata.assign(**{WELL_ID: identity}))


@dataclass(frozen=True, kw_only=True)
class RxRx3CoreSpec(BenchmarkSpec):
    """RxRx3-core's wells.

    Attributes:
      correction: fitted on the wells without a perturbation (EMPTY_control).
      draws: of the negatives, with the seeds `seed`, `seed` + 1, …
    """

    name: ClassVar[str] = "rxrx3-core"
    correction: Annotated[str, Option("name of a correction")] = "pca|center-scale:batch=experiment"
    draws: Annotated[int, Option("draws of the negatives", metavar="N")] = 100


@dataclass(frozen=True, kw_only=True)
class RxRx3Spec(BenchmarkSpec):
    """RxRx3's wells of CRISPR knock-outs.

    Attributes:
      correction: fitted on the wells without a perturbation (EMPTY_control).
      relationships: databases, as `read_database` takes them; empty: those of CORUM.txt, HuMAP.txt,
        Reactome.txt, SIGNOR.txt and StringDB.txt that are in the metadata folder.
      chromosome_arms: table of genes and arms; None: gene_chromosome_arm_hg38.csv of the folder if
        it is there, else no such correction.
    """

    name: ClassVar[str] = "rxrx3"
    correction: Annotated[str, Option("name of a correction")] = "tvn"
    relationships: Annotated[
        Sequence[str],
        Option(
            "relationships, as `mae-jax evaluate recall` takes them, instead of the folder's",
            nargs="+",
            metavar="[KIND:]FILE,…",
        ),
    ] = ()
    chromosome_arms: Annotated[
        str | os.PathLike[str] | None,
        Option("correct for chromosome arms by this table", metavar="FILE"),
    ] = None


def core_wells(spec: BenchmarkSpec) -> pd.DataFrame:
    """RxRx3-core's 222,601 wells, from metadata_rxrx3_core.csv."""
    return _wells(spec.file("metadata_rxrx3_core.csv", "metadata_rxrx3_core.csv.gz"))


def knockout_wells(spec: BenchmarkSpec) -> pd.DataFrame:
    """RxRx3's wells in the experiments on genes, from metadata_rxrx3.csv.

    Raises:
      InputError: there are none.
    """
    wells = _wells(spec.file("metadata_rxrx3.csv", "metadata_rxrx3.csv.gz", "metadata.csv"))
    # Controls in experiments on compounds would be other batches.
    crispr = wells["Metadata_perturbation_type"] == "CRISPR"
    experiments = set(wells.loc[crispr, "Metadata_experiment_name"])
    wells = wells[crispr & wells["Metadata_experiment_name"].isin(experiments)]
    if wells.empty:
        raise InputError("the metadata of rxrx3 have no wells of perturbation_type CRISPR.")
    return wells.reset_index(drop=True)


def _wells(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name in _COLUMNS:
        if name not in table:
            raise InputError(f"{path} has no column {name}.")
    return table.add_prefix("Metadata_")


def run_rxrx3_core(spec: RxRx3CoreSpec, scores: Scores, progress: Progress) -> Result:
    """Rows of AP and AUC of compounds and genes at every dose; intervals are over compounds."""
    interactions = pd.read_csv(spec.file("compound_gene_interactions.csv"))
    kept: dict[str, ScoredWells] = {}
    for model in scores.models:
        progress(model.name)
        method = "standardize-experiment" if model.is_count else spec.correction
        wells = correct(model.profiles, method, schema=CORE_SCHEMA)
        compounds, genes = dose_map(wells)
        if model.is_count:
            compounds, genes = _frames_on_arc(compounds, genes)
        found = compound_gene_benchmark(
            compounds, genes, interactions, seeds=range(spec.seed, spec.seed + spec.draws)
        )
        nan = float("nan")
        values = found.compounds["score"].to_numpy(float)
        interval = clustered_interval(values, found.compounds["perturbation"].to_numpy(str))
        for row in found.summary.to_dict("records"):
            best = row["dose"] == MAX
            words = AP if best else f"compound-gene AP, {row['dose']} µM"
            scores.add(
                model.name, words, row["ap"], interval if best else (nan, nan),
                int(row["compounds"]),
            )  # fmt: skip
            if best:
                scores.add(model.name, "compound-gene AUC, maximum over doses", row["auc"],
                           (nan, nan), int(row["compounds"]))  # fmt: skip
                scores.notes.append(
                    f"{model.name}: AP ± {row['ap_std']:.4f} (standard deviation over "
                    f"{spec.draws} draws of negatives); {row['ap_random']:.3f} at random"
                )
        scores.notes.append(f"{model.name}: {found.note}")
        scores.perturbations.append(found.compounds.assign(embeddings=model.name))
        if not model.is_count:
            kept[model.name] = ScoredWells(model.profiles, wells, CORE_SCHEMA, spec.correction)
    scores.notes.append("intervals of 95 %: over compounds")
    result = scores.result((AP,))
    result.wells = kept
    return result


def _frames_on_arc(
    compounds: pd.DataFrame, genes: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean counts on a quarter of a circle, where |cosine| ranks by the difference."""
    both = pd.concat([compounds.iloc[:, 0], genes.iloc[:, 0]]).to_numpy(float)
    points = on_arc(both, np.pi / 2)
    return (
        pd.DataFrame(points[: len(compounds)], compounds.index),
        pd.DataFrame(points[len(compounds) :], genes.index),
    )


def run_rxrx3(spec: RxRx3Spec, scores: Scores, progress: Progress) -> Result:
    """Rows of recall on every database; intervals count pairs that share a gene as dependent."""
    folder = Path(spec.metadata)
    names = list(spec.relationships) or [
        os.fspath(path)
        for name in (*DATABASES, "SIGNOR")
        if (path := folder / f"{name}.txt").exists()
    ]
    if not names:
        raise InputError(
            f"{folder} has no relationships (CORUM.txt, HuMAP.txt, Reactome.txt, SIGNOR.txt, "
            "StringDB.txt); give them with --relationships."
        )
    databases = [read_database(name) for name in names]
    arms_file = Path(spec.chromosome_arms or folder / "gene_chromosome_arm_hg38.csv")
    arms = None
    if spec.chromosome_arms or arms_file.exists():
        arms = read_chromosome_arms(arms_file)
    protocol = "chromosome arms corrected" if arms is not None else ""
    kept: dict[str, ScoredWells] = {}
    for model in scores.models:
        progress(model.name)
        method = "standardize-experiment" if model.is_count else spec.correction
        wells = correct(model.profiles, method, schema=GENE_SCHEMA)
        genes = _gene_map(model, wells)
        if arms is not None and not model.is_count:
            fixed = correct_chromosome_arms(genes, arms, by=GENE_SCHEMA.gene)
            genes = fixed.genes
            scores.notes.append(f"{model.name}: {fixed.note}")
        for found in recall(genes, databases, by=GENE_SCHEMA.gene):
            scores.add(
                model.name, f"recall, {found.database}", found.recall, (found.low, found.high),
                found.pairs_used, "" if model.is_count else protocol,
            )  # fmt: skip
        if not model.is_count:
            kept[model.name] = ScoredWells(model.profiles, wells, GENE_SCHEMA, spec.correction)
    scores.notes.append("intervals of 95 %: pairs that share a gene count as dependent")
    shown = list(dict.fromkeys(str(row["metric"]) for row in scores.rows))
    published = paper_rows("3", "chromosome arms corrected")
    published = published.assign(metric="recall, " + published["metric"])
    result = scores.result(shown, published)
    result.wells = kept
    return result


def _gene_map(model: Model, wells: Profiles) -> Profiles:
    """One vector per gene; of counts, their means on half a circle."""
    if not model.is_count:
        return aggregate(wells, GENE_SCHEMA.gene, controls=GENE_SCHEMA.controls)
    labels = wells.metadata[GENE_SCHEMA.gene].astype(str)
    treated = ~wells.controls(GENE_SCHEMA.controls) & (labels != "").to_numpy(dtype=bool)
    means = pd.Series(wells.features[treated, 0]).groupby(labels[treated].to_numpy()).mean()
    metadata = pd.DataFrame({GENE_SCHEMA.gene: means.index.astype(str)})
    return Profiles(metadata, on_arc(means.to_numpy(float)), ("count_x", "count_y"))
