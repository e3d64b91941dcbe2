import pytest

from mae_jax.errors import InputError
from mae_jax.inference.task_slice import Shard, find_shard, parse_shard


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shards_share_every_part_exactly_once(count: int) -> None:
    parts = [part for i in range(count) for part in Shard(i, count).mine(13)]
    assert sorted(parts) == list(range(13))


def test_dividing_a_shard_keeps_the_union() -> None:
    divided = [Shard(i, 3).divided(j, 4) for i in range(3) for j in range(4)]
    assert sorted(p for shard in divided for p in shard.mine(29)) == list(range(29))


def test_parse_shard() -> None:
    assert parse_shard("3/8") == Shard(3, 8)
    assert str(Shard(3, 8)) == "3/8"


@pytest.mark.parametrize("text", ["8/8", "x", "1", "-1/4", "1/0"])
def test_parse_shard_refuses(text: str) -> None:
    with pytest.raises(InputError, match="shard"):
        parse_shard(text)


def test_one_process_has_all() -> None:
    assert find_shard(environment={}) == (Shard(0, 1), "one process")


def test_indexed_job() -> None:
    env = {"JOB_COMPLETION_INDEX": "5", "JOB_COMPLETIONS": "12"}
    assert find_shard(environment=env) == (Shard(5, 12), "Indexed Job")
    assert find_shard(6, {"JOB_COMPLETION_INDEX": "5"})[0] == Shard(5, 6)


def test_indexed_job_must_know_its_size() -> None:
    with pytest.raises(InputError, match="--shards"):
        find_shard(environment={"JOB_COMPLETION_INDEX": "5"})


def test_slurm_array_that_starts_at_one_with_a_step() -> None:
    env = {
        "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_MAX": "10",
        "SLURM_ARRAY_TASK_STEP": "3",
        "SLURM_ARRAY_TASK_COUNT": "4",
    }
    assert find_shard(environment=env) == (Shard(2, 4), "SLURM array")


def test_slurm_array_with_gaps_is_refused() -> None:
    env = {
        "SLURM_ARRAY_TASK_ID": "7",
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_MAX": "10",
        "SLURM_ARRAY_TASK_COUNT": "4",
    }
    with pytest.raises(InputError, match="gaps"):
        find_shard(environment=env)
    assert find_shard(10, env)[0] == Shard(7, 10)


def test_jax_processes_divide_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert find_shard(environment={}) == (Shard(1, 2), "JAX process 1 of 2")
    env = {"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "3"}
    assert find_shard(environment=env)[0] == Shard(5, 6)


def test_shards_without_a_launcher_is_refused() -> None:
    with pytest.raises(InputError, match="launcher"):
        find_shard(4, {})
