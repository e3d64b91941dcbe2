"""PyTorch state dicts of vision transformers: imported in any dialect, exported in timm's."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from mae_jax.networks.channels import ANY_CHANNEL
from mae_jax.networks.vit.config import ViTConfig
from mae_jax.networks.vit.torch_dialects import matches, to_timm
from mae_jax.weights.block_key_maps import linear_entries, norm_entries, prenorm_block_entries
from mae_jax.weights.import_options import ImportOptions, count_matches
from mae_jax.weights.key_map import KeyMapEntry, TorchFormat, adapt_rgb_kernel


def _infer_config(
    tensors: Mapping[str, np.ndarray], source: str, options: ImportOptions
) -> ViTConfig:
    named, dialect = to_timm(tensors)
    width, channels, patch, _ = named["patch_embed.proj.weight"].shape
    if channels == 3 and options.channels is not None:
        channels = len(options.channels)
    swiglu = "blocks.0.mlp.w3.weight" in named
    last = named["blocks.0.mlp.w3.weight" if swiglu else "blocks.0.mlp.fc2.weight"]
    scale = named.get("blocks.0.ls1.gamma")
    rotary = "pos_embed" not in named
    single = len(options.channels or ()) == 1
    heads = 20 if rotary and width == 1280 else None  # DINOv3 H+, unlike all others of its width
    pooler = named.get("pooler.w.weight")
    return ViTConfig(
        patch=patch,
        width=width,
        depth=count_matches(named, r"blocks\.(\d+)\.norm1\.weight"),
        heads=options.heads or heads or options.encoder_heads(width, source),
        mlp_ratio=last.shape[1] / width,
        grid=14 if rotary else round((named["pos_embed"].shape[1] - 1) ** 0.5),
        channels=(
            ANY_CHANNEL if channels == 1 and not single else options.channel_names(channels, source)
        ),
        classes=named["head.weight"].shape[0] if "head.weight" in named else 0,
        norm_eps=dialect.norm_eps if options.norm_eps is None else options.norm_eps,
        fc_norm="fc_norm.weight" in named,
        final_norm="fc_norm.weight" in named or "norm.weight" in named,
        registers=named["register_tokens"].shape[1] if "register_tokens" in named else 0,
        layer_scale=None if scale is None else 1e-5,
        mlp="swiglu" if swiglu else "gelu",
        positions="rotary" if rotary else "learned",
        position_resize=cast(Any, dialect.position_resize),
        pooler_heads=0 if pooler is None else pooler.shape[0],
        pooler_hidden=512 if pooler is None else pooler.shape[1],
    )


def _adapt(tensors: Mapping[str, np.ndarray], config: ViTConfig) -> dict[str, np.ndarray]:
    named, _ = to_timm(tensors)
    if not config.classes:  # where the architecture is known, as the encoder alone
        named = {name: value for name, value in named.items() if not name.startswith("head.")}
    return adapt_rgb_kernel(named, "patch_embed.proj.weight", len(config.channels))


def key_map(config: ViTConfig) -> list[KeyMapEntry]:
    """Return the entries of all keys of timm's ViT, and of DINOv2 and SubCell besides."""
    entries = [
        KeyMapEntry("cls_token", "cls_token"),
        KeyMapEntry(
            "patch_embed.proj.weight", "patch_embed.kernel", f"patch{len(config.channels)}"
        ),
        KeyMapEntry("patch_embed.proj.bias", "patch_embed.bias"),
    ]
    if config.positions == "learned":
        entries.append(KeyMapEntry("pos_embed", "pos_embed"))
    if config.registers:
        entries.append(KeyMapEntry("register_tokens", "register_tokens"))
    if config.final_norm:
        norm = "fc_norm" if config.fc_norm else "norm"
        entries += norm_entries(norm, norm)
    for i in range(config.depth):
        entries += prenorm_block_entries(
            f"blocks.{i}",
            f"block_{i:02d}",
            layer_scale=config.layer_scale is not None,
            mlp=("w12", "w3") if config.mlp == "swiglu" else ("fc1", "fc2"),
        )
    if config.classes:
        entries += linear_entries("head", "head")
    if config.pooler_heads:
        for layer in "vuw":
            entries += linear_entries(f"pooler.{layer}", f"pooler.{layer}")
    return entries


TORCH_FORMAT = TorchFormat("timm ViT", ViTConfig, matches, _infer_config, key_map, _adapt)
