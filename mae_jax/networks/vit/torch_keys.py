"""PyTorch state dicts of ordinary vision transformers, in timm's names."""

from collections.abc import Mapping

import numpy as np

from mae_jax.networks.vit.config import ViTConfig
from mae_jax.weights.block_key_maps import linear_entries, norm_entries, prenorm_block_entries
from mae_jax.weights.import_options import ImportOptions, count_matches
from mae_jax.weights.key_map import KeyMapEntry, TorchFormat, adapt_rgb_kernel


def _matches(tensors: Mapping[str, np.ndarray]) -> bool:
    return "pos_embed" in tensors and "blocks.0.attn.qkv.weight" in tensors


def _infer_config(
    tensors: Mapping[str, np.ndarray], source: str, options: ImportOptions
) -> ViTConfig:
    width, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    if channels == 3 and options.channels is not None:
        channels = len(options.channels)
    return ViTConfig(
        patch=patch,
        width=width,
        depth=count_matches(tensors, r"blocks\.(\d+)\.norm1\.weight"),
        heads=options.encoder_heads(width, source),
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
        grid=round((tensors["pos_embed"].shape[1] - 1) ** 0.5),
        channels=options.channel_names(channels, source),
        classes=tensors["head.weight"].shape[0] if "head.weight" in tensors else 0,
        norm_eps=1e-6 if options.norm_eps is None else options.norm_eps,
        fc_norm="fc_norm.weight" in tensors,
    )


def _adapt(tensors: Mapping[str, np.ndarray], config: ViTConfig) -> dict[str, np.ndarray]:
    return adapt_rgb_kernel(tensors, "patch_embed.proj.weight", len(config.channels))


def key_map(config: ViTConfig) -> list[KeyMapEntry]:
    """Return the entries of all keys of timm's ViT."""
    entries = [
        KeyMapEntry("cls_token", "cls_token"),
        KeyMapEntry("pos_embed", "pos_embed"),
        KeyMapEntry(
            "patch_embed.proj.weight", "patch_embed.kernel", f"patch{len(config.channels)}"
        ),
        KeyMapEntry("patch_embed.proj.bias", "patch_embed.bias"),
    ]
    norm = "fc_norm" if config.fc_norm else "norm"
    entries += norm_entries(norm, norm)
    for i in range(config.depth):
        entries += prenorm_block_entries(f"blocks.{i}", f"block_{i:02d}")
    if config.classes:
        entries += linear_entries("head", "head")
    return entries


TORCH_FORMAT = TorchFormat("timm ViT", ViTConfig, _matches, _infer_config, key_map, _adapt)
