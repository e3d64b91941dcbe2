"""The mesh of a run, as its config names it."""

from typing import Literal

from mae_jax.config import nearest, regular_expressions, schema, setting

# Mesh axes, in order.
AXES = ("data", "fsdp", "tensor")
# (regular expression on a parameter's path, mesh axes of its last dimensions; "" for unsharded).
ShardingRule = tuple[str, tuple[str, ...]]


def _sharding_rules(rules: tuple[ShardingRule, ...]) -> str | None:
    for _, names in rules:
        for name in names:
            if name and name not in AXES:
                return f"must name mesh axes, but there is no '{name}': {nearest(name, AXES)}"
    return regular_expressions([pattern for pattern, _ in rules])


@schema
class MeshConfig:
    """The device mesh and the sharding of parameters.

    Attributes:
      data: data-parallel replicas; -1 uses all devices that the other axes leave.
      fsdp: shards of every parameter; the batch is sharded over this axis too.
      tensor: shards of every matrix product.
      layout: "auto" uses the network's own sharding rules; "largest" shards each parameter over
        fsdp along its largest dimension.
      rules: (regular expression on a parameter's path, mesh axes of its last dimensions), tried
        before those of the layout. The first match counts; "" leaves a dimension unsharded.
    """

    data: int = setting(-1, ge=1, allow=(-1,))
    fsdp: int = setting(1, ge=1)
    tensor: int = setting(1, ge=1)
    layout: Literal["auto", "largest"] = "auto"
    rules: tuple[ShardingRule, ...] = setting((), check=_sharding_rules)
