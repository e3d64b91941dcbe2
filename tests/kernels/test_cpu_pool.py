"""Few crops at a time in parallel streams: the same rows, in order, and none that nobody needs."""

import gc
import threading
import time
from weakref import ref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.inference.batch_encoder import BatchEncoder
from mae_jax.kernels.cpu_pool import MicrobatchPool
from mae_jax.networks.encoder import Encoder
from mae_jax.networks.mae.config import ParallelViTConfig
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.networks.registry import init_params
from mae_jax.weights.preprocessing import Preprocessing

CROPS = np.random.default_rng(0).integers(0, 9000, (10, 3, 32, 32)).astype(np.uint16)


def sums(scale, crops):
    return crops.astype(jnp.float32).sum((1, 2, 3)) * scale, None


@pytest.mark.parametrize("count", [1, 2, 5])
def test_rows_come_in_order_and_those_not_used_are_zeros(count: int) -> None:
    run = MicrobatchPool(sums, count)
    wanted = 2 * CROPS.astype(np.float32).sum((1, 2, 3))
    whole, nothing = run(2.0, CROPS, 2)
    assert nothing is None
    np.testing.assert_allclose(whole, wanted, rtol=1e-6)
    odd = run(2.0, CROPS[:5], 2)[0]  # the last piece overlaps the one before
    np.testing.assert_allclose(odd, wanted[:5], rtol=1e-6)
    some = np.asarray(run(2.0, CROPS, 2, 7)[0])
    np.testing.assert_allclose(some[:7], wanted[:7], rtol=1e-6)
    assert not some[8:].any()
    assert np.asarray(run(2.0, CROPS[:0], 2)[0]).shape == (0,)


def test_as_many_run_at_once_as_there_are_streams_and_a_failure_is_told() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def slow(crops):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        if (crops == 0).all():
            raise ValueError("black crop")
        return crops[:, 0, 0, 0].astype(np.float32)

    def function(_, crops):
        shape = jax.ShapeDtypeStruct((len(crops),), jnp.float32)
        return jax.pure_callback(slow, shape, crops)

    run = MicrobatchPool(function, 3)
    np.testing.assert_array_equal(run(None, CROPS, 2), CROPS[:, 0, 0, 0])
    assert 1 < most <= 3
    coming = run(None, np.zeros_like(CROPS[:2]), 2)
    with pytest.raises(Exception, match="black crop"):
        np.asarray(coming)


def test_what_nobody_waits_for_is_not_begun() -> None:
    seen = []

    def slow(crops):
        seen.append(len(crops))
        time.sleep(0.1)
        return crops[:, 0, 0, 0].astype(np.float32)

    def function(_, crops):
        return jax.pure_callback(slow, jax.ShapeDtypeStruct((len(crops),), jnp.float32), crops)

    run = MicrobatchPool(function, 1)
    coming = run(None, CROPS, 2)
    assert not coming.is_ready()
    del run
    time.sleep(0.4)
    assert 1 <= len(seen) < 5


def test_an_encoder_gives_what_one_large_batch_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ParallelViTConfig(patch=8, width=16, depth=1, heads=1, channels=tuple("abc"), crop=32)
    # Layer scales start near zero, which would make the network nearly linear.
    params = jax.tree.map(lambda p: p + 0.05, init_params(config, jax.random.key(0)))
    encoder = MAEEncoder(config, params, Preprocessing(tuple("abc"), any_channels=True, crop=32))
    assert encoder.microbatch_size(3, 32, 32) == 1280 // 49
    monkeypatch.setattr(
        encoder, "microbatch_size", lambda *shape: 4
    )  # of ten, the last four overlap
    wanted = jax.jit(encoder.forward)(params, CROPS)
    np.testing.assert_allclose(encoder.embed(CROPS), wanted, atol=1e-5, rtol=1e-5)
    runner = BatchEncoder(
        encoder, pooling="mean", block=None, batch_size=10, devices=jax.local_devices()[:1]
    )
    np.testing.assert_array_equal(runner(runner.put(CROPS))[0], encoder.embed(CROPS))


def test_programs_let_go_of_an_encoder_that_nobody_needs() -> None:
    class Mean(Encoder):
        name, params = "mean", {}
        preprocessing = Preprocessing(tuple("abc"), any_channels=True, crop=32)

        def forward(self, params, pixels, *, pooling="mean", block=None):
            return pixels.astype(jnp.float32).mean((2, 3))

    encoder = Mean()
    runner = BatchEncoder(
        encoder, pooling="mean", block=None, batch_size=10, devices=jax.local_devices()[:1]
    )
    np.asarray(runner(runner.put(CROPS))[0])
    gone = ref(encoder)
    del runner, encoder
    gc.collect()
    assert gone() is None
