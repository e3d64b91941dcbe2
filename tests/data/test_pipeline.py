"""Batches: the same for any number of hosts, resumable, and never stopped by one broken file."""

import itertools
import logging
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mae_jax.data.batch_iterator import BatchIterator
from mae_jax.data.crops import SiteCache
from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.pipeline import crop_batches
from mae_jax.data.readers.loaddata import read_loaddata
from mae_jax.data.splits import with_split
from mae_jax.data.validation import validation_crops
from mae_jax.errors import InputError

BATCH = 8


def _batches(index: Index, steps: int, **options: object) -> list[dict[str, np.ndarray]]:
    settings = {"crop": 16, "batch": BATCH, "seed": 3, "split": None, **options}
    batches = crop_batches(index, **settings)  # type: ignore[arg-type]
    try:
        return list(itertools.islice(batches, steps))
    finally:
        batches.close()


def test_crops_are_flipped_windows_of_their_site(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    flips = set()
    places = set()
    for batch in _batches(index, 12):
        assert batch["pixels"].shape == (BATCH, 3, 16, 16)
        assert batch["pixels"].dtype == np.uint16
        for crop, row in zip(batch["pixels"], batch["row"], strict=True):
            site = read_site(index, int(row))
            found = [
                (top, left, up, over)
                for top, left in itertools.product(range(9), range(9))
                for up, over in itertools.product((1, -1), (1, -1))
                if np.array_equal(crop[:, ::up, ::over], site[:, top : top + 16, left : left + 16])
            ]
            assert len(found) == 1
            places.add(found[0][:2])
            flips.add(found[0][2:])
    assert len(flips) == 4
    assert {top for top, _ in places} == set(range(9))  # the last row and column too
    assert {left for _, left in places} == set(range(9))


def test_an_epoch_visits_every_site_once_and_the_next_in_another_order(
    screen: Callable[..., Path],
) -> None:
    index = read_loaddata(str(screen(wells=4)))  # 16 sites: two batches an epoch
    rows = np.concatenate([b["row"] for b in _batches(index, 4)])
    assert sorted(rows[:16]) == sorted(rows[16:]) == list(range(16))
    assert rows[:16].tolist() != rows[16:].tolist()


@pytest.mark.parametrize("crops_per_site", [1, 2])
def test_same_batches_for_1_2_4_hosts_and_a_restart(
    screen: Callable[..., Path], crops_per_site: int
) -> None:
    index = read_loaddata(str(screen()))
    more = {"crops_per_site": crops_per_site}
    reference = _batches(index, 6, **more)
    for world, threads in ((1, 4), (2, 1), (4, 2)):
        start = 2 if world > 1 else 0  # resumed in the middle, on another number of hosts
        hosts = [
            _batches(
                index, 6 - start, world=world, rank=r, start_step=start, threads=threads, **more
            )
            for r in range(world)
        ]
        for step in range(start, 6):
            for key in ("pixels", "row"):
                together = np.concatenate([host[step - start][key] for host in hosts])
                assert np.array_equal(together, reference[step][key])


def test_same_batches_from_worker_processes(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    reference = _batches(index, 5)
    host = _batches(index, 3, world=2, rank=1, workers=2, start_step=2)
    for step in range(3):
        for key in ("pixels", "row"):
            assert np.array_equal(host[step][key], reference[step + 2][key][BATCH // 2 :])


@pytest.mark.parametrize("per_site", [1, 4])
def test_memory_is_bounded_by_what_was_allowed(screen: Callable[..., Path], per_site: int) -> None:
    index = read_loaddata(str(screen(plates=5, wells=5, size=256)))
    site = 3 * 256 * 256 * 2
    batch = 32 * 3 * 64 * 64 * 2
    cache, ahead, threads = 10 * site, 4 * batch, 3
    tracemalloc.start()
    try:
        batches = crop_batches(
            index,
            crop=64,
            batch=32,
            seed=0,
            split=None,
            cache_bytes=cache,
            prefetch_bytes=ahead,
            threads=threads,
            crops_per_site=per_site,
        )
        for _ in itertools.islice(batches, 12):
            pass
        _, peak = tracemalloc.get_traced_memory()
        batches.close()
    finally:
        tracemalloc.stop()
    # Each thread's site as file, as planes and stacked; the batch that is being filled as crops
    # and as an array, the one that waits to be put away, and the one in the consumer's hand.
    allowed = cache + ahead + threads * 3 * site + 4 * batch
    assert cache < peak < 1.1 * allowed < 50 * site


@pytest.mark.slow
def test_same_batches_for_any_number_of_workers(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    reference = _batches(index, 6)
    for world, workers in itertools.product((1, 2, 4), (0, 2)):
        hosts = [
            _batches(index, 4, world=world, rank=r, workers=workers, start_step=2)
            for r in range(world)
        ]
        for step in range(4):
            for key in ("pixels", "row"):
                together = np.concatenate([host[step][key] for host in hosts])
                assert np.array_equal(together, reference[step + 2][key])


def test_another_seed_gives_other_batches(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    one, other = _batches(index, 1)[0], _batches(index, 1, seed=4)[0]
    assert one["row"].tolist() != other["row"].tolist()


def test_only_the_rows_of_the_split(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    index = Index(with_split(index.table, experiments=["E1"]), index.root)
    rows = np.concatenate([b["row"] for b in _batches(index, 3, split="train")])
    assert set(index.table.iloc[rows]["Metadata_Experiment"]) == {"E2"}
    seen = list(validation_crops(index, crop=16, batch=4))
    rows = np.concatenate([b["row"][b["mask"]] for b in seen])
    assert set(index.table.iloc[rows]["Metadata_Experiment"]) == {"E1"}


def test_validation_is_fixed_padded_and_shared_out(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen(experiments=1, wells=5)))  # 10 sites
    whole = list(validation_crops(index, crop=16, batch=8, split=None))
    assert [b["mask"].sum() for b in whole] == [8, 2]
    assert np.array_equal(whole[0]["pixels"][3], read_site(index, 3)[:, 4:20, 4:20])
    halves = [
        list(validation_crops(index, crop=16, batch=8, split=None, world=2, rank=r)) for r in (0, 1)
    ]
    assert [len(h) for h in halves] == [2, 2]
    for step in range(2):
        together = np.concatenate([h[step]["mask"] for h in halves])
        assert np.array_equal(together, whole[step]["mask"])
        pixels = np.concatenate([h[step]["pixels"] for h in halves])
        assert np.array_equal(pixels[together], whole[step]["pixels"][together])
    assert list(validation_crops(index, crop=16, batch=8)) == []  # no validation split
    few = list(validation_crops(index, crop=16, batch=8, split=None, limit=3))
    assert [b["mask"].sum() for b in few] == [3]


def test_a_broken_site_gives_way_to_another(
    screen: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    index = read_loaddata(str(screen()))
    whole = _batches(index, 6)
    broken = Path(index.root) / "images" / "0001" / "a2_s1_ER.tiff"  # row 4
    broken.write_bytes(broken.read_bytes()[:100])

    def read(**options: object) -> tuple[list[dict[str, np.ndarray]], BatchIterator]:
        batches = crop_batches(
            index,
            crop=16,
            batch=BATCH,
            seed=3,
            split=None,
            max_unreadable_fraction=0.2,
            **options,  # type: ignore[arg-type]
        )
        found = list(itertools.islice(batches, 6))
        batches.close()
        return found, batches

    with caplog.at_level(logging.WARNING):
        found, batches = read()
    rows = np.concatenate([b["row"] for b in found])
    before = np.concatenate([b["row"] for b in whole])
    assert 4 not in rows
    assert np.array_equal(rows != before, before == 4)  # all other places are as they were
    assert batches.unreadable == (before == 4).sum() == 4
    assert batches.crops == 48
    assert [str(broken) in problem for problem in batches.errors] == [True]
    assert len([r for r in caplog.records if str(broken) in r.getMessage()]) == 1
    halves = [read(world=2, rank=r)[0] for r in (0, 1)]
    for step in range(6):
        together = np.concatenate([h[step]["pixels"] for h in halves])
        assert np.array_equal(together, found[step]["pixels"])


def test_too_many_broken_sites_stop_the_run(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    for broken in (Path(index.root) / "images" / "0001").glob("*_ER.tiff"):
        broken.unlink()
    with pytest.raises(
        InputError, match=r"more than the allowed fraction of 10.0%.*does not exist"
    ):
        _batches(index, 6, max_unreadable_fraction=0.1)
    for broken in (Path(index.root) / "images").glob("*/*_ER.tiff"):
        broken.unlink()
    with pytest.raises(InputError, match="20 sites in a row could not be read"):
        _batches(index, 1)


def test_unlike_types_do_not_mix(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    for path in (Path(index.root) / "images" / "0001").glob("*.tiff"):
        tifffile.imwrite(path, np.zeros((24, 24), np.uint8))
    with pytest.raises(InputError, match="mixes images of types uint16, uint8"):
        _batches(index, 2)


def test_what_cannot_be(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    with pytest.raises(InputError, match="does not divide"):
        _batches(index, 1, world=3)
    with pytest.raises(InputError, match="lacks the channel 'RNA'"):
        _batches(index, 1, channels=["DNA", "RNA"])
    with pytest.raises(InputError, match="no site in the split 'test'"):
        _batches(index, 1, split="test")
    with pytest.raises(InputError, match="less than a crop of 99"):
        _batches(index, 1, crop=99)


def test_cache_is_bounded_and_serves(screen: Callable[..., Path]) -> None:
    site = np.zeros((3, 24, 24), np.uint16)
    cache = SiteCache(2 * site.nbytes)
    for row in range(5):
        cache.put(row, site)
        cache.put(row, site)
    assert cache.bytes == 2 * site.nbytes
    assert [cache.get(row) is not None for row in range(5)] == [True, True, False, False, False]
    index = read_loaddata(str(screen()))
    with_cache = _batches(index, 6)
    without = _batches(index, 6, cache_bytes=0)
    assert all(
        np.array_equal(a["pixels"], b["pixels"]) for a, b in zip(with_cache, without, strict=True)
    )
