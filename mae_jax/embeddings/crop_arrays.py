"""Embeddings of single crops and tokens, as Zarr: one zip store per shard.

A shard of these outputs is one file, like a shard of the embeddings, so that it is whole or absent
on any storage; `zarr.open_group(zarr.storage.ZipStore(path, mode="r"))` reads it.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mae_jax.embeddings.manifest import read_manifest
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.embeddings.shards import ShardFiles, ShardRun
from mae_jax.errors import InputError, MachineError


def array_name(files: ShardFiles, shard: int) -> str:
    """The name of a shard's Zarr file in the folder."""
    return f"{files.arrays_folder}/{files.stem(shard)}.zarr.zip"


class CropArrayWriter:
    """The Zarr file of one shard, while it is being written.

    Contents: `embedding` (crops, features) float32; for each crop `well` (an index into the
    attribute `wells` of that array, which holds the `Metadata_*` values), `site` (an index into
    the attribute `names` of that array, by well), `y` and `x`, the corner in pixels, and `label`,
    its cell, if crops are of cells; and
    `tokens/<well number>` (crops, tokens, width) float32, tokens channel by channel.
    """

    def __init__(self, files: ShardFiles, shard: int, columns: Sequence[str]) -> None:
        import zarr
        from zarr.storage import ZipStore

        self._store, self._name, self._columns = (
            files.store,
            array_name(files, shard),
            list(columns),
        )
        self._path: Path = self._store.tmp_path(self._name)
        self._zip: Any = ZipStore(self._path, mode="w")
        self._group: Any = zarr.create_group(
            self._zip, attributes={"columns": self._columns, "job": files.manifest.job_hash}
        )

    def add_tokens(
        self,
        well: int,
        metadata: Sequence[str],
        channels: Sequence[str],
        tokens: Float[np.ndarray, "crops tokens width"],
    ) -> None:
        """Write the tokens of a well at once, since they are large."""
        array = self._group.create_array(
            f"tokens/{well:08d}",
            shape=tokens.shape,
            chunks=(1, *tokens.shape[1:]),
            dtype="float32",
            attributes={
                "well": dict(zip(self._columns, metadata, strict=True)),
                "channels": list(channels),
            },
        )
        array[...] = tokens

    def finish(
        self,
        wells: Sequence[Sequence[str]],
        sites: Sequence[Sequence[str]],
        coordinates: Sequence[Int[np.ndarray, "_ 3"]],
        embeddings: Sequence[Float[np.ndarray, "_ features"]] | None,
        labels: Sequence[Int[np.ndarray, " _"]] = (),
    ) -> str:
        """Write the crops of all wells, and move the file to its name.

        Args:
          wells: for each well its `Metadata_*` values.
          sites: for each well the names of its sites.
          coordinates: for each well and crop the index of its site, the row and the column.
          embeddings: for each well the embeddings of its crops; None to leave them out.
          labels: for each well the cells that its crops are of, if they are of cells.

        Returns:
          The hash of its content, which belongs in the shard (`ShardRun.arrays_sha256`).
        """
        lengths = [len(crops) for crops in coordinates]
        crops = np.concatenate([np.zeros((0, 3), np.int32), *coordinates]).astype(np.int32)
        group = self._group
        well = np.repeat(np.arange(len(wells), dtype=np.int32), lengths)
        group.create_array("well", data=well, attributes={"wells": [list(w) for w in wells]})
        site = np.ascontiguousarray(crops[:, 0])
        group.create_array("site", data=site, attributes={"names": [list(s) for s in sites]})
        group.create_array("y", data=np.ascontiguousarray(crops[:, 1]))
        group.create_array("x", data=np.ascontiguousarray(crops[:, 2]))
        if labels:
            group.create_array("label", data=np.concatenate(list(labels)).astype(np.int64))
        if embeddings:
            group.create_array("embedding", data=np.concatenate(list(embeddings)))
        self._zip.close()
        sha256 = content_hash(self._path)
        self._store.commit(self._path, self._name)
        return sha256

    def discard(self) -> None:
        """Remove the file of a shard that will not be finished."""
        self._zip.close()
        self._path.unlink(missing_ok=True)


def content_hash(path: Path) -> str:
    """SHA-256 of the names, sizes and CRCs of all members of a zip file.

    Unlike a hash of the file it is the same for all tasks that write the same shard, and takes no
    reading of the members, whose CRCs zipfile checks when they are read.
    """
    with zipfile.ZipFile(path) as file:
        members = sorted((m.filename, m.file_size, m.CRC) for m in file.infolist())
    return hashlib.sha256(json.dumps(members).encode()).hexdigest()


def arrays_problem(files: ShardFiles, shard: int, run: ShardRun) -> str:
    """The fault of a shard's Zarr file, "" for none; at URLs only whether it exists is checked."""
    name = array_name(files, shard)
    path = files.store.full_path(name)
    if not files.store.exists(name):
        return f"{path} is missing"
    if files.store.local is None or not run.arrays_sha256:
        return ""
    try:
        intact = content_hash(files.store.local / name) == run.arrays_sha256
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        intact = False
    return "" if intact else f"{path} is damaged"


def read_crops(
    path: str | os.PathLike[str],
) -> Iterator[tuple[pd.DataFrame, Float[np.ndarray, "crops features"]]]:
    """The embeddings of single crops of an embeddings folder, shard by shard.

    Yields:
      A table with the `Metadata_*` strings of each crop's well and site, the corner of the
      crop in pixels (`y`, `x`), and `label`, its cell, if crops are of cells; and the embeddings,
      row by row.

    Raises:
      InputError: the job was run without --crops, or a file is missing or damaged.
    """
    files = _files_with(path, "crops")
    for shard in sorted(files.completed()):
        with _open(files, shard) as group:
            if "embedding" not in group:
                continue
            well, site = group["well"], group["site"]
            wells, names = well.attrs["wells"], site.attrs["names"]
            rows = [[*wells[w], names[w][s]] for w, s in zip(well[:], site[:], strict=True)]
            table = pd.DataFrame(rows, columns=[*group.attrs["columns"], "Metadata_Site"])
            table = table.assign(y=group["y"][:], x=group["x"][:])
            if "label" in group:
                table["label"] = group["label"][:]
            embeddings = group["embedding"][:]
        yield table, embeddings


def read_tokens(
    path: str | os.PathLike[str],
) -> Iterator[tuple[dict[str, str], list[str], Float[np.ndarray, "crops tokens width"]]]:
    """The tokens of an embeddings folder, well by well.

    Yields:
      The well's `Metadata_*` strings, the names of its channels in the order of the tokens, and
      the tokens of its crops.

    Raises:
      InputError: the job was run without --tokens, or a file is missing or damaged.
    """
    files = _files_with(path, "tokens")
    for shard in sorted(files.completed()):
        with _open(files, shard) as group:
            if "tokens" not in group:
                continue
            for name in sorted(group["tokens"].array_keys()):
                array = group["tokens"][name]
                yield dict(array.attrs["well"]), list(array.attrs["channels"]), array[:]


def _files_with(path: str | os.PathLike[str], output: str) -> ShardFiles:
    """The files of a job that was run with this output."""
    store = OutputStore(path)
    manifest = read_manifest(store)
    if output not in manifest.job["outputs"]:
        raise InputError(f"{path} has no {output}; embed with --{output}.")
    return ShardFiles(store, manifest)


@contextmanager
def _open(files: ShardFiles, shard: int) -> Iterator[Any]:
    import zarr
    from zarr.storage import ZipStore

    name = array_name(files, shard)
    path = files.store.full_path(name)
    with files.store.local_copy(name) as local:
        if not local.exists():
            raise InputError(f"{path} does not exist; remove {files.name(shard)} and embed again.")
        try:
            _, run = files.read(shard)
            if run.arrays_sha256 and run.arrays_sha256 != content_hash(local):
                raise ValueError("its content does not match its checksum")
            with ZipStore(local, mode="r") as archive:
                group = zarr.open_group(archive, mode="r")
                if group.attrs["job"] != files.manifest.job_hash:
                    raise InputError(f"{path} belongs to another job; remove it and embed again.")
                yield group
        except (InputError, MachineError):
            raise
        except Exception as error:  # zipfile and zarr raise many types on damaged files
            raise InputError(
                f"{path} is damaged ({type(error).__name__}: {error}); remove it and "
                f"{files.name(shard)}, and embed again."
            ) from None
