"""TPU slices by the names of `mae-jax plan`, in the words of Google Cloud."""

from mae_jax.distributed.hardware import TPUS, Slice, TPUNames, parse_slice
from mae_jax.errors import InputError


def tpu_slice(name: str) -> tuple[Slice, TPUNames]:
    """The TPU slice that `mae-jax plan` knows by this name: v5e-256, v5p-256 (128 chips), ….

    Raises:
      InputError: no such slice, or one of GPUs.
    """
    slice_ = parse_slice(name)
    if slice_.accelerator.tpu is None:
        raise InputError(f"{name} is no TPU slice; give one of {', '.join(TPUS)}.")
    return slice_, slice_.accelerator.tpu


# What a slice's name counts for each chip.
TPU_UNITS = {"v6e": 1, "tpu7x": 2}
# Machine type and image family on Compute Engine, by the name of the generation.
COMPUTE_ENGINE = {
    "v6e": ("ct6e-standard-{chips}t", (1, 4, 8), "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"),
    "tpu7x": ("tpu7x-standard-{chips}t", (1, 4), "ubuntu-accel-2404-amd64-tpu-tpu7x"),
}


def machine_type(name: str) -> tuple[str, str]:
    """Compute Engine's machine type of a single host, and the image family for it.

    Raises:
      InputError: no such slice, or one that no single machine has.
    """
    slice_, _ = tpu_slice(name)
    generation = slice_.accelerator.name
    machine, chips, family = COMPUTE_ENGINE.get(generation, ("", (), ""))
    if slice_.chips not in chips:
        known = ", ".join(
            f"{each}-{count * TPU_UNITS[each]}"
            for each, (_, counts, _) in COMPUTE_ENGINE.items()
            for count in counts
        )
        raise InputError(
            f"{name} is no single machine of Compute Engine (those are {known}); launch on gke-tpu."
        )
    return machine.format(chips=slice_.chips), family


def accelerator_type(name: str) -> str:
    """gcloud's --accelerator-type of a slice, such as "v5litepod-256".

    Raises:
      InputError: no such slice, or a generation that the Cloud TPU API does not offer.
    """
    slice_, tpu = tpu_slice(name)
    if not tpu.accelerator_type:
        raise InputError(
            f"{name}: the Cloud TPU API has no {slice_.accelerator.name}; launch on gke-tpu."
        )
    return f"{tpu.accelerator_type}-{slice_.chips * tpu.units_per_chip}"
