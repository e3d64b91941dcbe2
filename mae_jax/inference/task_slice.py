"""Which part of the work is this process's: given, or found in what launched it."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from mae_jax.errors import InputError


@dataclass(frozen=True)
class Shard:
    """Share `number` (from 0) of `count` equal shares of the parts of a job."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.number < self.count:
            raise InputError(
                f"shard {self.number}/{self.count} does not exist: shards of n count "
                "from 0/n to n-1/n."
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def mine(self, parts: int) -> range:
        """The numbers of this shard's parts, of `parts` parts in all.

        Round robin, so that neighbouring parts, which tend to cost the same, spread evenly, and
        so that the parts themselves do not depend on the number of shards.
        """
        return range(self.number, parts, self.count)

    def divided(self, number: int, count: int) -> "Shard":
        """Share `number` of `count` of this share."""
        return Shard(self.number * count + number, self.count * count)


def parse_shard(text: str) -> Shard:
    """The shard written as `i/n`, counted from 0.

    Raises:
      InputError: `text` is not of that form, or i is not below n.
    """
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if not match:
        raise InputError(f"shard '{text}' is not of the form i/n, such as 0/8.")
    return Shard(int(match[1]), int(match[2]))


def find_shard(
    shards: int | None = None, environment: Mapping[str, str] | None = None
) -> tuple[Shard, str]:
    """This process's shard as its launcher tells it, and in words where that was found.

    In this order: a Kubernetes Indexed Job (`JOB_COMPLETION_INDEX`, and the number of completions
    from `shards` or `JOB_COMPLETIONS`, since Kubernetes does not tell it), a SLURM job array
    (`SLURM_ARRAY_TASK_*`), else one shard. Where `jax.distributed` has been initialised, every
    such share is divided again between the JAX processes.

    Args:
      shards: the number of shares, where the launcher does not say it.
      environment: the environment variables; by default this process's.

    Raises:
      InputError: an Indexed Job whose number of completions nobody tells, or a SLURM array whose
        step is not regular.
    """
    env = os.environ if environment is None else environment
    if "JOB_COMPLETION_INDEX" in env:
        count = shards if shards is not None else _number(env, "JOB_COMPLETIONS")
        if count is None:
            raise InputError(
                "this is one of an Indexed Job (JOB_COMPLETION_INDEX is set) whose number of "
                "completions is not known: give --shards N or set JOB_COMPLETIONS."
            )
        shard, found = Shard(_number(env, "JOB_COMPLETION_INDEX") or 0, count), "Indexed Job"
    elif "SLURM_ARRAY_TASK_ID" in env:
        shard, found = _slurm_array(env, shards), "SLURM array"
    elif shards is not None and shards != 1:
        raise InputError(
            f"--shards {shards} needs a launcher that numbers its tasks (an Indexed Job or a "
            "SLURM array); without one give --shard i/n."
        )
    else:
        shard, found = Shard(), "one process"
    process, processes = _jax_process()
    if processes > 1:
        words = f"JAX process {process} of {processes}"
        found = words if found == "one process" else f"{found}, {words}"
        shard = shard.divided(process, processes)
    return shard, found


def _number(env: Mapping[str, str], name: str) -> int | None:
    if name not in env:
        return None
    if not env[name].isdigit():
        raise InputError(f"the environment variable {name} is '{env[name]}', not a number.")
    return int(env[name])


def _slurm_array(env: Mapping[str, str], shards: int | None) -> Shard:
    task = _number(env, "SLURM_ARRAY_TASK_ID") or 0
    first = _number(env, "SLURM_ARRAY_TASK_MIN") or 0
    step = _number(env, "SLURM_ARRAY_TASK_STEP") or 1
    if shards is not None:  # the tasks' own numbers count: one lost task can be run alone
        return Shard(task, shards)
    count = _number(env, "SLURM_ARRAY_TASK_COUNT")
    last = _number(env, "SLURM_ARRAY_TASK_MAX")
    if count is None:
        raise InputError("SLURM_ARRAY_TASK_COUNT is not set: give --shards N.")
    if last is not None and (last - first) // step + 1 != count:
        raise InputError(
            "this SLURM array's task numbers have gaps: give --shards N, and numbers from 0 to N-1."
        )
    return Shard((task - first) // step, count)


def _jax_process() -> tuple[int, int]:
    """This process's number and their count, once `jax.distributed` has been initialised."""
    if "jax" not in sys.modules:
        return 0, 1
    import jax

    if not jax.distributed.is_initialized():
        return 0, 1
    return jax.process_index(), jax.process_count()
