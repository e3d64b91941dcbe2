"""Speed and memory of the evaluation, against straightforward versions of the same definitions.

    python benchmarks/evaluation.py                          # all that fits in a few minutes
    python benchmarks/evaluation.py --only recall ap         # 17,000 genes; 5,000 profiles
    python benchmarks/evaluation.py --only elastic --targets 8
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
import warnings
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


def _relationships(n: int) -> np.ndarray:
    pairs = np.sort(np.random.default_rng(1).integers(0, n, (100_000, 2)), axis=1)
    return np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)


def recall_ours(size: dict[str, int], **_: Any) -> dict[str, Any]:
    from mae_jax.evaluation.relationship_recall import in_tails, pair_ranks

    x, pairs = embeddings(size["genes"], size["width"]), _relationships(size["genes"])
    with timed() as clock:
        _, less, up_to, _ = pair_ranks(x, pairs)
        hit = in_tails(less, up_to)
    return {**clock, "recall": float(hit.mean())}


def recall_plain(size: dict[str, int], **_: Any) -> dict[str, Any]:
    """The whole matrix, its upper triangle, and one sort."""
    x, pairs = embeddings(size["genes"], size["width"]), _relationships(size["genes"])
    with timed() as clock:
        u = x / np.linalg.norm(x, axis=1, keepdims=True)
        cosines = u @ np.ascontiguousarray(u.T)
        null = np.sort(cosines[np.triu_indices(len(u), 1)])
        q = cosines[pairs[:, 0], pairs[:, 1]]
        low = null[int(np.floor(0.05 * len(null)))]
        high = null[int(np.ceil(0.95 * len(null))) - 1]
        hit = (q < low) | (q > high)
    return {**clock, "recall": float(hit.mean())}


# --- TVN --------------------------------------------------------------------------------------


def _wells(size: dict[str, int]) -> Any:
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

    wells = _wells(size)
    with timed() as clock:
        out = correct(wells, "tvn")
    return {**clock, "norm": float(np.linalg.norm(out.features))}


def tvn_plain(size: dict[str, int], batches: int, **_: Any) -> dict[str, Any]:
    """Step by step with scikit-learn and fractional_matrix_power.

    A root takes many seconds, and every batch as many: `batches` of them are timed, and the rest
    is reckoned at the same rate.
    """
    import scipy.linalg
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    wells = _wells(size)
    control, batch = wells.controls(), wells.batches("experiment")
    with timed() as shared:
        x = StandardScaler().fit(wells.features[control]).transform(wells.features)
        x = PCA().fit(x[control]).transform(x)
        x = StandardScaler().fit(x[control]).transform(x)
    done = np.unique(batch)[: min(batches, size["batches"])]
    with timed() as clock:
        for b in done:
            in_batch = batch == b
            cov = np.cov(x[in_batch & control], rowvar=False, ddof=1) + 0.5 * np.eye(x.shape[1])
            x[in_batch] = x[in_batch] @ scipy.linalg.fractional_matrix_power(cov, -0.5)
    whole = {k: shared[k] + clock[k] * size["batches"] / len(done) for k in shared}
    return {**whole, "batches_timed": len(done), "batches": size["batches"]}


# --- average precision ------------------------------------------------------------------------


def _profiles(size: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    n = size["profiles"]
    return embeddings(n, size["width"]), np.arange(n) % (n // 5)


def ap_ours(size: dict[str, int], **_: Any) -> dict[str, Any]:
    from mae_jax.evaluation.aggregation import l2_normalize
    from mae_jax.evaluation.average_precision import all_against_all

    x, codes = _profiles(size)
    with timed() as clock:
        result = all_against_all(l2_normalize(x), codes)
    return {**clock, "mean_ap": float(result["ap"].mean())}


def ap_copairs(size: dict[str, int], **_: Any) -> dict[str, Any]:
    import pandas as pd
    from copairs.map import average_precision

    x, codes = _profiles(size)
    meta = pd.DataFrame({"label": codes.astype(str)})
    with timed() as clock:
        result = average_precision(meta, x, ["label"], [], [], ["label"], progress_bar=False)
    return {**clock, "mean_ap": float(result["average_precision"].mean())}


# --- elastic nets -----------------------------------------------------------------------------


def _targets(size: dict[str, int], targets: int) -> tuple[np.ndarray, np.ndarray]:
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

    x, y = _targets(size, targets)
    with timed() as shared:
        _split(x, y, 5)
    with timed() as clock:
        fits = fit_targets(x, y)
    np.savez(_fits(size, targets), coef=fits.coef, alpha=fits.alpha, l1_ratio=fits.l1_ratio)
    each = {k: (clock[k] - shared[k]) / targets for k in clock}
    return {
        **clock,
        "targets": targets,
        "seconds_a_target": each["seconds"],
        "cpu_a_target": each["cpu_seconds"],
        "hours_for_955": (shared["seconds"] + each["seconds"] * 955) / 3600,
        "hours_for_955_on_2_free_cores": (shared["seconds"] + each["cpu_seconds"] / 2 * 955) / 3600,
    }


def elastic_sklearn(size: dict[str, int], targets: int, **_: Any) -> dict[str, Any]:
    """ElasticNetCV for one of those targets, and the coefficients of all against ElasticNet's."""
    from sklearn.linear_model import ElasticNet, ElasticNetCV

    x, y = _targets(size, targets)
    ours = np.load(_fits(size, targets))
    ratios = [0.1, 0.6, 0.9, 0.95, 0.99]
    one = targets // 2
    with warnings.catch_warnings(), timed() as clock:
        warnings.simplefilter("ignore")
        chosen = ElasticNetCV(l1_ratio=ratios, cv=5, alphas=100, n_jobs=2).fit(x, y[:, one])
    differences = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for target, (alpha, ratio) in enumerate(zip(ours["alpha"], ours["l1_ratio"], strict=True)):
            net = ElasticNet(alpha=alpha, l1_ratio=ratio).fit(x, y[:, target])
            differences.append(float(np.abs(net.coef_ - ours["coef"][target]).max()))
    return {
        **clock,
        "targets": 1,
        "hours_for_955": clock["seconds"] * 955 / 3600,
        "its_alpha_over_ours": float(chosen.alpha_ / ours["alpha"][one]),
        "its_l1_ratio": float(chosen.l1_ratio_),
        "our_l1_ratio": float(ours["l1_ratio"][one]),
        "largest_difference_to_its_choice": float(np.abs(chosen.coef_ - ours["coef"][one]).max()),
        "largest_difference_at_our_choice": max(differences),
    }


def _fits(size: dict[str, int], targets: int) -> Path:
    name = f"elastic_{size['rows']}_{size['width']}_{targets}.npz"
    return Path(tempfile.gettempdir()) / name


# --- streaming --------------------------------------------------------------------------------


def write_wells(path: str, wells: int, width: int, batches: int) -> None:
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
        code = f"import {Path(__file__).stem} as b; b.write_wells(*{given!r})"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
        with timed() as clock:
            stream = StreamedProfiles(path)
            correct_stream(stream, fit_stream(stream, "tvn"), Path(folder) / "out.parquet")
    gib = size["stream"] * size["width"] * 4 / 2**30
    return {**clock, "wells": size["stream"], "features_gib": gib}


# --- the frame --------------------------------------------------------------------------------

FIGURES = ("seconds", "cpu_seconds", "peak_gib")
BENCHMARKS: dict[str, dict[str, Callable[..., dict[str, Any]]]] = {
    "recall": {"ours": recall_ours, "plain": recall_plain},
    "tvn": {"ours": tvn_ours, "plain": tvn_plain},
    "ap": {"ours": ap_ours, "copairs": ap_copairs},
    "elastic": {"ours": elastic_ours, "scikit-learn": elastic_sklearn},
    "stream": {"ours": stream_ours},
}


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
    command += ["--targets", str(args.targets), "--batches", str(args.batches)]
    command += ["--wells", str(args.wells)] if args.wells else []
    command += ["--small"] if args.small else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def machine() -> dict[str, Any]:
    """Machine and versions."""
    versions = {n: metadata.version(n) for n in ("numpy", "scipy", "scikit-learn", "copairs")}
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
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument("--targets", type=int, default=4, help="elastic nets to time, of 955")
    parser.add_argument("--batches", type=int, default=3, help="batches the slow TVN is timed on")
    parser.add_argument("--wells", type=int, help="wells to stream (51,000; the target: 1,400,000)")
    parser.add_argument("--small", action="store_true", help="a tenth of the size; writes nothing")
    add_output_args(parser, "evaluation")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        size = sizes(args.small)
        size["stream"] = args.wells or size["stream"]
        side = BENCHMARKS[args.only[0]][args.side]
        result = side(size, targets=args.targets, batches=args.batches)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({**result, "peak_gib": peak}))
        return
    for part in args.only:
        report = {"measured": machine(), "sizes": sizes(args.small), "sides": {}}
        for side in BENCHMARKS[part]:
            result = run_alone(part, side, args)
            report["sides"][side] = result
            print(part, side, {k: float(f"{v:.4g}") for k, v in result.items()}, flush=True)
        if not args.small:
            write_json(args.out / f"{part}.json", report)
            write_text(args.out / "README.md", table(args.out))


if __name__ == "__main__":
    main()
