"""A step is the same step on one device and on eight, at once and in micro-batches."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mae_jax.distributed import mesh as meshes
from mae_jax.errors import InputError
from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.task import MAETask
from mae_jax.networks.unet.config import UNetConfig
from mae_jax.networks.vit.config import ViTConfig
from mae_jax.train.checkpoints import Checkpoints
from mae_jax.train.compiled import build
from mae_jax.train.config import CheckpointConfig, DataConfig, MeshConfig, TrainConfig
from mae_jax.train.optimizer import optimizer
from mae_jax.train.step import train_step

MODEL = MAEConfig(
    ParallelViTConfig(patch=8, width=32, depth=2, heads=2, crop=16, channels=("DNA", "ER"),
                  drop_path=0.0, layer_scale=0.1),
    DecoderConfig(width=32, depth=1, heads=2, cross_heads=2),
)  # fmt: skip
CONFIG = TrainConfig(model=MODEL, data=DataConfig(batch=16), steps=10)
# A linear optimizer: Lion's signs would blow rounding differences up to whole steps.
CONFIG = replace(CONFIG, optimizer=replace(CONFIG.optimizer, name="sgd", lr=0.1, warmup=0.0))
MIXED = MeshConfig(data=2, fsdp=2, tensor=2)

_TWO = {"channels": ("DNA", "ER"), "classes": 4}
OTHERS = {
    "joint": replace(
        CONFIG,
        model=replace(MODEL, encoder=replace(MODEL.encoder, channel_agnostic=False, scan=True,
                                             remat="full")),
        optimizer=replace(CONFIG.optimizer, grad_accum_steps=2),
    ),
    "unet": replace(
        CONFIG,
        network="unet",
        model=UNetConfig(widths=(8, 16), convolutions=(1, 1), channels=("DNA", "ER"), crop=16,
                         patch=4),
        optimizer=replace(CONFIG.optimizer, lr=0.01),
    ),
    "densenet": replace(
        CONFIG,
        network="densenet",
        model=DenseNetConfig(growth=4, stem=8, layers=(1, 1), embedding_dims=(8, 8), norm="adabn",
                             ghost_batch_size=4, **_TWO),
        optimizer=replace(CONFIG.optimizer, lr=0.01, ema_decay=0.9),
    ),
    "vit": replace(
        CONFIG,
        network="vit",
        model=ViTConfig(patch=8, width=32, depth=1, heads=2, grid=2, **_TWO),
    ),
}  # fmt: skip


def crops(seed: int, batch: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65535, (batch, 2, 16, 16), dtype=np.uint16)


def batch_of(seed: int, config: TrainConfig) -> dict[str, np.ndarray]:
    batch = {"pixels": crops(seed)}
    if config.network in ("densenet", "vit"):
        batch["label"] = np.arange(16, dtype=np.int32) % 5 - 1  # -1: not known in training
    return batch


@cache
def first_state(config: TrainConfig):
    """The state before the first step, on one device."""
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    # numpy: what is donated later is a copy
    return jax.tree.map(np.asarray, build(replace(config, mesh=MeshConfig()), mesh).init())


def run(
    config: TrainConfig,
    layout: MeshConfig,
    devices: int,
    steps: int = 3,
    sharded_init: bool = False,
):
    mesh = meshes.make_mesh(layout, jax.devices()[:devices])
    made = build(replace(config, mesh=layout), mesh)
    if sharded_init:
        state = made.init()
    else:  # compiles faster
        places = jax.tree.map(lambda s: s.sharding, made.state)
        state = jax.device_put(first_state(config), places)
    losses = []
    for number in range(steps):
        batch = meshes.to_global_array(batch_of(number, config), mesh)
        state, scalars = made.step(state, batch, None)
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
        pytest.param(MeshConfig(data=1, fsdp=8, layout="largest"), marks=pytest.mark.slow),
        pytest.param(MeshConfig(data=1, tensor=8), marks=pytest.mark.slow),
        pytest.param(MeshConfig(data=4, tensor=2), marks=pytest.mark.slow),
        MIXED,
    ],
    ids=["data", "fsdp", "fsdp-largest", "tensor", "data-tensor", "mixed"],
)
def test_eight_devices_take_the_steps_of_one(alone, layout):
    losses, state = run(CONFIG, layout, devices=8)
    np.testing.assert_allclose(losses, alone[0], rtol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), state.params, alone[1].params
    )


@pytest.mark.slow
@pytest.mark.parametrize("network", list(OTHERS))
def test_eight_devices_take_the_steps_of_one_with_every_network(network):
    """Mixed over data, fsdp and tensor; scan, remat, accumulation, statistics, mean weights."""
    config = OTHERS[network]
    losses, state = run(config, MIXED, devices=8)
    alone, state_alone = run(config, MeshConfig(), devices=1)
    np.testing.assert_allclose(losses, alone, rtol=5e-5)
    for name in ("params", "model_state", "ema"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5),
            getattr(state, name),
            getattr(state_alone, name),
        )


@pytest.mark.slow
def test_parameters_are_made_already_divided():
    _, state = run(CONFIG, MIXED, 8, steps=0, sharded_init=True)
    alone = first_state(CONFIG)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, alone.params
    )
    block = state.params["encoder"]["block_00"]
    assert block["in_proj"].addressable_shards[0].data.shape == (32 // 2, 7 * 32 // 2)
    assert block["attn_out_proj"]["kernel"].addressable_shards[0].data.shape == (16, 16)


@pytest.mark.parametrize("config", [CONFIG, *OTHERS.values()], ids=["mae", *OTHERS])
def test_every_matrix_of_every_network_is_divided(config):
    """By fsdp and by tensor both, unless a dimension is odd; moments as their parameters.

    Convolutions by fsdp alone; `mae_jax.networks.sharding_rules` says which matrices are not.
    """
    made = build(replace(config, mesh=MIXED), meshes.make_mesh(MIXED))
    shapes, _ = jax.tree_util.tree_flatten_with_path(made.state.params)
    for path, shape in shapes:
        name = jax.tree_util.keystr(path)
        spared = any(
            part in name for part in ("patch_embed", "encoder_decoder_proj", "decoder_pred")
        )
        if ("kernel" in name or "in_proj" in name) and not spared:
            whole = np.prod(shape.shape) / np.prod(shape.sharding.shard_shape(shape.shape))
            convolution = len(shape.shape) == 4
            odd = sum(bool(size % 2) for size in shape.shape[-1 if convolution else -2 :])
            assert whole == (2 if convolution else 4) / 2**odd, (
                name,
                shape.shape,
                shape.sharding.spec,
            )
    trace = made.state.opt_state[1][0].trace
    places = [jax.tree.map(lambda s: s.sharding, tree) for tree in (made.state.params, trace)]
    assert places[0] == places[1]


def test_a_rule_of_one_s_own_comes_first():
    layout = replace(MIXED, rules=((r"in_proj$", ("", "data")),))
    made = build(replace(CONFIG, mesh=layout), meshes.make_mesh(layout))
    assert made.state.params["encoder"]["block_00"]["in_proj"].sharding.spec == P(None, "data")
    with pytest.raises(InputError, match="did you mean 'tensor'"):
        replace(MIXED, rules=((r"in_proj$", ("", "tensro")),))


def test_a_micro_batch_that_does_not_divide_is_named():
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, grad_accum_steps=4))
    with pytest.raises(InputError, match="micro-batches of 4 crops"):
        build(config, meshes.make_mesh(MeshConfig()))


@pytest.mark.slow
def test_micro_batches_average_to_the_whole():
    """The loss of a step in two parts is the mean of the two parts' own losses."""
    parts = replace(CONFIG, optimizer=replace(CONFIG.optimizer, grad_accum_steps=2))
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
    state = first_state(CONFIG)
    transform = optimizer(CONFIG.optimizer, CONFIG.steps)
    step = jax.jit(train_step(CONFIG, transform, jax.random.key(1)))
    broken = jnp.full((16, 2, 16, 16), jnp.nan, jnp.float32)
    after, _ = step(state, {"pixels": broken})
    assert int(after.divergence.num_skipped) == 1
    assert int(after.step) == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    after, _ = step(after, {"pixels": jnp.asarray(crops(0), jnp.float32)})
    assert int(after.divergence.num_skipped) == 1


def test_a_mesh_that_does_not_fit_says_so():
    with pytest.raises(InputError, match="fsdp=3"):
        meshes.make_mesh(MeshConfig(fsdp=3))


@pytest.mark.slow
def test_a_checkpoint_is_read_on_another_mesh(tmp_path):
    layout = MeshConfig(data=4, fsdp=2)
    eight = build(replace(CONFIG, mesh=layout), meshes.make_mesh(layout))
    places = jax.tree.map(lambda s: s.sharding, eight.state)
    state = jax.device_put(first_state(CONFIG), places)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(every=1, keep=2))
    checkpoints.save(2, state)
    checkpoints.close()
    layout = MeshConfig(data=1, fsdp=4)
    four = build(replace(CONFIG, mesh=layout), meshes.make_mesh(layout, jax.devices()[:4]))
    reader = Checkpoints(tmp_path, CheckpointConfig(every=1, keep=2))
    assert reader.latest == 2
    found = reader.restore(four.state)
    reader.close()
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert found.params["encoder"]["block_00"]["in_proj"].sharding.mesh.shape["fsdp"] == 4
