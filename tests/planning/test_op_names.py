"""Layers and passes of compiled operations, from name stacks as JAX writes them."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from mae_jax.errors import InputError
from mae_jax.planning import estimate, parse_slice
from mae_jax.planning.format import format_estimate, format_operations
from mae_jax.planning.hlo_traffic import OperationTraffic, Traffic, read_traffic
from mae_jax.planning.op_names import layer_of, pass_of, primitive_of
from mae_jax.planning.step_cost import StepCost


@pytest.mark.parametrize(
    ("op_name", "layer", "step_pass", "primitive"),
    [
        ("jit(traced)/jvp(MAE)/MAE._forward_joint/encoder.encode/while/body/closed_call/"
         "encoder._apply/block_3/in_norm/reduce_sum",
         "MAE/encoder/block_*/in_norm", "forward", "reduce_sum"),
        ("jit(traced)/transpose(jvp(MAE))/MAE._forward_joint/decoder/while/body/"
         "jit(dynamic_index_in_dim)/dynamic_slice", "MAE/decoder", "backward", "dynamic_slice"),
        ("jit(traced)/transpose(jvp(MAE))/encoder/checkpoint/rematted_computation/block/mul",
         "MAE/encoder/block", "recompute", "mul"),
        ("jit(traced)/transpose(jvp(jit(fft)))/jit(_rfft_transpose)/jit(fft)",
         "", "backward", "fft"),
        ("jit(traced)/sign", "", "other", "sign"),
        ("", "", "other", ""),
    ],
)  # fmt: skip
def test_parts_of_a_name_stack(op_name: str, layer: str, step_pass: str, primitive: str) -> None:
    assert layer_of(op_name) == layer
    assert pass_of(op_name) == step_pass
    assert primitive_of(op_name) == primitive


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(256, name="wide")(nn.Dense(8, name="narrow")(x)).sum()


def test_a_compiled_gradient_by_layer_and_pass() -> None:
    x = jnp.zeros((512, 8))
    params = jax.eval_shape(Two().init, jax.random.key(0), x)
    step = jax.jit(jax.grad(lambda p, x: Two().apply(p, x)))
    traffic = read_traffic(step.lower(params, x).compile().as_text(), 1)
    assert sum(operation.bytes for operation in traffic.operations) == traffic.memory
    sizes = [operation.bytes for operation in traffic.operations]
    assert sizes == sorted(sizes, reverse=True)
    sources = {(o.layer, o.step_pass) for o in traffic.operations}
    assert ("Two/wide", "backward") in sources
    assert ("Two/narrow", "forward") in sources


def test_the_largest_operations_are_listed() -> None:
    operations = (
        OperationTraffic("MAE/encoder", "forward", "dot_general", 3e9),
        OperationTraffic("", "other", "copy", 1e9),
    )
    slice_ = parse_slice("v5e-4")
    cost = StepCost(1, 4, 1, 1, 1e12, 1e12, Traffic(4e9, (), operations), 16, 160)
    lines = format_operations(estimate(cost, slice_), 1).splitlines()
    assert len(lines) == 2
    assert lines[1].split() == ["0.7500", "75.0", "%", "forward", "dot_general", "MAE/encoder"]
    assert "4.00 GB of memory traffic" in format_estimate(estimate(cost, slice_))
    formula = StepCost(1, 8, 1, 1, 1e12, 1e12, Traffic(4e9, ()), 16, 160, "formula")
    with pytest.raises(InputError, match="h100-8 is planned by formula"):
        format_operations(estimate(formula, parse_slice("h100-8")), 5)
