"""The cost of a step: compiled for this machine and for absent TPUs, and by formula."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import jax
import pytest

from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.planning import StepCost, compile_cost, estimate, formula_cost, parse_slice
from mae_jax.planning.format import format_estimate
from mae_jax.planning.formula import residual_bytes
from mae_jax.planning.hlo_traffic import Collective, Traffic
from mae_jax.train.config import DataConfig, MeshConfig, OptimizerConfig, TrainConfig

JOINT = MAEConfig(
    ParallelViTConfig(patch=8, width=64, depth=2, heads=2, crop=32, channels=("DNA", "ER", "Mito"),
                  channel_agnostic=False),
    DecoderConfig(width=64, depth=1, heads=2),
)  # fmt: skip
CONFIG = TrainConfig(model=JOINT, data=DataConfig(batch=16), steps=10)


def test_cost_of_a_small_run():
    cost = compile_cost(CONFIG, jax.devices()[:1])
    state = 2 * cost.parameters * 4  # parameters and Lion's momentum
    assert state < cost.state_bytes < 1.1 * state + 16 * 3 * 32 * 32 * 2
    assert cost.traffic.collectives == ()
    assert cost.crops == 160
    assert cost.model_flops <= cost.executed_flops < 1.1 * cost.model_flops


def test_formula_and_compiler_agree_on_the_state():
    config = replace(CONFIG, mesh=MeshConfig(data=2, fsdp=4))
    compiled = compile_cost(config, jax.devices()[:8])
    formula = formula_cost(config, parse_slice("h100-8"))
    assert formula.state_bytes == pytest.approx(compiled.state_bytes, rel=0.01)
    assert formula.parameters == compiled.parameters
    assert {c.name for c in formula.traffic.collectives} == {
        "all-gather", "reduce-scatter", "all-reduce"}  # fmt: skip
    assert compiled.traffic.collectives


def test_a_data_parallel_step_sums_all_gradients():
    """Rules that shard over fsdp or tensor change nothing where these axes have length 1."""
    cost = formula_cost(CONFIG, parse_slice("h100-8"))
    (collective,) = cost.traffic.collectives
    assert (collective.name, collective.group) == ("all-reduce", 8)
    assert collective.size == 4 * cost.parameters


def test_residuals_of_the_backward_pass():
    two, four, eight = (residual_bytes(CONFIG, crops) for crops in (2, 4, 8))
    assert eight - four == pytest.approx(2 * (four - two))  # besides some copies of weights
    # At least the input and the output of every hidden layer of both encoder blocks.
    assert two > 2 * 2 * 2 * 5 * 4 * 64 * 4
    spare = replace(JOINT, encoder=replace(JOINT.encoder, remat="full"))
    assert residual_bytes(replace(CONFIG, model=spare), 2) < 0.6 * two


def test_rematerialization_counts_as_executed_only():
    spare = replace(CONFIG, model=replace(JOINT, encoder=replace(JOINT.encoder, remat="full")))
    plain, again = (formula_cost(c, parse_slice("h100-8")) for c in (CONFIG, spare))
    assert again.model_flops == plain.model_flops
    # Without recomputation a step is three forward passes, with it nearly four.
    assert 1.2 < again.executed_flops / plain.executed_flops < 1.35


def test_a_classifier_has_a_plan_too():
    model = DenseNetConfig(
        growth=4, stem=8, layers=(1, 1), embedding_dims=(8, 8), classes=3, norm="ghost"
    )
    config = replace(CONFIG, network="densenet", model=model, data=DataConfig(batch=256))
    cost = formula_cost(config, parse_slice("h100-2"))
    assert cost.executed_flops == pytest.approx(cost.model_flops, rel=0.2)


@pytest.mark.slow
def test_a_plan_uses_the_crop_of_the_data():
    """Networks without a crop of their own: at a quarter of the side, a sixteenth of the FLOPs."""
    model = DenseNetConfig(
        growth=4, stem=8, layers=(1, 1), embedding_dims=(8, 8), classes=3, norm="ghost"
    )
    data = DataConfig(batch=256, crop=256)
    large = replace(CONFIG, network="densenet", model=model, data=data)
    small = replace(large, data=replace(data, crop=64))
    for cost in (
        lambda config: formula_cost(config, parse_slice("h100-2")),
        lambda config: compile_cost(config, jax.devices()[:1]),
    ):
        costs = [cost(config) for config in (small, large)]
        ratio = costs[1].model_flops / costs[0].model_flops
        assert ratio == pytest.approx(16, rel=0.02)
        assert costs[1].executed_flops / costs[0].executed_flops == pytest.approx(16, rel=0.02)
        assert costs[1].working_bytes > 8 * costs[0].working_bytes


def test_the_roofline_by_hand():
    slice_ = parse_slice("h100-16")
    traffic = Traffic(3350e9, (Collective("all-reduce", 450_000_000_000, 16, 1),))
    cost = StepCost(1, 16, 1, 1, 8 * 989e12, 16 * 989e12, traffic, 4, 400)
    result = estimate(cost, slice_)
    assert (result.compute, result.memory) == pytest.approx((1.0, 1.0))
    # 2 · 15/16 of the array by NVLink, and an eighth of it by the network.
    assert result.network == pytest.approx(1.875 + 1.875 * 450 / 8 / 50)
    assert result.bound == "network"
    assert result.slowest == pytest.approx(result.network + 2)
    assert result.mfu(1.0) == pytest.approx(0.5)
    assert result.step_seconds(0.25) == pytest.approx(2.0)
    assert result.days(86400.0) == 100
    assert result.device_hours(3600.0) == pytest.approx(1600)
    assert result.fits
    assert "fits         yes" in format_estimate(result, mfu=0.25)
    assert not estimate(replace(cost, working_bytes=80 * 10**9), slice_).fits


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_command_compiles_for_an_absent_slice():
    command = [sys.executable, "-W", "ignore", "-m", "mae_jax.cli.main", "plan", "--config",
               "configs/demo.py", "--on", "v5e-4", "--config.mesh.fsdp=2",
               "--config.data.batch=8", "--top", "3", "--json"]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=500)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "fits         yes" in ran.stderr
    assert len(ran.stderr.split("GB/crop")[1].strip().splitlines()) == 4  # the header and 3 rows
    plan = json.loads(ran.stdout)
    assert plan["devices"] == 4
    assert plan["collective_bytes"]["all-reduce"] > 0
    assert plan["fastest_step_seconds"] > 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_step_that_is_too_large_does_not_fit():
    command = [sys.executable, "-W", "ignore", "-m", "mae_jax.cli.main", "plan", "--config",
               "configs/demo.py", "--on", "v5e-1", "--config.data.batch=65536",
               "--config.model.encoder.width=1536"]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=900)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "fits         no" in ran.stdout
    assert "grad_accum_steps" in ran.stdout


def test_accumulation_reduces_the_residuals():
    config = replace(CONFIG, optimizer=OptimizerConfig(grad_accum_steps=4))
    whole, parts = (formula_cost(c, parse_slice("h100-1")) for c in (CONFIG, config))
    assert parts.working_bytes < whole.working_bytes
