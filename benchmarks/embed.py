"""Wells a second, end to end: `embed_index` against a plain PyTorch loop, in one run.

    python benchmarks/embed.py                        # a small network, a few wells, on CPU
    python benchmarks/embed.py --model vit_l16 --wells 64 --size 2048 --channels 6 --batch 256

Both read the same uint16 TIFFs (LZW) from disk, decode them, tile them, run the same network with
the same weights (checked: the embeddings agree) and average. The PyTorch side is what one would
write by hand: a DataLoader over wells with workers, inference mode,
scaled_dot_product_attention, TF32 on GPUs, a batch at a time. Goal: at least 1.5 times its wells a
second, and at least 95 % of the crops a second of the bare compiled network, which is measured
too. The rounds alternate, so that a busy machine slows all alike; medians are reported.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tifffile

from mae_jax.data.index import Index
from mae_jax.data.tiling import tile_offsets
from mae_jax.embed import embed_index, read_embeddings
from mae_jax.embed.device import Runner
from mae_jax.encoders.mae import MAEEncoder
from mae_jax.models.config import EncoderConfig, encoder_config
from mae_jax.models.encoder import ViT
from mae_jax.models.positions import position_table
from mae_jax.weights.preprocessing import Preprocessing


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


def make_encoder(config: EncoderConfig) -> MAEEncoder:
    """The network with random weights; layer scales of 1, so that every block matters."""
    images = jnp.zeros((1, len(config.channels), config.crop, config.crop))
    params = jax.jit(ViT(config).init)(jax.random.key(0), images)["params"]
    params = jax.tree.map(np.asarray, params)
    for name in params:
        if name.startswith("block_") and "layer_scale" in params[name]:
            params[name]["layer_scale"] = np.ones_like(params[name]["layer_scale"])
    preprocessing = Preprocessing(config.channels, any_channels=True, crop=config.crop)
    return MAEEncoder(config, params, preprocessing)


def torch_network(encoder: MAEEncoder, device: str) -> Any:
    """The same network in PyTorch, with the same weights."""
    import torch
    from torch import nn
    from torch.nn import functional

    config, params = encoder.encoder_config, encoder.params

    def tensor(value: Any) -> Any:
        return nn.Parameter(torch.tensor(np.asarray(value)), requires_grad=False)

    class Block(nn.Module):
        def __init__(self, p: dict[str, Any]) -> None:
            super().__init__()
            hidden = config.hidden
            self.norm = (tensor(p["in_norm"]["scale"]), tensor(p["in_norm"]["bias"]))
            self.q_norm = (tensor(p["q_norm"]["scale"]), tensor(p["q_norm"]["bias"]))
            self.k_norm = (tensor(p["k_norm"]["scale"]), tensor(p["k_norm"]["bias"]))
            self.weight = tensor(np.asarray(p["in_proj"]).T.copy())
            bias = np.zeros(hidden + 3 * config.width, np.float32)
            bias[:hidden] = p["mlp_bias"]
            self.bias = tensor(bias)
            self.attention_out = tensor(np.asarray(p["attn_out_proj"]["kernel"]).T.copy())
            self.mlp_out = tensor(np.asarray(p["mlp_out_proj"]["kernel"]).T.copy())
            self.out_bias = tensor(p["attn_out_proj"]["bias"] + p["mlp_out_proj"]["bias"])
            self.scale = tensor(p["layer_scale"])
            for name in ("norm", "q_norm", "k_norm"):  # so that .to(device) finds them
                for number, part in enumerate(getattr(self, name)):
                    self.register_parameter(f"{name}_{number}", part)

        def forward(self, x: Any) -> Any:
            batch, tokens, width = x.shape
            y = functional.layer_norm(x, (width,), self.norm_0, self.norm_1, 1e-6)
            y = functional.linear(y, self.weight, self.bias)
            m, q, k, v = y.split([config.hidden, width, width, width], dim=-1)
            head = width // config.heads
            q, k, v = (t.view(batch, tokens, config.heads, head).transpose(1, 2) for t in (q, k, v))
            q = functional.layer_norm(q, (head,), self.q_norm_0, self.q_norm_1, 1e-6)
            k = functional.layer_norm(k, (head,), self.k_norm_0, self.k_norm_1, 1e-6)
            a = functional.scaled_dot_product_attention(q, k, v)
            a = a.transpose(1, 2).reshape(batch, tokens, width)
            out = functional.linear(a, self.attention_out)
            out = out + functional.linear(functional.gelu(m), self.mlp_out) + self.out_bias
            return x + self.scale * out

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = tensor(np.asarray(params["patch_embed"]["kernel"]).T.copy())
            self.kernel_bias = tensor(params["patch_embed"]["bias"])
            self.first = tensor(params["cls_token"])
            self.blocks = nn.ModuleList(
                Block(params[f"block_{i:02d}"]) for i in range(config.depth)
            )
            side = config.crop // config.patch
            table = position_table(side, side, config.width, channels=len(config.channels))
            self.positions = tensor(table)

        def forward(self, pixels: Any) -> Any:
            x = pixels.float() / 65535
            mean = x.mean((-2, -1), keepdim=True)
            variance = x.var((-2, -1), unbiased=False, keepdim=True)
            x = (x - mean) / torch.sqrt(variance + 1e-5)
            batch, channels, height, width = x.shape
            patch = config.patch
            x = x.view(batch, channels, height // patch, patch, width // patch, patch)
            x = x.permute(0, 1, 2, 4, 3, 5).reshape(batch, -1, patch * patch)
            x = functional.linear(x, self.kernel, self.kernel_bias) + self.positions
            x = torch.cat([self.first.view(1, 1, -1).expand(batch, 1, -1), x], dim=1)
            for block in self.blocks:
                x = block(x)
            return x[:, 1:].mean(dim=1)

    return Network().to(device).eval()


class Wells:
    """A plain PyTorch dataset: one item is all crops of a well."""

    def __init__(self, index: Index, crop: int) -> None:
        self.folder, self.crop = Path(index.root), crop
        self.images = [list(images) for _, images in index.sites]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> np.ndarray:
        site = np.stack([tifffile.imread(self.folder / name) for name in self.images[number]])
        size = self.crop
        offsets = tile_offsets(site.shape[1], site.shape[2], size)
        return np.stack([site[:, y : y + size, x : x + size] for y, x in offsets])


def torch_loader(index: Index, crop: int, workers: int, device: str) -> Any:
    """The loader; its workers are spawned, since JAX has threads, and stay for all rounds."""
    import torch

    return torch.utils.data.DataLoader(
        Wells(index, crop),
        batch_size=None,
        num_workers=workers,
        pin_memory=device == "cuda",
        multiprocessing_context="spawn",
        persistent_workers=True,
    )


def torch_loop(loader: Any, network: Any, batch: int) -> np.ndarray:
    """Embeddings of all wells by the plain loop."""
    import torch

    device = next(network.parameters()).device
    found = []
    with torch.inference_mode():
        for crops in loader:
            crops = torch.as_tensor(crops)
            parts = [network(part.to(device, non_blocking=True)) for part in crops.split(batch)]
            found.append(torch.cat(parts).mean(dim=0).cpu().numpy())
    return np.stack(found)


def bare(runner: Runner, encoder: MAEEncoder, batches: int) -> float:
    """Crops a second of the compiled network alone, on a batch that is already on the device."""
    channels, crop = len(encoder.preprocessing.channels), encoder.preprocessing.crop
    rng = np.random.default_rng(0)
    shape = (runner.size, channels, crop, crop)
    pixels = runner.put(rng.integers(0, 65535, shape, np.uint16))
    jax.block_until_ready(runner(pixels))
    start = time.perf_counter()
    for _ in range(batches):
        last = runner(pixels)
    jax.block_until_ready(last)
    return batches * runner.size / (time.perf_counter() - start)


def main() -> None:
    """Writes the screen, checks that both agree, times them in turn and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_s16", help="vit_s16, vit_b16, … or 'tiny'")
    parser.add_argument("--wells", type=int, default=4)
    parser.add_argument("--channels", type=int, default=5)
    parser.add_argument("--size", type=int, default=512, help="side of a field in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", help="also write the figures here (JSON)")
    args = parser.parse_args()
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = tuple(f"ch{number + 1}" for number in range(args.channels))
    options = {"channels": names, "attention": args.attention, "dtype": args.dtype}
    if args.model == "tiny":
        config = EncoderConfig(patch=16, width=128, depth=4, heads=2, **options)
    else:
        config = encoder_config(args.model, **options)
    encoder = make_encoder(config)
    network = torch_network(encoder, device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        index = write_screen(folder / "images", args.wells, args.channels, args.size)

        def ours(out: str) -> Any:
            return embed_index(encoder, index, folder / out, batch=args.batch, progress=False)

        ours("warm")  # compiles
        loader = torch_loader(index, config.crop, args.workers, device)
        plain = torch_loop(loader, network, args.batch)
        made = read_embeddings(folder / "warm")[1]
        difference = float(np.abs(made - plain).max() / np.abs(plain).max())
        runner = Runner(encoder, pooling="mean", block=None, batch=args.batch)
        seconds: dict[str, list[float]] = {"mae_jax": [], "torch": []}
        rates, waits, crops = [], [], 0
        for turn in range(args.rounds):
            start = time.perf_counter()
            torch_loop(loader, network, args.batch)
            seconds["torch"].append(time.perf_counter() - start)
            start = time.perf_counter()
            report = ours(f"round{turn}")
            seconds["mae_jax"].append(time.perf_counter() - start)
            crops = report.crops
            waits.append(report.waited / report.seconds)
            rates.append(bare(runner, encoder, max(1, crops // runner.size)))
    ours_s, torch_s = (statistics.median(seconds[name]) for name in ("mae_jax", "torch"))
    figures = {
        "device": f"{jax.local_devices()[0].device_kind} ({jax.default_backend()}), torch {device}",
        "model": args.model,
        "field": f"{args.channels} × {args.size}²",
        "wells": args.wells,
        "crops": crops,
        "largest relative difference of embeddings": difference,
        "mae_jax wells/s": args.wells / ours_s,
        "torch wells/s": args.wells / torch_s,
        "ratio": torch_s / ours_s,
        "mae_jax crops/s": crops / ours_s,
        "bare network crops/s": statistics.median(rates),
        "share of the bare network": crops / ours_s / statistics.median(rates),
        "share of time without a batch ready": statistics.median(waits),
        "versions": {"jax": jax.__version__, "torch": torch.__version__},
    }
    print(json.dumps(figures, indent=2, ensure_ascii=False))
    if args.out:
        Path(args.out).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
