"""Which shards of a job this process does: given, or detected from its launcher."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from mae_jax.errors import InputError


@dataclass(frozen=True)
class TaskSlice:
    """Slice `index` (from 0) of `count` equal slices of a job's shards."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise InputError(
                f"task {self.index}/{self.count} does not exist: tasks of n count from 0/n to "
                "n-1/n."
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def shards(self, num_shards: int) -> range:
        """The shard numbers of this slice, of `num_shards` in all.

        Round robin, so that neighboring shards, which tend to cost the same, spread evenly, and
        so that the shards themselves do not depend on the number of tasks.
        """
        return range(self.index, num_shards, self.count)

    def split(self, index: int, count: int) -> "TaskSlice":
        """Slice `index` of `count` of this slice."""
        return TaskSlice(self.index * count + index, self.count * count)


def parse_task_slice(text: str) -> TaskSlice:
    """Parse `i/n`, counted from 0.

    Raises:
      InputError: `text` is not of that form, or i is not below n.
    """
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
    if not match:
        raise InputError(f"task '{text}' is not of the form i/n, such as 0/8.")
    return TaskSlice(int(match[1]), int(match[2]))


def detect_task_slice(
    num_tasks: int | None = None, environment: Mapping[str, str] | None = None
) -> tuple[TaskSlice, str]:
    """Detect this process's slice from its launcher; returns it and the launcher's name.

    In this order: a Kubernetes Indexed Job (`JOB_COMPLETION_INDEX`, and the number of completions
    from `num_tasks` or `JOB_COMPLETIONS`, which Kubernetes does not set itself), a SLURM job array
    (`SLURM_ARRAY_TASK_*`), an array of AWS Batch (`AWS_BATCH_JOB_ARRAY_INDEX` and `_SIZE`, which
    come together), else a single task. If `jax.distributed` has been initialized, the
    slice is split again among the JAX processes.

    Args:
      num_tasks: the number of tasks, if the launcher does not export it.
      environment: the environment variables; by default this process's.

    Raises:
      InputError: an Indexed Job whose number of completions is unknown, or a SLURM array whose
        task numbers have gaps.
    """
    env = os.environ if environment is None else environment
    if "JOB_COMPLETION_INDEX" in env:
        count = num_tasks if num_tasks is not None else _number(env, "JOB_COMPLETIONS")
        if count is None:
            raise InputError(
                "this process belongs to an Indexed Job (JOB_COMPLETION_INDEX is set) whose number "
                "of completions is unknown: give --num-tasks N or set JOB_COMPLETIONS."
            )
        index = _number(env, "JOB_COMPLETION_INDEX") or 0
        task, launcher = TaskSlice(index, count), "Indexed Job"
    elif "SLURM_ARRAY_TASK_ID" in env:
        task, launcher = _slurm_array(env, num_tasks), "SLURM array"
    elif "AWS_BATCH_JOB_ARRAY_INDEX" in env and "AWS_BATCH_JOB_ARRAY_SIZE" in env:
        size = num_tasks if num_tasks is not None else _number(env, "AWS_BATCH_JOB_ARRAY_SIZE")
        index = _number(env, "AWS_BATCH_JOB_ARRAY_INDEX") or 0
        task, launcher = TaskSlice(index, size or 1), "AWS Batch array"
    elif num_tasks is not None and num_tasks != 1:
        raise InputError(
            f"--num-tasks {num_tasks} needs a launcher that numbers its tasks (an Indexed Job, or "
            "an array of SLURM or AWS Batch); without one give --task i/n."
        )
    else:
        task, launcher = TaskSlice(), "one process"
    process, processes = _jax_process()
    if processes > 1:
        words = f"JAX process {process} of {processes}"
        launcher = words if launcher == "one process" else f"{launcher}, {words}"
        task = task.split(process, processes)
    return task, launcher


def _number(env: Mapping[str, str], name: str) -> int | None:
    if name not in env:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", env[name]):
        raise InputError(f"the environment variable {name} is '{env[name]}', not a number.")
    return int(env[name])


def _slurm_array(env: Mapping[str, str], num_tasks: int | None) -> TaskSlice:
    task = _number(env, "SLURM_ARRAY_TASK_ID") or 0
    first = _number(env, "SLURM_ARRAY_TASK_MIN") or 0
    step = _number(env, "SLURM_ARRAY_TASK_STEP") or 1
    if num_tasks is not None:  # the task's own number counts: one lost task can be run alone
        return TaskSlice(task, num_tasks)
    count = _number(env, "SLURM_ARRAY_TASK_COUNT")
    last = _number(env, "SLURM_ARRAY_TASK_MAX")
    if count is None:
        raise InputError("the variable SLURM_ARRAY_TASK_COUNT is not set: give --num-tasks N.")
    if last is not None and (last - first) // step + 1 != count:
        raise InputError(
            "the task numbers of this SLURM array have gaps: give --num-tasks N, and numbers from "
            "0 to N-1."
        )
    return TaskSlice((task - first) // step, count)


def _jax_process() -> tuple[int, int]:
    """This process's number and their count, once `jax.distributed` has been initialized."""
    if "jax" not in sys.modules:
        return 0, 1
    import jax

    if not jax.distributed.is_initialized():
        return 0, 1
    return jax.process_index(), jax.process_count()
