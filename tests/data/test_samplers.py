"""Orders of sites: without replacement, weighted, by plate, mixed."""

from collections import Counter

import numpy as np
import pytest

from mae_jax.data.samplers import (
    LabelWeightedSampler,
    MixtureSampler,
    PlateBatchSampler,
    ShuffleSampler,
)
from mae_jax.errors import InputError

ROWS = np.arange(100, 140)


def test_shuffled_is_without_replacement_and_new_every_epoch() -> None:
    order = ShuffleSampler(ROWS, 5)
    epochs = [[order[40 * epoch + place] for place in range(40)] for epoch in range(3)]
    assert all(sorted(epoch) == ROWS.tolist() for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [ShuffleSampler(ROWS, 6)[place] for place in range(40)] != epochs[0]
    assert ShuffleSampler(ROWS, 5)[40 * 2 + 7] == epochs[2][7]  # any position, from nothing


def test_labels_are_equally_likely_however_many_sites_they_have() -> None:
    labels = np.array([2] * 30 + [0] * 9 + [3])  # and label 1 has no site at all
    order = LabelWeightedSampler(ROWS, labels, 0, np.ones(4))
    rows = np.array([order[place] for place in range(6000)])
    drawn = np.bincount(labels[rows - 100], minlength=4)
    assert drawn[1] == 0
    # Each of the three is as likely as the others, to five sigma.
    assert np.abs(drawn[[0, 2, 3]] / 6000 - 1 / 3).max() < 5 * np.sqrt(2 / 9 / 6000)
    few = Counter(rows[labels[rows - 100] == 0].tolist())
    assert set(few) == set(range(130, 139))
    assert max(few.values()) < 2 * min(few.values())


def test_labels_by_weight() -> None:
    labels = np.repeat([0, 1, 2], [20, 10, 10])
    order = LabelWeightedSampler(ROWS, labels, 0, np.array([1.0, 0.0, 3.0]))
    drawn = np.bincount([labels[order[place] - 100] for place in range(4000)])
    assert drawn[1] == 0
    assert abs(drawn[2] / 4000 - 0.75) < 5 * np.sqrt(0.1875 / 4000)
    with pytest.raises(InputError, match="all weights are 0"):
        LabelWeightedSampler(ROWS, labels, 0, np.zeros(3))


def test_batches_of_one_plate() -> None:
    plates = ["P"] * 19 + ["Q"] * 17 + ["R"] * 4  # batches of 8: two, two and one with repeats
    order = PlateBatchSampler(ROWS, np.array([ord(plate) for plate in plates]), 8, 0)
    seen: Counter[str] = Counter()
    for step in range(5):
        rows = [order[8 * step + slot] for slot in range(8)]
        of = {plates[row - 100] for row in rows}
        assert len(of) == 1
        seen.update(of)
        if of == {"R"}:
            assert sorted(Counter(rows).values()) == [2] * 4
        else:
            assert len(set(rows)) == 8
    assert seen == {"P": 2, "Q": 2, "R": 1}
    p = [row for step in range(5) for slot in range(8) if (row := order[8 * step + slot]) < 119]
    assert len(set(p)) == 16  # without replacement within the epoch
    plates_of = [plates[order[8 * step] - 100] for step in range(50)]
    assert plates_of[:5] != plates_of[5:10] or plates_of[5:10] != plates_of[10:15]


def test_sets_share_out_the_steps_exactly() -> None:
    first, second = ShuffleSampler(np.arange(10), 1), ShuffleSampler(np.arange(50, 57), 2)
    order = MixtureSampler([first, second], [3, 1], 4, seed=0)
    turns = [0, 0]
    for step in range(2000):
        items = [order[4 * step + slot] for slot in range(4)]
        assert len({number for number, _ in items}) == 1
        number = items[0][0]
        own = (first, second)[number]
        expected = [own[4 * turns[number] + slot] for slot in range(4)]
        assert [row for _, row in items] == expected  # each set goes through its own order
        turns[number] += 1
    assert turns == [1500, 500]
