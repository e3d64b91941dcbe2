"""Benchmarks as specifications: `run(CPJUMP1BenchmarkSpec(…)).save(folder)`.

A benchmark takes tables of embeddings of one or several models, checks that they cover its wells,
runs its protocol, and puts published scores beside ours, with a baseline of cell counts and one of
an untrained network. Each has a module here and an entry in `BENCHMARKS`, from which
`mae-jax benchmark NAME` is made; published scores are rows of `published.csv`.
"""

from mae_jax.evaluation.benchmarks.base import Benchmark, BenchmarkSpec
from mae_jax.evaluation.benchmarks.bbbc021 import BBBC021Spec, run_bbbc021
from mae_jax.evaluation.benchmarks.cpjump1 import CPJUMP1BenchmarkSpec, run_cpjump1_benchmark
from mae_jax.evaluation.protocols.base import Progress
from mae_jax.evaluation.results import Result

__all__ = [
    "BENCHMARKS",
    "BBBC021Spec",
    "Benchmark",
    "BenchmarkSpec",
    "CPJUMP1BenchmarkSpec",
    "run",
]

# The order is that of the overview, `mae-jax benchmark --help`.
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.spec.name: benchmark
    for benchmark in (
        Benchmark(
            CPJUMP1BenchmarkSpec,
            run_cpjump1_benchmark,
            "CPJUMP1: retrieval of perturbations and siblings in 12 conditions",
            "experiment-metadata.tsv, JUMP-Target-1_*_platemap.txt and the metadata of compounds, "
            "guides and ORFs",
            "--embeddings MAE=emb/mae,untrained=emb/untrained --metadata cpjump1_design \\\n"
            "      --counts counts.csv --out cpjump1",
        ),
        Benchmark(
            BBBC021Spec,
            run_bbbc021,
            "BBBC021: mechanisms of action by the nearest treatment (NSC, NSCB)",
            "BBBC021_v1_image.csv and BBBC021_v1_moa.csv",
            "--embeddings MAE=emb/mae --metadata bbbc021 --out bbbc021",
        ),
    )
}


def run(spec: BenchmarkSpec, progress: Progress = lambda message: None) -> Result:
    """Run one benchmark.

    Args:
      spec: any specification of this package.
      progress: called with a line about each step.

    Returns:
      Tables `scores`, `coverage`, and more; `result.save(folder)` writes what `mae-jax benchmark`
      writes.

    Raises:
      InputError: whatever the benchmark refuses, such as wells that are missing.
    """
    return BENCHMARKS[spec.name].run(spec, progress)
