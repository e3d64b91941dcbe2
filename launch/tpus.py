"""Slices of TPUs in the words of Google Cloud and of GKE."""

from dataclasses import dataclass

from mae_jax.errors import InputError

# By generation: the node label of GKE, the usual image of a TPU VM, what gcloud calls it.
_NAMES = {
    "v4": ("tpu-v4-podslice", "tpu-ubuntu2204-base", "v4"),
    "v5e": ("tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite", "v5litepod"),
    "v5p": ("tpu-v5p-slice", "v2-alpha-tpuv5", "v5p"),
    "v6e": ("tpu-v6e-slice", "v2-alpha-tpuv6e", "v6e"),
}


@dataclass(frozen=True)
class TpuSlice:
    """A slice.

    Attributes:
      accelerator: gcloud's --accelerator-type, such as v5litepod-256.
      runtime: the usual image of its VMs.
      label: GKE's cloud.google.com/gke-tpu-accelerator.
      topology: chips along each axis, such as 16x16.
      hosts, chips_a_host: into how many machines it is divided on GKE.
    """

    accelerator: str
    runtime: str
    label: str
    topology: str
    hosts: int
    chips_a_host: int


def tpu_slice(name: str) -> TpuSlice:
    """The slice that `mae-jax plan` knows by this name: v5e-256, v5p-256 (128 chips), ….

    Raises:
      InputError: there is no such slice.
    """
    from mae_jax.distributed.hardware import slice_of  # imports JAX, which most commands can spare

    found = slice_of(name)
    if found.chip.name not in _NAMES:
        raise InputError(f"{name} is no slice of TPUs: give one of {', '.join(_NAMES)}.")
    label, runtime, kind = _NAMES[found.chip.name]
    # One machine has up to eight chips of a flat slice; the machines of larger ones have four.
    single = len(found.shape) == 2 and found.devices <= 8
    chips_a_host = found.devices if single else 4
    return TpuSlice(
        accelerator=f"{kind}-{found.devices * found.chip.cores}",
        runtime=runtime,
        label=label,
        topology="x".join(map(str, found.shape)),
        hosts=found.devices // chips_a_host,
        chips_a_host=chips_a_host,
    )
