"""Batches by perturbation, by plate, and of screens with unlike channels; workers that die."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mae_jax.data.batch_iterator import BatchIterator
from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.mixture import DatasetSpec, datasets_by_channels, label_codes
from mae_jax.data.pipeline import crop_batches
from mae_jax.data.readers.loaddata import read_loaddata
from mae_jax.data.splits import with_split
from mae_jax.errors import InputError


def _take(batches: BatchIterator, steps: int) -> list[dict[str, np.ndarray]]:
    try:
        return list(itertools.islice(batches, steps))
    finally:
        batches.close()


def test_one_plate_batches(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen(wells=4)))
    plates = index.table["Metadata_Plate"].to_numpy()
    whole = _take(crop_batches(index, crop=16, batch=4, seed=0, split=None, sampling="plate"), 4)
    assert [len(set(plates[b["row"]])) for b in whole] == [1] * 4
    assert {plates[b["row"][0]] for b in whole} == set(plates)
    halves = [
        _take(
            crop_batches(
                index, crop=16, batch=4, seed=0, split=None, sampling="plate", world=2, rank=r
            ),
            4,
        )
        for r in (0, 1)
    ]
    for step in range(4):  # one plate over all hosts
        together = np.concatenate([h[step]["pixels"] for h in halves])
        assert np.array_equal(together, whole[step]["pixels"])


def test_labels_and_plates_of_a_batch(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    batches = crop_batches(index, crop=16, batch=8, seed=0, split=None)
    assert batches.labels == ("", "GENE1", "GENE2")  # of an untreated well, and of the others
    assert batches.plates == ("lab/E1/0000", "lab/E1/0001", "lab/E2/0010", "lab/E2/0011")
    for batch in _take(batches, 2):
        table = index.table.iloc[batch["row"]]
        assert [batches.labels[n] for n in batch["label"]] == table["Metadata_Gene"].tolist()
        plates = [batches.plates[n].split("/")[2] for n in batch["plate"]]
        assert plates == table["Metadata_Plate"].tolist()
    by_well = crop_batches(index, crop=16, batch=8, seed=0, split=None, label="Metadata_Well")
    assert by_well.labels == ("A01", "A02", "A03")
    by_well.close()
    with pytest.raises(InputError, match="no column 'Metadata_Genes': did you mean"):
        crop_batches(index, crop=16, batch=8, seed=0, split=None, label="Metadata_Genes")


def test_numbers_of_labels_hold_over_sets_and_splits(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    parts = [DatasetSpec(name, index.select(Experiment=name)) for name in ("E1", "E2")]
    fewer = DatasetSpec("fewer", index.select(Perturbation="GENE2"))
    found = label_codes([fewer, *parts])
    assert found.names == ("", "GENE1", "GENE2")
    assert found.codes[0].tolist() == [2] * 4
    assert found.codes[1].tolist() == [0, 1, 2] * 2


def test_labels_drawn_by_weight(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    settings = {"crop": 16, "batch": 8, "seed": 0, "split": None, "sampling": "label"}
    only = crop_batches(index, **settings, weights={"GENE1": 1.0})  # type: ignore[arg-type]
    rows = np.concatenate([b["row"] for b in _take(only, 3)])
    assert set(index.table.iloc[rows]["Metadata_Perturbation"]) == {"GENE1"}
    with pytest.raises(InputError, match="label 'GENE9' is not in the index"):
        crop_batches(index, **settings, weights={"GENE9": 1.0})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="label 'GENE1' has weight -1"):
        crop_batches(index, **settings, weights={"GENE1": -1})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="did you mean 'plate'"):
        crop_batches(index, crop=16, batch=8, seed=0, sampling="plates")


def _two_screens(screen: Callable[..., Path]) -> Index:
    """One index in which the plates of experiment E2 lack the channel ER."""
    path = screen()
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[table["Metadata_Batch"] == "E2", "FileName_OrigER"] = ""
    table.to_csv(path, index=False)
    return read_loaddata(str(path))


def test_sets_of_unlike_channels(screen: Callable[..., Path]) -> None:
    index = _two_screens(screen)
    sets = datasets_by_channels(index, ["Mito", "ER", "DNA"])
    assert [(s.name, s.channels, len(s.index)) for s in sets] == [
        ("Mito+ER+DNA", ("Mito", "ER", "DNA"), 6),
        ("Mito+DNA", ("Mito", "DNA"), 6),
    ]
    held_out = Index(with_split(index.table, experiments=["E2"]), index.root)
    assert [s.name for s in datasets_by_channels(held_out)] == ["DNA+ER+Mito"]
    settings = {"crop": 24, "batch": 4, "seed": 1, "split": None}
    whole = _take(crop_batches(sets, **settings), 12)  # type: ignore[arg-type]
    named = {one.name: one for one in sets}
    assert {b["dataset"] for b in whole} == set(named)
    for batch in whole:
        chosen = named[batch["dataset"]]
        assert batch["channels"] == chosen.channels
        assert batch["pixels"].shape == (4, len(chosen.channels), 24, 24)
        site = read_site(chosen.index, int(batch["row"][0]), chosen.channels)
        crop = batch["pixels"][0]
        assert any(  # the whole field, flipped or not, channels in the set's order
            np.array_equal(crop[:, ::up, ::over], site) for up in (1, -1) for over in (1, -1)
        )
    resumed = [
        _take(crop_batches(sets, **settings, world=2, rank=r, start_step=5), 7)  # type: ignore[arg-type]
        for r in (0, 1)
    ]
    for step in range(7):
        assert (
            resumed[0][step]["dataset"] == resumed[1][step]["dataset"] == whole[step + 5]["dataset"]
        )
        together = np.concatenate([host[step]["pixels"] for host in resumed])
        assert np.array_equal(together, whole[step + 5]["pixels"])


def test_shares_of_sets(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    sets = [
        DatasetSpec("rare", index, ("DNA",), 0.1),
        DatasetSpec("common", index, ("DNA", "ER"), 0.9),
    ]
    batches = crop_batches(sets, crop=8, batch=1, seed=0, split=None)
    names = [b["dataset"] for b in _take(batches, 1000)]
    assert names.count("rare") == 100
    rarer = DatasetSpec("rarer", index, ("ER",), 1e-9)
    with pytest.raises(InputError, match="set 'rarer' would give less than one batch in 1000"):
        crop_batches([*sets, rarer], crop=8, batch=1, seed=0, split=None)
    with pytest.raises(InputError, match="need unique names"):
        crop_batches([sets[0], sets[0]], crop=8, batch=1, seed=0)
    with pytest.raises(InputError, match="lacks the channel 'RNA'"):
        crop_batches([DatasetSpec("x", index, ("RNA",))], crop=8, batch=1, seed=0)


def test_a_worker_that_gives_up_says_why(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    for broken in (Path(index.root) / "images").glob("*/*_ER.tiff"):
        broken.unlink()
    batches = crop_batches(index, crop=16, batch=12, seed=0, split=None, workers=1)
    with pytest.raises(InputError, match=r"20 sites in a row could not be read.*does not exist"):
        next(batches)
    batches.close()
