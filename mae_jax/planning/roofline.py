"""A roofline: from the cost of a step to the time of a run on one slice."""

from dataclasses import dataclass

from mae_jax.distributed.hardware import Slice
from mae_jax.planning.step_cost import StepCost


@dataclass(frozen=True)
class Estimate:
    """Bounds of a step's time, and the resource that limits it.

    Compute, memory traffic and communication overlap where the program allows it. So no step is
    shorter than the longest of the three, and one that overlaps nothing takes their sum; the time
    lies between, and above where kernels miss the peaks.

    Attributes:
      compute: seconds of the executed FLOPs at the peak.
      memory: seconds of the bytes of main memory at its bandwidth.
      network: seconds of the bytes sent at the links' bandwidth.
    """

    cost: StepCost
    slice: Slice
    compute: float
    memory: float
    network: float

    @property
    def fits(self) -> bool:
        """Whether a device's usable memory holds the step."""
        return self.cost.device_bytes <= self.slice.usable_memory

    @property
    def fastest(self) -> float:
        """Seconds of a step if everything overlaps."""
        return max(self.compute, self.memory, self.network)

    @property
    def slowest(self) -> float:
        """Seconds of a step if nothing overlaps."""
        return self.compute + self.memory + self.network

    @property
    def bound(self) -> str:
        """The resource that limits the step: "compute", "memory" or "network"."""
        times = {"compute": self.compute, "memory": self.memory, "network": self.network}
        return max(times, key=lambda name: times[name])

    def mfu(self, seconds: float) -> float:
        """Model FLOP utilization (MFU) of a step of `seconds`."""
        return self.cost.model_flops / (seconds * self._peak_flops)

    def step_seconds(self, mfu: float) -> float:
        """Seconds of a step at a given MFU."""
        return self.cost.model_flops / (mfu * self._peak_flops)

    def days(self, seconds: float) -> float:
        """Days of the whole run, at `seconds` per step."""
        return self.cost.crops / self.cost.batch * seconds / 86400

    def device_hours(self, seconds: float) -> float:
        """Device-hours of the whole run, at `seconds` per step."""
        return 24 * self.days(seconds) * self.slice.devices

    @property
    def _peak_flops(self) -> float:
        """FLOP/s of all devices together."""
        return self.slice.devices * self.slice.accelerator.peak_flops


def estimate(cost: StepCost, slice_: Slice) -> Estimate:
    """The roofline of a step on a slice.

    Collectives of TPUs run as rings over all links. Those of GPUs run over NVLink inside its domain
    (a host, or an NVL72 rack), and between domains in two levels: first inside each domain, then
    each GPU with its peers in the other domains.
    """
    accelerator = slice_.accelerator
    network = 0.0
    for collective in cost.traffic.collectives:
        network += collective.sent / accelerator.link_bandwidth
        if accelerator.tpu is None and collective.group > accelerator.link_domain:
            network += collective.sent / accelerator.link_domain / accelerator.network_bandwidth
    return Estimate(
        cost=cost,
        slice=slice_,
        compute=cost.executed_flops / slice_.devices / accelerator.peak_flops,
        memory=cost.traffic.memory / accelerator.memory_bandwidth,
        network=network,
    )
