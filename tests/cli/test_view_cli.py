"""`mae-jax view` as a user types it."""

from pathlib import Path

import numpy as np
import pytest

from mae_jax.cli.main import main
from mae_jax.embeddings.manifest import NAME, Manifest
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.embeddings.shards import ShardFiles, ShardRun
from mae_jax.view.server import ViewServer


@pytest.fixture
def running_job(tmp_path: Path) -> Path:
    """An embeddings folder of which one of two shards is done."""
    job = {"outputs": [], "wells_per_shard": 3}
    manifest = Manifest(job, counts={"wells": 6, "sites": 6, "shards": 2})
    store = OutputStore(tmp_path / "out")
    store.write(NAME, manifest.encode())
    features = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    ShardFiles(store, manifest).write(
        0,
        run=ShardRun(3, 0, 3, {}),
        columns=("Metadata_Plate", "Metadata_Well"),
        metadata=[("P1", f"A{i + 1:02d}") for i in range(3)],
        features=features,
    )
    return tmp_path / "out"


def test_a_running_job_is_shown_on_request(
    running_job: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["view", "--embeddings", str(running_job)]) == 2
    assert "lacks 1 of its 2 shards" in capsys.readouterr().err

    def interrupted(server: ViewServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ViewServer, "serve_forever", interrupted)
    assert main(["view", "--embeddings", str(running_job), "--allow-incomplete"]) == 0
    assert "http://127.0.0.1:" in capsys.readouterr().out


def test_several_embeddings_have_names(running_job: Path, capsys) -> None:
    other = running_job.with_name("elsewhere") / running_job.name
    command = ["view", "--allow-incomplete", "--embeddings", f"{running_job},{other}"]
    assert main(command) == 2
    assert f"two embeddings are called {running_job.name}" in capsys.readouterr().err
