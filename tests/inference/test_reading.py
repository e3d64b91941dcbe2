import threading
import time

import numpy as np
import pytest

from mae_jax.data.images import read_site
from mae_jax.encoders.baselines import IntensityEncoder
from mae_jax.errors import InputError
from mae_jax.inference.crop_batches import Batch, ShardEnd, make_batches
from mae_jax.inference.embedding_plan import Well, make_plan
from mae_jax.inference.reading import (
    SiteImage,
    UnreadableWell,
    WellImages,
    prefetch,
    read_ahead,
)


def well_of(number: int, part: int, crops: int, channels: int = 2) -> WellImages:
    """A well whose crops of 4² pixels hold the number 100 * well + crop everywhere."""
    pixels = np.zeros((channels, 4, 4 * crops), np.uint16)
    for crop in range(crops):
        pixels[:, :, 4 * crop : 4 * crop + 4] = 100 * number + crop
    offsets = np.stack([np.zeros(crops, int), 4 * np.arange(crops)], axis=1)
    well = Well(number, part, (number,), ("s", "E", "P", f"A{number:02d}"))
    names = tuple(f"c{i}" for i in range(channels))
    return WellImages(well, names, [SiteImage("1", pixels, offsets, 4)])


def test_batches_run_over_the_borders_of_wells_and_stop_at_those_of_parts() -> None:
    wells = [well_of(0, 0, 3), well_of(1, 0, 4), well_of(2, 0, 2), well_of(3, 1, 1)]
    events = list(make_batches(iter(wells), batch_size=5))
    assert [type(event) for event in events] == [Batch, Batch, ShardEnd, Batch, ShardEnd]
    held = [event.pixels[:, 0, 0, 0].tolist() for event in events if isinstance(event, Batch)]
    assert held == [[0, 1, 2, 100, 101], [102, 103, 200, 201, 0], [300, 0, 0, 0, 0]]
    assert [event.num_crops for event in events if isinstance(event, Batch)] == [5, 4, 1]
    spans = [(s.well.well.number, s.crop, s.row, s.count) for s in events[1].slices]
    assert spans == [(1, 2, 0, 2), (2, 0, 2, 2)]


def test_wells_with_more_channels_fill_batches_of_their_own() -> None:
    wells = [well_of(0, 0, 3), well_of(1, 0, 3, channels=5), well_of(2, 0, 3)]
    events = list(make_batches(iter(wells), batch_size=4))
    shapes = [event.pixels.shape[:2] for event in events if isinstance(event, Batch)]
    assert sorted(shapes) == [(4, 2), (4, 2), (4, 5)]


def test_a_part_of_broken_wells_alone_ends_too() -> None:
    broken = UnreadableWell(Well(0, 0, (0,), ("s", "E", "P", "A01")), "gone")
    events = list(make_batches(iter([broken, well_of(1, 1, 1)]), batch_size=2))
    assert [type(event) for event in events] == [ShardEnd, Batch, ShardEnd]
    assert events[0].unreadable == [broken]


def test_wells_come_in_order_whatever_the_threads(make_screen) -> None:
    plan = make_plan(make_screen(wells=9), wells_per_shard=4)
    wells = [well for part in range(plan.num_shards) for well in plan.shard_wells(part)]
    encoder = IntensityEncoder(crop=16)
    for threads, memory in ((1, 1), (6, 1 << 30)):
        read = list(read_ahead(plan, encoder, wells, threads=threads, memory=memory))
        assert [item.well.number for item in read] == list(range(9))
        for item in read:
            assert isinstance(item, WellImages)
            for site, row in zip(item.sites, item.well.rows, strict=True):
                expected = read_site(plan.index, row, item.channels)
                np.testing.assert_array_equal(site.pixels, expected)


def test_reading_ahead_holds_no_more_than_it_may(make_screen, monkeypatch) -> None:
    """With memory for two wells, no third is begun before the first has been taken."""
    from mae_jax.inference import reading

    plan = make_plan(make_screen(wells=8, sites=1))
    begun: list[int] = []
    real = reading.read_site

    def counted(index, row, channels):
        begun.append(row)
        return real(index, row, channels)

    monkeypatch.setattr(reading, "read_site", counted)
    size = 3 * 48 * 48 * 2
    wells = read_ahead(
        plan, IntensityEncoder(crop=16), plan.shard_wells(0), threads=4, memory=2 * size
    )
    for taken in range(1, 6):
        next(wells)
        time.sleep(0.05)
        assert len(begun) <= taken + 2
    wells.close()


def test_an_exception_in_the_background_comes_to_the_front() -> None:
    def items():
        yield 1
        raise InputError("broken")

    found = prefetch(items(), depth=2)
    assert next(found) == 1
    with pytest.raises(InputError, match="broken"):
        next(found)


def test_leaving_stops_the_thread() -> None:
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    found = prefetch(items(), depth=2)
    next(found)
    found.close()
    assert closed.wait(5)
