"""State dicts of other implementations: which layout it is, and its architecture and parameters."""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mae_jax.errors import InputError
from mae_jax.networks.densenet.model import DenseNetConfig
from mae_jax.networks.mae.config import MAEConfig
from mae_jax.networks.mae.torch_keys import (
    export_openphenom,
    import_openphenom,
    is_openphenom,
    openphenom_config,
    prenorm_key_map,
)
from mae_jax.networks.registry import param_shapes
from mae_jax.networks.unet.model import UNetConfig
from mae_jax.networks.vit.model import ViTConfig, adapt_rgb
from mae_jax.weights.key_map import KeyMapEntry, export_tensors, import_tensors

LAYOUTS = ("reference MAE", "timm ViT", "torchvision DenseNet", "torch MU-Net")
RGB = ("red", "green", "blue")


def import_state_dict(
    tensors: Mapping[str, np.ndarray],
    where: str,
    *,
    channels: tuple[str, ...] | None = None,
    bias_layout: str = "legacy",
) -> tuple[Any, dict[str, Any]]:
    """(config, params) of a state dict in any known layout, told apart by its keys.

    Args:
      channels: names of the channels. An RGB ImageNet checkpoint is adapted to as many as are
        named (its first kernel); every other layout must have that number.
      bias_layout: of a reference MAE (see `ParallelViTConfig`).

    Raises:
      InputError: an unknown layout, or keys that are missing, surplus or misshapen (all listed).
    """
    tensors = _modern_names(_without_prefix(tensors))
    if is_openphenom(tensors):
        config = openphenom_config(tensors, where, channels=channels, bias_layout=bias_layout)
        return config, import_openphenom(tensors, config, where)
    if "pos_embed" in tensors and "blocks.0.attn.qkv.weight" in tensors:
        tensors = _adapt(tensors, "patch_embed.proj.weight", channels)
        vit = _vit_config(tensors, channels)
        return vit, import_tensors(tensors, vit_key_map(vit), param_shapes(vit), where)
    if "features.conv0.weight" in tensors:
        tensors = _adapt(tensors, "features.conv0.weight", channels)
        dense = _densenet_config(tensors, channels)
        return dense, _import_densenet(tensors, dense, where)
    if "down.0.0.conv.weight" in tensors:
        unet = _unet_config(tensors, where, channels)
        return unet, import_tensors(tensors, unet_key_map(unet), param_shapes(unet), where)
    first = ", ".join(list(tensors)[:3])
    raise InputError(
        f"{where} is in none of the known layouts ({', '.join(LAYOUTS)}); its first keys: {first}."
    )


def export_state_dict(params: Mapping[str, Any], config: Any) -> dict[str, np.ndarray]:
    """A torch state dict in the layout that belongs to the config's kind.

    Raises:
      InputError: the kind has no foreign layout.
    """
    if isinstance(config, MAEConfig):
        return export_openphenom(params, config)
    if isinstance(config, ViTConfig):
        return export_tensors(params, vit_key_map(config))
    if isinstance(config, DenseNetConfig):
        return export_tensors(params, densenet_key_map(config))
    if isinstance(config, UNetConfig):
        return export_tensors(params, unet_key_map(config))
    raise InputError(f"a {type(config).__name__} has no layout in PyTorch to export to.")


def _without_prefix(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drops "module." or "model." where every name begins with it."""
    for prefix in ("module.", "model.", "_orig_mod."):
        if all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): value for name, value in tensors.items()}
    return dict(tensors)


def _modern_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """torchvision's older DenseNets write norm.1.weight for a layer's norm1.weight."""
    old = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)")
    return {old.sub(r"\1\2", name): value for name, value in tensors.items()}


def _adapt(
    tensors: Mapping[str, np.ndarray], name: str, channels: tuple[str, ...] | None
) -> dict[str, np.ndarray]:
    """The state dict with its first kernel for as many channels as are named."""
    kernel = tensors[name]
    if channels is None or kernel.shape[1] == len(channels) or kernel.shape[1] != 3:
        return dict(tensors)
    hwio = jnp.asarray(kernel, jnp.float32).transpose(2, 3, 1, 0)
    adapted = np.asarray(adapt_rgb(hwio, len(channels))).transpose(3, 2, 0, 1)
    return {**tensors, name: adapted}


def _names(count: int, channels: tuple[str, ...] | None) -> tuple[str, ...]:
    if channels is not None:
        return channels
    return RGB if count == 3 else tuple(f"channel_{i + 1}" for i in range(count))


def _count(tensors: Mapping[str, np.ndarray], pattern: str) -> int:
    found = [re.fullmatch(pattern, name) for name in tensors]
    return 1 + max((int(match.group(1)) for match in found if match), default=-1)


# --- timm ViT


def _vit_config(tensors: Mapping[str, np.ndarray], channels: tuple[str, ...] | None) -> ViTConfig:
    width, inputs, patch, _ = tensors["patch_embed.proj.weight"].shape
    return ViTConfig(
        patch=patch,
        width=width,
        depth=_count(tensors, r"blocks\.(\d+)\.norm1\.weight"),
        heads=width // 64,
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
        grid=round((tensors["pos_embed"].shape[1] - 1) ** 0.5),
        channels=_names(inputs, channels),
        classes=tensors["head.weight"].shape[0] if "head.weight" in tensors else 0,
    )


def vit_key_map(config: ViTConfig) -> list[KeyMapEntry]:
    """All keys of timm's ViT."""
    entries = [
        KeyMapEntry("cls_token", "cls_token"),
        KeyMapEntry("pos_embed", "pos_embed"),
        KeyMapEntry(
            "patch_embed.proj.weight", "patch_embed.kernel", f"patch{len(config.channels)}"
        ),
        KeyMapEntry("patch_embed.proj.bias", "patch_embed.bias"),
        KeyMapEntry("norm.weight", "norm.scale"),
        KeyMapEntry("norm.bias", "norm.bias"),
    ]
    for i in range(config.depth):
        entries += prenorm_key_map(f"blocks.{i}", f"block_{i:02d}")
    if config.classes:
        entries += [
            KeyMapEntry("head.weight", "head.kernel", "linear"),
            KeyMapEntry("head.bias", "head.bias"),
        ]
    return entries


# --- torchvision DenseNet


def _densenet_config(
    tensors: Mapping[str, np.ndarray], channels: tuple[str, ...] | None
) -> DenseNetConfig:
    stem, inputs = tensors["features.conv0.weight"].shape[:2]
    blocks = _count(tensors, r"features\.denseblock(\d+)\.denselayer1\.conv1\.weight") - 1
    layers = tuple(
        _count(tensors, rf"features\.denseblock{b}\.denselayer(\d+)\.conv1\.weight") - 1
        for b in range(1, blocks + 1)
    )
    values: dict[str, Any] = {
        "growth": tensors["features.denseblock1.denselayer1.conv2.weight"].shape[0],
        "stem": stem,
        "layers": layers,
        "channels": _names(inputs, channels),
    }
    if "neck.0.weight" in tensors:  # one of target, exported
        values["embedding_dims"] = (
            tensors["neck.0.weight"].shape[0],
            tensors["neck.2.weight"].shape[0],
        )
        if "classifier.weight" in tensors:
            values["classes"] = tensors["classifier.weight"].shape[0]
    return DenseNetConfig(**values)


def _import_densenet(
    tensors: Mapping[str, np.ndarray], config: DenseNetConfig, where: str
) -> dict[str, Any]:
    """Takes torchvision's ImageNet classifier off and puts a fresh neck on."""
    import jax

    from mae_jax.networks.registry import init_params

    shapes = param_shapes(config)
    tensors = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    if "neck.0.weight" not in tensors:
        dropped = ("classifier.weight", "classifier.bias")
        tensors = {k: v for k, v in tensors.items() if k not in dropped}
        fresh = jax.jit(lambda rng: init_params(config, rng))(jax.random.key(0))
        entries = [entry for entry in densenet_key_map(config) if entry.source.startswith("neck.")]
        tensors |= export_tensors(fresh, entries)
    return import_tensors(tensors, densenet_key_map(config), shapes, where)


def densenet_key_map(config: DenseNetConfig) -> list[KeyMapEntry]:
    """torchvision's keys of the backbone, and `neck.0`, `neck.2`, `classifier` for the rest."""

    def norm(source: str, target: str) -> list[KeyMapEntry]:
        return [
            KeyMapEntry(f"features.{source}.weight", f"params.{target}.scale"),
            KeyMapEntry(f"features.{source}.bias", f"params.{target}.bias"),
            KeyMapEntry(f"features.{source}.running_mean", f"batch_stats.{target}.mean"),
            KeyMapEntry(f"features.{source}.running_var", f"batch_stats.{target}.var"),
        ]

    def conv(source: str, target: str) -> KeyMapEntry:
        return KeyMapEntry(f"features.{source}.weight", f"params.{target}.kernel", "conv")

    entries = [conv("conv0", "conv0"), *norm("norm0", "norm0"), *norm("norm5", "norm5")]
    for b, count in enumerate(config.layers, start=1):
        for i in range(1, count + 1):
            source, target = f"denseblock{b}.denselayer{i}", f"block{b}_layer{i:02d}"
            for j in (1, 2):
                entries += norm(f"{source}.norm{j}", f"{target}_norm{j}")
                entries.append(conv(f"{source}.conv{j}", f"{target}_conv{j}"))
        if b < len(config.layers):
            entries += norm(f"transition{b}.norm", f"transition{b}_norm")
            entries.append(conv(f"transition{b}.conv", f"transition{b}_conv"))
    heads = [("neck.0", "neck1"), ("neck.2", "neck2")]
    heads += [("classifier", "classifier")] if config.classes else []
    for source, target in heads:
        entries.append(KeyMapEntry(f"{source}.weight", f"params.{target}.kernel", "linear"))
        entries.append(KeyMapEntry(f"{source}.bias", f"params.{target}.bias"))
    return entries


# --- MU-Nets: down.{level}.{i}.{conv,norm}, upsample.{level}, up.{level}.{i}.{conv,norm}, head


def _unet_config(
    tensors: Mapping[str, np.ndarray], where: str, channels: tuple[str, ...] | None
) -> UNetConfig:
    levels = _count(tensors, r"down\.(\d+)\.0\.conv\.weight")
    _, inputs, kernel, _ = tensors["down.0.0.conv.weight"].shape
    if channels is not None and len(channels) != inputs:
        raise InputError(f"{where} has {inputs} channels, but {len(channels)} names are given.")
    return UNetConfig(
        widths=tuple(tensors[f"down.{i}.0.conv.weight"].shape[0] for i in range(levels)),
        kernel=kernel,
        convolutions=tuple(
            _count(tensors, rf"down\.{i}\.(\d+)\.conv\.weight") for i in range(levels)
        ),
        channels=_names(inputs, channels),
    )


def unet_key_map(config: UNetConfig) -> list[KeyMapEntry]:
    """All keys of a torch MU-Net of this layout."""
    entries = []
    for side, levels in (("down", len(config.widths)), ("up", len(config.widths) - 1)):
        for level in range(levels):
            for i in range(config.convolutions[level]):
                source, target = f"{side}.{level}.{i}", f"{side}{level}"
                entries += [
                    KeyMapEntry(f"{source}.conv.weight", f"{target}.conv{i}.kernel", "conv"),
                    KeyMapEntry(f"{source}.conv.bias", f"{target}.conv{i}.bias"),
                    KeyMapEntry(f"{source}.norm.weight", f"{target}.norm{i}.scale"),
                    KeyMapEntry(f"{source}.norm.bias", f"{target}.norm{i}.bias"),
                ]
    for level in range(len(config.widths) - 1):
        entries += [
            KeyMapEntry(f"upsample.{level}.weight", f"upsample{level}.kernel", "conv_transpose"),
            KeyMapEntry(f"upsample.{level}.bias", f"upsample{level}.bias"),
        ]
    return [
        *entries,
        KeyMapEntry("head.weight", "head.kernel", "conv"),
        KeyMapEntry("head.bias", "head.bias"),
    ]
