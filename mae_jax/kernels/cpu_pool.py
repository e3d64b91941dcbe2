"""What keeps a processor busy: few crops at a time, in as many streams as there are cores.

XLA divides every product among the cores, but between products cores wait for each other, and the
activations of a large batch leave the cache. Pieces of a few crops that run side by side use what
one execution leaves idle: about a quarter more crops a second on two cores.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from threading import Lock
from typing import Any
from weakref import finalize

import jax
import numpy as np
from jaxtyping import Shaped

# More streams than these have no memory to spare for their activations, and little to gain.
_MOST = 16


class PendingArray:
    """The rows of an output, which come piece by piece; numpy waits for them all."""

    def __init__(
        self,
        shape: jax.ShapeDtypeStruct,
        pieces: list[tuple[int, "Future[Any]"]],
        pick: Callable[[Any], Any],
    ) -> None:
        self._shape, self._pieces, self._pick = shape, pieces, pick

    def is_ready(self) -> bool:
        """Whether `np.asarray` would not wait."""
        return all(piece.done() for _, piece in self._pieces)

    def block_until_ready(self) -> "PendingArray":
        """Waits."""
        for _, piece in self._pieces:
            piece.result()
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        rows = np.zeros(self._shape.shape, dtype or self._shape.dtype)
        for row, piece in self._pieces:
            found = self._pick(piece.result())
            rows[row : row + len(found)] = found
        return rows


class MicrobatchPool:
    """A function of (parameters, crops), run on few crops at a time in parallel.

    Args:
      function: (params, pixels) -> arrays with one row for each crop; pure.
      streams: how many pieces run at once; one a core by default.
    """

    def __init__(self, function: Callable[[Any, Any], Any], streams: int | None = None) -> None:
        streams = streams or min(_MOST, len(os.sched_getaffinity(0)))
        self._function = jax.jit(function)
        self._pool = ThreadPoolExecutor(streams, thread_name_prefix="stream")
        # Pieces that nobody waits for any more are not begun.
        finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        self._compiled: dict[Any, tuple[Any, Any]] = {}
        self._lock = Lock()

    def __call__(
        self,
        params: Any,
        pixels: Shaped[np.ndarray, " batch *crop"] | Any,
        piece: int,
        used: int | None = None,
    ) -> Any:
        """Starts on a batch and returns at once.

        Args:
          params: what the function takes first.
          pixels: crops; they must not change before all is done.
          piece: how many crops are taken at a time.
          used: only the first so many count; the other rows of the outputs are zeros.

        Returns: what the function returns, with a `PendingArray` in place of each array.
        """
        pixels = np.asarray(pixels)
        batch = len(pixels)
        used = batch if used is None else used
        size = max(1, min(batch, piece))
        program, shapes = self._program(params, pixels, size)
        # A last piece that would reach over the end overlaps the one before.
        rows = [min(row, batch - size) for row in range(0, used, size)]
        pieces = [
            (row, self._pool.submit(_run, program, params, pixels[row : row + size]))
            for row in rows
        ]
        leaves, tree = jax.tree.flatten(shapes)
        outputs = [
            PendingArray(
                jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype),
                pieces,
                itemgetter(number),
            )
            for number, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(tree, outputs)

    def _program(self, params: Any, pixels: np.ndarray, size: int) -> tuple[Any, Any]:
        """The program for pieces of `size`, and the shapes of what it returns."""
        kind = (size, pixels.shape[1:], pixels.dtype)
        with self._lock:  # streams would each compile their own
            if kind not in self._compiled:
                shape = jax.ShapeDtypeStruct((size, *pixels.shape[1:]), pixels.dtype)
                lowered = self._function.lower(params, shape)
                self._compiled[kind] = (lowered.compile(), lowered.out_info)
            return self._compiled[kind]


def _run(program: Any, params: Any, pixels: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(program(params, pixels))]
