"""Micro-batches are as large as the devices' memory allows."""

from dataclasses import replace

import jax
import pytest

from mae_jax.distributed.mesh import AXES
from mae_jax.errors import InputError
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.train import TrainConfig
from mae_jax.train.accumulation import (
    device_bytes,
    fit_accumulation,
    residual_bytes,
    resolve_accumulation,
    usable_memory,
)
from mae_jax.train.compiled import build
from mae_jax.train.config import DataConfig, OptimizerConfig
from mae_jax.train.workdir import create_or_verify

CONFIG = TrainConfig(
    model=MAEConfig(
        ParallelViTConfig(patch=8, width=16, depth=1, heads=2, crop=16, channels=("DNA", "ER")),
        DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
    ),
    optimizer=OptimizerConfig(grad_accum_steps=0),
    data=DataConfig(batch=48),
)
MESH = jax.sharding.AbstractMesh((4, 1, 1), AXES)


@pytest.fixture(scope="module")
def needs():
    """Bytes that a step needs with so many crops per device, in one micro-batch or in several."""
    functions = build(replace(CONFIG, optimizer=OptimizerConfig()), MESH)
    state, params = device_bytes(functions.state), device_bytes(functions.state.params)
    return lambda crops, sums: 1.25 * (state + residual_bytes(CONFIG, crops) + sums * params)


def test_the_fewest_micro_batches_that_fit(needs):
    """48 crops on 4 devices: 12, 6, 4, 3, 2 or 1 crops per device and micro-batch."""

    def fitted(memory: float) -> int:
        return fit_accumulation(CONFIG, MESH, memory).optimizer.grad_accum_steps

    assert fitted(1e12) == 1
    assert fitted(1.01 * needs(12, 1)) == 1
    assert fitted(1.01 * needs(4, 2)) == 3
    assert fitted(1.01 * needs(1, 2)) == 12
    with pytest.raises(InputError, match="one crop per device takes about"):
        fitted(0.9 * needs(1, 2))
    with pytest.raises(InputError, match="does not divide among the 4 devices"):
        fit_accumulation(replace(CONFIG, data=DataConfig(batch=6)), MESH, 1e12)


def test_a_resumed_run_keeps_its_number(tmp_path):
    create_or_verify(tmp_path, replace(CONFIG, optimizer=OptimizerConfig(grad_accum_steps=3)))
    mesh = jax.make_mesh((1, 1, 1), AXES, devices=jax.devices()[:1])
    assert resolve_accumulation(CONFIG, mesh, tmp_path).optimizer.grad_accum_steps == 3
    assert 1e6 < usable_memory(jax.devices()[0]) < 1e14
    with pytest.raises(InputError, match="grad_accum_steps is 0"):
        build(CONFIG, mesh)
