"""Slices of TPUs, by generation and topology, in the words of Google Cloud and of GKE."""

import math
import re
from dataclasses import dataclass

from mae_jax.errors import InputError


@dataclass(frozen=True)
class Generation:
    """What a generation of TPUs is called.

    Attributes:
      label: the node label cloud.google.com/gke-tpu-accelerator.
      runtime: the image of its TPU VMs.
      kind: gcloud's name: the stem of --accelerator-type for flat topologies, else --type.
      dimensions: of its topologies.
    """

    label: str
    runtime: str
    kind: str
    dimensions: int


GENERATIONS = {
    "v4": Generation("tpu-v4-podslice", "tpu-ubuntu2204-base", "v4", 3),
    "v5e": Generation("tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite", "v5litepod", 2),
    "v5p": Generation("tpu-v5p-slice", "v2-alpha-tpuv5", "v5p", 3),
    "v6e": Generation("tpu-v6e-slice", "v2-alpha-tpuv6e", "v6e", 2),
}
# A flat slice of up to eight chips is one host; any other has four chips a host.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")


@dataclass(frozen=True)
class Slice:
    """The slice `topology` of a generation, such as 16x16 of v5e or 4x4x8 of v5p.

    Raises:
      InputError: there is no such slice.
    """

    generation: str
    topology: str

    def __post_init__(self) -> None:
        flat = GENERATIONS[self.generation].dimensions == 2
        if flat and self.topology not in _FLAT:
            raise InputError(
                f"{self.generation} has no topology '{self.topology}': it has {', '.join(_FLAT)}."
            )
        sides = re.fullmatch(r"(\d+)x(\d+)x(\d+)", self.topology)
        if not flat and (not sides or self.chips == 0 or self.chips % 4):
            raise InputError(
                f"{self.generation} has no topology '{self.topology}': "
                "give chips along three axes, such as 2x2x1 or 4x4x8."
            )

    @property
    def chips(self) -> int:
        return math.prod(int(side) for side in self.topology.split("x"))

    @property
    def hosts(self) -> int:
        return self.chips // self.chips_a_host

    @property
    def chips_a_host(self) -> int:
        flat = GENERATIONS[self.generation].dimensions == 2
        return self.chips if flat and self.chips <= 8 else 4

    @property
    def gcloud(self) -> tuple[str, ...]:
        """The flags of gcloud that ask for it."""
        kind = GENERATIONS[self.generation].kind
        if GENERATIONS[self.generation].dimensions == 2:
            return (f"--accelerator-type={kind}-{self.chips}",)
        return (f"--type={kind}", f"--topology={self.topology}")
