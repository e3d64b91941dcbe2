"""The encoder on all local devices, each with a batch of its own and no word between them."""

from collections.abc import Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

from mae_jax.kernels.cpu_pool import Streams
from mae_jax.networks.encoder import Encoder

# On the devices, or beside a processor.
Rows = (
    Shaped[jax.Array, "batch channels height width"]
    | Shaped[np.ndarray, "batch channels height width"]
)

_CUT, _WHOLE = PartitionSpec("device"), PartitionSpec()
# A second job in the same process, such as another screen, need not compile again.
_programs: WeakKeyDictionary[Encoder, dict[Any, Any]] = WeakKeyDictionary()


def _function(encoder: Encoder, pooling: str, block: int | None, tokens: bool) -> Any:
    refer = ref(encoder)  # the program must not keep its own key in `_programs` alive

    def forward(params: Any, pixels: Any) -> Any:
        the = cast(Any, refer())
        vectors = the.forward(params, pixels, pooling=pooling, block=block)
        return vectors, the.tokens(params, pixels, block=block) if tokens else None

    return forward


def _compiled(encoder: Encoder, pooling: str, block: int | None, tokens: bool, mesh: Mesh) -> Any:
    known = _programs.setdefault(encoder, {})
    kind = (pooling, block, tokens, mesh)
    if kind not in known:
        forward = _function(encoder, pooling, block, tokens)
        if _is_processor(mesh):
            known[kind] = Streams(forward)
        else:
            known[kind] = jax.jit(
                jax.shard_map(
                    forward,
                    mesh=mesh,
                    in_specs=(_WHOLE, _CUT),
                    out_specs=_CUT,
                    check_vma=False,
                )
            )
    return known[kind]


def _is_processor(mesh: Mesh) -> bool:
    return mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"


class Runner:
    """Crops in, embeddings out: one compiled program a number of channels and pixel type.

    The batch is cut along its first axis, each device runs the same program on its part, and
    there are no collectives. A part has `batch` crops whatever the number of devices, so the
    number of devices does not change what a device computes. A processor cuts its part once more
    (`mae_jax.kernels.cpu_pool`).
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
        self._streams, self._piece = _is_processor(mesh), encoder.piece

    def put(self, pixels: Shaped[np.ndarray, "batch channels height width"]) -> Rows:
        """Sends a batch of `size` crops on its way to the devices."""
        return pixels if self._streams else jax.device_put(pixels, self._placed)

    def __call__(self, pixels: Rows, used: int | None = None) -> tuple[Any, Any]:
        """Starts the devices on a batch that `put` has sent; returns before they are done.

        Args:
          pixels: the batch.
          used: how many crops of it count, the first ones; None for all. What is returned for
            the others means nothing.

        Returns: vectors, and tokens or None; numpy waits for them, `is_ready` says whether it
          would.
        """
        if self._streams:
            return self._forward(self._params, pixels, self._piece(*pixels.shape[1:]), used)
        return self._forward(self._params, pixels)
