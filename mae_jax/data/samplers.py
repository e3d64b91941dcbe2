"""Orders in which sites are drawn: endless sequences in which every position can be asked for.

An order says which row of the index stands at each position of the endless sequence of sites; batch
t takes the positions t·n … t·n + n − 1. Positions are computed from the seed alone, so any host can
ask for any of them and a run resumes anywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from mae_jax.errors import InputError

ENDLESS = 2**60


class Order(ABC):
    """An endless sequence of row numbers."""

    def __len__(self) -> int:
        return ENDLESS

    @abstractmethod
    def __getitem__(self, position: int) -> int: ...


class Shuffled(Order):
    """Every row once an epoch, each epoch in another random order."""

    def __init__(self, rows: Int[np.ndarray, " rows"], seed: int) -> None:
        self.rows, self.seed = rows, seed

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, len(self.rows))
        return int(self.rows[_permutation(len(self.rows), self.seed, epoch)[place]])


class ByLabel(Order):
    """A label first, by weight, then one of its sites: for weakly supervised learning.

    Drawn with replacement.

    Args:
      rows: row numbers.
      labels: the label of each.
      seed: of the order.
      weights: for each label its weight; equal ones balance labels however many sites they have.

    Raises:
      InputError: no label of these rows has a weight.
    """

    def __init__(
        self,
        rows: Int[np.ndarray, " rows"],
        labels: Int[np.ndarray, " rows"],
        seed: int,
        weights: Float[np.ndarray, " labels"],
    ) -> None:
        order = np.argsort(labels, kind="stable")
        self.rows, self.seed = rows[order], seed
        self.starts = np.searchsorted(labels[order], np.arange(len(weights) + 1))
        share = np.where(np.diff(self.starts) > 0, weights, 0.0)
        if not share.sum() > 0:
            raise InputError("cannot sample by weight: all weights are 0.")
        self.limits = np.cumsum(share / share.sum())

    def __getitem__(self, position: int) -> int:
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=position))
        draw, place = rng.random(2) * (self.limits[-1], 1.0)
        group = int(np.searchsorted(self.limits, draw, side="right"))
        start, end = self.starts[group], self.starts[group + 1]
        return int(self.rows[start + int(place * (end - start))])


class ByPlate(Order):
    """Batches that each come from one plate, as adaptive batch normalisation needs.

    In an epoch every plate gives its shuffled sites in whole batches, and the batches of all plates
    come in random order; the sites that do not fill a batch wait for another epoch's shuffle. A
    plate with fewer sites than a batch gives one batch, in which sites repeat.

    Args:
      rows: row numbers.
      plates: the number of the plate of each.
      count: sites in a global batch.
      seed: of the order.
    """

    def __init__(
        self,
        rows: Int[np.ndarray, " rows"],
        plates: Int[np.ndarray, " rows"],
        count: int,
        seed: int,
    ) -> None:
        self.groups = [rows[plates == number] for number in np.unique(plates)]
        self.count, self.seed = count, seed
        self.batches = [
            (plate, number)
            for plate, group in enumerate(self.groups)
            for number in range(max(1, len(group) // count))
        ]

    def __getitem__(self, position: int) -> int:
        step, slot = divmod(position, self.count)
        epoch, place = divmod(step, len(self.batches))
        plate, number = self.batches[_permutation(len(self.batches), self.seed, epoch)[place]]
        group = self.groups[plate]
        shuffled = _permutation(len(group), self.seed + 1 + plate, epoch)
        return int(group[shuffled[(number * self.count + slot) % len(group)]])


class Mixed:
    """Batches of several sets in turn, each batch from one set: (number of the set, row).

    Sets share out the steps by `shares`, exactly so in every cycle of `CYCLE` steps, in an order
    shuffled by the seed; within its own batches each set keeps its own order.

    Attributes:
      per_cycle: for each set its batches in a cycle.
    """

    CYCLE = 1000

    def __init__(
        self, orders: Sequence[Order], shares: Sequence[float | int], count: int, seed: int
    ) -> None:
        total = float(sum(shares))
        exact = np.array([share / total * self.CYCLE for share in shares])
        turns = np.floor(exact).astype(int)
        for number in np.argsort(turns - exact, kind="stable")[: self.CYCLE - turns.sum()]:
            turns[number] += 1
        self.orders, self.count, self.seed = list(orders), count, seed
        self.turns = np.repeat(np.arange(len(turns)), turns)
        self.per_cycle = turns

    def __len__(self) -> int:
        return ENDLESS

    def set_of(self, step: int) -> tuple[int, int]:
        """Which set the batch of `step` comes from, and how many batches that set gave before."""
        cycle, place = divmod(step, self.CYCLE)
        sets, before = self._cycle(cycle)
        number = int(sets[place])
        return number, cycle * int(self.per_cycle[number]) + int(before[place])

    def __getitem__(self, position: int) -> tuple[int, int]:
        step, slot = divmod(position, self.count)
        number, turn = self.set_of(step)
        return number, self.orders[number][turn * self.count + slot]

    def _cycle(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        kept: dict[int, tuple[np.ndarray, np.ndarray]] = self.__dict__.setdefault("_kept", {})
        if cycle not in kept:
            sets = self.turns[_permutation(self.CYCLE, self.seed, cycle)]
            before = np.zeros(self.CYCLE, int)
            for number in range(len(self.per_cycle)):
                before[sets == number] = np.arange((sets == number).sum())
            if len(kept) > 8:
                kept.clear()
            kept[cycle] = sets, before
        return kept[cycle]


@lru_cache(maxsize=512)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 1, epoch])).permutation(
        length
    )
