"""Embedding with CA-MAE S/16: this package against the same network in PyTorch on one CPU.

    python benchmarks/embedding_vs_torch.py

The PyTorch network is timm's parallel scaling blocks with the same weights, run as it stands
("torch eager") and through torch.compile. All run in float32 with as many threads, one after
another in every round. Each runs in a process of its own, since both libraries keep thread pools
that disturb each other; memory is the peak of the process. Outputs are compared first: they must
agree to 1e-4 of the largest value.

Medians over the rounds: images per second; speed relative to the better PyTorch of the same round;
CPU seconds per image (which other load disturbs less); and GFLOP/s of the network's matrix
products, next to those of one large matrix product in the same library ("product"), an upper bound.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from output import add_output_args

BACKENDS = ("mae_jax", "torch eager", "torch.compile")
COLUMNS = ("channels", "backend", "images/s", "times", "CPU s/image", "GFLOP/s", "product", "GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, nargs="+", default=[6, 3])
    parser.add_argument("--size", default="vit_s16")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    add_output_args(parser, "embedding")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        args.folder = folder
        write_weights(args)
        rows = [row for channels in args.channels for row in compare(args, channels)]
    write_table(args, rows)


def compare(args: argparse.Namespace, channels: int) -> list[tuple[str, ...]]:
    import numpy as np

    # Started together, but only one computes at a time: each waits for a line on its stdin.
    workers = {name: start(args, name, channels) for name in args.backends}
    answers = {name: [ask(worker)] for name, worker in workers.items()}
    outputs = {name: np.load(answer[0]["output"]) for name, answer in answers.items()}
    first = outputs[args.backends[0]]
    for name, output in outputs.items():
        error = np.abs(output - first).max() / np.abs(first).max()
        assert error < 1e-4, f"{name} differs by {error}"
    for _ in range(args.rounds):
        for name, worker in workers.items():
            answers[name].append(ask(worker))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()

    def of(name: str, key: str) -> list[float]:
        return [answer[key] for answer in answers[name][1:]]

    others = [of(name, "seconds") for name in args.backends if name != BACKENDS[0]]
    better = [min(times) for times in zip(*others, strict=True)] if others else [0.0] * args.rounds
    rows = []
    for name in args.backends:
        seconds = of(name, "seconds")
        speed = args.batch / statistics.median(seconds)
        ratios = [a / b for a, b in zip(better, seconds, strict=True)]
        flops = speed * gflop(args, channels)
        rows.append(
            (
                str(channels),
                name,
                f"{speed:.2f}",
                f"{statistics.median(ratios):.2f}",
                f"{statistics.median(of(name, 'cpu')) / args.batch:.2f}",
                f"{flops:.0f}",
                f"{max(of(name, 'product')):.0f}",
                f"{max(of(name, 'gigabytes')):.2f}",
            )
        )
        print(*(f"{cell:>13}" for cell in rows[-1]), flush=True)
    return rows


def gflop(args: argparse.Namespace, channels: int) -> float:
    """GFLOP of one image's forward pass."""
    from mae_jax.flops import transformer_flops

    config = config_of(args)
    tokens = 1 + channels * (args.crop // config.patch) ** 2
    return transformer_flops(tokens, config.width, config.depth, config.hidden) / 1e9


def write_table(args: argparse.Namespace, rows: list[tuple[str, ...]]) -> None:
    from mae_jax.files import write_text

    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "torch", "timm"))
    text = "\n".join(
        [
            "# Embedding against PyTorch",
            "",
            f"`python benchmarks/embedding_vs_torch.py {' '.join(sys.argv[1:])}".rstrip() + "`, "
            f"{time.strftime('%Y-%m-%d')}: {args.size}, channel-agnostic, batch {args.batch}, "
            f"crops of {args.crop} pixels, float32, {args.threads} threads on {os.cpu_count()} "
            f"cores ({platform.machine()}), median of {args.rounds} rounds; {packages}; load "
            f"average at the end {os.getloadavg()[0]:.1f}. The script describes the columns.",
            "",
            *lines,
            "",
        ]
    )
    print(text)
    write_text(args.out / "README.md", text)


def start(args: argparse.Namespace, backend: str, channels: int) -> subprocess.Popen:
    command = [sys.executable, __file__, "--worker", backend, "--folder", args.folder]
    command += ["--threads", str(args.threads), "--batch", str(args.batch), "--size", args.size]
    command += ["--channels", str(channels), "--crop", str(args.crop)]
    affinity = ",".join(map(str, range(args.threads)))
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        ["taskset", "-c", affinity, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def ask(worker: subprocess.Popen) -> dict:
    worker.stdin.write("go\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def pixels(args: argparse.Namespace):
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (args.batch, args.channels[0], args.crop, args.crop)
    return rng.integers(0, 256, shape).astype(np.uint8)


def config_of(args: argparse.Namespace):
    from mae_jax.networks.mae.config import parallel_vit_config

    return parallel_vit_config(args.size, channels=tuple("abcdef"), crop=args.crop)


def write_weights(args: argparse.Namespace) -> None:
    """One random set of weights in the reference's names, for every backend."""
    import jax
    import numpy as np
    import safetensors.numpy

    from mae_jax.networks.mae.config import DecoderConfig, MAEConfig
    from mae_jax.networks.registry import param_shapes
    from mae_jax.networks.torch_import import export_state_dict

    config = MAEConfig(config_of(args), DecoderConfig(width=64, depth=1))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: (0.05 * rng.normal(size=s.shape)).astype(np.float32), param_shapes(config)
    )
    state = export_state_dict(params, config)
    safetensors.numpy.save_file(state, Path(args.folder) / "weights.safetensors")


def work(args: argparse.Namespace) -> None:
    """Prepares one backend; for every line on stdin, embeds the batch and answers with JSON."""
    import numpy as np

    embed = jax_embed(args) if args.worker == "mae_jax" else torch_embed(args)
    batch = pixels(args)
    first = True
    for _ in sys.stdin:
        begun, worked = time.perf_counter(), time.process_time()
        output = embed(batch)
        answer = {
            "seconds": time.perf_counter() - begun,
            "cpu": time.process_time() - worked,
            "product": product_speed(args),
        }
        if first:  # compiles
            path = Path(args.folder) / f"{args.worker}-{args.channels[0]}.npy"
            np.save(path, output)
            answer["output"] = str(path)
            first = False
        answer["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(answer), flush=True)


def product_speed(args: argparse.Namespace) -> float:
    """GFLOP/s of one matrix product of the MLP's size in the worker's library, the best of 3."""
    import numpy as np

    rows, inner, columns = 2048, 4 * 384, 384
    a, b = (np.ones(shape, np.float32) for shape in ((rows, inner), (inner, columns)))
    if args.worker == "mae_jax":
        import jax

        product = jax.jit(lambda a, b: a @ b)
        a, b = jax.device_put((a, b))
        run = lambda: product(a, b).block_until_ready()  # noqa: E731
    else:
        import torch

        a, b = torch.from_numpy(a), torch.from_numpy(b)
        run = lambda: a @ b  # noqa: E731
    run()
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return 2 * rows * inner * columns / min(seconds) / 1e9


def jax_embed(args: argparse.Namespace):
    import numpy as np

    from mae_jax.networks.mae.config import DecoderConfig, MAEConfig
    from mae_jax.networks.mae.encoder import MAEEncoder
    from mae_jax.networks.torch_import import import_state_dict
    from mae_jax.weights.preprocessing import Preprocessing
    from mae_jax.weights.state_dict import read_state_dict

    config = MAEConfig(config_of(args), DecoderConfig(width=64, depth=1))
    state = read_state_dict(Path(args.folder) / "weights.safetensors")
    _, params = import_state_dict(state, "the state dict", config=config)
    preprocessing = Preprocessing(config.encoder.channels, any_channels=True, crop=args.crop)
    encoder = MAEEncoder(config.encoder, params["encoder"], preprocessing)
    return lambda batch: np.asarray(encoder.embed(batch))


def torch_embed(args: argparse.Namespace):
    import torch

    torch.set_num_threads(args.threads)
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "models"))
    from torch_reference import import_timm

    import_timm()
    import safetensors.torch
    from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer

    config = config_of(args)
    backbone = VisionTransformer(
        img_size=args.crop,
        patch_size=config.patch,
        in_chans=1,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        qkv_bias=False,
        qk_norm=True,
        init_values=1e-4,
        num_classes=0,
        block_fn=ParallelScalingBlock,
    ).eval()
    prefix = "encoder.vit_backbone."
    state = safetensors.torch.load_file(Path(args.folder) / "weights.safetensors")
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    table = own.pop("pos_embed")
    backbone.load_state_dict(own, strict=False)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.instance_norm(pixels.float() / 255, eps=1e-5)
        batch, channels, height, width = x.shape
        patches = backbone.patch_embed(x.reshape(batch * channels, 1, height, width))
        patches = patches.reshape(batch, -1, config.width)
        tokens = torch.cat([backbone.cls_token.expand(batch, -1, -1), patches], dim=1)
        tokens = backbone.blocks(tokens + table[:, : tokens.shape[1]])
        return tokens[:, 1:].mean(dim=1)

    if args.worker == "torch.compile":
        forward = torch.compile(forward)

    def embed(batch):
        with torch.inference_mode():
            return forward(torch.from_numpy(batch)).numpy()

    return embed


if __name__ == "__main__":
    main()
