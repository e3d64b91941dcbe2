"""Speed and memory of the evaluation, beside straightforward versions of the same definitions.

    python benchmarks/evaluation.py recall                 # 17,000 genes × 1,024
    python benchmarks/evaluation.py tvn                    # 51,000 wells in 30 batches
    python benchmarks/evaluation.py ap                     # 5,000 profiles, all against all
    python benchmarks/evaluation.py elastic --targets 4    # of 955, at 16,560 × 1,024
    python benchmarks/evaluation.py stream                 # peak memory of a correction on disk
    python benchmarks/evaluation.py all --out benchmarks/results/evaluation.json

Every figure is seconds of wall time (`process` seconds beside it: on a machine that others use,
that is the fairer one) and the peak memory of the process that did nothing else. Each side runs
in a process of its own. `--small` runs everything at a tenth of the size, to see that it runs.
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
from pathlib import Path
from typing import Any

import numpy as np


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
    full["rows"] = 16_560
    if not small:
        return full
    return {"genes": 1700, "width": 102, "wells": 5100, "batches": 3, "profiles": 500, "rows": 1656}


# --- recall -----------------------------------------------------------------------------------


def _relationships(n: int) -> np.ndarray:
    pairs = np.sort(np.random.default_rng(1).integers(0, n, (100_000, 2)), axis=1)
    return np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)


def recall_ours(size: dict[str, int], **_: Any) -> dict[str, Any]:
    from mae_jax.evaluation.recall import in_tails, pair_ranks

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
    metadata = pd.DataFrame(
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
    return Profiles(metadata, x, tuple(f"f{i}" for i in range(size["width"])))


def tvn_ours(size: dict[str, int], **_: Any) -> dict[str, Any]:
    from mae_jax.evaluation import correct

    wells = _wells(size)
    with timed() as clock:
        out = correct(wells, "tvn")
    return {**clock, "norm": float(np.linalg.norm(out.features))}


def tvn_plain(size: dict[str, int], **_: Any) -> dict[str, Any]:
    """Step by step with scikit-learn and fractional_matrix_power."""
    import scipy.linalg
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    wells = _wells(size)
    control, batch = wells.controls(), wells.batches("experiment")
    with timed() as clock:
        x = StandardScaler().fit(wells.features[control]).transform(wells.features)
        x = PCA().fit(x[control]).transform(x)
        x = StandardScaler().fit(x[control]).transform(x)
        for b in np.unique(batch):
            mine = batch == b
            cov = np.cov(x[mine & control], rowvar=False, ddof=1) + 0.5 * np.eye(x.shape[1])
            x[mine] = x[mine] @ scipy.linalg.fractional_matrix_power(cov, -0.5)
    return {**clock, "norm": float(np.linalg.norm(x))}


# --- average precision ------------------------------------------------------------------------


def _profiles(size: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    n = size["profiles"]
    return embeddings(n, size["width"]), np.arange(n) % (n // 5)


def ap_ours(size: dict[str, int], **_: Any) -> dict[str, Any]:
    from mae_jax.evaluation.aggregate import unit
    from mae_jax.evaluation.ranking import all_against_all

    x, codes = _profiles(size)
    with timed() as clock:
        found = all_against_all(unit(x), codes)
    return {**clock, "mean_ap": float(found["ap"].mean())}


def ap_copairs(size: dict[str, int], **_: Any) -> dict[str, Any]:
    import pandas as pd
    from copairs.map import average_precision

    x, codes = _profiles(size)
    meta = pd.DataFrame({"label": codes.astype(str)})
    with timed() as clock:
        found = average_precision(meta, x, ["label"], [], [], ["label"], progress_bar=False)
    return {**clock, "mean_ap": float(found["average_precision"].mean())}


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
    from mae_jax.evaluation.elastic import _split, fit_targets

    x, y = _targets(size, targets)
    with timed() as shared:
        _split(x, y, 5)
    with timed() as clock:
        fits = fit_targets(x, y)
    np.save(_coefficients(size, targets), fits.coef)
    each = (clock["seconds"] - shared["seconds"]) / targets
    return {**clock, "shared_seconds": shared["seconds"], "hours_for_955": each * 955 / 3600}


def elastic_sklearn(size: dict[str, int], targets: int, **_: Any) -> dict[str, Any]:
    from sklearn.linear_model import ElasticNetCV

    x, y = _targets(size, targets)
    ratios = [0.1, 0.6, 0.9, 0.95, 0.99]
    coefs = []
    with warnings.catch_warnings(), timed() as clock:
        warnings.simplefilter("ignore")
        for target in range(targets):
            model = ElasticNetCV(l1_ratio=ratios, cv=5, alphas=100, n_jobs=2)
            coefs.append(model.fit(x, y[:, target]).coef_)
    result = {**clock, "hours_for_955": clock["seconds"] / targets * 955 / 3600}
    if _coefficients(size, targets).exists():
        ours = np.load(_coefficients(size, targets))
        result["largest_difference"] = float(np.abs(np.array(coefs) - ours).max())
    return result


def _coefficients(size: dict[str, int], targets: int) -> Path:
    name = f"elastic_{size['rows']}_{size['width']}_{targets}.npy"
    return Path(tempfile.gettempdir()) / name


# --- streaming --------------------------------------------------------------------------------


def stream_ours(size: dict[str, int], **_: Any) -> dict[str, Any]:
    """TVN of wells on disk; memory beside the size of the features."""
    from mae_jax.evaluation.streams import ProfilesStream, correct_stream, fit_stream

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.parquet"
        # Made in a process of its own, so that this one's peak is that of the work alone.
        code = f"import benchmark; benchmark._wells({size!r}).write({str(path)!r})"
        code = code.replace("benchmark", Path(__file__).stem)
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
        with timed() as clock:
            stream = ProfilesStream(path)
            correct_stream(stream, fit_stream(stream, "tvn"), Path(folder) / "out.parquet")
    return {**clock, "features_gib": size["wells"] * size["width"] * 4 / 2**30}


# --- the frame --------------------------------------------------------------------------------

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
        self.clock["process_seconds"] = time.process_time() - self.start[1]


def run_alone(name: str, side: str, args: argparse.Namespace) -> dict[str, Any]:
    """One side of one benchmark in a fresh process."""
    command = [sys.executable, __file__, name, "--side", side, "--targets", str(args.targets)]
    command += ["--small"] if args.small else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[*BENCHMARKS, "all"])
    parser.add_argument("--targets", type=int, default=2, help="elastic nets to time, of 955")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", metavar="JSON")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        result = BENCHMARKS[args.name][args.side](sizes(args.small), targets=args.targets)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({**result, "peak_gib": peak}))
        return
    report: dict[str, Any] = {
        "sizes": sizes(args.small),
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "cpu": platform.machine()},
    }
    for name in BENCHMARKS if args.name == "all" else [args.name]:
        sides = {side: run_alone(name, side, args) for side in BENCHMARKS[name]}
        report[name] = sides
        for side, found in sides.items():
            more = {k: round(v, 6) for k, v in found.items() if k not in ("seconds", "peak_gib")}
            print(
                f"{name:8} {side:13} {found['seconds']:8.2f} s {found['peak_gib']:6.2f} GiB {more}"
            )
        first, *others = sides.values()
        for other in others:
            print(f"{name:8} ratio {other['seconds'] / first['seconds']:.1f} (wall)")
    report["machine"]["load_after"] = os.getloadavg()[0]
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
