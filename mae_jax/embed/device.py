"""The encoder on all local devices, each with a batch of its own and no word between them."""

from collections.abc import Callable, Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

from mae_jax.encoders.base import Encoder

_CUT, _WHOLE = PartitionSpec("device"), PartitionSpec()
# Pixels of all channels that a processor takes at a time: one crop of 256² and five channels.
_PIECE = 5 * 256**2
# A second job in the same process, such as another screen, need not compile again.
_programs: WeakKeyDictionary[Encoder, dict[Any, Any]] = WeakKeyDictionary()


def _compiled(encoder: Encoder, pooling: str, block: int | None, tokens: bool, mesh: Mesh) -> Any:
    known = _programs.setdefault(encoder, {})
    kind = (pooling, block, tokens, mesh)
    if kind not in known:
        refer = ref(encoder)  # the program must not keep its own key alive

        def forward(params: Any, pixels: Any) -> Any:
            the = cast(Any, refer())
            vectors = the.forward(params, pixels, pooling=pooling, block=block)
            return vectors, the.tokens(params, pixels, block=block) if tokens else None

        def on_device(params: Any, pixels: Any, used: Any) -> Any:
            if mesh.devices.flat[0].platform != "cpu":
                return forward(params, pixels)
            return _piece_by_piece(forward, params, pixels, used[0])

        known[kind] = jax.jit(
            jax.shard_map(
                on_device,
                mesh=mesh,
                in_specs=(_WHOLE, _CUT, _CUT),
                out_specs=_CUT,
                check_vma=False,
            )
        )
    return known[kind]


def _piece_by_piece(
    forward: Callable[[Any, Any], Any], params: Any, pixels: jax.Array, used: jax.Array
) -> Any:
    """`forward` of the first `used` crops, few at a time, and zeros for the others.

    A processor has no use for a large batch: the activations of few crops stay in its cache, and
    nothing is computed for the empty end of a batch.
    """
    batch = len(pixels)
    piece = max(1, min(batch, _PIECE // max(1, pixels[0].size)))
    shapes = jax.eval_shape(forward, params, pixels)
    empty = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)

    def step(state: Any) -> Any:
        row, found = state
        part = forward(params, jax.lax.dynamic_slice_in_dim(pixels, row, piece))
        put = jax.lax.dynamic_update_slice_in_dim
        return row + piece, jax.tree.map(lambda all_, new: put(all_, new, row, 0), found, part)

    # Both clamp the row alike, so that a last piece that would reach over the end overlaps.
    return jax.lax.while_loop(lambda state: state[0] < used, step, (0, empty))[1]


class Runner:
    """Crops in, embeddings out: one compiled program a number of channels and pixel type.

    The batch is cut along its first axis, each device runs the same program on its piece, and
    there are no collectives. A piece has `batch` crops whatever the number of devices, so the
    number of devices does not change what a device computes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        pooling: str,
        block: int | None,
        batch: int,
        devices: Sequence[jax.Device] | None = None,
        tokens: bool = False,
    ) -> None:
        """Places the encoder's parameters on every device.

        Args:
          encoder: the encoder.
          pooling: "class", "mean" or "channel".
          block: the block whose output is pooled; None for the last.
          batch: crops a device and call.
          devices: by default all devices of this process.
          tokens: also return the tokens before pooling.
        """
        self.devices = list(jax.local_devices() if devices is None else devices)
        self.batch = batch
        self.size = batch * len(self.devices)
        mesh = Mesh(np.array(self.devices), ("device",))
        self._placed = NamedSharding(mesh, _CUT)
        self._params = jax.device_put(encoder.params, NamedSharding(mesh, _WHOLE))

        self._forward = _compiled(encoder, pooling, block, tokens, mesh)

    def put(self, pixels: Shaped[np.ndarray, "batch channels height width"]) -> jax.Array:
        """Sends a batch of `size` crops on its way to the devices."""
        return jax.device_put(pixels, self._placed)

    def __call__(
        self, pixels: Shaped[jax.Array, "batch channels height width"], used: int | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Starts the devices on a batch that `put` has sent; returns before they are done.

        Args:
          pixels: the batch.
          used: how many crops of it count, the first ones; None for all. What is returned for
            the others means nothing.
        """
        left = self.size if used is None else used
        starts = self.batch * np.arange(len(self.devices))
        counts = np.clip(left - starts, 0, self.batch).astype(np.int32)
        return self._forward(self._params, pixels, jax.device_put(counts, self._placed))
