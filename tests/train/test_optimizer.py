"""The recipe: one cycle, decay on matrices alone, Lion's second moment."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mae_jax.train.config import OptimizerConfig
from mae_jax.train.optimizer import decayed, optimizer, schedule


def test_one_cycle_rises_to_the_maximum_and_falls_as_a_cosine():
    rate = schedule(OptimizerConfig(lr=0.5, warmup=0.1), steps=100).rate
    assert rate(0) == 0
    assert rate(5) == pytest.approx(0.25)
    assert rate(10) == pytest.approx(0.5)
    assert rate(55) == pytest.approx(0.25)  # the middle of the cosine
    assert rate(100) == pytest.approx(0, abs=1e-7)


def test_only_matrices_decay():
    params = {
        "encoder": {
            "cls_token": jnp.ones((1, 1, 4)),
            "block_00": {
                "in_proj": jnp.ones((4, 28)),
                "mlp_bias": jnp.ones(16),
                "layer_scale": jnp.ones(4),
                "in_norm": {"scale": jnp.ones(4), "bias": jnp.ones(4)},
            },
        },
        "decoder": {"channel_tokens": jnp.ones((5, 4)), "fc1": {"bias": jnp.ones((5, 4))}},
    }
    assert decayed(params, OptimizerConfig().no_decay) == {
        "encoder": {
            "cls_token": False,
            "block_00": {
                "in_proj": True,
                "mlp_bias": False,
                "layer_scale": False,
                "in_norm": {"scale": False, "bias": False},
            },
        },
        "decoder": {"channel_tokens": False, "fc1": {"bias": False}},
    }


def test_lion_by_hand():
    """Two steps of Chen et al.: sign of the blend with b1, momentum with b2 = 0.95, decay."""
    config = OptimizerConfig(lr=0.1, warmup=0.0, weight_decay=0.5, final_lr=1.0)
    transform = optimizer(config, steps=1000)
    x = momentum = np.array([[1.0, -2.0]])
    momentum = 0 * momentum
    params = {"kernel": jnp.asarray(x, jnp.float32)}
    state = transform.init(params)
    for step, gradient in enumerate((np.array([[0.3, -0.1]]), np.array([[-0.02, -5.0]]))):
        updates, state = transform.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = {"kernel": params["kernel"] + updates["kernel"]}
        lr = float(schedule(config, 1000).rate(step))
        x = x - lr * (np.sign(0.9 * momentum + 0.1 * gradient) + 0.5 * x)
        momentum = 0.95 * momentum + 0.05 * gradient
        np.testing.assert_allclose(params["kernel"], x, rtol=1e-6)


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0.1), (1000, 0.1), (37, 0.3), (50, 0.0)])
def test_one_cycle_torch_is_pytorchs(steps, warmup):
    """Rate and beta1 of every step, against torch.optim.lr_scheduler.OneCycleLR."""
    config = OptimizerConfig(schedule="one_cycle_torch", lr=0.3, warmup=warmup)
    reference = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.1)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        reference, max_lr=0.3, total_steps=steps, pct_start=warmup
    )
    wanted = []
    for step in range(steps):
        group = reference.param_groups[0]
        wanted.append((group["lr"], group["betas"][0]))
        reference.step()
        if step < steps - 1:
            cycle.step()
    rates, moments = schedule(config, steps)
    got = np.array([(float(rates(step)), float(moments(step))) for step in range(steps)])
    np.testing.assert_allclose(got, np.array(wanted), rtol=1e-4, atol=1e-6)


def test_the_two_schedules_part_as_the_docstring_says():
    paper, torchs = (
        np.array([float(schedule(OptimizerConfig(lr=1.0, schedule=name), 1000).rate(step))
                  for step in range(1000)])
        for name in ("one_cycle", "one_cycle_torch")
    )  # fmt: skip
    apart = torchs - paper
    assert apart[0] == pytest.approx(0.04)
    assert apart[:100].min() == pytest.approx(-0.07, abs=0.005)
    assert apart[:100].max() == pytest.approx(0.12, abs=0.005)
    assert np.abs(apart[100:]).max() < 0.002


def test_lion_with_a_cycled_beta1_by_hand():
    config = OptimizerConfig(schedule="one_cycle_torch", lr=0.1, weight_decay=0.5)
    transform = optimizer(config, steps=20)
    x, momentum = np.array([[1.0, -2.0]]), np.zeros((1, 2))
    params = {"kernel": jnp.asarray(x, jnp.float32)}
    state = transform.init(params)
    rates, moments = schedule(config, 20)
    for step in range(20):
        gradient = np.array([[0.3 * (-1) ** step, 0.1 * (step - 7.5)]])
        updates, state = transform.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = {"kernel": params["kernel"] + updates["kernel"]}
        b1, lr = float(moments(step)), float(rates(step))
        x = x - lr * (np.sign(b1 * momentum + (1 - b1) * gradient) + 0.5 * x)
        momentum = 0.95 * momentum + 0.05 * gradient
        np.testing.assert_allclose(params["kernel"], x, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_others_descend(name):
    transform = optimizer(OptimizerConfig(name=name, lr=0.1, warmup=0.0), steps=100)
    params = {"kernel": jnp.ones((2, 2))}
    state = transform.init(params)
    for _ in range(20):
        updates, state = transform.update({"kernel": 2 * params["kernel"]}, state, params)
        params = {"kernel": params["kernel"] + updates["kernel"]}
    assert float(jnp.abs(params["kernel"]).max()) < 0.5
