"""What a job shows while it runs, and its account when it ends."""

import sys
import time
from dataclasses import dataclass
from types import TracebackType

from tqdm import tqdm


@dataclass(frozen=True)
class EmbedReport:
    """The account of one process's work.

    Attributes:
      wells: wells embedded by this process.
      skipped: wells that it could not embed.
      crops: crops embedded.
      parts: parts written.
      already: parts that an earlier process had done.
      seconds: from the first well asked for to the last part written.
      waited: seconds of these, after the first batch, in which the devices were done and no batch
        was ready for them: an upper bound, since a wait counts whole once they are done.
      complete: whether all parts of all shards are done.
    """

    wells: int = 0
    skipped: int = 0
    crops: int = 0
    parts: int = 0
    already: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    complete: bool = False

    def __str__(self) -> str:
        rate = f", {self.crops / self.seconds:.4g} crops/s" if self.crops and self.seconds else ""
        words = f"{self.wells} wells embedded ({self.crops} crops in {self.seconds:.1f} s{rate})"
        if self.skipped:
            words += f", {self.skipped} skipped"
        if self.already:
            parts = "1 part was" if self.already == 1 else f"{self.already} parts were"
            words += f", {parts} done before"
        if self.seconds and self.waited > 0.05 * self.seconds:
            share = 100 * self.waited / self.seconds
            words += f", the devices waited for images {share:.0f} % of the time"
        if not self.complete:
            words += "; other shards are not done yet"
        return words


class Progress:
    """A bar that counts wells, with wells/s, crops/s and the time left.

    Where the output is no terminal, a line every half minute instead of a moving bar.
    """

    def __init__(self, total: int, done: int, name: str, shown: bool) -> None:
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=name,
            unit="well",
            disable=not shown,
            mininterval=0.2 if terminal else 30,
            dynamic_ncols=terminal,
            smoothing=0.05,
        )
        self._start, self._crops = time.monotonic(), 0

    def well(self, crops: int) -> None:
        """Counts a well of `crops` crops."""
        self._crops += crops
        seconds = max(time.monotonic() - self._start, 1e-9)
        self._bar.set_postfix_str(f"{self._crops / seconds:.3g} crops/s", refresh=False)
        self._bar.update()

    def skip(self, wells: int) -> None:
        """Counts wells that could not be read."""
        self._bar.update(wells)

    def say(self, text: str) -> None:
        """Writes a line above the bar."""
        if not self._bar.disable:
            tqdm.write(text, file=sys.stderr)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
