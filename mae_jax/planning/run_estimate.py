"""The estimate of a training run on a slice: compiled for TPUs, by formula for GPUs."""

from mae_jax.distributed.hardware import Slice
from mae_jax.planning.compiled import compile_cost, tpu_devices
from mae_jax.planning.formula import formula_cost
from mae_jax.planning.roofline import Estimate, estimate
from mae_jax.train.config import TrainConfig


def estimate_run(config: TrainConfig, slice_: Slice) -> Estimate:
    """The estimate of `config` on `slice_`, which this machine need not have.

    Raises:
      InputError: the mesh or the batch does not fit the devices, or libtpu is not installed.
      DoesNotFit: the compiler found no layout of the step in a device's memory.
    """
    if slice_.accelerator.tpu is None:
        return estimate(formula_cost(config, slice_), slice_)
    return estimate(compile_cost(config, tpu_devices(slice_)), slice_)
