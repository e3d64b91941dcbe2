"""Data-parallel encoding of crops on all local devices."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

from mae_jax.networks.encoder import Encoder

# On the devices; for the CPU, as it was.
DeviceBatch = (
    Shaped[jax.Array, "batch channels height width"]
    | Shaped[np.ndarray, "batch channels height width"]
)

_CUT, _WHOLE = PartitionSpec("device"), PartitionSpec()


def _compiled(encoder: Encoder, pooling: str, block: int | None, tokens: bool, mesh: Mesh) -> Any:
    if _is_processor(mesh):
        return encoder.microbatch_pool(pooling, block, tokens)

    def build() -> Any:
        forward = encoder.pure_forward(pooling, block, tokens)
        return jax.jit(
            jax.shard_map(
                forward, mesh=mesh, in_specs=(_WHOLE, _CUT), out_specs=_CUT, check_vma=False
            )
        )

    return encoder.compiled.get(("devices", pooling, block, tokens, mesh), build)


def _is_processor(mesh: Mesh) -> bool:
    return mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"


class BatchEncoder:
    """Encode batches of crops; compiled once per number of channels and pixel type.

    The batch is sharded along its first axis, each device runs the same program on its shard, and
    there are no collectives. A device gets `batch_size` crops whatever the number of devices, so
    the number of devices does not change what a device computes. A CPU splits its shard further
    (`mae_jax.kernels.cpu_pool`).
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        pooling: str,
        block: int | None,
        batch_size: int,
        devices: Sequence[jax.Device] | None = None,
        tokens: bool = False,
    ) -> None:
        """Replicate the encoder's parameters on every device.

        Args:
          encoder: the encoder.
          pooling: "class", "mean" or "channel".
          block: the block whose output is pooled; None for the last.
          batch_size: per-device batch size.
          devices: by default all devices of this process.
          tokens: also return the tokens before pooling.
        """
        self.devices = list(jax.local_devices() if devices is None else devices)
        self.batch_size = batch_size
        self.global_batch_size = batch_size * len(self.devices)
        mesh = Mesh(np.array(self.devices), ("device",))
        self._sharding = NamedSharding(mesh, _CUT)
        self._params = jax.device_put(encoder.params, NamedSharding(mesh, _WHOLE))

        self._forward = _compiled(encoder, pooling, block, tokens, mesh)
        self._streams, self._piece = _is_processor(mesh), encoder.microbatch_size

    def put(self, pixels: Shaped[np.ndarray, "batch channels height width"]) -> DeviceBatch:
        """Start the transfer of a batch of `global_batch_size` crops to the devices."""
        return pixels if self._streams else jax.device_put(pixels, self._sharding)

    def __call__(self, pixels: DeviceBatch, num_crops: int | None = None) -> tuple[Any, Any]:
        """Encode a batch from `put` asynchronously: return before the devices have finished.

        Args:
          pixels: the batch.
          num_crops: number of crops to encode, the first ones; None for all. The outputs of
            the others are undefined.

        Returns: embeddings, and tokens or None; numpy waits for them, and `is_ready` tells whether
          it would have to.
        """
        if self._streams:
            return self._forward(self._params, pixels, self._piece(*pixels.shape[1:]), num_crops)
        return self._forward(self._params, pixels)
