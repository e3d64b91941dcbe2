"""PyTorch state dicts of masked U-Nets.

Keys are `down.{level}.{i}.{conv,norm}`, `upsample.{level}`, `up.{level}.{i}.{conv,norm}`, `head`.
"""

from collections.abc import Mapping

import numpy as np

from mae_jax.networks.unet.config import UNetConfig
from mae_jax.weights.import_options import ImportOptions, count_matches
from mae_jax.weights.key_map import KeyMapEntry, TorchFormat


def _matches(tensors: Mapping[str, np.ndarray]) -> bool:
    return "down.0.0.conv.weight" in tensors


def _infer_config(
    tensors: Mapping[str, np.ndarray], source: str, options: ImportOptions
) -> UNetConfig:
    levels = count_matches(tensors, r"down\.(\d+)\.0\.conv\.weight")
    _, channels, kernel, _ = tensors["down.0.0.conv.weight"].shape
    return UNetConfig(
        widths=tuple(tensors[f"down.{i}.0.conv.weight"].shape[0] for i in range(levels)),
        kernel=kernel,
        convolutions=tuple(
            count_matches(tensors, rf"down\.{i}\.(\d+)\.conv\.weight") for i in range(levels)
        ),
        channels=options.channel_names(channels, source),
    )


def key_map(config: UNetConfig) -> list[KeyMapEntry]:
    """Return the entries of all keys."""
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
        source, target = f"upsample.{level}", f"upsample{level}"
        entries += [
            KeyMapEntry(f"{source}.weight", f"{target}.kernel", "conv_transpose"),
            KeyMapEntry(f"{source}.bias", f"{target}.bias"),
        ]
    return [
        *entries,
        KeyMapEntry("head.weight", "head.kernel", "conv"),
        KeyMapEntry("head.bias", "head.bias"),
    ]


TORCH_FORMAT = TorchFormat("torch MU-Net", UNetConfig, _matches, _infer_config, key_map)
