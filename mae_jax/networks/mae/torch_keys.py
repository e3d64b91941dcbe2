"""PyTorch state dicts of masked autoencoders, in the names of the released OpenPhenom."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from mae_jax.errors import InputError
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.nn.pos_embed import sincos_pos_embed
from mae_jax.weights.block_key_maps import linear_entries, norm_entries, prenorm_block_entries
from mae_jax.weights.import_options import ImportOptions, count_matches
from mae_jax.weights.key_map import KeyMapEntry, TorchFormat

_BACKBONE = "encoder.vit_backbone"
# The release makes the encoder's position table for this many channels, whatever it was trained on.
_TABLE_CHANNELS = 11
_PUBLISHED_DECODER = (512, 16)  # width and heads of all released decoders


def _matches(tensors: Mapping[str, np.ndarray]) -> bool:
    return f"{_BACKBONE}.cls_token" in _with_prefix(tensors)


def _with_prefix(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the keys of an encoder alone: of the backbone's parent, or of the backbone."""
    if "vit_backbone.cls_token" in tensors:
        return {f"encoder.{name}": value for name, value in tensors.items()}
    if "blocks.0.in_proj.weight" in tensors:
        return {f"{_BACKBONE}.{name}": value for name, value in tensors.items()}
    return dict(tensors)


def _infer_config(
    tensors: Mapping[str, np.ndarray], source: str, options: ImportOptions
) -> MAEConfig | ParallelViTConfig:
    """Infer the architecture from the tensors' shapes; without a decoder, the encoder's alone."""
    tensors = _with_prefix(tensors)

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise InputError(f"{source} lacks the key '{name}'; save the whole state dict.")
        return tuple(tensors[name].shape)

    has_decoder = "decoder.mask_token" in tensors
    width, in_channels, patch, _ = shape(f"{_BACKBONE}.patch_embed.proj.weight")
    agnostic = any(name.startswith("decoder.modality_tokens.") for name in tensors)
    if agnostic:
        count = count_matches(tensors, r"decoder\.modality_tokens\.(\d+)")
    elif not has_decoder and in_channels == 1:
        # Only a decoder shows how many channels a channel-agnostic encoder was trained on.
        agnostic, count = True, len(options.channels or ("channel_1",))
    else:
        count = in_channels
    hidden = shape(f"{_BACKBONE}.blocks.0.mlp_bias")[0]
    encoder = ParallelViTConfig(
        patch=patch,
        width=width,
        depth=count_matches(tensors, rf"{re.escape(_BACKBONE)}\.blocks\.(\d+)\.in_norm\.weight"),
        heads=_encoder_heads(tensors, width, source, options),
        mlp_ratio=hidden / width,
        channel_agnostic=agnostic,
        channels=options.channel_names(count, source),
        crop=_crop(tensors, patch, count if agnostic else 1),
        drop_path=0.3 if width >= 1024 else 0.1,
        layer_scale=1e-4 if f"{_BACKBONE}.blocks.0.ls.gamma" in tensors else None,
        qk_norm=f"{_BACKBONE}.blocks.0.q_norm.weight" in tensors,
        bias_layout="fixed" if options.bias_layout == "fixed" else "legacy",
        norm_eps=1e-6 if options.norm_eps is None else options.norm_eps,
        final_norm=f"{_BACKBONE}.norm.weight" in tensors,
    )
    if not has_decoder:
        return encoder
    decoder_width = shape("decoder.mask_token")[-1]
    block = r"decoder\.decoders\.0\.(\d+)" if agnostic else r"decoder\.blocks\.(\d+)"
    eps = options.decoder_norm_eps
    return MAEConfig(
        encoder=encoder,
        decoder=DecoderConfig(
            width=decoder_width,
            depth=count_matches(tensors, rf"{block}\.norm1\.weight"),
            heads=_decoder_heads(decoder_width, source, options),
            norm_eps=(1e-5 if agnostic else 1e-6) if eps is None else eps,
        ),
        mask_ratio=0.85 if agnostic and width >= 1024 else 0.75,
    )


def _encoder_heads(
    tensors: Mapping[str, np.ndarray], width: int, source: str, options: ImportOptions
) -> int:
    norm = tensors.get(f"{_BACKBONE}.blocks.0.q_norm.weight")
    if norm is None:
        return options.encoder_heads(width, source)
    heads = width // norm.shape[0]
    if options.heads not in (None, heads):
        raise InputError(f"{source} has {heads} attention heads, not {options.heads}; omit heads.")
    return heads


def _decoder_heads(width: int, source: str, options: ImportOptions) -> int:
    if options.decoder_heads is not None:
        return options.decoder_heads
    if width != _PUBLISHED_DECODER[0]:
        raise InputError(
            f"{source} does not show how many attention heads its decoder of width {width} has; "
            "give decoder_heads (--decoder-heads)."
        )
    return _PUBLISHED_DECODER[1]


def _crop(tensors: Mapping[str, np.ndarray], patch: int, channels: int) -> int:
    """Return the side of the crops whose position table the file holds; 256 if it holds none."""
    decoder = tensors.get("decoder.pos_embeddings")
    encoder = tensors.get(f"{_BACKBONE}.pos_embed")
    # The encoder's, where there is no decoder: channel-agnostic ones repeat it for 11 channels.
    for table, repeats in ((decoder, channels), (encoder, _TABLE_CHANNELS), (encoder, channels)):
        if table is not None and _side(table, repeats) is not None:
            return (_side(table, repeats) or 1) * patch
    return 256 // patch * patch


def _side(table: np.ndarray, repeats: int) -> int | None:
    """Return the side of the square grid that a position table repeats, if it is one."""
    rows = table.shape[1] - 1 if table.ndim == 3 else 0
    side = round((rows / repeats) ** 0.5)
    return side if rows > 0 and side * side * repeats == rows else None


def _adapt(
    tensors: Mapping[str, np.ndarray], config: MAEConfig | ParallelViTConfig
) -> dict[str, np.ndarray]:
    """Refuse tensors that this network has no parameters for, unless they have no effect."""
    tensors = _with_prefix(tensors)
    encoder = config.encoder if isinstance(config, MAEConfig) else config
    side = encoder.crop // encoder.patch
    for name in (f"{_BACKBONE}.pos_embed", "decoder.pos_embeddings"):
        if name in tensors and not _is_sincos(tensors[name], side):
            raise InputError(
                f"'{name}' is not the fixed sine-cosine table of a grid of {side} x {side} "
                "patches: learned position tables are not supported for masked autoencoders."
            )
    for name, value in (("weight", 1.0), ("bias", 0.0)):
        tensor = tensors.get(f"{_BACKBONE}.fc_norm.{name}")
        if tensor is not None and np.abs(np.asarray(tensor, np.float32) - value).max() > 1e-3:
            raise InputError(
                f"'{_BACKBONE}.fc_norm.{name}' was trained, but embeddings of masked autoencoders "
                "are pooled without a norm; set it to "
                f"{'ones' if value else 'zeros'} to leave it out."
            )
    return tensors


def _is_sincos(table: np.ndarray, side: int) -> bool:
    rows = table.shape[1] - 1 if table.ndim == 3 else 0
    if rows <= 0 or rows % side**2 or table.shape[2] % 4:
        return False
    expected = sincos_pos_embed(
        side, side, table.shape[2], channels=rows // side**2, class_token=True
    )
    return bool(np.abs(np.asarray(table[0], np.float32) - expected).max() < 5e-3)  # of float16


def key_map(config: MAEConfig | ParallelViTConfig) -> list[KeyMapEntry]:
    """Return the entries of all keys, position tables and unused norms included."""
    if isinstance(config, ParallelViTConfig):
        return [
            dataclasses.replace(entry, target=entry.target.removeprefix("encoder."))
            for entry in _encoder_entries(config)
        ]
    return _encoder_entries(config.encoder) + _decoder_entries(config)


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
    if config.final_norm:
        entries += norm_entries(f"{_BACKBONE}.norm", "encoder.norm")
    for i in range(config.depth):
        source, target = f"{_BACKBONE}.blocks.{i}", f"encoder.block_{i:02d}"
        entries += [
            KeyMapEntry(f"{source}.mlp_bias", f"{target}.mlp_bias"),
            KeyMapEntry(f"{source}.in_proj.weight", f"{target}.in_proj", "linear"),
        ]
        entries += norm_entries(f"{source}.in_norm", f"{target}.in_norm")
        if config.qk_norm:
            entries += norm_entries(f"{source}.q_norm", f"{target}.q_norm")
            entries += norm_entries(f"{source}.k_norm", f"{target}.k_norm")
        entries += linear_entries(f"{source}.attn_out_proj", f"{target}.attn_out_proj")
        entries += linear_entries(f"{source}.mlp_out_proj", f"{target}.mlp_out_proj")
        if config.layer_scale is not None:
            entries.append(KeyMapEntry(f"{source}.ls.gamma", f"{target}.layer_scale"))
    return entries


def _decoder_entries(config: MAEConfig) -> list[KeyMapEntry]:
    encoder, decoder = config.encoder, config.decoder
    side = encoder.crop // encoder.patch
    repeats = len(encoder.channels) if encoder.channel_agnostic else 1

    def table() -> np.ndarray:
        return sincos_pos_embed(side, side, decoder.width, channels=repeats, class_token=True)[None]

    entries = [
        *linear_entries("encoder_decoder_proj", "encoder_decoder_proj"),
        *linear_entries("decoder_pred", "decoder_pred"),
        KeyMapEntry("decoder.mask_token", "decoder.mask_token"),
        KeyMapEntry("decoder.pos_embeddings", default=table),
    ]
    if not encoder.channel_agnostic:
        entries += norm_entries("decoder.norm", "decoder.norm")
        for i in range(decoder.depth):
            entries += prenorm_block_entries(f"decoder.blocks.{i}", f"decoder.block_{i:02d}")
        return entries
    zeros = np.zeros((1, 1, decoder.width), np.float32)
    entries.append(KeyMapEntry("decoder.placeholder", default=lambda: zeros))
    cross = "decoder.cross_attention"
    entries += linear_entries(f"{cross}.q", f"{cross}.q", bias=False)
    entries += linear_entries(f"{cross}.kv", f"{cross}.kv", bias=False)
    entries += linear_entries(f"{cross}.proj", f"{cross}.proj")
    entries += linear_entries("decoder.mlp.fc1", "decoder.mlp.fc1")
    entries += linear_entries("decoder.mlp.fc2", "decoder.mlp.fc2")
    for name in ("context_norm", "query_norm", "out_norm"):
        entries += norm_entries(f"decoder.{name}", f"decoder.{name}")
    for m in range(repeats):
        entries.append(
            KeyMapEntry(f"decoder.modality_tokens.{m}", "decoder.channel_tokens", "row", m)
        )
        for i in range(decoder.depth):
            entries += prenorm_block_entries(
                f"decoder.decoders.{m}.{i}", f"decoder.block_{i:02d}", m
            )
    return entries


TORCH_FORMATS = tuple(
    TorchFormat("OpenPhenom MAE", config_type, _matches, _infer_config, key_map, _adapt)
    for config_type in (MAEConfig, ParallelViTConfig)
)
