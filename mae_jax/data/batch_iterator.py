"""The iterator over training batches: what it delivers, counts, leaves out and stops at."""

import logging
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mae_jax.data.collate import FillBatch
from mae_jax.data.crash_log import left_notes
from mae_jax.data.mixture import CropSet, Numbering
from mae_jax.errors import InputError

log = logging.getLogger(__name__)


class CropBatches:
    """Iterator over batches that counts and names what it had to leave out.

    Attributes:
      sets: the screens, with names and channels; a batch's "set" is the name of one.
      labels: names of the labels; a batch's "label" holds places in them.
      domains: names of the plates ('source/experiment/plate') that a batch's "domain" counts in.
      step: the number of the batch that comes next.
      crops: crops delivered so far by this iterator.
      broken: how many sites drawn could not be read and were replaced by another one.
      problems: the distinct reasons, each naming its file, with how often each was met.
      data_wait: seconds that the last `next` took: what the device may have waited for.
    """

    def __init__(
        self,
        batches: Any,
        *,
        sets: tuple[CropSet, ...],
        labels: Numbering,
        domains: Numbering,
        sites: int,
        start_step: int,
        max_unreadable_fraction: float,
        notes: Path,
        fill: FillBatch,
    ) -> None:
        self._notes, self._fill = notes, fill
        self._iterator = iter(batches)
        self._sites = sites
        self._max_unreadable_fraction = max_unreadable_fraction
        self.sets = sets
        self.labels, self.domains = labels.names, domains.names
        self._numbers = labels.numbers, domains.numbers
        self.step = start_step
        self.crops = 0
        self.broken = 0
        self.problems: dict[str, int] = {}
        self.data_wait = 0.0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            batch = next(self._iterator)
        except InputError:
            raise
        except Exception as problem:
            self._explain(problem)
            raise
        self.data_wait = time.perf_counter() - started
        self.step += 1
        rows, number = batch["row"], int(batch["set"])
        self._count(len(rows), batch["problems"])
        labels, domains = self._numbers
        return {
            "pixels": batch["pixels"],
            "channels": self.sets[number].channels,
            "set": self.sets[number].name,
            "row": rows,
            "label": labels[number][rows],
            "domain": domains[number][rows],
        }

    def close(self) -> None:
        """Stops the reading threads and worker processes; the iterator must not be used after."""
        self._iterator.close()
        self._fill.close()
        shutil.rmtree(self._notes, ignore_errors=True)

    def _explain(self, problem: Exception) -> None:
        """Raises what a worker process has to say, if it was that which failed."""
        said = re.search(r"InputError: (.*)", str(problem))
        if said:
            raise InputError(said[1]) from None
        files = left_notes(self._notes)
        if files:
            raise InputError(
                f"a reading process died while it read {' or '.join(files)}; the image may be "
                "broken in a way that crashes its decoder: leave it out of the index."
            ) from problem

    def _count(self, crops: int, problems: Sequence[Sequence[str]]) -> None:
        self.crops += crops
        self.broken += len(problems)
        for problem in (sentence for met in problems for sentence in met):
            if problem not in self.problems:
                log.warning("left out, another site taken in its place: %s", problem)
            self.problems[problem] = self.problems.get(problem, 0) + 1
        # Judged on a thousand crops or one epoch at least: one bad file early is no share.
        if self.broken > self._max_unreadable_fraction * max(self.crops, min(1000, self._sites)):
            raise InputError(
                f"{self.broken} of {self.crops} sites drawn could not be read, more than the "
                f"share of {self._max_unreadable_fraction:.1%} allowed; the first because: "
                f"{next(iter(self.problems))} "
                "See them all with `mae-jax index --check`."
            )
