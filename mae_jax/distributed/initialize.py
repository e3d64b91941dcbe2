"""The processes of one run: how they find each other, and how they end together."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from mae_jax.errors import InputError

log = logging.getLogger(__name__)

# A host that sends no sign of life for so long is dead, and JAX then ends all the others.
HEARTBEAT_SECONDS = 30


def initialize(distributed: bool = False) -> None:
    """Joins the other processes of the run; to be called before anything touches a device.

    Three variables name the others: `JAX_COORDINATOR_ADDRESS` (host:port of the first process),
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. With `distributed`, what is not named is asked of
    Cloud TPU, SLURM (under srun) or Kubernetes (Job, JobSet). With neither, the process is alone.

    Raises:
      InputError: `distributed`, and nothing says who the others are.
    """
    if not distributed and "JAX_COORDINATOR_ADDRESS" not in os.environ:
        return
    number = {name: int(os.environ[name]) if name in os.environ else None
              for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")}  # fmt: skip
    try:
        jax.distributed.initialize(
            num_processes=number["JAX_NUM_PROCESSES"],
            process_id=number["JAX_PROCESS_ID"],
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as problem:
        raise InputError(
            f"the other processes of this run cannot be found ({problem}) Start it under srun, in "
            "a Kubernetes Job or on a TPU slice, set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES "
            "and JAX_PROCESS_ID, or leave --distributed out."
        ) from None


def enable_compilation_cache(folder: Path) -> None:
    """Keeps compiled programs in `folder`, so that a run that starts again need not compile again.

    `JAX_COMPILATION_CACHE_DIR` names another folder (one for all runs, say). On CPUs it takes
    that variable to keep them: there, a compiled program fits the very processor alone.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR") and jax.default_backend() != "cpu":
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))


@contextmanager
def explain_host_failure() -> Iterator[None]:
    """Says what it means when a computation that all hosts share breaks off."""
    try:
        yield
    except jax.errors.JaxRuntimeError:
        if jax.process_count() > 1:
            log.error(
                "host %d of %d: a computation shared with the other hosts broke off; most likely "
                "one of them has died (its own log says why). This host ends too; the same command "
                "on all hosts goes on from the last checkpoint.",
                jax.process_index(), jax.process_count(),
            )  # fmt: skip
        raise
