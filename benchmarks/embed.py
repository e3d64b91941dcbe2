"""Wells per second, end to end: `embed_index` against a plain PyTorch loop, in one run.

    python benchmarks/embed.py             # ViT-S/16 on this machine's CPU: about six minutes
    python benchmarks/embed.py --model vit_l16 --wells 64 --size 2048 --channels 6 --batch 256

Both read the same uint16 TIFFs (LZW) from disk, decode them, tile them, run the same network with
the same weights (checked: the embeddings agree) and average. The PyTorch side is what one would
write by hand: a DataLoader over wells with workers, inference mode,
scaled_dot_product_attention, TF32 on GPUs, one batch at a time. Both sides use the same dtype.
In bfloat16 PyTorch runs twice, with autocast (float32 weights and residual stream, as here) and
with all of the network in bfloat16, and the faster counts. The rounds alternate, so that other
load slows all alike; medians of the ratios of each round are reported.

The bare network is the same compiled program, on a batch that is already on the device. On a CPU,
decoding shares the cores with the network, so a second table embeds wells of real size with a
simulated accelerator: it takes time for every crop, but no CPU time.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tifffile
from embed_torch import PRECISIONS, torch_loader, torch_loop, torch_network
from output import add_output_args

from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.embeddings.manifest import package_versions, utc_now
from mae_jax.files import write_json, write_text
from mae_jax.inference import embed_index, read_embeddings
from mae_jax.inference.batch_encoder import BatchEncoder
from mae_jax.networks.encoder import Encoder
from mae_jax.networks.mae.config import ParallelViTConfig, parallel_vit_config
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.networks.mae.parallel_vit import ParallelViT
from mae_jax.weights.preprocessing import Preprocessing

SPEEDS = (50, 100, 200, 400)  # crops per second of the simulated accelerator


def write_screen(folder: Path, wells: int, channels: int, size: int) -> Index:
    """Wells of smooth blobs and noise, which compress about as real images do."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    names = [f"ch{number + 1}" for number in range(channels)]
    rows = []
    for well in range(wells):
        images = []
        for name in names:
            smooth = gaussian_filter(rng.normal(size=(size, size)).astype(np.float32), 12)
            pixels = 700 + 4000 * np.clip(smooth * 25, 0, None) + rng.normal(0, 12, (size, size))
            images.append(f"{well:04d}-{name}.tiff")
            tifffile.imwrite(
                folder / images[-1], pixels.clip(0, 65535).astype(np.uint16), compression="lzw"
            )
        rows.append(
            {
                "Metadata_Source": "bench",
                "Metadata_Experiment": "E1",
                "Metadata_Plate": f"P{1 + well // 384}",
                "Metadata_Well": f"{chr(65 + well % 384 // 24)}{1 + well % 24:02d}",
                "Metadata_Site": "1",
                "Metadata_Perturbation": "",
                "Metadata_Gene": "",
                "Metadata_ControlType": "",
                "Metadata_Split": "train",
                "Channels": names,
                "Images": images,
            }
        )
    return Index(pd.DataFrame(rows), str(folder))


def make_encoder(config: ParallelViTConfig) -> MAEEncoder:
    """The network with random weights; layer scales of 1, so that every block matters."""
    images = jnp.zeros((1, len(config.channels), config.crop, config.crop))
    params = jax.jit(ParallelViT(config).init)(jax.random.key(0), images)["params"]
    params = jax.tree.map(np.asarray, params)
    for name in params:
        if name.startswith("block_") and "layer_scale" in params[name]:
            params[name]["layer_scale"] = np.ones_like(params[name]["layer_scale"])
    preprocessing = Preprocessing(config.channels, any_channels=True, crop=config.crop)
    return MAEEncoder(config, params, preprocessing)


class Accelerator(Encoder):
    """Takes 1 / `speed` seconds per crop, in which the CPU is free, and returns zeros."""

    def __init__(self, speed: float) -> None:
        self.name, self.speed, self.params = f"accelerator-{speed:g}", speed, {}
        self.preprocessing = Preprocessing(channels=(), any_channels=True)
        self.busy = threading.Lock()

    def forward(
        self, params: Any, pixels: jax.Array, *, pooling: str = "mean", block: int | None = None
    ) -> jax.Array:
        """Sleeps once the pixels have arrived."""
        shape = jax.ShapeDtypeStruct((len(pixels), 1), np.float32)

        def sleep(_: Any) -> np.ndarray:
            with self.busy:  # an accelerator does one thing at a time
                time.sleep(len(pixels) / self.speed)
            return np.zeros(shape.shape, shape.dtype)

        return jax.pure_callback(sleep, shape, pixels[:, 0, 0, 0])

    def width(self, channels: int, pooling: str = "mean") -> int:
        """One."""
        return 1


def bare(encoder: Encoder, channels: int, batch: int, crops: int, **options: Any) -> float:
    """Crops a second of the compiled network alone, on a batch that is already on the device."""
    runner = BatchEncoder(encoder, pooling="mean", block=None, batch_size=batch, **options)
    crop = encoder.preprocessing.crop
    rng = np.random.default_rng(0)
    pixels = runner.put(
        rng.integers(0, 65535, (runner.global_batch_size, channels, crop, crop), np.uint16)
    )
    jax.block_until_ready(runner(pixels, 1))  # compiles
    rounds = max(1, crops // runner.global_batch_size)
    start = time.perf_counter()
    for _ in range(rounds):
        last = runner(pixels)
    jax.block_until_ready(last)
    return rounds * runner.global_batch_size / (time.perf_counter() - start)


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds of all threads of this process, and the result."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - clock, time.process_time() - cpu, result


def against_torch(
    args: argparse.Namespace, dtype: str, index: Index, folder: Path
) -> dict[str, Any]:
    """Whole jobs, the plain loops and the bare network in turn, all computing in `dtype`."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = tuple(f"ch{number + 1}" for number in range(args.channels))
    options = {"channels": names, "attention": args.attention, "dtype": dtype}
    if args.model == "tiny":
        config = ParallelViTConfig(patch=16, width=128, depth=4, heads=2, **options)
    else:
        config = parallel_vit_config(args.model, **options)
    encoder = make_encoder(config)
    raced = PRECISIONS[dtype]
    networks = {
        name: torch_network(encoder, device, name) for name in dict.fromkeys(("float32", *raced))
    }
    few = Index(index.table.iloc[:2], index.root)

    def ours(name: str, some: Index = index) -> Any:
        out = folder / f"{dtype}-{name}"
        return embed_index(encoder, some, out, batch_size=args.batch, progress=False)

    ours("warm", few)  # compiles
    loader = torch_loader(few, config.crop, 0, device)
    outputs = {name: torch_loop(loader, network, args.batch) for name, network in networks.items()}
    exact = outputs.pop("float32")
    outputs["mae_jax"] = read_embeddings(folder / f"{dtype}-warm")[1]
    difference = {
        f"largest difference from float32 in PyTorch, {name}": _difference(output, exact)
        for name, output in outputs.items()
    }
    loader = torch_loader(index, config.crop, args.workers, device)
    next(iter(loader))  # starts its workers
    rounds: list[dict[str, float]] = []
    crops = 0
    for turn in range(args.rounds):
        crops = crops or args.wells * 4
        rate = bare(encoder, args.channels, args.batch, min(crops, 4 * args.batch))
        seconds, cpu_seconds, report = timed(lambda turn=turn: ours(f"round{turn}"))
        crops = report.crops
        others = {
            name: timed(lambda name=name: torch_loop(loader, networks[name], args.batch))[0]
            for name in raced
        }
        rounds.append(
            {
                "mae_jax wells/s": args.wells / seconds,
                **{f"torch wells/s, {name}": args.wells / t for name, t in others.items()},
                "ratio to the faster": min(others.values()) / seconds,
                "mae_jax crops/s": crops / seconds,
                "bare network crops/s": rate,
                "share of the bare network": crops / seconds / rate,
                "share of time that the device waited": report.waited / report.seconds,
                "CPU seconds per crop": cpu_seconds / crops,
            }
        )
        print(json.dumps({"type": dtype, **rounds[-1]}), file=sys.stderr)
    _, reading, _ = timed(lambda: [read_site(few, row) for row in range(len(few))])
    per_crop = reading / (crops / args.wells * len(few))
    medians = {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}
    return {
        "computed in": dtype,
        **medians,
        **difference,
        "CPU seconds per crop of reading": per_crop,
        "share of CPU time that reading takes": per_crop / medians["CPU seconds per crop"],
        "crops": crops,
    }


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def simulated(folder: Path) -> list[dict[str, float]]:
    """Wells of 5 × 1080² through simulated accelerators, which need no CPU time."""
    screen = write_screen(folder / "simulated", 4, 5, 1080)
    rows = []
    options = {"batch": 32, "devices": jax.devices("cpu")[:1]}
    for speed in SPEEDS:
        encoder = Accelerator(speed)
        alone = bare(encoder, 5, crops=speed, **options)
        # Wells for four seconds or more, so that reading the first one does not weigh.
        wells = pd.concat([screen.table] * max(2, speed // 25), ignore_index=True)
        wells["Metadata_Plate"] = [f"P{number}" for number in range(len(wells))]

        def job(encoder: Encoder = encoder, wells: pd.DataFrame = wells) -> Any:
            out = folder / encoder.name
            return embed_index(encoder, Index(wells, screen.root), out, progress=False, **options)

        seconds, cpu_seconds, report = timed(job)
        rows.append(
            {
                "bare crops/s": alone,
                "job crops/s": report.crops / seconds,
                "share of the bare": report.crops / seconds / alone,
                "cores that the job kept busy": cpu_seconds / seconds,
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""

    def text(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [list(rows[0]), ["---"] * len(rows[0]), *([text(v) for v in r.values()] for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Runs both parts, prints their tables and writes them to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_s16", help="vit_s16, vit_b16, … or 'tiny'")
    parser.add_argument("--wells", type=int, default=6)
    parser.add_argument("--channels", type=int, default=5)
    parser.add_argument("--size", type=int, default=512, help="side of a field in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--dtypes", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    add_output_args(parser, "embed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("images", "simulated"):
            (folder / part).mkdir()
        index = write_screen(folder / "images", args.wells, args.channels, args.size)
        figures = [against_torch(args, dtype, index, folder) for dtype in args.dtypes]
        steps = simulated(folder)
    import torch

    made_with = {**package_versions(), "torch": torch.__version__}
    settings = {
        "command": " ".join(["python", "benchmarks/embed.py", *sys.argv[1:]]),
        "date": utc_now(),
        "device": f"{jax.local_devices()[0].device_kind} ({jax.default_backend()}), torch "
        f"{'cuda' if torch.cuda.is_available() else 'cpu'}",
        "model": f"{args.model}, channel-agnostic, batch {args.batch}",
        "screen": f"{args.wells} wells of {args.channels} × {args.size}²",
        "cores": len(os.sched_getaffinity(0)),
        "load at the end (1 min)": round(os.getloadavg()[0], 1),
        "versions": ", ".join(f"{name} {version}" for name, version in made_with.items()),
    }
    text = f"""# Embedding, end to end

Goals: at least 1.5 times the wells per second of a plain PyTorch loop, and at least 95 % of the
crops per second of the bare network. `benchmarks/embed.py` describes the measurement.

{_side_by_side(figures)}

{table([{"": key, "value": value} for key, value in settings.items()])}

## With a simulated accelerator

Wells of 5 × 1080² pixels, 25 crops each. As long as the cores can read fast enough, the device does
not wait; beyond that, reading is the limit, and more cores or more tasks help.

{table(steps)}
"""
    print(text)
    write_text(args.out / "README.md", text)
    write_json(args.out / "figures.json", {**settings, "types": figures, "simulated": steps})


def _side_by_side(figures: list[dict[str, Any]]) -> str:
    """A column for each type."""
    names = list(dict.fromkeys(name for column in figures for name in column))
    columns = [column["computed in"] for column in figures]
    rows = [
        {"": name, **dict(zip(columns, (column.get(name, "") for column in figures), strict=True))}
        for name in names
        if name != "computed in"
    ]
    return table(rows)


if __name__ == "__main__":
    main()
