import pytest

from mae_jax.errors import InputError
from mae_jax.inference.task_slice import TaskSlice, detect_task_slice, parse_task_slice


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_tasks_cover_every_shard_exactly_once(count: int) -> None:
    shards = [shard for i in range(count) for shard in TaskSlice(i, count).shards(13)]
    assert sorted(shards) == list(range(13))


def test_splitting_a_slice_keeps_the_union() -> None:
    slices = [TaskSlice(i, 3).split(j, 4) for i in range(3) for j in range(4)]
    assert sorted(n for task in slices for n in task.shards(29)) == list(range(29))


def test_parse_task_slice() -> None:
    assert parse_task_slice("3/8") == TaskSlice(3, 8)
    assert str(TaskSlice(3, 8)) == "3/8"


@pytest.mark.parametrize("text", ["8/8", "x", "1", "-1/4", "1/0", "²/³"])
def test_parse_task_slice_refuses(text: str) -> None:
    with pytest.raises(InputError, match="task"):
        parse_task_slice(text)


def test_one_process_has_all() -> None:
    assert detect_task_slice(environment={}) == (TaskSlice(0, 1), "one process")


def test_indexed_job() -> None:
    env = {"JOB_COMPLETION_INDEX": "5", "JOB_COMPLETIONS": "12"}
    assert detect_task_slice(environment=env) == (TaskSlice(5, 12), "Indexed Job")
    assert detect_task_slice(6, {"JOB_COMPLETION_INDEX": "5"})[0] == TaskSlice(5, 6)


def test_indexed_job_must_know_its_size() -> None:
    with pytest.raises(InputError, match="--num-tasks"):
        detect_task_slice(environment={"JOB_COMPLETION_INDEX": "5"})


def test_slurm_array_that_starts_at_one_with_a_step() -> None:
    env = {
        "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_MAX": "10",
        "SLURM_ARRAY_TASK_STEP": "3",
        "SLURM_ARRAY_TASK_COUNT": "4",
    }
    assert detect_task_slice(environment=env) == (TaskSlice(2, 4), "SLURM array")


def test_slurm_array_with_gaps_is_refused() -> None:
    env = {
        "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_MAX": "10",
        "SLURM_ARRAY_TASK_COUNT": "4",
    }
    with pytest.raises(InputError, match="gaps"):
        detect_task_slice(environment=env)
    assert detect_task_slice(10, env)[0] == TaskSlice(7, 10)


def test_jax_processes_divide_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert detect_task_slice(environment={}) == (TaskSlice(1, 2), "JAX process 1 of 2")
    env = {"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "3"}
    assert detect_task_slice(environment=env)[0] == TaskSlice(5, 6)


def test_shards_without_a_launcher_is_refused() -> None:
    with pytest.raises(InputError, match="launcher"):
        detect_task_slice(4, {})


def test_an_array_of_aws_batch() -> None:
    env = {"AWS_BATCH_JOB_ARRAY_INDEX": "3", "AWS_BATCH_JOB_ARRAY_SIZE": "8"}
    task, launcher = detect_task_slice(environment=env)
    assert (str(task), launcher) == ("3/8", "AWS Batch array")
    # The index alone is no array, and SLURM on AWS counts before Batch.
    assert detect_task_slice(environment={"AWS_BATCH_JOB_ARRAY_INDEX": "3"})[1] == "one process"
    slurm = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
    assert str(detect_task_slice(environment=env | slurm)[0]) == "1/2"
