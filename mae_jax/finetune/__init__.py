"""Fine-tuning: probes, LoRA, frozen parameters and layer-wise learning rates, for any encoder.

An encoder's parameters are plain nested dicts and heads are kept apart from them, so fine-tuning
is ordinary optax:

    encoder = mae_jax.load_encoder("runs/demo/train")
    probe = LinearProbe(classes=20)
    head = probe.init(jax.random.key(0), encoder.embed(crops))["params"]
    params = {"encoder": encoder.params, "head": head}
    tx = freeze(optax.adamw(1e-3), params, trainable=("head", "encoder.block_11"))

    def loss(params, crops, labels):
        features = encoder.forward(params["encoder"], crops)
        logits = probe.apply({"params": params["head"]}, features)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

`benchmarks/finetune.py` does this for the perturbations of a screen.

With LoRA the trained tree is `lora_init(…)` and the encoder gets `lora_merge(params, lora)`.
"""

from mae_jax.finetune.loop import fit
from mae_jax.finetune.lora import LORA_TARGETS, lora_init, lora_merge
from mae_jax.finetune.optimizers import dotted_names, freeze, layer_decay, trainable_mask
from mae_jax.finetune.probes import AttentiveProbe, LinearProbe

__all__ = [
    "LORA_TARGETS",
    "AttentiveProbe",
    "LinearProbe",
    "dotted_names",
    "fit",
    "freeze",
    "layer_decay",
    "lora_init",
    "lora_merge",
    "trainable_mask",
]
