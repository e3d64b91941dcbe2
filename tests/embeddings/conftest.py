"""Small embeddings folders, written without a network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mae_jax.embeddings.manifest import Manifest
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.embeddings.shards import ShardFiles, ShardRun

COLUMNS = ("Metadata_Source", "Metadata_Experiment", "Metadata_Plate", "Metadata_Well")
WELLS, WELLS_PER_SHARD, WIDTH = 10, 4, 6

MakeFolder = Callable[..., ShardFiles]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes the embeddings of ten wells in three shards."""

    def make(name: str = "out", encoder: str = "tiny", format: int = 3) -> ShardFiles:
        job = {"encoder": encoder, "outputs": [], "wells_per_shard": WELLS_PER_SHARD}
        counts = {"wells": WELLS, "sites": WELLS, "shards": 3, "complete": True}
        manifest = Manifest(job, counts=counts, format=format)
        store = OutputStore(tmp_path / name)
        store.write(manifest.name, manifest.encode())
        files = ShardFiles(store, manifest)
        rng = np.random.default_rng(0)
        for shard in range(3):
            size = manifest.shard_size(shard)
            wells = range(WELLS_PER_SHARD * shard, WELLS_PER_SHARD * shard + size)
            files.write(
                shard,
                run=ShardRun(size, 0, 4 * size, {"versions": {"jax": "1"}}),
                columns=COLUMNS,
                metadata=[("s", "E", "P1", f"A{well + 1:02d}") for well in wells],
                features=rng.normal(size=(size, WIDTH)).astype(np.float32),
            )
        return files

    return make
