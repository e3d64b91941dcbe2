"""The iterator over training batches, which counts what it delivers and what it leaves out."""

import logging
import re
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from mae_jax.data.collate import BatchLoader
from mae_jax.data.crash_log import files_open_at_crash
from mae_jax.data.mixture import DatasetSpec, LabelEncoding
from mae_jax.errors import InputError, MachineError, redact_credentials

log = logging.getLogger(__name__)

# The signals by which a decoder crashes, as opposed to those sent from outside.
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}


class TrainBatch(TypedDict):
    """A batch of crops of one dataset; see `crop_batches`."""

    pixels: np.ndarray
    channels: tuple[str, ...]
    dataset: str
    row: np.ndarray
    label: np.ndarray
    plate: np.ndarray


class BatchIterator:
    """Iterator over batches that counts and names the sites that it left out.

    Attributes:
      datasets: the screens, with names and channels; a batch's "dataset" is the name of one.
      labels: names of the labels; a batch's "label" holds indices into them.
      plates: names of the plates ('source/experiment/plate'); a batch's "plate" indexes them.
      step: the number of the next batch.
      crops: crops delivered so far by this iterator.
      unreadable: how many sampled sites could not be read and were replaced by another one.
      errors: the distinct reasons, each naming its file, with the number of times each occurred.
      data_wait: seconds that the last `next` took: how long the device may have waited for data.
    """

    def __init__(
        self,
        batches: Any,
        *,
        datasets: tuple[DatasetSpec, ...],
        labels: LabelEncoding,
        plates: LabelEncoding,
        sites: int,
        start_step: int,
        max_unreadable_fraction: float,
        crash_log: Path,
        loader: BatchLoader,
    ) -> None:
        self._crash_log, self._loader = crash_log, loader
        self._iterator = iter(batches)
        self._sites = sites
        self._max_unreadable_fraction = max_unreadable_fraction
        self.datasets = datasets
        self.labels, self.plates = labels.names, plates.names
        self._label_codes, self._plate_codes = labels.codes, plates.codes
        self.step = start_step
        self.crops = 0
        self.unreadable = 0
        self.errors: dict[str, int] = {}
        self.data_wait = 0.0

    def __iter__(self) -> Iterator[TrainBatch]:
        return self

    def __next__(self) -> TrainBatch:
        start = time.perf_counter()
        try:
            batch = next(self._iterator)
        except (InputError, MachineError):
            raise
        except Exception as error:
            self._raise_worker_error(error)
            raise
        self.data_wait = time.perf_counter() - start
        self.step += 1
        rows, number = batch["row"], int(batch["dataset"])
        self._count(len(rows), batch["errors"])
        return {
            "pixels": batch["pixels"],
            "channels": self.datasets[number].channels,
            "dataset": self.datasets[number].name,
            "row": rows,
            "label": self._label_codes[number][rows],
            "plate": self._plate_codes[number][rows],
        }

    def close(self) -> None:
        """Stops the reading threads and worker processes; the iterator must not be used after."""
        self._iterator.close()
        self._loader.close()
        shutil.rmtree(self._crash_log, ignore_errors=True)

    def _raise_worker_error(self, error: Exception) -> None:
        """Raises a worker process's own error instead of grain's report of it, if any.

        Only a crash inside a decoder (SIGSEGV, SIGABRT, …) is the fault of the image that was
        open. The kernel kills with SIGKILL when memory runs out, so no image is to blame.
        """
        message = re.search(r"\b(InputError|MachineError): (.*)", str(error))
        if message:
            raise {"InputError": InputError, "MachineError": MachineError}[message[1]](
                message[2]
            ) from None
        exit_code = re.search(r"exit code (-?\d+)", str(error))
        if not exit_code:
            return
        code = int(exit_code[1])
        files = files_open_at_crash(self._crash_log)
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"status {code}"
        if -code in _CRASHES and files:
            raise InputError(
                f"{redact_credentials(' or '.join(files))} crashed the process that read it "
                f"({name}); "
                "the image may be damaged in a way that crashes its decoder: leave it out of the "
                "index."
            ) from error
        hint = (
            "probably out of memory; use fewer workers, or a smaller data.cache_bytes"
            if code == -signal.SIGKILL
            else "by the machine or by hand"
        )
        raise MachineError(f"a data worker was killed ({name}), {hint}.") from error

    def _count(self, crops: int, errors: Sequence[Sequence[str]]) -> None:
        self.crops += crops
        self.unreadable += len(errors)
        for message in (message for of_site in errors for message in of_site):
            if message not in self.errors:
                log.warning("unreadable site, replaced by another one: %s", message)
            self.errors[message] = self.errors.get(message, 0) + 1
        # Judged on a thousand crops or one epoch at least: one bad file early is no fraction.
        judged = max(self.crops, min(1000, self._sites))
        if self.unreadable > self._max_unreadable_fraction * judged:
            raise InputError(
                f"{self.unreadable} of {self.crops} sampled sites could not be read, more than the "
                f"allowed fraction of {self._max_unreadable_fraction:.1%}; the first because: "
                f"{next(iter(self.errors))} "
                "See them all with `mae-jax index --check`."
            )
