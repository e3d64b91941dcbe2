"""Benchmarks as specifications: `run(CPJUMP1BenchmarkSpec(…)).save(folder)`.

A benchmark takes tables of embeddings of one or several models, checks that they cover its wells,
runs its protocol, and puts published scores beside ours, with a baseline of cell counts and one of
an untrained network. Each has a module here and an entry in `BENCHMARKS`, from which
`mae-jax benchmark NAME` is made; published scores are rows of `published.csv`.
"""

import os
from pathlib import Path

import pandas as pd

from mae_jax.evaluation.benchmarks.base import Benchmark, BenchmarkSpec, load_models
from mae_jax.evaluation.benchmarks.bbbc021 import BBBC021Spec, annotated_wells, run_bbbc021
from mae_jax.evaluation.benchmarks.cpjump1 import (
    CPJUMP1BenchmarkSpec,
    plate_wells,
    run_cpjump1_benchmark,
)
from mae_jax.evaluation.benchmarks.jump_lite import JumpLiteSpec, run_jump_lite, well_table
from mae_jax.evaluation.benchmarks.rxrx import (
    WELL_ID,
    RxRx3CoreSpec,
    RxRx3Spec,
    core_wells,
    knockout_wells,
    run_rxrx3,
    run_rxrx3_core,
    with_well_ids,
)
from mae_jax.evaluation.protocols.base import Progress
from mae_jax.evaluation.results import Result

__all__ = [
    "BENCHMARKS",
    "BBBC021Spec",
    "Benchmark",
    "BenchmarkSpec",
    "CPJUMP1BenchmarkSpec",
    "JumpLiteSpec",
    "RxRx3CoreSpec",
    "RxRx3Spec",
    "coverage",
    "run",
]

PLATE_AND_WELL = ("Metadata_Plate", "Metadata_Well")

# The order is that of the overview, `mae-jax benchmark --help`.
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.spec.name: benchmark
    for benchmark in (
        Benchmark(
            JumpLiteSpec,
            well_table,
            PLATE_AND_WELL,
            run_jump_lite,
            "JUMP-lite: phenotypic activity and consistency, treatments held out",
            "jump_lite_perturbation_metadata.parquet and jump_lite_refchem_annotations.parquet",
            "--embeddings MAE=emb/mae,untrained=emb/untrained --metadata jump_lite \\\n"
            "      --counts counts.parquet --out jump-lite",
        ),
        Benchmark(
            CPJUMP1BenchmarkSpec,
            plate_wells,
            PLATE_AND_WELL,
            run_cpjump1_benchmark,
            "CPJUMP1: retrieval of perturbations and siblings in 12 conditions",
            "experiment-metadata.tsv, JUMP-Target-1_*_platemap.txt and the metadata of compounds, "
            "guides and ORFs",
            "--embeddings MAE=emb/mae,untrained=emb/untrained --metadata cpjump1_design \\\n"
            "      --counts counts.csv --out cpjump1",
        ),
        Benchmark(
            BBBC021Spec,
            annotated_wells,
            PLATE_AND_WELL,
            run_bbbc021,
            "BBBC021: mechanisms of action by the nearest treatment (NSC, NSCB)",
            "BBBC021_v1_image.csv and BBBC021_v1_moa.csv",
            "--embeddings MAE=emb/mae --metadata bbbc021 --out bbbc021",
        ),
        Benchmark(
            RxRx3CoreSpec,
            core_wells,
            (WELL_ID,),
            run_rxrx3_core,
            "RxRx3-core: compounds and the genes that they act on",
            "metadata_rxrx3_core.csv and, from EFAAR_benchmarking, compound_gene_interactions.csv",
            "--embeddings OpenPhenom=OpenPhenom_rxrx3_core_embeddings.parquet \\\n"
            "      --metadata rxrx3-core --out rxrx3-core",
            with_well_ids,
        ),
        Benchmark(
            RxRx3Spec,
            knockout_wells,
            (WELL_ID,),
            run_rxrx3,
            "RxRx3: recall of known relationships between genes (Table 3)",
            "metadata_rxrx3.csv, relationships (CORUM.txt …) and, for the correction of "
            "chromosome arms, gene_chromosome_arm_hg38.csv",
            "--embeddings MAE=emb/mae --metadata rxrx3 --out rxrx3",
            with_well_ids,
        ),
    )
}


def run(
    spec: BenchmarkSpec,
    progress: Progress = lambda message: None,
    work: str | os.PathLike[str] | None = None,
) -> Result:
    """Run one benchmark.

    Args:
      spec: any specification of this package.
      progress: called with a line about each step.
      work: folder where parts of long benchmarks are kept, so that an interrupted run goes on;
        None: nothing is kept.

    Returns:
      Tables `scores`, `coverage`, and more; `result.save(folder)` writes what `mae-jax benchmark`
      writes.

    Raises:
      InputError: whatever the benchmark refuses, such as wells that are missing.
    """
    benchmark = BENCHMARKS[spec.name]
    scores = load_models(spec, benchmark, progress)
    scores.work = None if work is None else Path(work)
    return benchmark.run(spec, scores, progress)


def coverage(spec: BenchmarkSpec, progress: Progress = lambda message: None) -> pd.DataFrame:
    """How many of the benchmark's wells each model has: model, wells, present, missing, scored.

    Raises:
      InputError: wells are missing (unless `allow_missing`), or the tables cannot be read.
    """
    return load_models(spec, BENCHMARKS[spec.name], progress).coverage
