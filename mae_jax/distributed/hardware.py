"""Accelerators and the clusters they come in, by the names that clouds give them.

Memory and bandwidths are the vendors' own: Google's pages on each TPU's system architecture,
NVIDIA's data sheets of the A100 80 GB, H100 and H200 (SXM).
"""

import math
import re
from dataclasses import dataclass

from mae_jax.config import nearest
from mae_jax.distributed.peaks import PEAKS
from mae_jax.errors import InputError

GIB = 2.0**30


@dataclass(frozen=True)
class Chip:
    """One accelerator, which JAX sees as one device.

    Attributes:
      peak: bfloat16 FLOP/s of dense matrix products.
      memory: bytes of its HBM.
      memory_bandwidth: bytes/s of its HBM.
      link_bandwidth: bytes/s that it can send, over all its fast links together (ICI, NVLink).
      network_bandwidth: bytes/s that it can send to chips beyond its fast links; 0 where a slice
        has none.
      host: chips of one host.
      cores: what a slice's name counts for each chip (v4 and v5p count two TensorCores).
    """

    name: str
    peak: float
    memory: float
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float = 0.0
    host: int = 4
    cores: int = 1

    @property
    def is_tpu(self) -> bool:
        return self.name.startswith("v")


# Google gives a chip's links in both directions together; a chip sends at half of that.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", PEAKS["v4"], 32 * GIB, 1228e9, 300e9, cores=2),
        Chip("v5e", PEAKS["v5e"], 16 * GIB, 819e9, 200e9, host=8),
        Chip("v5p", PEAKS["v5p"], 95 * GIB, 2765e9, 600e9, cores=2),
        Chip("v6e", PEAKS["v6e"], 32 * GIB, 1640e9, 400e9, host=8),
        # One 200 or 400 Gbit/s network card for each GPU, as in DGX and HGX clusters.
        Chip("a100", PEAKS["a100"], 80e9, 2039e9, 300e9, network_bandwidth=25e9, host=8),
        Chip("h100", PEAKS["h100"], 80e9, 3350e9, 450e9, network_bandwidth=50e9, host=8),
        Chip("h200", PEAKS["h200"], 141e9, 4800e9, 450e9, network_bandwidth=50e9, host=8),
    )
}
# A share of HBM that programs cannot have: the runtime, the allocator's gaps.
RESERVED = 0.05


@dataclass(frozen=True)
class Slice:
    """So many chips, connected.

    Attributes:
      name: as given, for example "v5p-256".
      devices: chips, each one JAX device.
      shape: of the torus (TPUs); () for GPUs.
    """

    name: str
    chip: Chip
    devices: int
    shape: tuple[int, ...] = ()

    @property
    def topology(self) -> str:
        """The name by which libtpu knows it, for example "v5p:4x4x8"."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def usable(self) -> float:
        """Bytes of one device's memory that a program can have."""
        return (1 - RESERVED) * self.chip.memory


def slice_of(name: str) -> Slice:
    """The slice of a name: "v5e-256" or "v5litepod-256", "v5p-256" (128 chips), "h100-64".

    The numbers of v4 and v5p count TensorCores, two a chip, as in Google's accelerator types; all
    others count chips.

    Raises:
      InputError: an unknown chip, or a number that no slice has.
    """
    match = re.fullmatch(r"(v\d+[a-z]*|[ah]\d+)-(\d+)", name.lower().replace("litepod", "e"))
    if match is None:
        raise InputError(
            f"'{name}' is no name of a slice; write for example v5e-256, v5p-256 or h100-64."
        )
    kind, number = match[1], int(match[2])
    if kind not in CHIPS:
        raise InputError(f"no chip is called '{kind}': {nearest(kind, list(CHIPS))}")
    chip = CHIPS[kind]
    devices = number // chip.cores
    if devices < 1 or number % chip.cores:
        raise InputError(f"{name} has no whole chips: {kind} counts {chip.cores} cores a chip.")
    if not chip.is_tpu:
        return Slice(name, chip, devices)
    if devices & (devices - 1):
        raise InputError(f"{name} has {devices} chips; give a power of two, as slices come.")
    return Slice(name, chip, devices, _torus(devices, 3 if chip.cores == 2 else 2))


def _torus(chips: int, dimensions: int) -> tuple[int, ...]:
    """The most cubic torus of powers of two, smaller sides first, as the default slices are."""
    exponent = round(math.log2(chips))
    sides = [2 ** ((exponent + i) // dimensions) for i in range(dimensions)]
    # The smallest slices of three-dimensional chips are one host: 2 × 2 × 1.
    return (2, 2, 1) if chips == 4 and dimensions == 3 else tuple(sides)
