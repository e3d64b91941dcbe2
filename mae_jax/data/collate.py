"""Filling batches: from requests, with all random numbers already drawn, to arrays of crops."""

import functools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from jaxtyping import Int, Shaped

from mae_jax.data.crops import Allocate, CropReader, Draws
from mae_jax.errors import InputError

ATTEMPTS = 20  # sites tried as replacements of an unreadable one
MAX_IN_FLIGHT = 128  # sites requested before the first of them is waited for


class RawBatch(TypedDict):
    """A filled batch; `errors` holds, per replaced site, one message per attempt."""

    pixels: np.ndarray
    row: np.ndarray
    dataset: np.ndarray
    errors: list[list[str]]


@dataclass(frozen=True)
class CropRequest:
    """A site to cut crops from, with all random numbers that this needs already drawn."""

    dataset: int
    row: int
    draws: Draws
    fallback_seed: int  # seeds the choice of a replacement, should the site be unreadable


@dataclass(frozen=True)
class SampleCrops:
    """grain's random map: a row, or a dataset and a row of it, becomes a request for crops."""

    crops_per_site: int = 1

    def random_map(self, element: int | tuple[int, int], rng: np.random.Generator) -> CropRequest:
        dataset, row = element if isinstance(element, tuple) else (0, element)
        draws = rng.random((self.crops_per_site, 4))
        return CropRequest(int(dataset), int(row), draws, int(rng.integers(2**62)))

    __call__ = random_map


class BatchLoader:
    """Reads the crops of a batch's requests concurrently, straight into the batch's array.

    Formats that need decoding are decoded in `threads` threads of this process. An unreadable site
    is replaced by another one of its dataset, drawn by the request's own seed, so that it is the
    same one on any number of hosts and workers.
    """

    def __init__(
        self,
        readers: Sequence[CropReader],
        rows: Sequence[Int[np.ndarray, " rows"]],
        threads: int,
    ) -> None:
        self.readers, self.rows, self.threads = list(readers), list(rows), threads
        self._pool: ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return BatchLoader, (self.readers, self.rows, self.threads)

    def __call__(self, requests: Sequence[CropRequest]) -> RawBatch:
        """The crops of all requests, in their order.

        Raises:
          InputError: no readable site in `ATTEMPTS` attempts, or pixel types are mixed.
          MachineError: images are out of reach.
        """
        reader, crops_per_site = self.readers[requests[0].dataset], len(requests[0].draws)
        buffer = BatchBuffer(len(requests), crops_per_site, len(reader.channels), reader.crop)
        rows = np.array([request.row for request in requests], np.int64)
        in_flight: deque[tuple[int, Callable[[], None]]] = deque()
        unreadable: dict[int, str] = {}

        def wait_for_oldest() -> None:
            position, wait = in_flight.popleft()
            try:
                wait()
            except InputError as error:
                unreadable[position] = str(error)

        for position, request in enumerate(requests):
            if len(in_flight) == MAX_IN_FLIGHT:
                wait_for_oldest()
            allocate = functools.partial(buffer.slot, position)
            in_flight.append((position, self._start(request, allocate)))
        while in_flight:
            wait_for_oldest()
        errors: list[list[str]] = []
        if unreadable:
            buffer.detach()
        for position, message in unreadable.items():
            allocate = functools.partial(buffer.slot, position)
            rows[position], messages = self._replacement_site(requests[position], message, allocate)
            errors.append(messages)
        return {
            "pixels": buffer.array(),
            "row": np.repeat(rows, crops_per_site),
            "dataset": np.array(requests[0].dataset),
            "errors": errors,
        }

    def close(self) -> None:
        """Stops the reading threads of this process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _start(self, request: CropRequest, allocate: Allocate) -> Callable[[], None]:
        """Starts to read a request's crops; errors are raised by the function that waits."""
        reader = self.readers[request.dataset]
        if self.threads > 1 and reader.blocks(request.row):
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads)
            future = self._pool.submit(reader.start, request.row, request.draws, allocate)
            return lambda: future.result()()
        try:
            return reader.start(request.row, request.draws, allocate)
        except InputError as error:
            return functools.partial(_raise, error)

    def _replacement_site(
        self, request: CropRequest, message: str, allocate: Allocate
    ) -> tuple[int, list[str]]:
        reader, rows, messages = (
            self.readers[request.dataset],
            self.rows[request.dataset],
            [message],
        )
        rng = np.random.default_rng(request.fallback_seed)
        for _ in range(ATTEMPTS - 1):
            row = int(rows[rng.integers(len(rows))])
            try:
                reader.start(row, request.draws, allocate)()
                return row, messages
            except InputError as error:
                messages.append(str(error))
        raise InputError(
            f"{ATTEMPTS} sites in a row could not be read, the last because: {messages[-1]} "
            "See them all with `mae-jax index --check`."
        )


class BatchBuffer:
    """The array of a batch, allocated when the first site's pixel type is known."""

    def __init__(self, sites: int, crops_per_site: int, channels: int, crop: int) -> None:
        self._shape, self._crops_per_site = (
            (sites * crops_per_site, channels, crop, crop),
            (crops_per_site),
        )
        self._pixels: np.ndarray | None = None
        self._dtypes: set[str] = set()
        self._lock = threading.Lock()

    def slot(self, site: int, dtype: np.dtype) -> Shaped[np.ndarray, "crops channels crop crop"]:
        """The slice of the array that belongs to one site."""
        with self._lock:
            self._dtypes.add(str(dtype))
            if self._pixels is None:
                self._pixels = np.empty(self._shape, dtype)
        if self._pixels.dtype != dtype:  # `array` will refuse the batch
            return np.empty((self._crops_per_site, *self._shape[1:]), dtype)
        start = site * self._crops_per_site
        return self._pixels[start : start + self._crops_per_site]

    def detach(self) -> None:
        """Copies the array, so that an abandoned read can no longer write into the batch."""
        if self._pixels is not None:
            self._pixels = self._pixels.copy()

    def array(self) -> Shaped[np.ndarray, "batch channels crop crop"]:
        """The array, once all its slots are filled.

        Raises:
          InputError: the sites have pixels of different types.
        """
        if self._pixels is None or len(self._dtypes) > 1:
            raise InputError(
                f"a batch mixes images of types {', '.join(sorted(self._dtypes))}, whose gray "
                "values mean different things; convert the screen to one type with `mae-jax pack`, "
                "or train on one type only."
            )
        return self._pixels


def _raise(error: InputError) -> None:
    raise error
