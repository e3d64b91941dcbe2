"""The range of gray values is measured and kept with the index."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mae_jax.cli.main import main
from mae_jax.data.index import Index
from mae_jax.data.readers.loaddata import read_loaddata
from mae_jax.data.value_ranges import measure_value_ranges


def test_ranges_are_recorded(
    screen: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index.parquet"
    assert main(["index", str(screen(wells=2)), "--out", str(out)]) == 0
    assert "values of DNA: uint16, 0 to" in capsys.readouterr().out
    index = Index.read(out)
    dna = index.value_ranges["DNA"]
    assert (dna.dtype, dna.low, dna.high) == ("uint16", 0, 7000 + 24 * 24 - 1)
    assert index.select(Plate="0000").value_ranges == index.value_ranges
    index.write(out)
    assert Index.read(out).value_ranges == index.value_ranges


def test_unreadable_sites_are_left_out(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen(experiments=1, plates=1)))
    folder = Path(index.root) / "images" / "0000"
    (folder / "a1_s1_DNA.tiff").write_bytes(b"")
    tifffile.imwrite(folder / "a2_s1_DNA.tiff", np.full((24, 24), 9, np.uint8))
    ranges = measure_value_ranges(index)
    assert ranges["DNA"].dtype == "uint16/uint8"
    for image in folder.glob("*_ER.tiff"):
        image.unlink()
    assert set(measure_value_ranges(index)) == {"DNA", "Mito"}
