"""A custom callback and a custom evaluator, in a config file or in a script.

As a config, whose callbacks and evaluators the command line adds to those of the trainer:

    mae-jax train --config examples/callback.py --config.data.index=index.parquet --workdir runs/x

As a script, which trains from Python:

    python examples/callback.py --index index.parquet --workdir runs/x
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mae_jax.config import as_config_dict
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.train import Callback, Evaluator, TrainConfig, Trainer


class GradientNormHistory(Callback):
    """Remembers the largest gradient norm, also over restarts, and writes it at the end."""

    def __init__(self) -> None:
        self.largest = 0.0

    def on_metrics(self, trainer, step, metrics):
        self.largest = max(self.largest, metrics.get("train/gradient_norm", 0.0))

    def on_fit_end(self, trainer):
        if jax.process_index() == 0:
            path = trainer.workdir / "gradient_norm.json"
            path.write_text(json.dumps({"largest": self.largest}))

    def state_dict(self):
        return {"largest": self.largest}

    def load_state_dict(self, state):
        self.largest = state.get("largest", 0.0)


class ParameterNorm(Evaluator):
    """The norm of the weights that are evaluated, as the metric "validation/parameter_norm"."""

    every = 20

    def evaluate(self, trainer):
        squares = (jnp.sum(leaf**2) for leaf in jax.tree.leaves(trainer.state.weights))
        return {"validation/parameter_norm": float(jnp.sqrt(sum(squares)))}


def get_config() -> ConfigDict:
    encoder = ParallelViTConfig(
        patch=8, width=32, depth=2, heads=2, crop=16, channels=("DNA", "ER"), drop_path=0.0
    )
    decoder = DecoderConfig(width=32, depth=1, heads=2, cross_heads=2)
    config = as_config_dict(TrainConfig(model=MAEConfig(encoder, decoder), steps=100))
    config.data.batch = 8
    config.log.scalars = 10
    return config


def get_callbacks() -> list[Callback]:
    return [GradientNormHistory()]


def get_evaluators() -> list[Evaluator]:
    return [ParameterNorm()]


def main() -> None:
    from mae_jax.config import from_dict

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    args = parser.parse_args()
    values = get_config()
    values.data.index = args.index
    config = from_dict(TrainConfig, values.to_dict())
    trainer = Trainer(
        config, callbacks=get_callbacks(), evaluators=get_evaluators(), workdir=args.workdir
    )
    print(trainer.fit())


if __name__ == "__main__":
    main()
