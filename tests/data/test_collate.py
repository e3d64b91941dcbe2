"""Filling a batch's memory: flips in place, channels in arrays of their own, reads given up."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorstore

from mae_jax.data.collate import BatchLoader, CropRequest
from mae_jax.data.crops import Allocate, CropReader, Draws
from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.readers.loaddata import read_loaddata
from mae_jax.errors import InputError

RNG = np.random.default_rng(0)
FLIPS = [(0.4, 0.4), (0.4, 0.6), (0.6, 0.4), (0.6, 0.6)]


def _arrays(folder: Path, kinds: dict[str, str], side: int = 40) -> tuple[Index, np.ndarray]:
    """A site whose channels each lie in a Zarr array of their own."""
    pixels = RNG.integers(0, 200, (len(kinds), side, side))
    for plane, (name, kind) in zip(pixels, kinds.items(), strict=True):
        place = {"driver": "file", "path": f"{folder / name}/"}
        array = tensorstore.open(
            {"driver": "zarr3", "kvstore": place}, create=True, dtype=kind, shape=(side, side)
        ).result()
        array[...] = plane.astype(kind)
    names = ["Source", "Experiment", "Plate", "Site", "Perturbation", "Gene", "ControlType"]
    row = dict.fromkeys((f"Metadata_{name}" for name in names), "1")
    row |= {"Metadata_Well": "A01", "Metadata_Split": "train"}
    table = pd.DataFrame([row])
    table["Channels"] = [list(kinds)]
    table["Images"] = [[f"{name}#index=" for name in kinds]]
    return Index(table, str(folder)), pixels


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("crop", [16, 13])  # a whole number of machine words, and not
def test_flips(kind: str, crop: int, tmp_path: Path) -> None:
    index, pixels = _arrays(tmp_path, dict.fromkeys(("DNA", "ER"), kind))
    draws = np.array([(0.3, 0.8, *flips) for flips in FLIPS])
    plan = CropRequest(0, 0, draws, 0)
    fill = BatchLoader([CropReader(index, ("ER", "DNA"), crop)], [np.array([0])], 2)
    found = fill([plan])
    fill.close()
    assert found["pixels"].dtype == kind
    top, left = int(0.3 * (41 - crop)), int(0.8 * (41 - crop))
    window = pixels[::-1, top : top + crop, left : left + crop]
    for got, expected in zip(
        found["pixels"],
        [window[:, ::-1, ::-1], window[:, ::-1], window[:, :, ::-1], window],
        strict=True,
    ):
        assert np.array_equal(got, expected)


def test_arrays_of_unlike_types_make_no_site(tmp_path: Path) -> None:
    index, _ = _arrays(tmp_path, {"DNA": "uint8", "ER": "uint16"})
    with pytest.raises(InputError, match="plate 1, well A01, site 1 has channels of different"):
        CropReader(index, ("DNA", "ER"), 16).center(0)


def test_a_read_that_was_given_up_cannot_write_into_the_batch(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    late: list[np.ndarray] = []

    class Hanging(CropReader):
        def start(self, row: int, draws: Draws, allocate: Allocate) -> Callable[[], None]:
            if row:
                return super().start(row, draws, allocate)
            late.append(allocate(np.dtype(np.uint16)))

            def wait() -> None:
                raise InputError("no answer in time.")

            return wait

    fill = BatchLoader([Hanging(index, index.channels, 24)], [np.array([0, 5])], 1)
    draws = np.array([(0.5, 0.5, 1.0, 1.0)])
    found = fill([CropRequest(0, 5, draws, 0), CropRequest(0, 0, draws, 0)])
    late[0][...] = 7  # the answer comes after all
    assert found["row"].tolist() == [5, 5]
    assert all("no answer in time." in problems for problems in found["errors"])
    for crop in found["pixels"]:
        assert np.array_equal(crop, read_site(index, 5))
