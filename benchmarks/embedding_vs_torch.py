"""Embedding with CA-MAE S/16: this package against the same network in PyTorch on one CPU.

    python benchmarks/embedding_vs_torch.py --threads 2 --rounds 3

The PyTorch network is timm's parallel scaling blocks with the same weights, run as it stands
("eager") and through torch.compile. All run in float32 with as many threads, one after another
in every round, and the table holds the median of the rounds; speeds are images a second. Each runs
in a process of its own, since both libraries keep thread pools that disturb each other, and its
memory is the most that the process ever held. Outputs are compared first: they must agree to
1e-4 of the largest value.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BACKENDS = ("mae_jax", "torch eager", "torch.compile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, nargs="+", default=[6, 3])
    parser.add_argument("--size", default="vit_s16")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        args.folder = folder
        write_weights(args)
        compare(args)


def compare(args: argparse.Namespace) -> None:
    import numpy as np

    print(f"{args.size}, batch {args.batch}, crop {args.crop}, {args.threads} threads, float32")
    print(f"{'channels':>8} {'backend':<14} {'images/s':>9} {'ratio':>6} {'peak GB':>8}")
    for channels in args.channels:
        # Started together, but only one computes at a time: each waits for a line on its stdin.
        workers = {name: start(args, name, channels) for name in args.backends}
        outputs = {name: np.load(ask(worker)["output"]) for name, worker in workers.items()}
        first = outputs[args.backends[0]]
        for name, output in outputs.items():
            error = np.abs(output - first).max() / np.abs(first).max()
            assert error < 1e-4, f"{name} differs by {error}"
        seconds: dict[str, list[float]] = {name: [] for name in args.backends}
        memory = {}
        for _ in range(args.rounds):
            for name, worker in workers.items():
                answer = ask(worker)
                seconds[name].append(answer["seconds"])
                memory[name] = answer["gigabytes"]
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
        speed = {name: args.batch / statistics.median(times) for name, times in seconds.items()}
        others = [value for name, value in speed.items() if name != BACKENDS[0]]
        for name in args.backends:
            ratio = speed[name] / max(others) if others else 1.0
            print(
                f"{channels:>8} {name:<14} {speed[name]:>9.2f} {ratio:>6.2f} {memory[name]:>8.2f}",
                flush=True,
            )


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
    from mae_jax.models.config import encoder_config

    return encoder_config(args.size, channels=tuple("abcdef"), crop=args.crop)


def write_weights(args: argparse.Namespace) -> None:
    """One random set of weights in the reference's names, for every backend."""
    import jax
    import numpy as np
    import safetensors.numpy

    from mae_jax.models.config import DecoderConfig, MAEConfig
    from mae_jax.weights.architectures import param_shapes
    from mae_jax.weights.reference_mae import export_reference_mae

    config = MAEConfig(config_of(args), DecoderConfig(width=64, depth=1))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: (0.05 * rng.normal(size=s.shape)).astype(np.float32), param_shapes(config)
    )
    state = export_reference_mae(params, config)
    safetensors.numpy.save_file(state, Path(args.folder) / "weights.safetensors")


def work(args: argparse.Namespace) -> None:
    """Prepares one backend; for every line on stdin, embeds the batch and answers with JSON."""
    import numpy as np

    embed = jax_embed(args) if args.worker == "mae_jax" else torch_embed(args)
    batch = pixels(args)
    first = True
    for _ in sys.stdin:
        begun = time.perf_counter()
        output = embed(batch)
        answer = {"seconds": time.perf_counter() - begun}
        if first:  # compiles
            path = Path(args.folder) / f"{args.worker}-{args.channels[0]}.npy"
            np.save(path, output)
            answer["output"] = str(path)
            first = False
        answer["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(answer), flush=True)


def jax_embed(args: argparse.Namespace):
    import numpy as np

    from mae_jax.encoders.mae import MAEEncoder
    from mae_jax.models.config import DecoderConfig, MAEConfig
    from mae_jax.weights.preprocessing import Preprocessing
    from mae_jax.weights.reference_mae import import_reference_mae
    from mae_jax.weights.torch_file import read_state_dict

    config = MAEConfig(config_of(args), DecoderConfig(width=64, depth=1))
    state = read_state_dict(Path(args.folder) / "weights.safetensors")
    params = import_reference_mae(state, config)
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
