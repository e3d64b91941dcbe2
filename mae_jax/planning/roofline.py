"""From what a step needs to what a run takes: a roofline of one slice."""

from dataclasses import dataclass

from mae_jax.distributed.hardware import Slice
from mae_jax.planning.compile_cost import Needs


@dataclass(frozen=True)
class Estimate:
    """How long a step takes at least, and what bounds it.

    A device computes, moves its memory and talks to others at once where the program allows it.
    So no step is shorter than the longest of the three, and one that overlaps nothing takes
    their sum; the truth lies between, and above where kernels miss the peaks.

    Attributes:
      compute: seconds of the executed FLOPs at the peak.
      memory: seconds of the bytes of main memory at its bandwidth.
      network: seconds of the bytes sent at the links' bandwidth.
    """

    needs: Needs
    slice: Slice
    compute: float
    memory: float
    network: float

    @property
    def fits(self) -> bool:
        """Whether a device's usable memory holds the step."""
        return self.needs.device_bytes <= self.slice.usable

    @property
    def fastest(self) -> float:
        """Seconds of a step in which everything overlaps."""
        return max(self.compute, self.memory, self.network)

    @property
    def slowest(self) -> float:
        """Seconds of a step in which nothing overlaps."""
        return self.compute + self.memory + self.network

    @property
    def bound(self) -> str:
        """What a step spends its time on: "compute", "memory" or "network"."""
        times = {"compute": self.compute, "memory": self.memory, "network": self.network}
        return max(times, key=lambda name: times[name])

    def mfu(self, seconds: float) -> float:
        """Model FLOP utilisation of a step of so many seconds."""
        return self.needs.model_flops / (seconds * self.slice.devices * self.slice.chip.peak)

    def step_seconds(self, mfu: float) -> float:
        """Seconds of a step at a given utilisation."""
        return self.needs.model_flops / (mfu * self.slice.devices * self.slice.chip.peak)

    def days(self, seconds: float) -> float:
        """Days of the whole run, at so many seconds a step."""
        return self.needs.crops / self.needs.batch * seconds / 86400

    def device_hours(self, seconds: float) -> float:
        """Device-hours of the whole run."""
        return 24 * self.days(seconds) * self.slice.devices


def estimate(needs: Needs, slice_: Slice) -> Estimate:
    """The roofline of a step on a slice.

    Collectives go by rings over all links of a TPU; those of GPUs inside one host by NVLink, and
    between hosts in two levels: first inside each host, then each GPU with those of its place in
    the other hosts.
    """
    chip = slice_.chip
    network = 0.0
    for one in needs.moved.collectives:
        if chip.is_tpu or one.group <= chip.host:
            network += one.sent / chip.link_bandwidth
        else:
            network += one.sent / chip.link_bandwidth
            network += one.sent / chip.host / chip.network_bandwidth
    return Estimate(
        needs=needs,
        slice=slice_,
        compute=needs.executed_flops / slice_.devices / chip.peak,
        memory=needs.moved.memory / chip.memory_bandwidth,
        network=network,
    )
