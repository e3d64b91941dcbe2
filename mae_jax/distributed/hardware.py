"""The hardware table: accelerators, their slices and clusters, and the names that clouds use.

Peaks and bandwidths are per JAX device. Sources: Google's pages on the architecture of each TPU
generation; NVIDIA's data sheets of the A100 80 GB, H100 and H200 (SXM), HGX B200 and GB200 NVL72,
L40S, L4, A10 and T4, and its white papers on Ampere, Ada and Blackwell for RTX cards, always
without sparsity. Imports no JAX.
"""

import math
import re
from dataclasses import dataclass

from mae_jax.config import nearest
from mae_jax.errors import InputError

GIB = 2.0**30
# Share of a device's memory that programs cannot use: the runtime, fragmentation.
RESERVED_MEMORY = 0.05


@dataclass(frozen=True)
class TPUNames:
    """A TPU generation in the words of Google Cloud.

    Attributes:
      gke_label: GKE's node label cloud.google.com/gke-tpu-accelerator.
      accelerator_type: prefix of gcloud's --accelerator-type, or "" where the Cloud TPU API does
        not support the generation.
      runtime: default image of its TPU VMs.
      torus_axes: dimensions of a slice's torus.
      units_per_chip: what a slice's name counts for each chip (TensorCores of v4 and v5p, JAX
        devices of TPU7x).
    """

    gke_label: str
    accelerator_type: str
    runtime: str
    torus_axes: int
    units_per_chip: int


@dataclass(frozen=True)
class Accelerator:
    """One accelerator; all figures but `chips_per_host` are per JAX device.

    Attributes:
      device_kinds: lower-case substrings of `jax.Device.device_kind` that identify it.
      peak_flops: bfloat16 FLOP/s of dense matrix products.
      memory: bytes of HBM.
      memory_bandwidth: bytes/s of HBM.
      link_bandwidth: bytes/s that it can send over all fast links together (ICI, NVLink).
      network_bandwidth: bytes/s that it can send beyond its fast links; 0 for TPUs.
      link_domain: devices that the fast links connect; 0 for TPUs, where they connect a slice.
      chips_per_host: chips of one host.
      devices_per_chip: JAX devices that one chip shows.
      tpu: names of a TPU generation; None for GPUs.
    """

    name: str
    device_kinds: tuple[str, ...]
    peak_flops: float
    memory: float
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float = 0.0
    link_domain: int = 0
    chips_per_host: int = 4
    devices_per_chip: int = 1
    tpu: TPUNames | None = None


# In the order in which device kinds are compared: "NVIDIA GB200" contains "b200", and "TPU v5 lite"
# contains "tpu v5". Google gives a chip's links in both directions together; a chip sends at half.
_TABLE = (
    # A TPU7x chip shows two devices: half of 2,307 TFLOP/s, 192 GiB, 7.4 TB/s and 1.2 TB/s of ICI.
    Accelerator(
        "tpu7x", ("tpu7x",), 1153.5e12, 96 * GIB, 3700e9, 300e9, devices_per_chip=2,
        tpu=TPUNames("tpu7x", "", "", torus_axes=3, units_per_chip=2),
    ),
    Accelerator(
        "v6e", ("tpu v6",), 918e12, 32 * GIB, 1640e9, 400e9, chips_per_host=8,
        tpu=TPUNames("tpu-v6e-slice", "v6e", "v2-alpha-tpuv6e", torus_axes=2, units_per_chip=1),
    ),
    Accelerator(
        "v5e", ("tpu v5 lite", "tpu v5e"), 197e12, 16 * GIB, 819e9, 200e9, chips_per_host=8,
        tpu=TPUNames("tpu-v5-lite-podslice", "v5litepod", "v2-alpha-tpuv5-lite", torus_axes=2,
                     units_per_chip=1),
    ),
    Accelerator(
        "v5p", ("tpu v5",), 459e12, 95 * GIB, 2765e9, 600e9,
        tpu=TPUNames("tpu-v5p-slice", "v5p", "v2-alpha-tpuv5", torus_axes=3, units_per_chip=2),
    ),
    Accelerator(
        "v4", ("tpu v4",), 275e12, 32 * GIB, 1228e9, 300e9,
        tpu=TPUNames("tpu-v4-podslice", "v4", "tpu-ubuntu2204-base", torus_axes=3,
                     units_per_chip=2),
    ),
    # One network card per GPU: 200 Gbit/s with the A100, 400 Gbit/s with the others.
    Accelerator("gb200", ("gb200",), 2500e12, 186e9, 8000e9, 900e9, 50e9, link_domain=72),
    Accelerator("b200", ("b200",), 2250e12, 180e9, 7700e9, 900e9, 50e9, link_domain=8,
                chips_per_host=8),
    Accelerator("h200", ("h200",), 989e12, 141e9, 4800e9, 450e9, 50e9, link_domain=8,
                chips_per_host=8),
    Accelerator("h100", ("h100",), 989e12, 80e9, 3350e9, 450e9, 50e9, link_domain=8,
                chips_per_host=8),
    Accelerator("a100", ("a100",), 312e12, 80e9, 2039e9, 300e9, 25e9, link_domain=8,
                chips_per_host=8),
    # Cards on PCIe: tensor cores with sums in float32. The T4 has no bfloat16 and computes in
    # float32 instead.
    Accelerator("l40s", ("l40s",), 362e12, 48e9, 864e9, 32e9, 12.5e9, link_domain=8,
                chips_per_host=8),
    Accelerator("l4", ("nvidia l4",), 121e12, 24e9, 300e9, 32e9, 12.5e9, link_domain=8,
                chips_per_host=8),
    Accelerator("a10", ("nvidia a10",), 125e12, 24e9, 600e9, 32e9, 12.5e9, link_domain=8,
                chips_per_host=8),
    Accelerator("t4", ("tesla t4",), 8.1e12, 16e9, 320e9, 16e9, 12.5e9, link_domain=8),
    Accelerator("rtx6000ada", ("rtx 6000 ada",), 364e12, 48e9, 960e9, 32e9, 12.5e9, link_domain=8),
    Accelerator("rtx5090", ("rtx 5090",), 209.5e12, 32e9, 1792e9, 64e9, 12.5e9, link_domain=8),
    Accelerator("rtx4090", ("rtx 4090",), 165.2e12, 24e9, 1008e9, 32e9, 12.5e9, link_domain=8),
    Accelerator("rtx3090", ("rtx 3090",), 71e12, 24e9, 936e9, 32e9, 12.5e9, link_domain=8),
)  # fmt: skip
ACCELERATORS = {accelerator.name: accelerator for accelerator in reversed(_TABLE)}
TPUS = tuple(name for name, accelerator in ACCELERATORS.items() if accelerator.tpu)


def device_peak_flops(device_kind: str) -> float | None:
    """Peak FLOP/s of a `jax.Device.device_kind`, or None where it is unknown (CPUs)."""
    accelerator = _accelerator(device_kind)
    return None if accelerator is None else accelerator.peak_flops


def device_memory(device_kind: str) -> float | None:
    """Usable bytes of memory of a `jax.Device.device_kind`, or None where it is unknown (CPUs)."""
    accelerator = _accelerator(device_kind)
    return None if accelerator is None else (1 - RESERVED_MEMORY) * accelerator.memory


def _accelerator(device_kind: str) -> Accelerator | None:
    text = device_kind.lower()
    return next((a for a in _TABLE if any(part in text for part in a.device_kinds)), None)


@dataclass(frozen=True)
class Slice:
    """A TPU slice, or a cluster of GPUs.

    Attributes:
      name: as given, for example "v5p-256".
      chips: TPU chips or GPUs.
      shape: chips along each axis of the torus (TPUs); () for GPUs.
    """

    name: str
    accelerator: Accelerator
    chips: int
    shape: tuple[int, ...] = ()

    @property
    def devices(self) -> int:
        """JAX devices."""
        return self.chips * self.accelerator.devices_per_chip

    @property
    def usable_memory(self) -> float:
        """Bytes of one device's memory that a program can use."""
        return (1 - RESERVED_MEMORY) * self.accelerator.memory

    @property
    def topology(self) -> str:
        """Chips along each axis in the notation of GKE and libtpu, for example "4x4x8"."""
        return "x".join(map(str, self.shape))

    @property
    def chips_per_host(self) -> int:
        """Chips of each host of this slice.

        One host has up to eight chips of a flat TPU slice; the hosts of larger ones have four.
        """
        if self.accelerator.tpu is None:
            return self.accelerator.chips_per_host
        single_host = len(self.shape) == 2 and self.chips <= self.accelerator.chips_per_host
        return self.chips if single_host else 4

    @property
    def hosts(self) -> int:
        """Machines of the slice; a started one counts."""
        return math.ceil(self.chips / self.chips_per_host)


def parse_slice(name: str) -> Slice:
    """The slice of a name: "v5e-256" or "v5litepod-256", "v5p-256" (128 chips), "h100-64".

    The numbers of v4 and v5p count TensorCores, two per chip, those of TPU7x count JAX devices, two
    per chip, as Google's accelerator types do; all others count chips.

    Raises:
      InputError: an unknown accelerator, or a number that no slice has.
    """
    match = re.fullmatch(r"([a-z]+\d+[a-z]*)-(\d+)", name.lower().replace("litepod", "e"))
    if match is None:
        raise InputError(
            f"'{name}' is no name of a slice; write for example v5e-256, v5p-256 or h100-64."
        )
    model, number = match[1], int(match[2])
    if model not in ACCELERATORS:
        raise InputError(f"'{model}' is no accelerator: {nearest(model, list(ACCELERATORS))}")
    accelerator = ACCELERATORS[model]
    if accelerator.tpu is None:
        if number < 1:
            raise InputError(f"{name} has no GPU; give at least 1.")
        return Slice(name, accelerator, number)
    units = accelerator.tpu.units_per_chip
    chips = number // units
    if chips < 1 or number % units:
        raise InputError(f"{name} has no whole chips; give a multiple of {units}.")
    if chips & (chips - 1):
        raise InputError(f"{name} has {chips} chips; give a power of two, as slices come.")
    return Slice(name, accelerator, chips, _torus(chips, accelerator.tpu.torus_axes))


def _torus(chips: int, axes: int) -> tuple[int, ...]:
    """The most cubic torus of powers of two, smaller sides first, as the default slices are."""
    exponent = round(math.log2(chips))
    sides = [2 ** ((exponent + i) // axes) for i in range(axes)]
    # The smallest slices of three-dimensional generations are one host: 2 × 2 × 1.
    return (2, 2, 1) if chips == 4 and axes == 3 else tuple(sides)
