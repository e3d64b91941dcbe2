"""Start-up of a run with several processes, its compilation cache, and failures of hosts."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from mae_jax.errors import InputError

log = logging.getLogger(__name__)

# JAX takes a host for dead after this time without a heartbeat, and ends all the others.
HEARTBEAT_SECONDS = 30


def initialize(distributed: bool = False) -> None:
    """Connects to the other processes of the run; call it before any device is used.

    Three environment variables describe the run: `JAX_COORDINATOR_ADDRESS` (host:port of the first
    process), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. With `distributed`, those that are not set
    are detected on Cloud TPU, SLURM (under srun) or Kubernetes (Job, JobSet). Without both, the
    run has a single process.

    Raises:
      InputError: `distributed` outside of such a cluster, or a variable that is no number.
    """
    if not distributed and "JAX_COORDINATOR_ADDRESS" not in os.environ:
        return
    num_processes, process_id = _number("JAX_NUM_PROCESSES"), _number("JAX_PROCESS_ID")
    try:
        jax.distributed.initialize(
            num_processes=num_processes,
            process_id=process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as problem:
        raise InputError(
            f"the other processes of this run cannot be found ({problem}) Start it under srun, in "
            "a Kubernetes Job or on a TPU slice, set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES "
            "and JAX_PROCESS_ID, or leave --distributed out."
        ) from None


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{variable} is '{text}'; set it to a number.") from None


def enable_compilation_cache(folder: Path) -> None:
    """Caches compiled programs in `folder`, so that a run that resumes need not compile them again.

    `JAX_COMPILATION_CACHE_DIR` names another folder (one for all runs, say). CPU programs are
    cached only with that variable, since they run on the very CPU model they were compiled on.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR") and jax.default_backend() != "cpu":
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))


@contextmanager
def explain_host_failure() -> Iterator[None]:
    """Logs the likely cause when a computation of several hosts fails in the body."""
    try:
        yield
    except jax.errors.JaxRuntimeError:
        if jax.process_count() > 1:
            log.error(
                "host %d of %d: a computation shared with the other hosts failed; most likely one "
                "of them has died (see its log). This host ends too; the same command on all hosts "
                "resumes from the last checkpoint.",
                jax.process_index(), jax.process_count(),
            )  # fmt: skip
        raise
