"""Orders in which sites are drawn: endless sequences in which every position can be asked for.

An order says which row of the index stands at each position of the endless sequence of sites; batch
t takes the positions t·n … t·n + n − 1. Positions are computed from the seed alone, so any host can
ask for any of them and a run resumes anywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int

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


class ByPerturbation(Order):
    """A perturbation first, by weight, then one of its sites: for weakly supervised learning.

    Drawn with replacement. Without `weights` every perturbation is as likely as any other,
    however many wells it has; with them, a perturbation that is not named is left out.

    Raises:
      InputError: a weight is negative, or names a perturbation that is not in the index.
    """

    def __init__(
        self,
        rows: Int[np.ndarray, " rows"],
        perturbations: Sequence[str],
        seed: int,
        weights: Mapping[str, float | int] | None = None,
    ) -> None:
        names, members = np.unique(
            np.asarray(perturbations, object).astype(str), return_inverse=True
        )
        known = {str(name): number for number, name in enumerate(names)}
        share = np.ones(len(names))
        if weights is not None:
            share[:] = 0
            for name, weight in weights.items():
                if name not in known or not weight >= 0:
                    what = "is not in the index" if name not in known else f"has weight {weight}"
                    raise InputError(f"cannot sample by weight: perturbation '{name}' {what}.")
                share[known[name]] = weight
        if not share.sum() > 0:
            raise InputError("cannot sample by weight: all weights are 0.")
        order = np.argsort(members, kind="stable")
        self.rows, self.seed = rows[order], seed
        self.starts = np.searchsorted(members[order], np.arange(len(names) + 1))
        self.limits = np.cumsum(share / share.sum())

    def __getitem__(self, position: int) -> int:
        draw, place = np.random.Generator(np.random.Philox(key=self.seed, counter=position)).random(
            2
        )
        group = min(int(np.searchsorted(self.limits, draw, side="right")), len(self.limits) - 1)
        start, end = self.starts[group], self.starts[group + 1]
        return int(self.rows[start + int(place * (end - start))])


class ByPlate(Order):
    """Batches that each come from one plate, as adaptive batch normalisation needs.

    In an epoch every plate gives its shuffled sites in whole batches, and the batches of all plates
    come in random order; the sites that do not fill a batch wait for another epoch's shuffle. A
    plate with fewer sites than a batch gives one batch, in which sites repeat.

    Args:
      rows: row numbers.
      plates: the plate of each.
      count: sites in a global batch.
      seed: of the order.
    """

    def __init__(
        self, rows: Int[np.ndarray, " rows"], plates: Sequence[str], count: int, seed: int
    ) -> None:
        names, members = _grouped(plates)
        self.groups = [rows[members == number] for number in range(len(names))]
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
        if (turns == 0).any():
            raise InputError(f"a share of less than one step in {self.CYCLE} is none; raise it.")
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


def _grouped(labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct labels, sorted, and for each label its number among them."""
    return np.unique(np.asarray(labels, object).astype(str), return_inverse=True)


@lru_cache(maxsize=512)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 1, epoch])).permutation(
        length
    )
