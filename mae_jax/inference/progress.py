"""The progress bar of an embedding job, and its report."""

import sys
import time
from dataclasses import dataclass
from types import TracebackType

from tqdm import tqdm

from mae_jax.html_table import html_table


@dataclass(frozen=True)
class EmbedReport:
    """The work of one process.

    Attributes:
      wells: wells embedded by this process.
      skipped: wells that it could not embed.
      crops: crops embedded.
      shards: shards written.
      already_done: shards that were done before.
      seconds: from the first well requested to the last shard written.
      idle_seconds: seconds of these, after the first batch, in which the devices had finished and
        no batch was ready for them: an upper bound, since a wait counts whole once they finish.
      complete: whether all shards of all tasks are done.
      total_wells: wells embedded by all tasks, once the job is complete.
      quarantined: files that were damaged or surplus and were moved away, each with its reason.
      lacking: sentences on wells that lack a stain which others have.
      first_skipped: the first skipped well and the reason, "" for none.
    """

    wells: int = 0
    skipped: int = 0
    crops: int = 0
    shards: int = 0
    already_done: int = 0
    seconds: float = 0.0
    idle_seconds: float = 0.0
    complete: bool = False
    total_wells: int = 0
    quarantined: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    first_skipped: str = ""

    def __str__(self) -> str:
        rate = f", {self.crops / self.seconds:.4g} crops/s" if self.crops and self.seconds else ""
        text = f"{self.wells} wells embedded ({self.crops} crops in {self.seconds:.1f} s{rate})"
        if self.skipped:
            text += f", {self.skipped} skipped"
        if self.already_done:
            shards = "1 shard was" if self.already_done == 1 else f"{self.already_done} shards were"
            text += f", {shards} already done"
        if self.quarantined:
            files = "1 file" if len(self.quarantined) == 1 else f"{len(self.quarantined)} files"
            text += f", {files} moved to quarantine"
        if self.seconds and self.idle_seconds > 0.05 * self.seconds:
            share = 100 * self.idle_seconds / self.seconds
            text += f", the devices waited for images {share:.0f} % of the time"
        if not self.complete:
            text += "; other tasks are not done yet"
        return text

    def _repr_html_(self) -> str:
        rows: dict[str, object] = {
            "wells": self.wells,
            "skipped": self.skipped,
            "crops": self.crops,
            "seconds": round(self.seconds, 1),
            "complete": "yes" if self.complete else "no",
            "notes": " ".join((*self.lacking, *self.quarantined)),
        }
        return html_table("Embedding", rows)


class Progress:
    """A bar that counts wells, with wells/s, crops/s and the remaining time.

    If the output is not a terminal, a line every half minute instead of a moving bar.
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

    def add_well(self, crops: int) -> None:
        """Count a well of `crops` crops."""
        self._crops += crops
        seconds = max(time.monotonic() - self._start, 1e-9)
        self._bar.set_postfix_str(f"{self._crops / seconds:.3g} crops/s", refresh=False)
        self._bar.update()

    def skip(self, wells: int) -> None:
        """Count wells that could not be read."""
        self._bar.update(wells)

    def write(self, text: str) -> None:
        """Write a line above the bar."""
        if not self._bar.disable:
            tqdm.write(text, file=sys.stderr)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
