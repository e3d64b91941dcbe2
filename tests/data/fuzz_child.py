"""Reads mutated files of one format under a memory limit: `fuzz_child.py FORMAT COUNT FOLDER`.

Every mutation is read once. An exception other than InputError ends the process with a traceback,
and so does memory beyond the limit (MachineError); a crashing decoder ends it by a signal. The
last line printed is JSON: how many mutations were refused, and the longest time of one.
"""

import json
import logging
import resource
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet as parquet
import tensorstore
import tifffile
from array_record.python.array_record_module import ArrayRecordWriter

from mae_jax.data import array_record
from mae_jax.data.image_headers import MAX_DECODED_BYTES
from mae_jax.data.image_uri import parse
from mae_jax.data.images import read_planes, read_site
from mae_jax.data.index import METADATA, Index
from mae_jax.data.readers.open_screen import open_screen
from mae_jax.data.writers import write_ome_zarr_image, write_plate
from mae_jax.data.zarr_reader import open_array
from mae_jax.errors import InputError

# Beyond what the process has mapped at its start: the file, twice the limit, and a constant.
BOUND = 2 * MAX_DECODED_BYTES + 2**29
EXTREMES = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")
PIXELS = np.random.default_rng(0).integers(0, 4000, (3, 40, 50)).astype(np.uint16)


def mutate(raw: bytes, rng: np.random.Generator) -> bytes:
    """Flips, overwrites, cuts, repeats or exaggerates some bytes, mostly near the start."""
    data = bytearray(raw)
    reach = len(data) if rng.random() < 0.5 else min(len(data), 200)
    for _ in range(int(rng.integers(1, 6))):
        position = int(rng.integers(reach)) if data else 0
        position = min(position, max(len(data) - 1, 0))
        match int(rng.integers(6)):
            case 0:
                data[position] ^= 1 << int(rng.integers(8))
            case 1:
                data[position] = int(rng.integers(256))
            case 2:
                data[position : position + 4] = EXTREMES[int(rng.integers(len(EXTREMES)))]
            case 3:
                del data[position : position + int(rng.integers(1, 20))]
            case 4:
                data[position:position] = data[position : position + int(rng.integers(1, 30))]
            case 5:
                del data[max(position, 1) :]
        if not data:
            break
    return bytes(data)


def _npy() -> bytes:
    file = BytesIO()
    np.save(file, PIXELS[0])
    return file.getvalue()


def _tiff(**options: object) -> bytes:
    file = BytesIO()
    settings = {"metadata": {"axes": "CYX"}, **options}
    tifffile.imwrite(file, PIXELS, photometric="minisblack", **settings)  # type: ignore[arg-type]
    return file.getvalue()


def _file_cases(folder: Path, fragment: str) -> Callable[[bytes], object]:
    path = folder / "image"

    def read(raw: bytes) -> object:
        path.write_bytes(raw)
        return read_planes([parse(f"{path}{fragment}")])

    return read


def _zarr(folder: Path, version: int) -> tuple[list[bytes], Callable[[bytes], object]]:
    path = folder / f"array{version}"
    array = tensorstore.open(
        {"driver": f"zarr{'3' if version == 3 else ''}",
         "kvstore": {"driver": "file", "path": f"{path}/"}},
        create=True, dtype="uint16", shape=PIXELS.shape,
    ).result()  # fmt: skip
    array[...] = PIXELS
    name = "zarr.json" if version == 3 else ".zarray"
    seed = (path / name).read_bytes()

    def read(raw: bytes) -> object:
        (path / name).write_bytes(raw)
        open_array.cache_clear()
        return read_planes([parse(f"{path}#index=1")])

    return [seed], read


def _array_record(folder: Path) -> tuple[list[bytes], Callable[[bytes], object]]:
    path = folder / "tiles.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for _ in range(3):
        writer.write(array_record.encode(PIXELS))
    writer.close()
    seed = path.read_bytes()
    number = 0

    def read(raw: bytes) -> object:
        nonlocal number
        number += 1
        file = folder / f"{number}.array_record"  # readers stay open by name
        file.write_bytes(raw)
        try:
            planes = read_planes([parse(f"{file}#record=1&channel=2")])
        finally:
            file.unlink()
        if not np.array_equal(planes[0], PIXELS[2]):  # records carry checksums
            raise AssertionError("damage was not noticed")
        return planes

    return [seed], read


def _index(folder: Path) -> tuple[list[bytes], Callable[[bytes], object]]:
    path = folder / "index.parquet"
    table = pd.DataFrame({column: [f"{column}{n}" for n in range(40)] for column in METADATA})
    table["Channels"] = [["DNA", "ER"]] * 40
    table["Images"] = [[f"{n}_{c}.tiff" for c in "01"] for n in range(40)]
    whole = Index(table, str(folder))
    seed = whole.write(path).read_bytes()

    def read(raw: bytes) -> object:
        path.write_bytes(raw)
        index = Index.read(path)
        index.wells()
        return [index.image_uris(row) for row in range(len(index))]

    return [seed], read


def _plate(folder: Path) -> tuple[list[bytes], Callable[[bytes], object]]:
    plate = folder / "plate.zarr"
    write_ome_zarr_image(plate / "A" / "1" / "0", PIXELS, ["DNA", "ER", "Mito"], 16, {})
    write_plate(plate, "P1", {"A01": 1})
    files = [plate / "zarr.json", plate / "A/1/zarr.json", plate / "A/1/0/zarr.json",
             plate / "A/1/0/0/zarr.json"]  # fmt: skip
    seeds = [file.read_bytes() for file in files]
    number = 0

    def read(raw: bytes) -> object:
        nonlocal number
        number += 1
        file = files[(number - 1) % len(files)]
        whole = file.read_bytes()
        file.write_bytes(raw)
        open_array.cache_clear()
        try:
            index = open_screen(str(plate), format="ome-zarr")
            return [read_site(index, row) for row in range(len(index))]
        finally:
            file.write_bytes(whole)

    return seeds, read


def _parquet(folder: Path) -> tuple[list[bytes], Callable[[bytes], object]]:
    path = folder / "images.parquet"
    encoded = imagecodecs.png_encode(PIXELS[0])
    rows = [
        {"__key__": f"gene-001/Plate1/A01_s1_{n}", "jp2": {"bytes": encoded, "path": None}}
        for n in range(1, 7)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    number = 0

    def read(raw: bytes) -> object:
        nonlocal number
        number += 1
        file = folder / f"{number}.parquet"  # tables stay open by name
        file.write_bytes(raw)
        try:
            index = open_screen(str(file), format="rxrx3-core")
            return [read_site(index, row) for row in range(len(index))]
        finally:
            file.unlink()

    return [path.read_bytes()], read


def _csv(folder: Path) -> tuple[list[bytes], Callable[[bytes], object]]:
    path = folder / "load_data.csv"
    text = "Metadata_Plate,Metadata_Well,FileName_OrigDNA,PathName_OrigDNA,URL_OrigER\n"
    text += "".join(f"P{n},A0{n},a{n}.tif,images,file:///x/{n}.tif#page={n}\n" for n in range(1, 9))

    def read(raw: bytes) -> object:
        path.write_bytes(raw)
        index = open_screen(str(path))
        return [index.image_uris(row) for row in range(len(index))]

    return [text.encode()], read


def cases(name: str, folder: Path) -> tuple[list[bytes], Callable[[bytes], object]]:
    """Whole files of a format, and a function that reads one."""
    if name == "tiff":
        seeds = [_tiff(), _tiff(compression="lzw"), _tiff(compression="zlib", tile=(16, 16)),
                 _tiff(bigtiff=True), _tiff(byteorder=">"),
                 _tiff(ome=True)]  # fmt: skip
        return seeds, _file_cases(folder, "#channel=1")
    if name == "tiff pages":
        seeds = [_tiff(), _tiff(compression="deflate")]
        return seeds, _file_cases(folder, "#page=2")
    if name == "png":
        seeds = [imagecodecs.png_encode(PIXELS[0]), imagecodecs.png_encode(PIXELS[0] >> 4)]
        return seeds, _file_cases(folder, "")
    if name == "jp2":
        seeds = [imagecodecs.jpeg2k_encode(PIXELS[0], reversible=True, codecformat=kind)
                 for kind in ("jp2", "j2k")]  # fmt: skip
        return seeds, _file_cases(folder, "")
    if name == "npy":
        return [_npy()], _file_cases(folder, "")
    if name.startswith("zarr"):
        return _zarr(folder, int(name[4:]))
    makers = {"array_record": _array_record, "index": _index, "plate": _plate,
              "parquet": _parquet, "csv": _csv}  # fmt: skip
    return makers[name](folder)


def main() -> None:
    """Reads the mutations."""
    name, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    logging.disable(logging.CRITICAL)
    seeds, read = cases(name, folder)
    for seed in seeds:  # decoders and their threads are loaded before the limit is set
        read(seed)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + BOUND, mapped + BOUND))
    rng = np.random.default_rng(1234)
    refused, longest = 0, 0.0
    for number in range(count):
        raw = mutate(seeds[number % len(seeds)], rng)
        (folder / "last").write_bytes(raw)
        start = time.perf_counter()
        try:
            read(raw)
        except InputError as error:
            refused += 1
            if "\n" in str(error) or len(str(error)) > 1000:
                raise AssertionError(f"not one sentence: {error}") from None
        longest = max(longest, time.perf_counter() - start)
    print(json.dumps({"refused": refused, "longest": longest}))


if __name__ == "__main__":
    main()
