"""A small screen on disk, in the formats of the field."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

CHANNELS = ("DNA", "ER", "Mito")


@pytest.fixture(autouse=True)
def _protocols_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests read from memory and from servers of their own."""
    monkeypatch.setenv("MAE_JAX_PROTOCOLS", "http,memory")


@pytest.fixture
def screen(tmp_path: Path) -> Callable[..., Path]:
    """Writes a screen of TIFFs and returns its LoadData CSV; every pixel is known.

    Site s, channel c, pixel (y, x) has the value 1000·s + 100·c + y·size + x.
    """

    def write(
        experiments: int = 2, plates: int = 2, wells: int = 3, sites: int = 1, size: int = 24
    ) -> Path:
        rows = []
        for number in range(experiments * plates * wells * sites):
            rest, site = divmod(number, sites)
            rest, well = divmod(rest, wells)
            experiment, plate = divmod(rest, plates)
            row = {
                "Metadata_Source": "lab",
                "Metadata_Batch": f"E{experiment + 1}",
                "Metadata_Plate": f"00{experiment}{plate}",
                "Metadata_Well": f"a{well + 1}",
                "Metadata_Site": str(site + 1),
                "Metadata_gene": "" if well == 0 else f"GENE{well}",
                "Metadata_control_type": "negcon" if well == 0 else "",
            }
            for place, channel in enumerate(CHANNELS):
                folder = tmp_path / "screen" / "images" / row["Metadata_Plate"]
                folder.mkdir(parents=True, exist_ok=True)
                name = f"{row['Metadata_Well']}_s{site + 1}_{channel}.tiff"
                tifffile.imwrite(folder / name, pixels(number, place, size), compression="zlib")
                row[f"FileName_Orig{channel}"] = name
                row[f"PathName_Orig{channel}"] = f"images/{row['Metadata_Plate']}"
            rows.append(row)
        path = tmp_path / "screen" / "load_data.csv"
        pd.DataFrame(rows).to_csv(path, index=False)
        return path

    return write


def pixels(site: int, channel: int, size: int) -> np.ndarray:
    """The pixels that `screen` writes."""
    y, x = np.mgrid[:size, :size]
    return (1000 * site + 100 * channel + y * size + x).astype(np.uint16)
