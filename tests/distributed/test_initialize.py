"""Finding the other processes of a run."""

import jax
import pytest

from mae_jax.distributed import initialize
from mae_jax.errors import InputError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture
def given(monkeypatch) -> list[dict]:
    """The options `jax.distributed.initialize` gets; no hosts are in the environment."""
    calls: list[dict] = []
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: calls.append(options))
    return calls


def test_a_process_is_alone_unless_told(given):
    initialize.initialize()
    assert given == []


def test_the_variables_name_the_others(given, monkeypatch):
    for name, value in zip(VARIABLES, ("host:1", "2", "1"), strict=True):
        monkeypatch.setenv(name, value)
    initialize.initialize()
    assert (given[0]["num_processes"], given[0]["process_id"]) == (2, 1)
    assert given[0]["heartbeat_timeout_seconds"] < 60


def test_a_cluster_is_asked_for_what_is_not_named(given):
    initialize.initialize(distributed=True)
    assert (given[0]["num_processes"], given[0]["process_id"]) == (None, None)


def test_no_cluster_is_said_in_a_sentence(monkeypatch):
    def nothing(**_: object) -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", nothing)
    with pytest.raises(InputError, match="leave --distributed out"):
        initialize.initialize(distributed=True)


def test_compiled_programs_are_kept_beside_the_run_unless_told_where(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    kept: dict[str, object] = {}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(jax.config, "update", lambda name, value: kept.update({name: value}))
    initialize.enable_compilation_cache(tmp_path)  # on a CPU
    assert kept == {}
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    initialize.enable_compilation_cache(tmp_path)
    assert kept == {"jax_compilation_cache_dir": str(tmp_path)}


def test_a_variable_that_is_no_number_is_named(given, monkeypatch):
    for name, value in zip(VARIABLES, ("host:1", "two", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="JAX_NUM_PROCESSES is 'two'"):
        initialize.initialize()
    assert given == []
