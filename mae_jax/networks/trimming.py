"""The first blocks of a vision transformer as an encoder of its own.

An earlier block often gives better embeddings than the last, and is cheaper: its encoder needs
none of the later ones, and no decoder.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mae_jax.errors import InputError
from mae_jax.networks.mae.config import MAEConfig, ParallelViTConfig
from mae_jax.networks.registry import of_config
from mae_jax.networks.vit.config import ViTConfig


def trim_blocks(config: Any, params: Mapping[str, Any], blocks: int) -> tuple[Any, dict[str, Any]]:
    """The encoder of the first `blocks` blocks: embeds as the whole one does with that block.

    Decoder, classifier and pooler are left out, and so is the final norm, which only follows the
    last block; with all blocks it stays.

    Returns:
      (config, params)

    Raises:
      InputError: the network has no blocks, or not so many.
    """
    if isinstance(config, MAEConfig):
        config, params = config.encoder, params["encoder"]
    if not isinstance(config, ParallelViTConfig | ViTConfig):
        raise InputError(
            f"network '{of_config(config).name}' has no blocks to choose from; omit --blocks."
        )
    if not 1 <= blocks <= config.depth:
        raise InputError(f"--blocks must be from 1 to {config.depth}, not {blocks}.")
    changes: dict[str, Any] = {"depth": blocks}
    dropped = {f"block_{i:02d}" for i in range(blocks, config.depth)} | {"head"}
    if isinstance(config, ViTConfig):
        changes |= {"classes": 0}
    if blocks < config.depth:
        dropped |= {"norm", "fc_norm", "pooler"}
        changes |= {"final_norm": False}
        if isinstance(config, ViTConfig):
            changes |= {"fc_norm": False, "pooler_heads": 0}
    kept = {name: value for name, value in params.items() if name not in dropped}
    return dataclasses.replace(config, **changes), kept
