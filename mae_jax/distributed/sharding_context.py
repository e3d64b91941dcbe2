"""Sharding context during tracing: the mesh, and the axes over which the batch is sharded.

Networks are pure functions without a mesh. Two things need one all the same: kernels that the
compiler cannot shard, and activations, which must be constrained to batch sharding where
parameters are sharded too (FSDP); else the compiler may shard the computation like the parameters
and all-reduce activations, which are far larger.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

_Context = tuple[Mesh | AbstractMesh, tuple[str, ...]]
_context: contextvars.ContextVar[_Context | None] = contextvars.ContextVar(
    "activation_sharding", default=None
)


@contextlib.contextmanager
def activation_sharding(mesh: Mesh | AbstractMesh, *axes: str) -> Iterator[None]:
    """Shard the batch over `axes` while tracing.

    A sharded training or embedding step is traced inside this context. Its mesh is also the target
    platform of attention "auto", which need not be that of this machine.
    """
    token = _context.set((mesh, axes))
    try:
        yield
    finally:
        _context.reset(token)


def current() -> _Context | None:
    """The mesh and the axes of `activation_sharding`; None outside."""
    return _context.get()


def platform() -> str:
    """The target platform: that of the mesh of `activation_sharding`, or JAX's own."""
    context = _context.get()
    if context is None or not isinstance(context[0], Mesh):
        return jax.default_backend()
    return str(context[0].devices.flat[0].platform)


def shard_batch(x: Shaped[Array, " batch *rest"]) -> Shaped[Array, " batch *rest"]:
    """Constrain `x` to batch sharding inside `activation_sharding`; elsewhere return it."""
    context = _context.get()
    if context is None or not context[1] or not isinstance(context[0], Mesh):
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(context[0], PartitionSpec(context[1])))


def map_batch_shards(
    kernel: Callable[..., jax.Array], *args: Shaped[Array, "batch ..."]
) -> Shaped[Array, "batch ..."]:
    """`kernel(*args)` on each device's samples: for kernels that the compiler cannot shard.

    Outside `activation_sharding` the kernel is called as it is.

    Raises:
      ValueError: the batch is no multiple of the size of its axes.
    """
    context = _context.get()
    if context is None:
        return kernel(*args)
    mesh, axes = context
    spec = PartitionSpec(axes)
    # Kernels do not tell how their outputs vary over the mesh, so that check is off.
    mapped = jax.shard_map(
        kernel, mesh=mesh, in_specs=(spec,) * len(args), out_specs=spec, check_vma=False
    )
    return mapped(*args)
