"""Masked autoencoders for microscopy, in JAX: from plates of images to maps of biology.

    import mae_jax

    encoder = mae_jax.load_encoder("runs/mine/model")
    vectors = encoder.embed(pixels)  # (batch, channels, height, width), raw

Names are imported on first use, so that `import mae_jax` and `mae-jax --help` are fast, and
tables of embeddings are evaluated where JAX is not installed.
"""

import importlib
from typing import TYPE_CHECKING

from mae_jax._version import __version__

if TYPE_CHECKING:
    from mae_jax.data import Index, crop_batches, open_screen
    from mae_jax.embeddings import read_embeddings
    from mae_jax.encoders import Encoder, from_pretrained, load_encoder
    from mae_jax.evaluation import Profiles, correct
    from mae_jax.evaluation import run as evaluate
    from mae_jax.finetune import (
        AttentiveProbe,
        FineTuner,
        LinearProbe,
        freeze,
        lora_init,
        lora_merge,
    )
    from mae_jax.inference import embed_index as embed
    from mae_jax.networks.mae import MAE, MAEConfig, mae_config, mae_loss
    from mae_jax.train import TrainConfig, Trainer
    from mae_jax.view.figures import plot_attention, plot_plate, plot_reconstruction, plot_umap

# Public name -> the module that has it, and its name there.
_PUBLIC = {
    "AttentiveProbe": ("mae_jax.finetune", "AttentiveProbe"),
    "Encoder": ("mae_jax.encoders", "Encoder"),
    "FineTuner": ("mae_jax.finetune", "FineTuner"),
    "Index": ("mae_jax.data", "Index"),
    "LinearProbe": ("mae_jax.finetune", "LinearProbe"),
    "MAE": ("mae_jax.networks.mae", "MAE"),
    "MAEConfig": ("mae_jax.networks.mae", "MAEConfig"),
    "Profiles": ("mae_jax.evaluation", "Profiles"),
    "TrainConfig": ("mae_jax.train", "TrainConfig"),
    "Trainer": ("mae_jax.train", "Trainer"),
    "correct": ("mae_jax.evaluation", "correct"),
    "crop_batches": ("mae_jax.data", "crop_batches"),
    "embed": ("mae_jax.inference", "embed_index"),
    "evaluate": ("mae_jax.evaluation", "run"),
    "freeze": ("mae_jax.finetune", "freeze"),
    "from_pretrained": ("mae_jax.encoders", "from_pretrained"),
    "load_encoder": ("mae_jax.encoders", "load_encoder"),
    "lora_init": ("mae_jax.finetune", "lora_init"),
    "lora_merge": ("mae_jax.finetune", "lora_merge"),
    "mae_config": ("mae_jax.networks.mae", "mae_config"),
    "mae_loss": ("mae_jax.networks.mae", "mae_loss"),
    "plot_attention": ("mae_jax.view.figures", "plot_attention"),
    "plot_plate": ("mae_jax.view.figures", "plot_plate"),
    "plot_reconstruction": ("mae_jax.view.figures", "plot_reconstruction"),
    "plot_umap": ("mae_jax.view.figures", "plot_umap"),
    "read_embeddings": ("mae_jax.embeddings", "read_embeddings"),
    "open_screen": ("mae_jax.data", "open_screen"),
}

__all__ = [
    "MAE",
    "AttentiveProbe",
    "Encoder",
    "FineTuner",
    "Index",
    "LinearProbe",
    "MAEConfig",
    "Profiles",
    "TrainConfig",
    "Trainer",
    "__version__",
    "correct",
    "crop_batches",
    "embed",
    "evaluate",
    "freeze",
    "from_pretrained",
    "load_encoder",
    "lora_init",
    "lora_merge",
    "mae_config",
    "mae_loss",
    "open_screen",
    "plot_attention",
    "plot_plate",
    "plot_reconstruction",
    "plot_umap",
    "read_embeddings",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mae_jax' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
