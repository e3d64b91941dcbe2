"""What a program moves: loops as often as they run, slices and not the arrays they come from."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mae_jax.planning.hlo_traffic import Collective, read_traffic

# A loop of 24 rounds over stacked weights: each round reads one of them from main memory, sums
# over groups of four, and leaves its result on the chip, in S(1).
LOOPED = """
HloModule step

%slice (param_0.1: f32[24,128,128], param_1.1: s32[]) -> f32[1,128,128] {
  %param_0.1 = f32[24,128,128]{2,1,0} parameter(0)
  %param_1.1 = s32[] parameter(1)
  %zero.1 = s32[] constant(0)
  ROOT %cut.1 = f32[1,128,128]{2,1,0} dynamic-slice(%param_0.1, %param_1.1, %zero.1, %zero.1)
}

%add.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body.1 (state: (s32[], f32[24,128,128], f32[1,128,128])) -> (s32[], f32[24,128,128], f32[1,128,128]) {
  %state = (s32[], f32[24,128,128]{2,1,0}, f32[1,128,128]{2,1,0:S(1)}) parameter(0)
  %i = s32[]{:S(2)} get-tuple-element(%state), index=0
  %all = f32[24,128,128]{2,1,0} get-tuple-element(%state), index=1
  %one = f32[1,128,128]{2,1,0:S(1)} fusion(%all, %i), kind=kLoop, calls=%slice
  %summed = f32[1,128,128]{2,1,0:S(1)} all-reduce(%one), channel_id=7, replica_groups=[2,4]<=[8], to_apply=%add.1
  ROOT %next = (s32[], f32[24,128,128]{2,1,0}, f32[1,128,128]{2,1,0:S(1)}) tuple(%i, %all, %summed)
}

%until.1 (state: (s32[], f32[24,128,128], f32[1,128,128])) -> pred[] {
  %state = (s32[], f32[24,128,128]{2,1,0}, f32[1,128,128]{2,1,0}) parameter(0)
  %count = s32[]{:S(2)} constant(24)
  %i = s32[]{:S(2)} get-tuple-element(%state), index=0
  ROOT %less = pred[]{:S(2)} compare(%i, %count), direction=LT
}

ENTRY %main (x: f32[24,128,128]) -> f32[1,128,128] {
  %x = f32[24,128,128]{2,1,0} parameter(0)
  %first = (s32[], f32[24,128,128]{2,1,0}, f32[1,128,128]{2,1,0:S(1)}) tuple(%x, %x, %x)
  %loop = (s32[], f32[24,128,128]{2,1,0}, f32[1,128,128]{2,1,0:S(1)}) while(%first), condition=%until.1, body=%body.1
  ROOT %out = f32[1,128,128]{2,1,0:S(1)} get-tuple-element(%loop), index=2
}
"""  # noqa: E501
ONE = 128 * 128 * 4


def test_a_loop_over_layers():
    traffic = read_traffic(LOOPED, 8)
    assert traffic.collectives == (Collective("all-reduce", ONE, 4, 24),)
    assert traffic.memory == 24 * ONE
    assert traffic.sent() == {"all-reduce": 24 * 2 * 0.75 * ONE}


def test_allocations_move_nothing():
    """Each layer writes into a buffer for all layers, which XLA allocates by a custom call."""
    text = """
ENTRY %main (x: f32[1,128,128]) -> f32[24,128,128] {
  %x = f32[1,128,128]{2,1,0} parameter(0)
  %zero = s32[] constant(0)
  %buffer = f32[24,128,128]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %y = f32[24,128,128]{2,1,0} dynamic-update-slice(%buffer, %x, %zero, %zero, %zero)
}
"""
    # One layer is read and one written; the rest are the bytes of the index.
    assert read_traffic(text, 1).memory == pytest.approx(2 * ONE, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "groups", "sent"),
    [
        ("all-gather", "replica_groups={{0,1},{2,3}}", 8192 / 2),
        ("all-to-all", "replica_groups=mesh['a'=2,'b'=8] {'b'}", 8192 * 7 / 8),
        ("all-reduce", "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a','b'}",
         8192 * 2 * 3 / 4),
    ],
)  # fmt: skip
def test_groups_as_they_are_written(kind, groups, sent):
    text = (
        "ENTRY %main (x: bf16[32,128]) -> bf16[32,128] {\n"
        "  %x = bf16[32,128]{1,0} parameter(0)\n"
        f"  ROOT %y = bf16[32,128]{{1,0}} {kind}(%x), channel_id=1, {groups}\n}}\n"
    )
    assert read_traffic(text, 16).sent() == {kind: pytest.approx(sent)}


def test_a_compiled_loop_moves_what_its_layers_do_one_by_one():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    weights = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=rows_of(mesh))
    images = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=rows)

    def layer(x, w):
        return jax.lax.with_sharding_constraint(jnp.tanh(x @ w), rows)

    def looped(x, weights):
        return jax.lax.scan(lambda x, w: (layer(x, w), None), x, weights)[0]

    def unrolled(x, weights):
        for i in range(5):
            x = layer(x, weights[i])
        return x

    texts = [jax.jit(f, out_shardings=whole).lower(images, weights).compile().as_text()
             for f in (looped, unrolled)]  # fmt: skip
    loop, flat = (read_traffic(text, 8).sent() for text in texts)
    assert loop["all-gather"] == pytest.approx(flat["all-gather"])
    assert loop["all-gather"] >= 5 * 64 * 64 * 4 * 7 / 8  # every layer's weights come together


def rows_of(mesh):
    return NamedSharding(mesh, PartitionSpec(None, "data"))
