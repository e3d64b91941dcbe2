"""What the tests of training share: a screen of a few small images."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from mae_jax.cli.main import main


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
