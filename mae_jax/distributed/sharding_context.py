"""What a program is traced for: a mesh, and the axes that divide its batch.

Networks are pure functions that know no mesh. Two things need one all the same: kernels that the
compiler cannot divide, and activations, which the compiler must be told to leave divided by
samples where parameters are divided too (FSDP); else it may divide the work by the parameters'
parts and sum activations, which are far larger, over all devices.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

_Context = tuple[Mesh | AbstractMesh, tuple[str, ...]]
_context: contextvars.ContextVar[_Context | None] = contextvars.ContextVar(
    "placement", default=None
)


@contextlib.contextmanager
def activation_sharding(mesh: Mesh | AbstractMesh, *axes: str) -> Iterator[None]:
    """While a program is traced in here, its batch is divided over `axes` of the mesh.

    A sharded training or embedding step is traced inside this context. It also tells attention
    "auto" what the program is for, where that is not the machine it is made on.
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
    """What is traced for: the platform of the mesh of `activation_sharding`, or JAX's own."""
    context = _context.get()
    if context is None or not isinstance(context[0], Mesh):
        return jax.default_backend()
    return str(context[0].devices.flat[0].platform)


def shard_batch(x: Shaped[Array, " batch *rest"]) -> Shaped[Array, " batch *rest"]:
    """`x`, divided by samples alone inside `activation_sharding`; elsewhere as it is."""
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
