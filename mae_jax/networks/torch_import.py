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
    export_reference_mae,
    import_reference_mae,
    is_reference_mae,
    prenorm_links,
    reference_config,
)
from mae_jax.networks.registry import param_shapes
from mae_jax.networks.unet.model import UNetConfig
from mae_jax.networks.vit.model import PlainViTConfig, adapt_rgb
from mae_jax.weights.key_map import Link, export_tensors, import_tensors

LAYOUTS = ("reference MAE", "timm ViT", "torchvision DenseNet", "torch MU-Net")
RGB = ("red", "green", "blue")


def import_foreign(
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
      bias_layout: of a reference MAE (see `EncoderConfig`).

    Raises:
      InputError: an unknown layout, or keys that are missing, surplus or misshapen (all listed).
    """
    tensors = _modern_names(_without_prefix(tensors))
    if is_reference_mae(tensors):
        config = reference_config(tensors, where, channels=channels, bias_layout=bias_layout)
        return config, import_reference_mae(tensors, config, where)
    if "pos_embed" in tensors and "blocks.0.attn.qkv.weight" in tensors:
        tensors = _adapt(tensors, "patch_embed.proj.weight", channels)
        vit = _vit_config(tensors, channels)
        return vit, import_tensors(tensors, vit_links(vit), param_shapes(vit), where)
    if "features.conv0.weight" in tensors:
        tensors = _adapt(tensors, "features.conv0.weight", channels)
        dense = _densenet_config(tensors, channels)
        return dense, _import_densenet(tensors, dense, where)
    if "down.0.0.conv.weight" in tensors:
        unet = _unet_config(tensors, where, channels)
        return unet, import_tensors(tensors, unet_links(unet), param_shapes(unet), where)
    first = ", ".join(list(tensors)[:3])
    raise InputError(
        f"{where} is in none of the known layouts ({', '.join(LAYOUTS)}); its first keys: {first}."
    )


def export_foreign(params: Mapping[str, Any], config: Any) -> dict[str, np.ndarray]:
    """A torch state dict in the layout that belongs to the config's kind.

    Raises:
      InputError: the kind has no foreign layout.
    """
    if isinstance(config, MAEConfig):
        return export_reference_mae(params, config)
    if isinstance(config, PlainViTConfig):
        return export_tensors(params, vit_links(config))
    if isinstance(config, DenseNetConfig):
        return export_tensors(params, densenet_links(config))
    if isinstance(config, UNetConfig):
        return export_tensors(params, unet_links(config))
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


def _vit_config(
    tensors: Mapping[str, np.ndarray], channels: tuple[str, ...] | None
) -> PlainViTConfig:
    width, inputs, patch, _ = tensors["patch_embed.proj.weight"].shape
    return PlainViTConfig(
        patch=patch,
        width=width,
        depth=_count(tensors, r"blocks\.(\d+)\.norm1\.weight"),
        heads=width // 64,
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
        grid=round((tensors["pos_embed"].shape[1] - 1) ** 0.5),
        channels=_names(inputs, channels),
        classes=tensors["head.weight"].shape[0] if "head.weight" in tensors else 0,
    )


def vit_links(config: PlainViTConfig) -> list[Link]:
    """All keys of timm's ViT."""
    links = [
        Link("cls_token", "cls_token"),
        Link("pos_embed", "pos_embed"),
        Link("patch_embed.proj.weight", "patch_embed.kernel", f"patch{len(config.channels)}"),
        Link("patch_embed.proj.bias", "patch_embed.bias"),
        Link("norm.weight", "norm.scale"),
        Link("norm.bias", "norm.bias"),
    ]
    for i in range(config.depth):
        links += prenorm_links(f"blocks.{i}", f"block_{i:02d}")
    if config.classes:
        links += [Link("head.weight", "head.kernel", "linear"), Link("head.bias", "head.bias")]
    return links


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
    if "neck.0.weight" in tensors:  # one of ours, exported
        values["neck"] = (tensors["neck.0.weight"].shape[0], tensors["neck.2.weight"].shape[0])
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
        links = [link for link in densenet_links(config) if link.theirs.startswith("neck.")]
        tensors |= export_tensors(fresh, links)
    return import_tensors(tensors, densenet_links(config), shapes, where)


def densenet_links(config: DenseNetConfig) -> list[Link]:
    """torchvision's keys of the backbone, and `neck.0`, `neck.2`, `classifier` for the rest."""

    def norm(theirs: str, ours: str) -> list[Link]:
        return [
            Link(f"features.{theirs}.weight", f"params.{ours}.scale"),
            Link(f"features.{theirs}.bias", f"params.{ours}.bias"),
            Link(f"features.{theirs}.running_mean", f"batch_stats.{ours}.mean"),
            Link(f"features.{theirs}.running_var", f"batch_stats.{ours}.var"),
        ]

    def conv(theirs: str, ours: str) -> Link:
        return Link(f"features.{theirs}.weight", f"params.{ours}.kernel", "conv")

    links = [conv("conv0", "conv0"), *norm("norm0", "norm0"), *norm("norm5", "norm5")]
    for b, count in enumerate(config.layers, start=1):
        for i in range(1, count + 1):
            theirs, ours = f"denseblock{b}.denselayer{i}", f"block{b}_layer{i:02d}"
            for j in (1, 2):
                links += norm(f"{theirs}.norm{j}", f"{ours}_norm{j}")
                links.append(conv(f"{theirs}.conv{j}", f"{ours}_conv{j}"))
        if b < len(config.layers):
            links += norm(f"transition{b}.norm", f"transition{b}_norm")
            links.append(conv(f"transition{b}.conv", f"transition{b}_conv"))
    heads = [("neck.0", "neck1"), ("neck.2", "neck2")]
    heads += [("classifier", "classifier")] if config.classes else []
    for theirs, ours in heads:
        links.append(Link(f"{theirs}.weight", f"params.{ours}.kernel", "linear"))
        links.append(Link(f"{theirs}.bias", f"params.{ours}.bias"))
    return links


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


def unet_links(config: UNetConfig) -> list[Link]:
    """All keys of a torch MU-Net of this layout."""
    links = []
    for side, levels in (("down", len(config.widths)), ("up", len(config.widths) - 1)):
        for level in range(levels):
            for i in range(config.convolutions[level]):
                theirs, ours = f"{side}.{level}.{i}", f"{side}{level}"
                links += [
                    Link(f"{theirs}.conv.weight", f"{ours}.conv{i}.kernel", "conv"),
                    Link(f"{theirs}.conv.bias", f"{ours}.conv{i}.bias"),
                    Link(f"{theirs}.norm.weight", f"{ours}.norm{i}.scale"),
                    Link(f"{theirs}.norm.bias", f"{ours}.norm{i}.bias"),
                ]
    for level in range(len(config.widths) - 1):
        links += [
            Link(f"upsample.{level}.weight", f"upsample{level}.kernel", "conv_transpose"),
            Link(f"upsample.{level}.bias", f"upsample{level}.bias"),
        ]
    return [*links, Link("head.weight", "head.kernel", "conv"), Link("head.bias", "head.bias")]
