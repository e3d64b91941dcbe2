"""Muon and schedule-free AdamW: what they compute, that they learn, and that they resume."""

import os
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mae_jax.encoders import from_pretrained
from mae_jax.errors import InputError
from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.saved_model import load_model
from mae_jax.train import Callback, TrainConfig
from mae_jax.train.compiled import build
from mae_jax.train.config import CheckpointConfig, DataConfig, LogConfig, OptimizerConfig
from mae_jax.train.metric_writers import read_metrics
from mae_jax.train.optimizer import evaluated_params, optimizer, orthogonalized, restarted

CONFIG = TrainConfig(
    model=MAEConfig(
        ParallelViTConfig(patch=8, width=16, depth=1, heads=2, crop=16, channels=("DNA", "ER")),
        DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
    ),
    data=DataConfig(batch=4, validation_crops=4),
    checkpoint=CheckpointConfig(every=6),
    log=LogConfig(scalars=100, validation=3, image_every=100),
    steps=12,
)
SCHEDULE_FREE = OptimizerConfig("schedule-free-adamw", schedule="constant", lr=1e-2, warmup=0.1)
RECIPES = {"muon": OptimizerConfig("muon", lr=1e-2, b1=0.95), "schedule-free": SCHEDULE_FREE}


class StopAt(Callback):
    """Ends the process's run at a step, as a preemption does."""

    def __init__(self, step: int) -> None:
        self.at = step

    def on_step_end(self, trainer):
        if trainer.step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RECIPES))
def test_it_learns_and_resumes_bit_for_bit(name, index, train, tmp_path, compiled_once):
    data = replace(CONFIG.data, index=str(index))
    config = replace(CONFIG, data=data, optimizer=RECIPES[name])
    whole = train(config, tmp_path / "whole")
    losses = [
        row["validation/loss"] for row in read_metrics(whole.parent) if "validation/loss" in row
    ]
    # Images of noise: 1 is the loss of the best prediction.
    assert losses[-1] - 1 < 0.75 * (losses[0] - 1)
    assert train(config, tmp_path / "resumed", callbacks=[StopAt(7)]) is None
    resumed = train(config, tmp_path / "resumed")
    jax.tree.map(
        np.testing.assert_array_equal, load_model(whole).params, load_model(resumed).params
    )
    # Checkpoints hold the weights that are saved at the end.
    at_end = from_pretrained(f"{tmp_path / 'whole'}@12")
    jax.tree.map(np.testing.assert_array_equal, load_model(whole).params, at_end.params)


def test_schedule_free_adamw_by_hand():
    """Three steps of Defazio et al. 2024: y, z and x, RMS with bias correction, decay at y."""
    config = replace(SCHEDULE_FREE, lr=0.1, warmup=0.0, b1=0.9, b2=0.5, weight_decay=0.2)
    transform = optimizer(config, steps=1000)
    y = z = x = np.array([[1.0, -2.0]])
    square, weights = np.zeros((1, 2)), 0.0
    params = {"kernel": jnp.asarray(y, jnp.float32)}
    state = transform.init(params)
    # The warm-up is one step at a rate of 0, but the average weighs by the rate of the next step.
    for step, gradient in enumerate(np.array([[[0.3, -0.1]], [[-0.02, 5.0]], [[0.1, 0.1]]])):
        updates, state = transform.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        square = 0.5 * square + 0.5 * gradient**2
        scaled = gradient / (np.sqrt(square / (1 - 0.5 ** (step + 1))) + 1e-8)
        z = z - (0.1 if step else 0.0) * (scaled + 0.2 * y)
        weights += 0.1**2
        x = x + 0.1**2 / weights * (z - x)
        y = 0.9 * x + 0.1 * z
        np.testing.assert_allclose(params["kernel"], y, rtol=1e-5)
        average = evaluated_params(config, state, params)
        np.testing.assert_allclose(average["kernel"], x, rtol=1e-5)
    assert np.abs(y - x).max() > 1e-4


def test_schedule_free_restarts_from_other_weights():
    """Its state holds a copy of the parameters, which a warm start replaces."""
    transform = optimizer(SCHEDULE_FREE, steps=10)
    state = transform.init({"kernel": jnp.zeros((2, 2))})
    other = {"kernel": jnp.ones((2, 2))}
    average = evaluated_params(SCHEDULE_FREE, restarted(state, other), other)
    np.testing.assert_allclose(average["kernel"], 1)


def test_muon_orthogonalizes_hidden_matrices():
    config = OptimizerConfig("muon", lr=1.0, warmup=0.0, weight_decay=0.0)
    params = {
        "patch_embed": {"kernel": jnp.ones((8, 4))},
        "block_00": {"in_proj": jnp.ones((16, 4)), "in_norm": {"scale": jnp.ones(4)}},
        "decoder": {"fc1": {"kernel": jnp.ones((3, 4, 16)), "bias": jnp.ones((3, 16))}},
        "conv": {"kernel": jnp.ones((3, 3, 4, 16))},
    }
    axes = orthogonalized(params, config.no_decay)
    assert axes["patch_embed"]["kernel"] is None
    assert axes["block_00"]["in_norm"]["scale"] is None
    assert axes["decoder"]["fc1"]["bias"] is None
    transform = optimizer(config, steps=100)
    state = transform.init(params)
    update_step = jax.jit(transform.update)
    keys = iter(jax.random.split(jax.random.key(0), 20))
    for _ in range(2):  # the rate of the first step is 0
        gradients = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), params)
        updates, state = update_step(gradients, state, params)
    for update in (
        updates["block_00"]["in_proj"],
        *updates["decoder"]["fc1"]["kernel"],  # one matrix per channel
        updates["conv"]["kernel"].reshape(36, 16),
    ):
        values = np.linalg.svd(np.asarray(update), compute_uv=False)
        # Newton-Schulz in five steps brings singular values near 1; RMS 0.2, as AdamW's.
        np.testing.assert_allclose(values / (0.2 * max(update.shape) ** 0.5), 1, atol=0.35)
    adam = np.abs(np.asarray(updates["patch_embed"]["kernel"]))
    assert adam.max() <= 1.5
    assert np.unique(adam.round(3)).size > 10


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"optimizer\.schedule=constant"):
        OptimizerConfig("schedule-free-adamw")
    with pytest.raises(InputError, match="averages the weights itself"):
        replace(SCHEDULE_FREE, ema_decay=0.9)
    densenet = DenseNetConfig(growth=4, stem=8, layers=(1, 1), embedding_dims=(8, 8), classes=2)
    config = TrainConfig(network="densenet", model=densenet, optimizer=SCHEDULE_FREE)
    config = replace(config, data=DataConfig(batch=8))
    mesh = jax.sharding.Mesh(
        np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor")
    )
    with pytest.raises(InputError, match="running statistics"):
        build(config, mesh)
