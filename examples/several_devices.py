"""Inference on several devices: the same forward pass under `shard_map` and under `pmap`.

    python examples/several_devices.py --encoder runs/demo/train
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python examples/several_devices.py …

The second line makes eight devices of one CPU, to try it anywhere. An encoder's `forward` is a pure
function of parameters and pixels, so JAX's transformations apply as to any other. `mae-jax embed`
needs none of this: it uses all devices by itself.
"""

import argparse
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import mae_jax


def with_shard_map(encoder: mae_jax.Encoder, pixels: np.ndarray) -> np.ndarray:
    """Parameters whole on each device, crops sharded over them."""
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    forward = jax.shard_map(
        encoder.forward,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec("data"),
    )
    return np.asarray(jax.jit(forward)(encoder.params, pixels))


def with_pmap(encoder: mae_jax.Encoder, pixels: np.ndarray) -> np.ndarray:
    """The older way: a leading axis of devices."""
    devices = jax.device_count()
    shards = pixels.reshape(devices, -1, *pixels.shape[1:])
    vectors = jax.pmap(partial(encoder.forward), in_axes=(None, 0))(encoder.params, shards)
    return np.asarray(vectors).reshape(len(pixels), -1)


def main(argv: list[str] | None = None) -> float:
    """Embed with both; returns the largest difference from one device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True)
    args = parser.parse_args(argv)
    encoder = mae_jax.load_encoder(args.encoder)
    channels, crop = encoder.preprocessing.channels, encoder.preprocessing.crop
    shape = (2 * jax.device_count(), len(channels), crop, crop)
    pixels = np.random.default_rng(0).integers(0, 2**16, shape, np.uint16)
    expected = np.asarray(jax.jit(encoder.forward)(encoder.params, pixels))
    results = (with_shard_map(encoder, pixels), with_pmap(encoder, pixels))
    difference = max(float(np.abs(result - expected).max()) for result in results)
    print(f"{jax.device_count()} devices, {len(pixels)} crops: equal to {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
