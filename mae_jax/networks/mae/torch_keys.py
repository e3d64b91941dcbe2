"""The layout of the PyTorch reference's masked autoencoders, the released OpenPhenom among them."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mae_jax.errors import InputError
from mae_jax.networks.mae.config import DecoderConfig, EncoderConfig, MAEConfig
from mae_jax.networks.registry import param_shapes
from mae_jax.nn.pos_embed import position_table
from mae_jax.weights.key_map import Link, export_tensors, import_tensors

_BACKBONE = "encoder.vit_backbone"
# The release makes the encoder's table for so many channels, whatever it was trained on.
_TABLE_CHANNELS = 11


def is_reference_mae(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the names are those of the reference's masked autoencoders."""
    return f"{_BACKBONE}.cls_token" in tensors


def reference_config(
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
        encoder=EncoderConfig(
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


def import_reference_mae(
    tensors: Mapping[str, np.ndarray], config: MAEConfig, where: str = "the state dict"
) -> dict[str, Any]:
    """The parameters of a masked autoencoder from the reference's state dict.

    Raises:
      InputError: lists every missing, surplus and misshapen key.
    """
    return import_tensors(tensors, reference_links(config), param_shapes(config), where)


def export_reference_mae(params: Mapping[str, Any], config: MAEConfig) -> dict[str, np.ndarray]:
    """A state dict with all of the reference's keys, its tables and unused norms included."""
    return export_tensors(params, reference_links(config))


def reference_links(config: MAEConfig) -> list[Link]:
    """All keys of the reference's layout for this architecture."""
    return _encoder_links(config.encoder) + _decoder_links(config)


def _norm(theirs: str, ours: str, part: int | None = None) -> list[Link]:
    return [
        Link(f"{theirs}.weight", f"{ours}.scale", part=part),
        Link(f"{theirs}.bias", f"{ours}.bias", part=part),
    ]


def _linear(theirs: str, ours: str, part: int | None = None, bias: bool = True) -> list[Link]:
    links = [Link(f"{theirs}.weight", f"{ours}.kernel", "linear", part)]
    return links + ([Link(f"{theirs}.bias", f"{ours}.bias", part=part)] if bias else [])


def _encoder_links(config: EncoderConfig) -> list[Link]:
    channels = 1 if config.channel_agnostic else len(config.channels)
    repeats = max(len(config.channels), _TABLE_CHANNELS) if config.channel_agnostic else 1
    side = config.crop // config.patch
    patch = f"{_BACKBONE}.patch_embed.proj"
    links = [
        Link(f"{_BACKBONE}.cls_token", "encoder.cls_token"),
        Link(
            f"{_BACKBONE}.pos_embed",
            value=lambda: position_table(
                side, side, config.width, channels=repeats, class_token=True
            )[None],
        ),
        Link(f"{patch}.weight", "encoder.patch_embed.kernel", f"patch{channels}"),
        Link(f"{patch}.bias", "encoder.patch_embed.bias"),
        Link(f"{_BACKBONE}.fc_norm.weight", value=lambda: np.ones(config.width, np.float32)),
        Link(f"{_BACKBONE}.fc_norm.bias", value=lambda: np.zeros(config.width, np.float32)),
    ]
    for i in range(config.depth):
        theirs, ours = f"{_BACKBONE}.blocks.{i}", f"encoder.block_{i:02d}"
        links += [
            Link(f"{theirs}.mlp_bias", f"{ours}.mlp_bias"),
            Link(f"{theirs}.in_proj.weight", f"{ours}.in_proj", "linear"),
        ]
        links += _norm(f"{theirs}.in_norm", f"{ours}.in_norm")
        if config.qk_norm:
            links += _norm(f"{theirs}.q_norm", f"{ours}.q_norm")
            links += _norm(f"{theirs}.k_norm", f"{ours}.k_norm")
        links += _linear(f"{theirs}.attn_out_proj", f"{ours}.attn_out_proj")
        links += _linear(f"{theirs}.mlp_out_proj", f"{ours}.mlp_out_proj")
        if config.layer_scale is not None:
            links.append(Link(f"{theirs}.ls.gamma", f"{ours}.layer_scale"))
    return links


def prenorm_links(theirs: str, ours: str, part: int | None = None) -> list[Link]:
    """An ordinary block, as timm names it."""
    return [
        *_norm(f"{theirs}.norm1", f"{ours}.norm1", part),
        *_linear(f"{theirs}.attn.qkv", f"{ours}.qkv", part),
        *_linear(f"{theirs}.attn.proj", f"{ours}.proj", part),
        *_norm(f"{theirs}.norm2", f"{ours}.norm2", part),
        *_linear(f"{theirs}.mlp.fc1", f"{ours}.mlp.fc1", part),
        *_linear(f"{theirs}.mlp.fc2", f"{ours}.mlp.fc2", part),
    ]


def _decoder_links(config: MAEConfig) -> list[Link]:
    encoder, decoder = config.encoder, config.decoder
    side = encoder.crop // encoder.patch
    repeats = len(encoder.channels) if encoder.channel_agnostic else 1

    def table() -> np.ndarray:
        return position_table(side, side, decoder.width, channels=repeats, class_token=True)[None]

    links = [
        *_linear("encoder_decoder_proj", "encoder_decoder_proj"),
        *_linear("decoder_pred", "decoder_pred"),
        Link("decoder.mask_token", "decoder.mask_token"),
        Link("decoder.pos_embeddings", value=table),
    ]
    if not encoder.channel_agnostic:
        links += _norm("decoder.norm", "decoder.norm")
        for i in range(decoder.depth):
            links += prenorm_links(f"decoder.blocks.{i}", f"decoder.block_{i:02d}")
        return links
    zeros = np.zeros((1, 1, decoder.width), np.float32)
    links.append(Link("decoder.placeholder", value=lambda: zeros))
    cross = "decoder.cross_attention"
    links += _linear(f"{cross}.q", f"{cross}.q", bias=False)
    links += _linear(f"{cross}.kv", f"{cross}.kv", bias=False)
    links += _linear(f"{cross}.proj", f"{cross}.proj")
    links += _linear("decoder.mlp.fc1", "decoder.mlp.fc1")
    links += _linear("decoder.mlp.fc2", "decoder.mlp.fc2")
    for name in ("context_norm", "query_norm", "out_norm"):
        links += _norm(f"decoder.{name}", f"decoder.{name}")
    for m in range(repeats):
        links.append(Link(f"decoder.modality_tokens.{m}", "decoder.channel_tokens", "row", m))
        for i in range(decoder.depth):
            links += prenorm_links(f"decoder.decoders.{m}.{i}", f"decoder.block_{i:02d}", m)
    return links


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
