"""The layout of the PyTorch reference's masked autoencoders, the released OpenPhenom among them."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mae_jax.errors import InputError
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.registry import param_shapes
from mae_jax.nn.pos_embed import sincos_pos_embed
from mae_jax.weights.key_map import KeyMapEntry, export_tensors, import_tensors

_BACKBONE = "encoder.vit_backbone"
# The release makes the encoder's table for so many channels, whatever it was trained on.
_TABLE_CHANNELS = 11


def is_openphenom(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the names are those of the reference's masked autoencoders."""
    return f"{_BACKBONE}.cls_token" in tensors


def openphenom_config(
    tensors: Mapping[str, np.ndarray],
    where: str,
    *,
    channels: tuple[str, ...] | None = None,
    bias_layout: str = "legacy",
    decoder_heads: int = 16,
) -> MAEConfig:
    """The architecture, read from the tensors' shapes.

    Args:
      channels: names of the channels in training order; None calls them channel_1, channel_2, …
      bias_layout: released weights were trained in the legacy layout (timm <= 1.0.24).
      decoder_heads: no tensor shows it; 16 in every published decoder.

    Raises:
      InputError: a key that the shape is read from is missing, or the names do not fit.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise InputError(f"{where} lacks the key '{name}' of the reference's layout.")
        return tuple(tensors[name].shape)

    width, in_channels, patch, _ = shape(f"{_BACKBONE}.patch_embed.proj.weight")
    agnostic = any(name.startswith("decoder.modality_tokens.") for name in tensors)
    if agnostic:
        count = _count(tensors, r"decoder\.modality_tokens\.(\d+)")
        depth = _count(tensors, r"decoder\.decoders\.0\.(\d+)\.norm1\.weight")
    else:
        count = in_channels
        depth = _count(tensors, r"decoder\.blocks\.(\d+)\.norm1\.weight")
    if channels is None:
        channels = tuple(f"channel_{i + 1}" for i in range(count))
    if len(channels) != count:
        raise InputError(f"{where} has {count} channels, but {len(channels)} names are given.")
    blocks = _count(tensors, rf"{re.escape(_BACKBONE)}\.blocks\.(\d+)\.in_norm\.weight")
    hidden = shape(f"{_BACKBONE}.blocks.0.mlp_bias")[0]
    qk_norm = f"{_BACKBONE}.blocks.0.q_norm.weight" in tensors
    head_dim = shape(f"{_BACKBONE}.blocks.0.q_norm.weight")[0] if qk_norm else 64
    decoder_width = shape("decoder.mask_token")[-1]
    return MAEConfig(
        encoder=ParallelViTConfig(
            patch=patch,
            width=width,
            depth=blocks,
            heads=width // head_dim,
            mlp_ratio=hidden / width,
            channel_agnostic=agnostic,
            channels=channels,
            crop=_crop(tensors, patch, count if agnostic else 1),
            drop_path=0.3 if width >= 1024 else 0.1,
            layer_scale=1e-4 if f"{_BACKBONE}.blocks.0.ls.gamma" in tensors else None,
            qk_norm=qk_norm,
            bias_layout="legacy" if bias_layout == "legacy" else "fixed",
        ),
        decoder=DecoderConfig(
            width=decoder_width,
            depth=depth,
            heads=decoder_heads,
            norm_eps=1e-5 if agnostic else 1e-6,
        ),
        mask_ratio=0.85 if agnostic and width >= 1024 else 0.75,
    )


def import_openphenom(
    tensors: Mapping[str, np.ndarray], config: MAEConfig, where: str = "the state dict"
) -> dict[str, Any]:
    """The parameters of a masked autoencoder from the reference's state dict.

    Raises:
      InputError: lists every missing, surplus and misshapen key.
    """
    return import_tensors(tensors, openphenom_key_map(config), param_shapes(config), where)


def export_openphenom(params: Mapping[str, Any], config: MAEConfig) -> dict[str, np.ndarray]:
    """A state dict with all of the reference's keys, its tables and unused norms included."""
    return export_tensors(params, openphenom_key_map(config))


def openphenom_key_map(config: MAEConfig) -> list[KeyMapEntry]:
    """All keys of the reference's layout for this architecture."""
    return _encoder_entries(config.encoder) + _decoder_entries(config)


def _norm(source: str, target: str, index: int | None = None) -> list[KeyMapEntry]:
    return [
        KeyMapEntry(f"{source}.weight", f"{target}.scale", index=index),
        KeyMapEntry(f"{source}.bias", f"{target}.bias", index=index),
    ]


def _linear(
    source: str, target: str, index: int | None = None, bias: bool = True
) -> list[KeyMapEntry]:
    entries = [KeyMapEntry(f"{source}.weight", f"{target}.kernel", "linear", index)]
    return entries + (
        [KeyMapEntry(f"{source}.bias", f"{target}.bias", index=index)] if bias else []
    )


def _encoder_entries(config: ParallelViTConfig) -> list[KeyMapEntry]:
    channels = 1 if config.channel_agnostic else len(config.channels)
    repeats = max(len(config.channels), _TABLE_CHANNELS) if config.channel_agnostic else 1
    side = config.crop // config.patch
    patch = f"{_BACKBONE}.patch_embed.proj"
    entries = [
        KeyMapEntry(f"{_BACKBONE}.cls_token", "encoder.cls_token"),
        KeyMapEntry(
            f"{_BACKBONE}.pos_embed",
            default=lambda: sincos_pos_embed(
                side, side, config.width, channels=repeats, class_token=True
            )[None],
        ),
        KeyMapEntry(f"{patch}.weight", "encoder.patch_embed.kernel", f"patch{channels}"),
        KeyMapEntry(f"{patch}.bias", "encoder.patch_embed.bias"),
        KeyMapEntry(
            f"{_BACKBONE}.fc_norm.weight", default=lambda: np.ones(config.width, np.float32)
        ),
        KeyMapEntry(
            f"{_BACKBONE}.fc_norm.bias", default=lambda: np.zeros(config.width, np.float32)
        ),
    ]
    for i in range(config.depth):
        source, target = f"{_BACKBONE}.blocks.{i}", f"encoder.block_{i:02d}"
        entries += [
            KeyMapEntry(f"{source}.mlp_bias", f"{target}.mlp_bias"),
            KeyMapEntry(f"{source}.in_proj.weight", f"{target}.in_proj", "linear"),
        ]
        entries += _norm(f"{source}.in_norm", f"{target}.in_norm")
        if config.qk_norm:
            entries += _norm(f"{source}.q_norm", f"{target}.q_norm")
            entries += _norm(f"{source}.k_norm", f"{target}.k_norm")
        entries += _linear(f"{source}.attn_out_proj", f"{target}.attn_out_proj")
        entries += _linear(f"{source}.mlp_out_proj", f"{target}.mlp_out_proj")
        if config.layer_scale is not None:
            entries.append(KeyMapEntry(f"{source}.ls.gamma", f"{target}.layer_scale"))
    return entries


def prenorm_key_map(source: str, target: str, index: int | None = None) -> list[KeyMapEntry]:
    """An ordinary block, as timm names it."""
    return [
        *_norm(f"{source}.norm1", f"{target}.norm1", index),
        *_linear(f"{source}.attn.qkv", f"{target}.qkv", index),
        *_linear(f"{source}.attn.proj", f"{target}.proj", index),
        *_norm(f"{source}.norm2", f"{target}.norm2", index),
        *_linear(f"{source}.mlp.fc1", f"{target}.mlp.fc1", index),
        *_linear(f"{source}.mlp.fc2", f"{target}.mlp.fc2", index),
    ]


def _decoder_entries(config: MAEConfig) -> list[KeyMapEntry]:
    encoder, decoder = config.encoder, config.decoder
    side = encoder.crop // encoder.patch
    repeats = len(encoder.channels) if encoder.channel_agnostic else 1

    def table() -> np.ndarray:
        return sincos_pos_embed(side, side, decoder.width, channels=repeats, class_token=True)[None]

    entries = [
        *_linear("encoder_decoder_proj", "encoder_decoder_proj"),
        *_linear("decoder_pred", "decoder_pred"),
        KeyMapEntry("decoder.mask_token", "decoder.mask_token"),
        KeyMapEntry("decoder.pos_embeddings", default=table),
    ]
    if not encoder.channel_agnostic:
        entries += _norm("decoder.norm", "decoder.norm")
        for i in range(decoder.depth):
            entries += prenorm_key_map(f"decoder.blocks.{i}", f"decoder.block_{i:02d}")
        return entries
    zeros = np.zeros((1, 1, decoder.width), np.float32)
    entries.append(KeyMapEntry("decoder.placeholder", default=lambda: zeros))
    cross = "decoder.cross_attention"
    entries += _linear(f"{cross}.q", f"{cross}.q", bias=False)
    entries += _linear(f"{cross}.kv", f"{cross}.kv", bias=False)
    entries += _linear(f"{cross}.proj", f"{cross}.proj")
    entries += _linear("decoder.mlp.fc1", "decoder.mlp.fc1")
    entries += _linear("decoder.mlp.fc2", "decoder.mlp.fc2")
    for name in ("context_norm", "query_norm", "out_norm"):
        entries += _norm(f"decoder.{name}", f"decoder.{name}")
    for m in range(repeats):
        entries.append(
            KeyMapEntry(f"decoder.modality_tokens.{m}", "decoder.channel_tokens", "row", m)
        )
        for i in range(decoder.depth):
            entries += prenorm_key_map(f"decoder.decoders.{m}.{i}", f"decoder.block_{i:02d}", m)
    return entries


def _count(tensors: Mapping[str, np.ndarray], pattern: str) -> int:
    found = [re.fullmatch(pattern, name) for name in tensors]
    return 1 + max((int(match.group(1)) for match in found if match), default=-1)


def _crop(tensors: Mapping[str, np.ndarray], patch: int, channels: int) -> int:
    """The side of the crops whose table of positions the file holds; 256 where it holds none."""
    # Not the encoder's, which the release makes for more channels than were trained.
    table = tensors.get("decoder.pos_embeddings")
    if table is None:
        return 256 // patch * patch
    return round(((table.shape[1] - 1) / channels) ** 0.5) * patch
