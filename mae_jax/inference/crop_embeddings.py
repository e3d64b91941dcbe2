"""Embeddings of single crops and tokens, as Zarr: one zip store a part.

A part of these outputs is one file, like a part of the embeddings, so that it is whole or absent
on any storage; `zarr.open_group(zarr.storage.ZipStore(path, mode="r"))` reads it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from mae_jax.errors import InputError
from mae_jax.inference.batching import WellWork
from mae_jax.inference.manifest import read_manifest
from mae_jax.inference.output_store import Store

FOLDER = "arrays"


def _name(part: int) -> str:
    return f"{FOLDER}/part-{part:06d}.zarr.zip"


class PartArrays:
    """The Zarr file of one part, while it is being written.

    Layout: `embedding` (crops, features) float32; for each crop `well` (a number into the
    attribute `wells` of that array, which holds the `Metadata_*` values), `site` (a number into
    the attribute `names` of that array, by well), `y` and `x`, the corner in pixels; and
    `tokens/<number of the well>` (crops, tokens, width) float32, tokens channel by channel.
    """

    def __init__(self, store: Store, part: int, columns: Sequence[str], job: str) -> None:
        import zarr
        from zarr.storage import ZipStore

        self._store, self._part, self._columns = store, part, list(columns)
        self._path: Path = store.scratch(_name(part))
        self._zip: Any = ZipStore(self._path, mode="w")
        self._group: Any = zarr.create_group(
            self._zip, attributes={"columns": self._columns, "job": job}
        )

    def add_tokens(self, work: WellWork) -> None:
        """Writes the tokens of a finished well at once, since they are large."""
        assert work.tokens is not None
        array = self._group.create_array(
            f"tokens/{work.well.number:08d}",
            shape=work.tokens.shape,
            chunks=(1, *work.tokens.shape[1:]),
            dtype="float32",
            attributes={
                "well": dict(zip(self._columns, work.well.metadata, strict=True)),
                "channels": list(work.channels),
            },
        )
        array[...] = work.tokens

    def finish(self, works: Sequence[WellWork], crops: bool) -> None:
        """Writes the embeddings of all crops of the part, if wanted, and puts the file in place."""
        places = [work.places for work in works]
        place = np.concatenate(places) if places else np.zeros((0, 3), np.int32)
        lengths = [len(one) for one in places]
        group = self._group
        well = np.repeat(np.arange(len(works), dtype=np.int32), lengths)
        group.create_array(
            "well", data=well, attributes={"wells": [list(w.well.metadata) for w in works]}
        )
        group.create_array(
            "site",
            data=np.ascontiguousarray(place[:, 0]),
            attributes={"names": [w.sites for w in works]},
        )
        group.create_array("y", data=np.ascontiguousarray(place[:, 1]))
        group.create_array("x", data=np.ascontiguousarray(place[:, 2]))
        if crops and works:
            vectors = [work.vectors for work in works if work.vectors is not None]
            group.create_array("embedding", data=np.concatenate(vectors))
        self._zip.close()
        self._store.adopt(self._path, _name(self._part))

    def discard(self) -> None:
        """Removes what was written, for a part that will not be finished."""
        self._zip.close()
        self._path.unlink(missing_ok=True)


def read_crops(
    where: str | os.PathLike[str],
) -> Iterator[tuple[pd.DataFrame, Float[np.ndarray, "crops features"]]]:
    """The embeddings of single crops of an embeddings folder, part by part.

    Yields:
      A table with the `Metadata_*` strings of each crop's well and site, and the corner of the
      crop in pixels (`y`, `x`); and the embeddings, row by row.

    Raises:
      InputError: the job was not asked for crops.
    """
    from mae_jax.inference.parts import finished

    store = Store(where)
    if "crops" not in read_manifest(store).job["outputs"]:
        raise InputError(f"{where} holds no embeddings of crops; embed with --crops.")
    for part in sorted(finished(store)):
        with _open(store, part) as group:
            if "embedding" not in group:
                continue
            well, site = group["well"], group["site"]
            wells, names = well.attrs["wells"], site.attrs["names"]
            numbers = zip(well[:], site[:], strict=True)
            rows = [[*wells[w], names[w][s]] for w, s in numbers]
            table = pd.DataFrame(rows, columns=[*group.attrs["columns"], "Metadata_Site"])
            yield table.assign(y=group["y"][:], x=group["x"][:]), group["embedding"][:]


def read_tokens(
    where: str | os.PathLike[str],
) -> Iterator[tuple[dict[str, str], list[str], Float[np.ndarray, "crops tokens width"]]]:
    """The tokens of an embeddings folder, well by well.

    Yields:
      The well's `Metadata_*` strings, the names of its channels in the order of the tokens, and
      the tokens of its crops.

    Raises:
      InputError: the job was not asked for tokens.
    """
    from mae_jax.inference.parts import finished

    store = Store(where)
    if "tokens" not in read_manifest(store).job["outputs"]:
        raise InputError(f"{where} holds no tokens; embed with --tokens.")
    for part in sorted(finished(store)):
        with _open(store, part) as group:
            if "tokens" not in group:
                continue
            for name in sorted(group["tokens"].array_keys()):
                array = group["tokens"][name]
                yield dict(array.attrs["well"]), list(array.attrs["channels"]), array[:]


@contextmanager
def _open(store: Store, part: int) -> Iterator[Any]:
    import zarr
    from zarr.storage import ZipStore

    with store.local_copy(_name(part)) as path, ZipStore(path, mode="r") as file:
        yield zarr.open_group(file, mode="r")
