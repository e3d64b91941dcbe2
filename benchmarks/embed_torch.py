"""The other side of `embed.py`: the same network and a plain loop over its TIFFs, in PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mae_jax.data.index import Index
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.nn.pos_embed import sincos_pos_embed
from mae_jax.nn.tiling import tile_offsets

# Ways in which PyTorch computes in each dtype: autocast, and all of it in bfloat16, norms and the
# residual stream included, which is faster on CPUs and less exact.
PRECISIONS = {"float32": ("float32",), "bfloat16": ("autocast", "bfloat16 throughout")}


def torch_network(encoder: MAEEncoder, device: str, precision: str = "float32") -> Any:
    """The same network in PyTorch, with the same weights, computing as `PRECISIONS` names."""
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
            table = sincos_pos_embed(side, side, config.width, channels=len(config.channels))
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
            x = x.to(self.kernel.dtype)
            x = functional.linear(x, self.kernel, self.kernel_bias) + self.positions
            x = torch.cat([self.first.view(1, 1, -1).expand(batch, 1, -1), x], dim=1)
            for block in self.blocks:
                x = block(x)
            return x[:, 1:].float().mean(dim=1)

    class Autocast(Network):
        def forward(self, pixels: Any) -> Any:
            with torch.autocast(device, torch.bfloat16):
                return super().forward(pixels)

    network = (Autocast if precision == "autocast" else Network)().to(device).eval()
    return network.bfloat16() if precision == "bfloat16 throughout" else network


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
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
    )


def torch_loop(loader: Any, network: Any, batch: int) -> np.ndarray:
    """Embeddings of all wells by the plain loop."""
    import torch

    device = next(network.parameters()).device
    wells = []
    with torch.inference_mode():
        for crops in loader:
            crops = torch.as_tensor(crops)
            parts = [network(part.to(device, non_blocking=True)) for part in crops.split(batch)]
            wells.append(torch.cat(parts).mean(dim=0).cpu().numpy())
    return np.stack(wells)
