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
