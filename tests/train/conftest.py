"""What the tests of training share: a screen of a few small images, and runs on one device."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import tifffile
from jax.experimental.compilation_cache import compilation_cache

from mae_jax.cli.main import main
from mae_jax.distributed.mesh import make_mesh
from mae_jax.train import TrainConfig, Trainer
from mae_jax.train.config import MeshConfig


@pytest.fixture(scope="session")
def index(tmp_path_factory) -> Path:
    """Two experiments of four wells; the second is for validation."""
    folder = tmp_path_factory.mktemp("screen")
    rng = np.random.default_rng(0)
    rows = ["Metadata_Experiment,Metadata_Plate,Metadata_Well,Metadata_Site,"
            "FileName_OrigDNA,PathName_OrigDNA,FileName_OrigER,PathName_OrigER"]  # fmt: skip
    for experiment in ("E1", "E2"):
        for well in ("A01", "A02", "B01", "B02"):
            names = []
            for channel in ("DNA", "ER"):
                name = f"{experiment}-{well}-{channel}.tiff"
                image = rng.integers(0, 60000, (24, 24), dtype=np.uint16)
                tifffile.imwrite(folder / name, image)
                names += [name, "."]
            rows.append(",".join([experiment, f"{experiment}-P1", well, "1", *names]))
    (folder / "load_data.csv").write_text("\n".join(rows) + "\n")
    out = folder / "index.parquet"
    words = [str(folder / "load_data.csv"), "--out", str(out), "--validation", "E2"]
    assert main(["index", *words]) == 0
    return out


@pytest.fixture(scope="session")
def train() -> Callable[..., Path | None]:
    """`mae_jax.train.train` on one of the tests' eight devices, which compiles much faster."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])

    def train_on_one_device(config: TrainConfig, workdir: Path, **options) -> Path | None:
        return Trainer(config, mesh, workdir=workdir, **options).fit()

    return train_on_one_device


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory) -> Iterator[None]:
    """What one test of the module compiles, the others read."""
    changes = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in changes}
    for name, value in changes.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
