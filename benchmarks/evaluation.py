"""Speed and memory of the evaluation, against the public tools.

    python benchmarks/evaluation.py --peers FOLDER    # see evaluation_peers.py
    python benchmarks/evaluation.py --only recall ap --peers FOLDER
    python benchmarks/evaluation.py --only elastic --targets 20     # scikit-learn: half an hour
    python benchmarks/evaluation.py --only stream --wells 1400000   # 5.7 GB, twice, on the disk

Every side runs in its own process: seconds of wall time, CPU seconds (fairer on a machine with
other load) and peak memory. Results are one JSON file per part, and a table of all of them.
`--small` runs everything at a tenth of the size, as a test, and writes nothing.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from output import add_output_args

from mae_jax.files import write_json, write_text


def embeddings(rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Correlated features, whose spectrum falls as those of image embeddings do, float32."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, width + 1, dtype=np.float32) ** -0.75
    rotation = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    x = (rng.standard_normal((rows, width), np.float32) * spectrum) @ rotation
    return x / x.std(axis=0)


def sizes(small: bool) -> dict[str, int]:
    """The sizes of the targets, or a tenth."""
    full = {"genes": 17_000, "width": 1024, "wells": 51_000, "batches": 30, "profiles": 5_000}
    full |= {"rows": 16_560, "stream": 51_000}
    if not small:
        return full
    small_sizes = {"genes": 1700, "width": 102, "wells": 5100, "batches": 3, "profiles": 500}
    return {**small_sizes, "rows": 1656, "stream": 5100}


# --- recall -----------------------------------------------------------------------------------


def relationships(n: int) -> np.ndarray:
    pairs = np.sort(np.random.default_rng(1).integers(0, n, (100_000, 2)), axis=1)
    return np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)


def recall_ours(size: dict[str, int], **_: Any) -> dict[str, Any]:
    """`recall` of a map and one database, with the sweep over percentiles and intervals."""
    import pandas as pd

    from mae_jax.evaluation import Profiles, Relationships, recall

    x, pairs = embeddings(size["genes"], size["width"]), relationships(size["genes"])
    names = np.array([f"G{i:05d}" for i in range(len(x))])
    genes = Profiles(
        pd.DataFrame({"Metadata_Gene": names}), x, tuple(f"f{i}" for i in range(x.shape[1]))
    )
    database = Relationships.of("pairs", names[pairs])
    with timed() as clock:
        result = recall(genes, [database])[0]
    return {**clock, "recall": result.recall}


# --- TVN --------------------------------------------------------------------------------------


def wells_of(size: dict[str, int]) -> Any:
    import pandas as pd

    from mae_jax.evaluation import Profiles

    n = size["wells"]
    batch = np.arange(n) % size["batches"]
    # One well in three is a control.
    control = (np.arange(n) // size["batches"]) % 3 == 0
    frame = pd.DataFrame(
        {
            "Metadata_Experiment": np.char.add("E", batch.astype(str)),
            "Metadata_ControlType": np.where(control, "negcon", ""),
        }
    )
    x = (
        embeddings(n, size["width"])
        + np.random.default_rng(2).standard_normal((size["batches"], size["width"]), np.float32)[
            batch
        ]
    )
    return Profiles(frame, x, tuple(f"f{i}" for i in range(size["width"])))


def tvn_ours(size: dict[str, int], **_: Any) -> dict[str, Any]:
    from mae_jax.evaluation import correct

    wells = wells_of(size)
    with timed() as clock:
        out = correct(wells, "tvn")
    np.save(tvn_path(size), out.features)
    return {**clock, "norm": float(np.linalg.norm(out.features))}


def tvn_path(size: dict[str, int]) -> Path:
    """Where our corrected wells are left for the other side to compare with."""
    return Path(tempfile.gettempdir()) / f"tvn_{size['wells']}_{size['width']}.npy"


# --- chromosome arms --------------------------------------------------------------------------


def arms_of(n: int) -> np.ndarray:
    """An arm of 48 for every gene."""
    arms = np.array([f"chr{i}{arm}" for i in range(1, 25) for arm in "pq"])
    return arms[np.random.default_rng(7).integers(0, len(arms), n)]


def arms_ours(size: dict[str, int], **_: Any) -> dict[str, Any]:
    import pandas as pd

    from mae_jax.evaluation import Profiles
    from mae_jax.evaluation.chromosome_arms import correct_chromosome_arms

    x = embeddings(size["genes"], size["width"])
    names = [f"G{i:05d}" for i in range(len(x))]
    genes = Profiles(
        pd.DataFrame({"Metadata_Gene": names}), x, tuple(f"f{i}" for i in range(x.shape[1]))
    )
    arms = dict(zip(names, arms_of(len(x)).tolist(), strict=True))
    with timed() as clock:
        out = correct_chromosome_arms(genes, arms)
    return {**clock, "norm": float(np.linalg.norm(out.genes.features.astype(np.float64)))}


# --- average precision ------------------------------------------------------------------------


def profiles(size: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    n = size["profiles"]
    return embeddings(n, size["width"]), np.arange(n) % (n // 5)


def ap_ours(size: dict[str, int], **_: Any) -> dict[str, Any]:
    from mae_jax.evaluation.aggregation import l2_normalize
    from mae_jax.evaluation.average_precision import all_against_all

    x, codes = profiles(size)
    with timed() as clock:
        result = all_against_all(l2_normalize(x), codes)
    return {**clock, "mean_ap": float(result["ap"].mean())}


# --- elastic nets -----------------------------------------------------------------------------


def targets_of(size: dict[str, int], targets: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = embeddings(size["rows"], size["width"])
    y = x @ (rng.standard_normal((size["width"], targets)) / np.sqrt(size["width"]))
    y /= y.std(axis=0)
    share = np.linspace(0.3, 0.85, targets)
    noise = rng.standard_normal(y.shape)
    return x.astype(np.float64), np.sqrt(share) * y + np.sqrt(1 - share) * noise


def elastic_ours(size: dict[str, int], targets: int, **_: Any) -> dict[str, Any]:
    """`targets` of 955, and how long all would take: the shared Gram matrices count once."""
    from mae_jax.evaluation.elastic_net import _split, fit_targets

    x, y = targets_of(size, targets)
    with timed() as shared:
        _split(x, y, 5)
    with timed() as clock:
        fits = fit_targets(x, y)
    arrays = {k: getattr(fits, k) for k in ("coef", "intercept", "alpha", "l1_ratio")}
    np.savez(fits_path(size, targets), **arrays)
    each = {k: (clock[k] - shared[k]) / targets for k in clock}
    return {
        **clock,
        "targets": targets,
        "seconds_a_target": each["seconds"],
        "cpu_a_target": each["cpu_seconds"],
        "hours_for_955": (shared["seconds"] + each["seconds"] * 955) / 3600,
        "hours_for_955_on_2_free_cores": (shared["seconds"] + each["cpu_seconds"] / 2 * 955) / 3600,
    }


def fits_path(size: dict[str, int], targets: int) -> Path:
    name = f"elastic_{size['rows']}_{size['width']}_{targets}.npz"
    return Path(tempfile.gettempdir()) / name


# --- streaming --------------------------------------------------------------------------------


def writewells_of(path: str, wells: int, width: int, batches: int) -> None:
    """Wells with offsets by batch, drawn and written block by block; one in ten is a control."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(5)
    offsets = rng.standard_normal((batches, width), np.float32)
    spectrum = np.arange(1, width + 1, dtype=np.float32) ** -0.75
    rotation = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    writer = None
    for start in range(0, wells, 8192):
        rows = np.arange(start, min(start + 8192, wells))
        batch = rows * batches // wells
        x = (rng.standard_normal((len(rows), width), np.float32) * spectrum) @ rotation
        x = np.ascontiguousarray((x + offsets[batch]).T)
        columns = {
            "Metadata_Experiment": np.char.add("E", batch.astype(str)),
            "Metadata_ControlType": np.where(rows % 10 == 0, "negcon", ""),
            **{f"f{i}": x[i] for i in range(width)},
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="none")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def stream_ours(size: dict[str, int], **_: Any) -> dict[str, Any]:
    """TVN of wells on disk, fitted and applied block by block."""
    from mae_jax.evaluation.out_of_core import StreamedProfiles, correct_stream, fit_stream

    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_SCRATCH")) as folder:
        path = Path(folder) / "in.parquet"
        # Written by another process, so that the peak memory of this one is that of the work.
        given = (str(path), size["stream"], size["width"], size["batches"])
        code = f"import {Path(__file__).stem} as b; b.writewells_of(*{given!r})"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
        with timed() as clock:
            stream = StreamedProfiles(path)
            correct_stream(stream, fit_stream(stream, "tvn"), Path(folder) / "out.parquet")
    gib = size["stream"] * size["width"] * 4 / 2**30
    return {**clock, "wells": size["stream"], "features_gib": gib}


# --- the frame --------------------------------------------------------------------------------

FIGURES = ("seconds", "cpu_seconds", "peak_gib")
PARTS = {
    "recall": ("ours", "efaar"),
    "tvn": ("ours", "efaar"),
    "arms": ("ours", "proxbias"),
    "ap": ("ours", "copairs"),
    "elastic": ("ours", "sklearn"),
    "stream": ("ours",),
}
L1_RATIOS = (0.1, 0.6, 0.9, 0.95, 0.99)


def side_function(part: str, side: str) -> Callable[..., dict[str, Any]]:
    """The function that runs one side of a part."""
    if side == "ours":
        return globals()[f"{part}_ours"]
    import evaluation_peers

    return getattr(evaluation_peers, f"{part}_{side}")


class timed:
    """`with timed() as clock`: seconds and process_seconds, once the block is done."""

    def __enter__(self) -> dict[str, float]:
        self.clock: dict[str, float] = {}
        self.start = time.perf_counter(), time.process_time()
        return self.clock

    def __exit__(self, *_: object) -> None:
        self.clock["seconds"] = time.perf_counter() - self.start[0]
        self.clock["cpu_seconds"] = time.process_time() - self.start[1]


def run_alone(part: str, side: str, args: argparse.Namespace) -> dict[str, Any]:
    """One side of one part in a fresh process."""
    command = [sys.executable, __file__, "--only", part, "--side", side]
    command += ["--targets", str(args.targets)]
    command += ["--wells", str(args.wells)] if args.wells else []
    command += ["--small"] if args.small else []
    environment = os.environ | {"MAE_JAX_PEERS": str(args.peers or "")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def machine(peers: Path | None) -> dict[str, Any]:
    """Machine and versions."""
    names = ("numpy", "scipy", "scikit-learn", "copairs", "efaar_benchmarking", "proxbias")
    paths = [*sys.path, str(peers or "")]
    versions = {d.name: d.version for d in metadata.distributions(path=paths) if d.name in names}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        **versions,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def table(folder: Path) -> str:
    """All parts with results in `folder`, in Markdown."""
    lines = [
        "# Evaluation: speed and memory",
        "",
        "Written by `python benchmarks/evaluation.py`; its docstring describes them, and",
        "the JSON files in this folder hold all figures, the versions and the machine.",
        "",
        "| part | side | seconds | CPU seconds | peak GiB | and |",
        "|---|---|---|---|---|---|",
    ]
    ratios = []
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text())
        where = report["measured"]
        for side, result in report["sides"].items():
            rest = {k: v for k, v in result.items() if k not in FIGURES}
            more = ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in rest.items())
            figures = f"{result['seconds']:.1f} | {result['cpu_seconds']:.1f}"
            lines.append(
                f"| {path.stem} | {side} | {figures} | {result['peak_gib']:.2f} | {more} |"
            )
        first, *others = report["sides"].items()
        for side, result in others:
            each = [f["seconds"] / f.get("targets", 1) for f in (result, first[1])]
            cpu = [f["cpu_seconds"] / f.get("targets", 1) for f in (result, first[1])]
            ratios.append(
                f"- {path.stem}: {each[0] / each[1]:.1f} times faster than {side} by the clock, "
                f"{cpu[0] / cpu[1]:.1f} in CPU time ({where['date']}, {where['cores']} cores, "
                f"load {where['load']} at the start)."
            )
    return "\n".join([*lines, "", *ratios, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--targets", type=int, default=20, help="elastic nets to time, of 955")
    parser.add_argument("--peers", type=Path, help="the folder with EFAAR and proxbias")
    parser.add_argument("--wells", type=int, help="wells to stream (51,000; the target: 1,400,000)")
    parser.add_argument("--small", action="store_true", help="a tenth of the size; writes nothing")
    add_output_args(parser, "evaluation")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        size = sizes(args.small)
        size["stream"] = args.wells or size["stream"]
        result = side_function(args.only[0], args.side)(size, targets=args.targets)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({**result, "peak_gib": peak}))
        return
    for part in args.only:
        report = {"measured": machine(args.peers), "sizes": sizes(args.small), "sides": {}}
        for side in PARTS[part]:
            result = run_alone(part, side, args)
            report["sides"][side] = result
            print(part, side, {k: float(f"{v:.4g}") for k, v in result.items()}, flush=True)
        if not args.small:
            write_json(args.out / f"{part}.json", report)
            write_text(args.out / "README.md", table(args.out))


if __name__ == "__main__":
    main()
