"""Inside a mesh, activations are told to stay divided by samples; elsewhere nothing is said."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mae_jax.distributed.sharding_context import (
    activation_sharding,
    map_batch_shards,
    platform,
    shard_batch,
)
from mae_jax.networks.mae import ParallelViT, ParallelViTConfig


def mesh_of_eight():
    return jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def test_nothing_is_said_outside_a_mesh():
    x = jnp.ones((8, 3))
    assert shard_batch(x) is x
    with activation_sharding(mesh_of_eight()):  # a batch that is not divided
        assert shard_batch(x) is x
    assert platform() == "cpu"


def test_what_columns_would_divide_is_divided_by_samples():
    mesh = mesh_of_eight()
    columns = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    x = jax.device_put(np.arange(64.0).reshape(8, 8), columns)

    def doubled(x):
        with activation_sharding(mesh, "data", "fsdp"):
            return shard_batch(2 * x)

    y = jax.jit(doubled)(x)
    assert y.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), ndim=2)
    np.testing.assert_array_equal(y, 2 * np.asarray(x))


def test_a_kernel_gets_the_samples_of_its_device():
    """Also where another axis holds copies of the batch: gradients are not counted twice."""
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    x, y = (np.random.default_rng(seed).normal(size=(8, 3)) for seed in (0, 1))
    sizes = []

    def product(x, y):
        sizes.append(len(x))
        return x * y

    def total(x, y):
        return (map_batch_shards(product, x, y) ** 2).sum()

    plain = jax.value_and_grad(total, argnums=(0, 1))(x, y)
    with activation_sharding(mesh, "data"):
        mapped = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(x, y)
    assert set(sizes) == {4, 8}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), mapped, plain)


def test_every_block_says_so():
    config = ParallelViTConfig(patch=8, width=16, depth=2, heads=2, crop=16, channels=("DNA",))
    model = ParallelViT(config)
    images = jnp.zeros((8, 1, 16, 16))
    params = jax.eval_shape(model.init, jax.random.key(0), images)

    def said(divided: bool) -> int:
        def apply(params, images):
            with activation_sharding(mesh_of_eight(), *(("data", "fsdp") if divided else ())):
                return model.apply(params, images)

        return str(jax.make_jaxpr(apply)(params, images)).count("sharding_constraint")

    assert said(True) - said(False) == 1 + config.depth  # the tokens, and after each block
