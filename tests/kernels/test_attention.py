import functools
import importlib.util
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.distributed.sharding_context import activation_sharding
from mae_jax.errors import InputError
from mae_jax.kernels.attention import (
    _chunks,
    attention,
    attention_weights,
    choose_backend,
    chunked_attention,
)
from mae_jax.kernels.attention_cudnn import padded_attention
from mae_jax.networks.mae.config import ParallelViTConfig
from mae_jax.networks.mae.parallel_vit import ParallelViT
from mae_jax.networks.registry import init_params


def inputs(batch=2, queries=7, keys=7, heads=3, dim=8, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(batch, queries, heads, dim), (batch, keys, heads, dim), (batch, keys, heads, dim)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def by_definition(q, k, v):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            scores = q[b, :, h] @ k[b, :, h].T / np.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[b, :, h] = weights / weights.sum(-1, keepdims=True) @ v[b, :, h]
    return out


@pytest.mark.parametrize("backend", ["auto", "xla", "chunked"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (jnp.bfloat16, 2e-2)])
def test_every_backend_follows_the_definition(backend, dtype, tolerance):
    q, k, v = inputs(queries=5, keys=9, dtype=dtype)
    out = jax.jit(lambda *a: attention(*a, backend=backend))(q, k, v)
    assert out.dtype == q.dtype
    np.testing.assert_allclose(
        np.asarray(out, np.float64), by_definition(q, k, v), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(
    ("block", "expected"),
    [(40, (1, 4)), (200, (1, 13)), (300, (2, 13)), (10**6, (6, 13))],
    ids=["queries split, padded", "one head", "two heads", "all heads"],
)
def test_blocks_of_every_kind_equal_the_plain_backend(monkeypatch, block, expected):
    monkeypatch.setattr("mae_jax.kernels.attention._BLOCK", block)
    args = inputs(queries=13, keys=11)
    assert _chunks(2 * 3, 13, 11) == expected
    readout = inputs(queries=13, keys=11, seed=1)[0]

    def total(backend):
        return jax.jit(
            jax.value_and_grad(
                lambda *a: (attention(*a, backend=backend) * readout).sum(), argnums=(0, 1, 2)
            )
        )(*args)

    chunked, plain = total("chunked"), total("xla")
    np.testing.assert_allclose(chunked[0], plain[0], rtol=1e-5)
    for a, b in zip(chunked[1], plain[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_chunked_attention_under_vmap():
    args = [jnp.stack([x, 2 * x]) for x in inputs()]
    mapped = jax.jit(jax.vmap(chunked_attention))(*args)
    for i in range(2):
        np.testing.assert_allclose(mapped[i], by_definition(*(x[i] for x in args)), atol=1e-5)


def test_chunked_attention_needs_little_memory():
    args = [jax.ShapeDtypeStruct((1, 2048, 4, 16), jnp.float32)] * 3

    def peak(backend):
        step = jax.jit(
            jax.grad(lambda *a: (attention(*a, backend=backend) ** 2).sum(), argnums=(0, 1, 2))
        )
        return step.lower(*args).compile().memory_analysis().temp_size_in_bytes

    assert peak("chunked") < peak("xla") / 5


def test_weights_sum_to_one_and_give_the_output():
    q, k, v = inputs()
    weights = attention_weights(q, k)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    out = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    np.testing.assert_allclose(out, by_definition(q, k, v), atol=1e-5)


def test_the_choice_of_a_backend():
    large, small = 10**8, 10**3
    assert choose_backend("cpu", jnp.dtype("float32"), 64, small) == "xla"
    assert choose_backend("cpu", jnp.dtype("float32"), 1537, large) == "chunked"
    assert choose_backend("gpu", jnp.dtype("bfloat16"), 257, large) == "cudnn"
    assert choose_backend("gpu", jnp.dtype("float32"), 257, large) == "xla"
    assert choose_backend("tpu", jnp.dtype("bfloat16"), 257, large) == "xla"
    assert choose_backend("tpu", jnp.dtype("bfloat16"), 1537, large) == "tpu_flash"


def test_wrong_names_and_types_are_told():
    with pytest.raises(InputError, match="did you mean 'chunked'"):
        attention(*inputs(), backend="chunky")
    with pytest.raises(InputError, match="bfloat16"):
        attention(*inputs(), backend="cudnn")


@pytest.fixture
def cudnn_without_a_gpu(monkeypatch):
    """cuDNN is asked for its version while tracing; without it nothing can be traced."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)


def squares(q, k, v):
    return (attention(q, k, v, backend="cudnn").astype(jnp.float32) ** 2).sum()


@pytest.mark.parametrize(("queries", "keys"), [(65, 65), (257, 257), (64, 64), (64, 65), (65, 64)])
@pytest.mark.parametrize("mapped", [False, True], ids=["batch", "vmap"])
def test_cudnn_is_traced_for_every_length(cudnn_without_a_gpu, queries, keys, mapped):
    args = inputs(queries=queries, keys=keys, dim=16, dtype=jnp.bfloat16)
    forward, backward = squares, jax.grad(squares, argnums=(0, 1, 2))
    if mapped:  # as in the decoder of several channels
        args = [jnp.stack([x] * 3) for x in args]
        forward, backward = jax.vmap(forward), jax.vmap(backward)
    text = str(jax.make_jaxpr(forward)(*args))
    assert "dot_product_attention_fwd" in text
    assert "= pad" not in text  # no derivative, no copies
    grads = jax.make_jaxpr(backward)(*args)
    assert "dot_product_attention_bwd" in str(grads)
    assert ("= pad" in str(grads)) == (queries % 2 == 1 or keys % 2 == 1)
    assert [x.shape for x in grads.out_avals] == [x.shape for x in args]


def test_cudnn_is_traced_for_the_shards_of_a_batch(cudnn_without_a_gpu):
    """A device's kernel must get the lengths of its own samples, not those of all."""
    args = inputs(batch=8, queries=65, keys=65, dim=16, dtype=jnp.bfloat16)
    mesh = jax.sharding.Mesh(jax.devices()[:4], ("data",))
    with activation_sharding(mesh, "data"):
        text = str(jax.make_jaxpr(jax.grad(squares, argnums=(0, 1, 2)))(*args))
    assert "bf16[2,66,3,16]" in text
    assert "i32[2]" in text


@pytest.mark.parametrize(("queries", "keys"), [(65, 65), (257, 257), (64, 65)])
def test_padding_to_even_lengths_changes_nothing(queries, keys):
    args = inputs(queries=queries, keys=keys)
    readout = inputs(queries=queries, keys=keys, seed=1)[0]

    def value_and_grad(function):
        return jax.jit(
            jax.value_and_grad(lambda *a: (function(*a) * readout).sum(), argnums=(0, 1, 2))
        )(*args)

    padded = value_and_grad(functools.partial(padded_attention, implementation="xla"))
    plain = value_and_grad(functools.partial(attention, backend="xla"))
    np.testing.assert_allclose(padded[0], plain[0], rtol=2e-5)
    for a, b in zip(padded[1], plain[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    out = padded_attention(*args, implementation="xla")
    np.testing.assert_allclose(out, by_definition(*args), atol=2e-6)


TPU_PROGRAM = """
    import jax, jax.numpy as jnp, sys
    from jax.experimental import topologies
    from jax.sharding import NamedSharding, PartitionSpec
    from mae_jax.kernels.attention import attention
    from mae_jax.distributed.sharding_context import activation_sharding
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    mesh = jax.sharding.Mesh(devices, ("data",))
    batch = NamedSharding(mesh, PartitionSpec("data"))
    for backend in ("tpu_flash", "tpu_splash"):
        for heads, dim, tokens in ((6, 64, 385), (16, 32, 257)):
            x = jax.ShapeDtypeStruct((8, tokens, heads, dim), jnp.bfloat16, sharding=batch)
            step = jax.jit(jax.grad(
                lambda q, k, v: attention(q, k, v, backend=backend).astype(jnp.float32).sum(),
                argnums=(0, 1, 2),
            ))
            with activation_sharding(mesh, "data"):
                lowered = step.lower(x, x, x)
            text = lowered.compile().as_text()
            kernels = text.count("tpu_custom_call")
            gathered = text.count("all-gather(") + text.count("all-reduce(")
            print(backend, heads, dim, tokens, kernels, gathered)
"""


def test_the_tpu_kernels_compile_for_a_sharded_tpu():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, the TPU compiler, is not installed")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }
    program = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(TPU_PROGRAM)]
    run = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=500)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [line.split() for line in run.stdout.splitlines()]
    assert len(rows) == 4
    for _, _, _, _, kernels, gathered in rows:
        assert int(kernels) >= 2  # forward and backward
        assert int(gathered) == 0  # split by batch, nothing collected


@pytest.mark.parametrize("backend", ["tpu_flash", "tpu_splash"])
def test_a_named_kernel_is_traced_for_a_mesh_of_several_devices(backend):
    """Shaping the parameters, by one sample, must not be split over the mesh."""
    config = ParallelViTConfig(
        patch=8, width=32, depth=1, heads=2, crop=16, channels=("a", "b"), attention=backend
    )
    model = ParallelViT(config)
    images = jax.ShapeDtypeStruct((8, 2, 16, 16), jnp.float32)
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    params = init_params(config, jax.random.key(0))
    with activation_sharding(mesh, "data"):
        tokens = jax.eval_shape(model.apply, {"params": params}, images)
    assert tokens.shape == (8, 9, 32)
