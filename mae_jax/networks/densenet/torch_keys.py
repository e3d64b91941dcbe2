"""PyTorch state dicts of DenseNets, in torchvision's names."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.registry import init_params
from mae_jax.weights.block_key_maps import linear_entries
from mae_jax.weights.import_options import ImportOptions, count_matches
from mae_jax.weights.key_map import KeyMapEntry, TorchFormat, adapt_rgb_kernel, export_tensors


def _matches(tensors: Mapping[str, np.ndarray]) -> bool:
    return "features.conv0.weight" in tensors


def _infer_config(
    tensors: Mapping[str, np.ndarray], source: str, options: ImportOptions
) -> DenseNetConfig:
    tensors = _current_names(tensors)
    stem, channels = tensors["features.conv0.weight"].shape[:2]
    if channels == 3 and options.channels is not None:
        channels = len(options.channels)
    blocks = count_matches(tensors, r"features\.denseblock(\d+)\.denselayer1\.conv1\.weight") - 1
    layers = tuple(
        count_matches(tensors, rf"features\.denseblock{b}\.denselayer(\d+)\.conv1\.weight") - 1
        for b in range(1, blocks + 1)
    )
    values: dict[str, Any] = {
        "growth": tensors["features.denseblock1.denselayer1.conv2.weight"].shape[0],
        "stem": stem,
        "layers": layers,
        "channels": options.channel_names(channels, source),
    }
    if "neck.0.weight" in tensors:  # exported by this package
        values["embedding_dims"] = tuple(tensors[f"neck.{i}.weight"].shape[0] for i in (0, 2))
        if "classifier.weight" in tensors:
            values["classes"] = tensors["classifier.weight"].shape[0]
    return DenseNetConfig(**values)


def _adapt(tensors: Mapping[str, np.ndarray], config: DenseNetConfig) -> dict[str, np.ndarray]:
    """Drop torchvision's ImageNet classifier and add a newly initialized neck."""
    tensors = adapt_rgb_kernel(
        _current_names(tensors), "features.conv0.weight", len(config.channels)
    )
    tensors = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    if "neck.0.weight" not in tensors:
        dropped = ("classifier.weight", "classifier.bias")
        tensors = {k: v for k, v in tensors.items() if k not in dropped}
        params = jax.jit(lambda rng: init_params(config, rng))(jax.random.key(0))
        neck = [entry for entry in key_map(config) if entry.source.startswith("neck.")]
        tensors |= export_tensors(params, neck)
    return tensors


def _current_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the keys of torchvision's older files: a layer's norm.1.weight is norm1.weight."""
    old = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)")
    return {old.sub(r"\1\2", name): value for name, value in tensors.items()}


def key_map(config: DenseNetConfig) -> list[KeyMapEntry]:
    """Return torchvision's keys of the backbone, and `neck.0`, `neck.2`, `classifier`."""

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
        entries += linear_entries(source, f"params.{target}")
    return entries


TORCH_FORMAT = TorchFormat(
    "torchvision DenseNet", DenseNetConfig, _matches, _infer_config, key_map, _adapt
)
