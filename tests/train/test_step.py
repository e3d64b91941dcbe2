"""A step is the same step on one device and on eight, at once and in micro-batches."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.models import DecoderConfig, EncoderConfig, MAEConfig
from mae_jax.train import mesh as meshes
from mae_jax.train.checkpoints import Checkpoints, restore_encoder
from mae_jax.train.config import CheckpointConfig, DataConfig, MeshConfig, TrainConfig
from mae_jax.train.optimizer import optimizer
from mae_jax.train.step import initial_state, train_step
from mae_jax.train.tasks.mae import MAETask

MODEL = MAEConfig(
    EncoderConfig(patch=8, width=32, depth=2, heads=2, crop=16, channels=("DNA", "ER"),
                  drop_path=0.0, layer_scale=0.1),
    DecoderConfig(width=32, depth=1, heads=2, cross_heads=2),
)  # fmt: skip
CONFIG = TrainConfig(model=MODEL, data=DataConfig(batch=16), steps=10)
# A linear optimiser: Lion's signs would blow rounding differences up to whole steps.
CONFIG = replace(CONFIG, optimizer=replace(CONFIG.optimizer, name="sgd", lr=0.1, warmup=0.0))
TENSOR = ((r"in_proj$", ("", "tensor")), (r"mlp_out_proj/kernel$", ("tensor", "")))


def crops(seed: int, batch: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65535, (batch, 2, 16, 16), dtype=np.uint16)


@cache
def first_state(config: TrainConfig):
    """The state before the first step, on one device."""
    transform = optimizer(config.optimizer, config.steps)
    init_key, _ = jax.random.split(jax.random.key(0))
    state = jax.jit(partial(initial_state, config, transform))(init_key)
    return jax.tree.map(np.asarray, state)  # numpy: what is donated later is a copy


def run(
    config: TrainConfig,
    layout: MeshConfig,
    devices: int,
    steps: int = 3,
    sharded_init: bool = False,
):
    mesh = meshes.make_mesh(layout, jax.devices()[:devices])
    transform = optimizer(config.optimizer, config.steps)
    init_key, step_key = jax.random.split(jax.random.key(0))
    init = partial(initial_state, config, transform)
    place = meshes.state_sharding(jax.eval_shape(init, init_key), mesh, layout)
    if sharded_init:
        state = jax.jit(init, out_shardings=place)(init_key)
    else:  # compiles faster
        state = jax.device_put(first_state(config), place)
    step = jax.jit(train_step(config, transform, step_key), donate_argnums=0)
    losses = []
    for number in range(steps):
        state, scalars = step(state, meshes.to_devices({"pixels": crops(number)}, mesh))
        losses.append(float(scalars["loss"]))
    return losses, state


@pytest.fixture(scope="module")
def alone():
    return run(CONFIG, MeshConfig(), devices=1)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(MeshConfig(), marks=pytest.mark.slow),
        pytest.param(MeshConfig(data=1, fsdp=8), marks=pytest.mark.slow),
        pytest.param(MeshConfig(data=4, tensor=2, rules=TENSOR), marks=pytest.mark.slow),
        MeshConfig(data=2, fsdp=2, tensor=2, rules=TENSOR),
    ],
    ids=["data", "fsdp", "tensor", "mixed"],
)
def test_eight_devices_take_the_steps_of_one(alone, layout):
    losses, state = run(CONFIG, layout, devices=8)
    np.testing.assert_allclose(losses, alone[0], rtol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), state.params, alone[1].params
    )


@pytest.mark.slow
def test_parameters_are_made_already_divided():
    layout = MeshConfig(data=2, fsdp=2, tensor=2, rules=TENSOR)
    _, state = run(CONFIG, layout, 8, steps=0, sharded_init=True)
    alone = first_state(CONFIG)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, alone.params
    )
    block = state.params["encoder"]["block_00"]
    assert block["in_proj"].addressable_shards[0].data.shape == (32, 7 * 32 // 2)
    assert block["attn_out_proj"]["kernel"].addressable_shards[0].data.size == 32 * 32 // 2


def test_micro_batches_average_to_the_whole():
    """The loss of a step in two parts is the mean of the two parts' own losses."""
    parts = replace(CONFIG, optimizer=replace(CONFIG.optimizer, accumulate=2))
    losses, state = run(parts, MeshConfig(), 1, steps=1)
    _, step_key = jax.random.split(jax.random.key(0))
    own = []
    for number in range(2):
        key = jax.random.fold_in(jax.random.fold_in(step_key, 0), number)
        params = jax.tree.map(jnp.asarray, first_state(parts).params)
        batch = {"pixels": jnp.asarray(crops(0)[number::2])}
        loss, _ = MAETask(MODEL).loss(params, {}, batch, key, train=True)
        own.append(float(loss))
    np.testing.assert_allclose(losses, [np.mean(own)], rtol=1e-5)
    assert int(state.step) == 1


def test_a_step_without_finite_loss_changes_nothing_and_is_counted():
    transform = optimizer(CONFIG.optimizer, CONFIG.steps)
    state = first_state(CONFIG)
    step = jax.jit(train_step(CONFIG, transform, jax.random.key(1)))
    broken = jnp.full((16, 2, 16, 16), jnp.nan, jnp.float32)
    after, _ = step(state, {"pixels": broken})
    assert int(after.faults.skipped) == 1
    assert int(after.step) == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    after, _ = step(after, {"pixels": jnp.asarray(crops(0), jnp.float32)})
    assert int(after.faults.skipped) == 1


def test_a_mesh_that_does_not_fit_says_so():
    with pytest.raises(InputError, match="fsdp=3"):
        meshes.make_mesh(MeshConfig(fsdp=3))


def test_a_checkpoint_is_read_on_another_mesh_and_the_encoder_alone(tmp_path):
    eight = meshes.make_mesh(MeshConfig(data=4, fsdp=2))
    state = first_state(CONFIG)
    state = jax.device_put(state, meshes.state_sharding(state, eight, MeshConfig(fsdp=2)))
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(every=1, keep=2))
    checkpoints.save(2, state)
    checkpoints.close()
    layout = MeshConfig(data=1, fsdp=4)
    mesh = meshes.make_mesh(layout, jax.devices()[:4])
    place = meshes.state_sharding(jax.eval_shape(lambda: state), mesh, layout)
    like = jax.tree.map(
        lambda a, p: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=p), state, place
    )
    reader = Checkpoints(tmp_path, CheckpointConfig(every=1, keep=2))
    assert reader.latest == 2
    found = reader.restore(like)
    reader.close()
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert found.params["encoder"]["block_00"]["in_proj"].sharding.mesh.shape["fsdp"] == 4
    encoder = restore_encoder(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, encoder, state.params["encoder"])
