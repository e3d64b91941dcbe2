"""The encoder of an exported model in PyTorch: this file, a state dict, and its config.json.

    from encoder import load

    encoder = load("model.safetensors")   # a torch.nn.Module in evaluation mode
    vectors = encoder(pixels)             # raw pixels (batch, channels, height, width) -> features
    torch.onnx.export(encoder, (pixels,), "encoder.onnx")

It needs torch and safetensors, and nothing of mae_jax. Crops have the side that `load` is told.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def load(
    path: str | Path, pooling: str | None = None, channels: int | None = None,
    crop: int | None = None,
) -> "Encoder":  # fmt: skip
    """Read a state dict and the config.json beside it.

    Args:
      pooling: "class", "mean", "channel" or "attention"; None for "channel" where the network sees
        one channel at a time, else "mean".
      channels: of the crops; None for as many as in training.
      crop: side of the crops; None for that of training.
    """
    from safetensors.torch import load_file

    record = json.loads(Path(path).with_name("config.json").read_text())["mae_jax"]
    encoder = Encoder(record, pooling, channels, crop)
    prefix = "encoder.vit_backbone."
    state = {name.removeprefix(prefix): value for name, value in load_file(str(path)).items()}
    own = encoder.vit.state_dict()
    missing = own.keys() - state.keys()
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}")
    encoder.vit.load_state_dict({name: state[name] for name in own})
    encoder.vit.finish()
    return encoder.eval()


class Encoder(nn.Module):
    """Raw pixels to one vector per crop."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, record: dict[str, Any], pooling: str | None, channels: int | None, crop: int | None
    ) -> None:
        super().__init__()
        p = self.prepared = record["preprocessing"]
        arch = record["architecture"].get("encoder", record["architecture"])
        self.bag = bool(p.get("bag_of_channels"))
        self.pooling = pooling or ("channel" if self.bag else "mean")
        self.inputs = len(arch["channels"])
        self.channels = channels or len(p["channels"]) or self.inputs
        self.crop = crop or p["crop"]
        side = p.get("resize") or self.crop
        kind = ViT if record["kind"] == "vit" else ParallelViT
        self.vit = kind(arch, 1 if self.bag else self.channels, side)
        statistics = [torch.tensor(p.get(name) or [v]) for name, v in (("mean", 0.0), ("std", 1.0))]
        self.register_buffer("mean", statistics[0][:, None, None], persistent=False)
        self.register_buffer("std", statistics[1][:, None, None], persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> (batch, features)."""
        x = self.per_image(pixels)
        batch = x.shape[0]
        if self.bag:
            x = x.reshape(-1, 1, *x.shape[2:]).repeat(1, self.inputs, 1, 1)
        x = (x - self.mean) / self.std
        side = self.prepared.get("resize")
        if side and tuple(x.shape[-2:]) != (side, side):
            x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        tokens = self.vit(x)
        if not self.bag:
            return self.vit.pool(tokens, self.pooling)
        vectors = self.vit.pool(tokens, "class" if self.pooling == "channel" else self.pooling)
        vectors = vectors.reshape(batch, -1, vectors.shape[-1])
        return vectors.flatten(1) if self.pooling == "channel" else vectors.mean(1)

    def per_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scale and standardization of each crop."""
        p = self.prepared
        scale = p["scale"]
        if scale is None:
            scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(pixels.dtype, 1.0)
        x = pixels.float() / scale
        how, eps = p.get("standardization", "self"), p.get("eps", 1e-5)
        centered = x - x.mean((2, 3), keepdim=True)
        variance = centered.square().mean((2, 3), keepdim=True)
        if how == "self":
            return centered * torch.rsqrt(variance + eps)
        if how == "zscore":
            return centered / (variance.sqrt() + eps)
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        if how == "minmax":
            return (x - low) / (high - low + eps)
        if how == "max":
            return x / torch.where(high > 0, high, torch.ones_like(high))
        return x


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Softmax attention of (batch, heads, tokens, head_dim), heads merged."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def pool(tokens: torch.Tensor, pooling: str, prefix: int, channels: int) -> torch.Tensor:
    """The class token, the mean of the patches, or the means of each channel's."""
    if pooling == "class":
        return tokens[:, 0]
    patches = tokens[:, prefix:]
    if pooling == "mean":
        return patches.mean(1)
    if pooling == "channel":
        batch, count, dim = patches.shape
        return patches.reshape(batch, channels, count // channels, dim).mean(2).flatten(1)
    raise ValueError(f"no pooling is called {pooling!r}")


class PatchEmbed(nn.Module):
    """Patches to tokens by a convolution."""

    def __init__(self, inputs: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, width, patch, patch)


# ---- the encoder of masked autoencoders


class ParallelBlock(nn.Module):
    """Attention and MLP side by side, from one projection."""

    def __init__(self, arch: dict[str, Any]) -> None:
        super().__init__()
        dim, self.heads = arch["width"], arch["heads"]
        self.hidden, self.legacy = round(dim * arch["mlp_ratio"]), arch["bias_layout"] == "legacy"
        eps = arch["norm_eps"]
        self.in_norm = nn.LayerNorm(dim, eps)
        self.in_proj = nn.Linear(dim, self.hidden + 3 * dim, bias=False)
        self.mlp_bias = nn.Parameter(torch.zeros(self.hidden))
        if arch["qk_norm"]:
            self.q_norm = nn.LayerNorm(dim // self.heads, eps)
            self.k_norm = nn.LayerNorm(dim // self.heads, eps)
        self.attn_out_proj = nn.Linear(dim, dim)
        self.mlp_out_proj = nn.Linear(self.hidden, dim)
        if arch["layer_scale"] is not None:
            self.ls = LayerScale(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, dim = x.shape
        y = self.in_proj(self.in_norm(x))
        # The bias of the MLP in the order of all outputs; "legacy" puts it behind zeros.
        zeros = torch.zeros_like(self.mlp_bias[:1]).expand(3 * dim)
        order = [zeros, self.mlp_bias] if self.legacy else [self.mlp_bias, zeros]
        y = y + torch.cat(order)
        m = y[..., : self.hidden]
        qkv = y[..., self.hidden :].reshape(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        out = self.attn_out_proj(attend(q, k, v)) + self.mlp_out_proj(F.gelu(m))
        return x + (self.ls.gamma * out if hasattr(self, "ls") else out)


class LayerScale(nn.Module):
    """Factors of a residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))


class ParallelViT(nn.Module):
    """The encoder of a masked autoencoder, joint or channel-agnostic."""

    positions: torch.Tensor

    def __init__(self, arch: dict[str, Any], channels: int, side: int) -> None:
        super().__init__()
        dim, patch = arch["width"], arch["patch"]
        self.agnostic = arch["channel_agnostic"]
        self.channels = channels if self.agnostic else 1
        inputs = 1 if self.agnostic else len(arch["channels"])
        self.patch_embed = PatchEmbed(inputs, dim, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(ParallelBlock(arch) for _ in range(arch["depth"]))
        if arch["final_norm"]:
            self.norm = nn.LayerNorm(dim, arch["norm_eps"])
        table = sine_cosine_table(side // patch, dim).repeat(self.channels, 1)
        self.register_buffer("positions", table[None], persistent=False)

    def finish(self) -> None:
        """Nothing is left to do once the weights are loaded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        if self.agnostic:
            x = x.reshape(batch * channels, 1, height, width)
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = x.reshape(batch, -1, x.shape[-1]) + self.positions
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x) if hasattr(self, "norm") else x

    def pool(self, tokens: torch.Tensor, pooling: str) -> torch.Tensor:
        """One vector per crop."""
        return pool(tokens, pooling, 1, self.channels)


def sine_cosine_table(grid: int, dim: int) -> torch.Tensor:
    """Rows [sin h w_k, cos h w_k, sin w w_k, cos w w_k] with w_k = 10000^(-k / (dim/4))."""
    quarter = dim // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequency
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = axis[:, None].expand(grid, grid, -1)
    columns = axis[None].expand(grid, grid, -1)
    return torch.cat([rows, columns], dim=2).reshape(grid * grid, dim).float()


# ---- ordinary vision transformers


class Attention(nn.Module):
    """Multi-head attention, with rotary positions where a rotation is given."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, turned: tuple[torch.Tensor, ...] | None) -> torch.Tensor:
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if turned is not None:
            cos, sin = turned
            q, k = (t * cos + torch.cat([-t.chunk(2, -1)[1], t.chunk(2, -1)[0]], -1) * sin
                    for t in (q, k))  # fmt: skip
        return self.proj(attend(q, k, v))


class GELUMLP(nn.Module):
    """Two layers around an exact GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """silu(gate) * up, then a linear layer."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * up)


class Block(nn.Module):
    """The ordinary pre-norm block."""

    def __init__(self, arch: dict[str, Any]) -> None:
        super().__init__()
        dim, eps = arch["width"], arch["norm_eps"]
        hidden = round(dim * arch["mlp_ratio"])
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = Attention(dim, arch["heads"])
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = SwiGLU(dim, hidden) if arch["mlp"] == "swiglu" else GELUMLP(dim, hidden)
        if arch["layer_scale"] is not None:
            self.ls1, self.ls2 = LayerScale(dim), LayerScale(dim)

    def forward(self, x: torch.Tensor, turned: tuple[torch.Tensor, ...] | None) -> torch.Tensor:
        y = self.attn(self.norm1(x), turned)
        x = x + (self.ls1.gamma * y if hasattr(self, "ls1") else y)
        y = self.mlp(self.norm2(x))
        return x + (self.ls2.gamma * y if hasattr(self, "ls2") else y)


class Pooler(nn.Module):
    """Gated attention over all tokens, one weighted mean per head."""

    def __init__(self, dim: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.v, self.u = nn.Linear(dim, hidden), nn.Linear(dim, hidden)
        self.w = nn.Linear(hidden, heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self.w(torch.tanh(self.v(x)) * F.gelu(self.u(x))), dim=1)
        return (weights.transpose(1, 2) @ x).flatten(1)


class ViT(nn.Module):
    """The ordinary vision transformer, with the switches of the published ones."""

    positions: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, arch: dict[str, Any], channels: int, side: int) -> None:
        super().__init__()
        dim = arch["width"]
        self.arch, self.grid = arch, side // arch["patch"]
        self.patch_embed = PatchEmbed(len(arch["channels"]), dim, arch["patch"])
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if arch["positions"] == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + arch["grid"] ** 2, dim))
        if arch["registers"]:
            self.register_tokens = nn.Parameter(torch.zeros(1, arch["registers"], dim))
        self.blocks = nn.ModuleList(Block(arch) for _ in range(arch["depth"]))
        if arch["fc_norm"]:
            self.fc_norm = nn.LayerNorm(dim, arch["norm_eps"])
        elif arch["final_norm"]:
            self.norm = nn.LayerNorm(dim, arch["norm_eps"])
        if arch["pooler_heads"]:
            self.pooler = Pooler(dim, arch["pooler_hidden"], arch["pooler_heads"])

    def finish(self) -> None:
        """Make positions and rotation for the grid, once the weights are loaded."""
        arch, grid = self.arch, self.grid
        if arch["positions"] == "rotary":
            prefix = 1 + arch["registers"]
            cos, sin = rotation(grid, arch["width"] // arch["heads"], prefix)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
            return
        side = arch["grid"]
        table = self.pos_embed[:, 1:].detach().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if side != grid:
            options: dict[str, Any] = {"size": (grid, grid), "antialias": True}
            if arch["position_resize"] == "bicubic":
                options["antialias"] = False
            elif arch["position_resize"] == "bicubic_offset":
                options = {"scale_factor": ((grid + 0.1) / side,) * 2}
            table = F.interpolate(table, mode="bicubic", **options)
        table = table.flatten(2).transpose(1, 2)
        self.register_buffer("positions", table.contiguous(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        first: torch.Tensor = self.cls_token
        turned: tuple[torch.Tensor, ...] | None = None
        if self.arch["positions"] == "learned":
            x, first = x + self.positions, first + self.pos_embed[:, :1]
        else:
            turned = (self.cos, self.sin)
        prefix = [first] + ([self.register_tokens] if self.arch["registers"] else [])
        x = torch.cat([*(p.expand(x.shape[0], -1, -1) for p in prefix), x], dim=1)
        for block in self.blocks:
            x = block(x, turned)
        return self.norm(x) if hasattr(self, "norm") else x

    def pool(self, tokens: torch.Tensor, pooling: str) -> torch.Tensor:
        """One vector per crop."""
        if pooling == "attention":
            return self.pooler(tokens)
        pooled = pool(tokens, pooling, 1 + self.arch["registers"], 1)
        return self.fc_norm(pooled) if self.arch["fc_norm"] and pooling == "mean" else pooled


def rotation(grid: int, head_dim: int, prefix: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of rotary positions; the first `prefix` tokens are not turned."""
    quarter = head_dim // 4
    turns = 2 * math.pi / 100 ** (2 * torch.arange(quarter, dtype=torch.float64) / (head_dim / 2))
    place = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid * 2 - 1
    places = torch.stack(torch.meshgrid(place, place, indexing="ij"), dim=-1).reshape(-1, 2, 1)
    angles = (places * turns).reshape(-1, 2 * quarter).repeat(1, 2)
    angles = torch.cat([torch.zeros(prefix, head_dim, dtype=torch.float64), angles])
    return angles.cos().float(), angles.sin().float()
