"""Which steps are skipped, and when a run should go back."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.train.config import CheckpointConfig, DivergenceConfig
from mae_jax.train.divergence import check_step, initial_divergence

CONFIG = DivergenceConfig(spike=6.0, stats_window=20, max_skipped=2, skip_window=10)


def run(losses, config=CONFIG, norms=None):
    """All of a run's losses judged in order: (which were good, the memory at the end)."""
    losses = jnp.asarray(losses, jnp.float32)
    norms = jnp.ones_like(losses) if norms is None else jnp.asarray(norms, jnp.float32)

    def step(faults, given):
        good, faults = check_step(faults, *given, config)
        return faults, good

    given = (jnp.arange(len(losses)), losses, norms)
    faults, good = jax.jit(partial(jax.lax.scan, step))(initial_divergence(config), given)
    return np.asarray(good), faults


def noisy(count: int, level: float = 1.0, seed: int = 0) -> np.ndarray:
    return level + 0.05 * np.random.default_rng(seed).standard_normal(count)


def test_the_running_numbers_are_those_of_numpy_until_memory_is_full():
    losses = noisy(20)
    good, faults = run(losses)
    assert good.all()
    np.testing.assert_allclose(faults.mean, losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(faults.variance, losses.var(), rtol=1e-4)


def test_later_losses_weigh_one_over_memory():
    losses = noisy(50)
    mean = losses[:20].mean()
    for loss in losses[20:]:
        mean += (loss - mean) / 20
    np.testing.assert_allclose(run(losses)[1].mean, mean, rtol=1e-5)


def test_a_spike_is_skipped_and_leaves_no_trace():
    losses = noisy(60)
    losses[40] = 2.0
    good, faults = run(losses)
    assert np.flatnonzero(~good).tolist() == [40]
    assert int(faults.num_skipped) == 1
    np.testing.assert_allclose(faults.mean, run(np.delete(losses, 40))[1].mean, rtol=1e-6)


def test_what_is_no_spike():
    early = noisy(30)
    early[10] = 5.0  # nothing is known yet
    assert run(early)[0].all()
    flat = np.ones(40)
    flat[30] = 1.05  # by 5 %, though the deviation is 0
    assert run(flat)[0].all()
    falling = np.linspace(3, 0.1, 200)
    assert run(falling)[0].all()
    wild = noisy(60)
    wild[40] = 100.0
    assert run(wild, DivergenceConfig(spike=0.0, stats_window=20))[0].all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("step", [0, 30])
def test_what_is_not_finite_is_always_skipped(value, step):
    losses, norms = noisy(40), np.ones(40)
    losses[step] = value
    assert np.flatnonzero(~run(losses)[0]).tolist() == [step]
    norms[step] = value
    good, faults = run(noisy(40), norms=norms)
    assert np.flatnonzero(~good).tolist() == [step]
    assert np.isfinite(faults.mean)


@pytest.mark.parametrize(
    ("bad", "trouble"),
    [
        ([5, 6], -1),
        ([5, 9, 15], -1),  # the third comes when the first is ten steps away
        ([5, 9, 14], 5),
        ([0, 1, 2], 0),
        ([3, 20, 24, 29], 20),
        ([5, 9, 14, 15, 16, 17], 5),  # where it began, however long it lasts
    ],
)
def test_too_many_within_the_window_are_trouble_from_the_first_of_them(bad, trouble):
    losses = noisy(40)
    losses[bad] = np.nan
    faults = run(losses)[1]
    assert int(faults.rollback_step) == trouble
    assert int(faults.num_skipped) == len(bad)


def test_numbers_that_mean_nothing_are_refused():
    with pytest.raises(InputError, match=r"stats_window must be at least 1, not 0"):
        DivergenceConfig(stats_window=0)
    with pytest.raises(InputError, match=r"keep must be at least 1, not 0"):
        CheckpointConfig(keep=0)
