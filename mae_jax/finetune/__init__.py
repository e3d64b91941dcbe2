"""Fine-tuning an encoder to predict labels of wells, and its parts for loops of one's own.

    result = FineTuner(load_encoder("runs/mine/model"), method="lora").fit(
        Index.read("index.parquet"), labels="Metadata_Compound", out="runs/compounds"
    )
    print(result.scores["test"])
    predictions = result.model.predict(another_index)

`mae-jax finetune` does this on the command line. An encoder's parameters are plain nested dicts and
heads are kept apart from them, so a loop of one's own is ordinary optax:

    encoder = mae_jax.load_encoder("runs/demo/train")
    probe = LinearProbe(classes=20)
    head = probe.init(jax.random.key(0), encoder.embed(crops))["params"]
    params = {"encoder": encoder.params, "head": head}
    tx = freeze(optax.adamw(1e-3), params, trainable=("head", "encoder.block_11"))

    def loss(params, crops, labels):
        features = encoder.forward(params["encoder"], crops)
        logits = probe.apply({"params": params["head"]}, features)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

`labelled_crops` gives its batches: random crops of labelled sites. With LoRA the trained tree is
`lora_init(…)` and the encoder gets `lora_merge(params, lora)`.

Names are imported on first use, so that the help of `mae-jax finetune` does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mae_jax.finetune.config import METHODS, FineTuneConfig
    from mae_jax.finetune.crops import labelled_crops, site_tiles
    from mae_jax.finetune.fine_tuned import FineTuned
    from mae_jax.finetune.fine_tuner import FineTuner
    from mae_jax.finetune.loop import fit
    from mae_jax.finetune.lora import LORA_TARGETS, lora_init, lora_merge
    from mae_jax.finetune.optimizers import dotted_names, freeze, layer_decay, trainable_mask
    from mae_jax.finetune.probes import AttentiveProbe, LinearProbe
    from mae_jax.finetune.results import FineTuneResult
    from mae_jax.finetune.targets import Targets, read_targets

# Public name -> the module that has it.
_PUBLIC = {
    "AttentiveProbe": "mae_jax.finetune.probes",
    "FineTuneConfig": "mae_jax.finetune.config",
    "FineTuneResult": "mae_jax.finetune.results",
    "FineTuned": "mae_jax.finetune.fine_tuned",
    "FineTuner": "mae_jax.finetune.fine_tuner",
    "LORA_TARGETS": "mae_jax.finetune.lora",
    "LinearProbe": "mae_jax.finetune.probes",
    "METHODS": "mae_jax.finetune.config",
    "Targets": "mae_jax.finetune.targets",
    "dotted_names": "mae_jax.finetune.optimizers",
    "fit": "mae_jax.finetune.loop",
    "freeze": "mae_jax.finetune.optimizers",
    "labelled_crops": "mae_jax.finetune.crops",
    "layer_decay": "mae_jax.finetune.optimizers",
    "lora_init": "mae_jax.finetune.lora",
    "lora_merge": "mae_jax.finetune.lora",
    "read_targets": "mae_jax.finetune.targets",
    "site_tiles": "mae_jax.finetune.crops",
    "trainable_mask": "mae_jax.finetune.optimizers",
}

__all__ = [
    "LORA_TARGETS",
    "METHODS",
    "AttentiveProbe",
    "FineTuneConfig",
    "FineTuneResult",
    "FineTuned",
    "FineTuner",
    "LinearProbe",
    "Targets",
    "dotted_names",
    "fit",
    "freeze",
    "labelled_crops",
    "layer_decay",
    "lora_init",
    "lora_merge",
    "read_targets",
    "site_tiles",
    "trainable_mask",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mae_jax.finetune' has no attribute '{name}'")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
