"""Samplers: endless, randomly accessible sequences of sites.

A sampler gives the row of the index at each position of an endless sequence of sites; batch t takes
the positions t·n … t·n + n − 1. Rows are computed from the seed and the position alone, so any
host can ask for any position and a run resumes anywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from mae_jax.errors import InputError

ENDLESS = 2**60


class Sampler(ABC):
    """An endless sequence of row numbers."""

    def __len__(self) -> int:
        return ENDLESS

    @abstractmethod
    def __getitem__(self, position: int) -> int: ...


class ShuffleSampler(Sampler):
    """Every row once per epoch, each epoch in another random order."""

    def __init__(self, rows: Int[np.ndarray, " rows"], seed: int) -> None:
        self.rows, self.seed = rows, seed

    def __getitem__(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.rows))
        return int(self.rows[_permutation(len(self.rows), self.seed, epoch)[offset]])


class LabelWeightedSampler(Sampler):
    """Draws a label by weight, then one of its sites, for weakly supervised learning.

    Sampling is with replacement.

    Args:
      rows: row numbers.
      labels: the label of each.
      seed: of the order.
      weights: the weight of each label; equal weights balance labels with unequal numbers of sites.

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
        present = np.where(np.diff(self.starts) > 0, weights, 0.0)
        if not present.sum() > 0:
            raise InputError("cannot sample by weight: all weights are 0.")
        self.cumulative = np.cumsum(present / present.sum())

    def __getitem__(self, position: int) -> int:
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=position))
        label_draw, site_draw = rng.random(2) * (self.cumulative[-1], 1.0)
        label = int(np.searchsorted(self.cumulative, label_draw, side="right"))
        start, end = self.starts[label], self.starts[label + 1]
        return int(self.rows[start + int(site_draw * (end - start))])


class PlateBatchSampler(Sampler):
    """Batches that each come from one plate, as adaptive batch normalization needs.

    In an epoch every plate gives its shuffled sites in whole batches, and the batches of all plates
    come in random order; sites that do not fill a batch are left for another epoch's shuffle. A
    plate with fewer sites than a batch gives one batch, in which sites repeat.

    Args:
      rows: row numbers.
      plates: the code of the plate of each.
      sites_per_batch: sites in a global batch.
      seed: of the order.
    """

    def __init__(
        self,
        rows: Int[np.ndarray, " rows"],
        plates: Int[np.ndarray, " rows"],
        sites_per_batch: int,
        seed: int,
    ) -> None:
        self.plate_rows = [rows[plates == code] for code in np.unique(plates)]
        self.sites_per_batch, self.seed = sites_per_batch, seed
        self.batches = [
            (plate, number)
            for plate, of_plate in enumerate(self.plate_rows)
            for number in range(max(1, len(of_plate) // sites_per_batch))
        ]

    def __getitem__(self, position: int) -> int:
        step, slot = divmod(position, self.sites_per_batch)
        epoch, offset = divmod(step, len(self.batches))
        plate, number = self.batches[_permutation(len(self.batches), self.seed, epoch)[offset]]
        rows = self.plate_rows[plate]
        shuffled = _permutation(len(rows), self.seed + 1 + plate, epoch)
        return int(rows[shuffled[(number * self.sites_per_batch + slot) % len(rows)]])


class MixtureSampler:
    """Batches of several datasets in turn, each batch from one: (number of the dataset, row).

    The datasets share the steps in proportion to `weights`, exactly so in every cycle of `CYCLE`
    steps, in an order shuffled by the seed; within its own batches each dataset keeps the order of
    its own sampler.

    Attributes:
      batches_per_cycle: for each dataset its batches in a cycle.
    """

    CYCLE = 1000

    def __init__(
        self,
        samplers: Sequence[Sampler],
        weights: Sequence[float | int],
        sites_per_batch: int,
        seed: int,
    ) -> None:
        total = float(sum(weights))
        exact = np.array([weight / total * self.CYCLE for weight in weights])
        batches = np.floor(exact).astype(int)
        for number in np.argsort(batches - exact, kind="stable")[: self.CYCLE - batches.sum()]:
            batches[number] += 1
        self.samplers, self.sites_per_batch, self.seed = list(samplers), sites_per_batch, seed
        self.batches_per_cycle = batches
        self._numbers = np.repeat(np.arange(len(batches)), batches)
        self._cycles: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return ENDLESS

    def dataset_of(self, step: int) -> tuple[int, int]:
        """The dataset that the batch of `step` comes from, and its number of earlier batches."""
        cycle, offset = divmod(step, self.CYCLE)
        numbers, earlier = self._cycle(cycle)
        number = int(numbers[offset])
        return number, cycle * int(self.batches_per_cycle[number]) + int(earlier[offset])

    def __getitem__(self, position: int) -> tuple[int, int]:
        step, slot = divmod(position, self.sites_per_batch)
        number, earlier = self.dataset_of(step)
        return number, self.samplers[number][earlier * self.sites_per_batch + slot]

    def _cycle(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """The dataset of each step of a cycle, and how many of its batches come before."""
        if cycle not in self._cycles:
            numbers = self._numbers[_permutation(self.CYCLE, self.seed, cycle)]
            earlier = np.zeros(self.CYCLE, int)
            for number in range(len(self.batches_per_cycle)):
                earlier[numbers == number] = np.arange((numbers == number).sum())
            if len(self._cycles) > 8:
                self._cycles.clear()
            self._cycles[cycle] = numbers, earlier
        return self._cycles[cycle]


@lru_cache(maxsize=512)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 1, epoch])).permutation(
        length
    )
