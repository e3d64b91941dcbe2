"""Throughput of the training data: bytes read and crops per second, by layout of the store.

    python benchmarks/data.py            # about four minutes on a quiet machine

Fields of 2,048² pixels and 6 channels of 8 bits are made from real Cell Painting images where
`../shared/data` has them (mosaics of flipped quarters), and otherwise drawn. Random 256² crops are
then read through the training pipeline, in one process, from

  zarr 64           the default store: one sharded OME-Zarr array per field, crops anywhere
  zarr 64, opened   the same with each array opened for each read, as in a screen of many fields
  zarr 128          the same with chunks of 128²
  zarr whole        the same with one chunk per field, read whole for each crop
  tiles             ArrayRecord tiles of 512², crops within a tile
  tiles exact       ArrayRecord tiles of 256², each one crop
  tiff              the sources: one LZW TIFF per channel, a field read whole for each crop
  tiff, 8 crops     the same with eight crops cut from each field read
  png tar           a webdataset of PNG, one per channel, read in order, eight crops per field

No decoded pixels are kept between reads, as with a dataset far larger than memory; the files are in
the operating system's cache. Per layout: bytes read per byte of crop; crops per second of wall time
and of CPU time (all threads, so per core, which other load on the machine disturbs less); and the
share of an H200's consumption that `--processes` such cores supply. Then three of the layouts from
an HTTP server that answers after `--latency`, as an object store does (one process, which may
itself limit the rate); and a simulated H200, which takes a batch, computes on it, and takes the
next: the share of its time in which it does not wait, by number of worker processes.
"""

import argparse
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import imagecodecs
import numpy as np
import pandas as pd
import tifffile
from output import add_output_args

CHANNELS, SIDE, CROP, BATCH = 6, 2048, 256, 64
CROP_BYTES = CHANNELS * CROP * CROP
# Crops per second that one H200 trains on, at published MFU.
CONSUMPTION = {"ViT-L/8": 645, "ViT-S/16": 8800}
GOALS = {"bytes": 1.3, "crops": 1000}
CASES = (
    "zarr 64",
    "zarr 64, opened",
    "zarr 128",
    "zarr whole",
    "tiles",
    "tiles exact",
    "tiff",
    "tiff, 8 crops",
    "png tar",
    "latency",
    "feeding",
)


def fields(count: int, shared: Path) -> Iterator[np.ndarray]:
    """Fields of view of 8 bits, (channels, side, side)."""
    from mae_jax.data.images import read_site
    from mae_jax.data.quantize import to_uint8
    from mae_jax.data.readers.loaddata import read_loaddata

    rng = np.random.default_rng(0)
    path = shared / "cpjump1_images" / "load_data.csv"
    sources = []
    if path.exists():
        index = read_loaddata(str(path))
        sources = [read_site(index, row) for row in range(len(index))]
    else:
        for _ in range(4):  # blurred blobs under noise: about as hard to compress
            seeds = rng.random((5, 1080, 1080)) > 0.9995
            spread = np.stack([_blurred(plane.astype(np.float32)) for plane in seeds])
            signal = 400 + 20000 * spread / spread.max()
            sources.append(rng.poisson(signal).astype(np.uint16))
    names = [str(n) for n in range(CHANNELS)]
    small = []
    for site in sources:
        site = np.concatenate([site, site[:1, ::-1]])
        low, high = np.percentile(site, [0.1, 99.9], axis=(1, 2))
        ranges = {n: (float(a), float(b)) for n, a, b in zip(names, low, high, strict=True)}
        small.append(to_uint8(site, names, ranges))
    half = SIDE // 2
    for _ in range(count):
        quarters = [
            small[rng.integers(len(small))][:, :: rng.choice([1, -1]), :: rng.choice([1, -1])][
                :, :half, :half
            ]
            for _ in range(4)
        ]
        top, bottom = np.concatenate(quarters[:2], 2), np.concatenate(quarters[2:], 2)
        yield np.ascontiguousarray(np.concatenate([top, bottom], 1))


def _blurred(plane: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(plane, 8))


def build(folder: Path, count: int, shared: Path) -> None:
    """Writes the same fields in every layout."""
    from mae_jax.data.pack import PackSettings, pack
    from mae_jax.data.readers.loaddata import read_loaddata

    (folder / "tiff").mkdir(parents=True)
    rows = []
    with tarfile.open(folder / "fields.tar", "w") as tar:
        for number, site in enumerate(fields(count, shared)):
            row = {
                "Metadata_Plate": "P1",
                "Metadata_Well": f"{chr(65 + number // 24)}{number % 24 + 1}",
            }
            for channel in range(CHANNELS):
                name = f"{number}_{channel}.tiff"
                tifffile.imwrite(folder / "tiff" / name, site[channel], compression="lzw")
                row[f"FileName_OrigC{channel}"] = name
                raw = imagecodecs.png_encode(site[channel])
                entry = tarfile.TarInfo(f"{number}.{channel}.png")
                entry.size = len(raw)
                tar.addfile(entry, BytesIO(raw))
            rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "tiff" / "load_data.csv", index=False)
    index = read_loaddata(str(folder / "tiff" / "load_data.csv"))
    index.write(folder / "tiff" / "index.parquet")
    for name, chunk in (("64", 64), ("128", 128), ("whole", SIDE)):
        pack(index, folder / f"zarr {name}", PackSettings(chunk=chunk))
    pack(index, folder / "tiles", PackSettings(layout="tiles", tile=2 * CROP))
    pack(index, folder / "tiles exact", PackSettings(layout="tiles", tile=CROP))


def measure(read: Callable[[], int], bytes_read: Callable[[], float], seconds: float) -> dict:
    """Calls `read`, which returns how many crops it has cut, for some seconds."""
    read()
    read()
    before, started, used, crops = bytes_read(), time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds:
        crops += read()
    elapsed = time.perf_counter() - started
    return {
        "bytes": (bytes_read() - before) / crops / CROP_BYTES,
        "crops/s": crops / elapsed,
        "crops/s/core": crops / (time.process_time() - used),
    }


def from_index(
    path: str, per_site: int, seconds: float, bytes_of_site: float | None, batch: int = BATCH
) -> dict:
    """Measures the training pipeline on an index; bytes by tensorstore's count, or by file size."""
    from mae_jax.data import Index, crop_batches

    index = Index.read(path)
    batches = crop_batches(
        index,
        crop=CROP,
        batch=batch,
        seed=0,
        split=None,
        cache_bytes=0,
        prefetch_bytes=0,  # what was read before the clock started must not count
        crops_per_site=per_site,
    )
    crops = 0

    def read() -> int:
        nonlocal crops
        crops += len(next(batches)["row"])
        return batch

    def counted() -> float:
        if bytes_of_site is not None:
            return crops / per_site * bytes_of_site
        return tensorstore_bytes()

    try:
        return measure(read, counted, seconds)
    finally:
        batches.close()


def tensorstore_bytes() -> float:
    """Bytes that tensorstore has read in this process."""
    import tensorstore

    total = 0
    for name in ("file/bytes_read", "http/bytes_read"):
        for metric in tensorstore.experimental_collect_matching_metrics(
            f"/tensorstore/kvstore/{name}"
        ):
            total += sum(value.get("value", 0) for value in metric["values"])
    return total


def from_tar(path: Path, seconds: float) -> dict:
    """A webdataset read from front to end again and again, eight crops from each field."""
    rng = np.random.default_rng(0)
    size = path.stat().st_size
    count = 0

    def members() -> Iterator[bytes]:
        while True:
            with tarfile.open(path) as tar:
                for entry in tar:
                    file = tar.extractfile(entry)
                    assert file is not None
                    yield file.read()

    files = members()
    with tarfile.open(path) as tar:
        sites = len(tar.getmembers()) // CHANNELS

    def read() -> int:
        nonlocal count
        site = np.stack([imagecodecs.png_decode(next(files)) for _ in range(CHANNELS)])
        for _ in range(8):
            top, left = rng.integers(0, SIDE - CROP + 1, 2)
            site[:, top : top + CROP, left : left + CROP].copy()
        count += 1
        return 8

    return measure(read, lambda: count * size / sites, seconds)


def serve(folder: str, latency: float, port: "multiprocessing.Queue[int]") -> None:
    """An HTTP server of a folder, with ranges, that answers `latency` seconds late."""
    import asyncio

    from aiohttp import web

    @web.middleware
    async def late(request: web.Request, handler: Callable) -> web.StreamResponse:
        await asyncio.sleep(latency)
        return await handler(request)

    async def run() -> None:
        app = web.Application(middlewares=[late])
        app.router.add_static("/", folder)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.put(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


def behind_latency(folder: Path, latency: float, seconds: float, sizes: dict) -> dict[str, dict]:
    """Three layouts read over HTTP from a server that answers late."""
    from mae_jax.data import Index

    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[int] = context.Queue()
    server = context.Process(target=serve, args=(str(folder), latency, queue), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{queue.get(timeout=60)}"
    results = {}
    try:
        for name, per_site in (("zarr 64", 1), ("zarr 128", 1), ("tiff", 8)):
            local = Index.read(folder / name / "index.parquet")
            path = folder / f"remote-{name}.parquet"
            Index(local.table, f"{url}/{quote(name)}").write(path)
            result = from_index(str(path), per_site, seconds, sizes.get(name))
            results[f"{name} over HTTP, {1000 * latency:.0f} ms late"] = result
    finally:
        server.terminate()
        server.join()
    return results


def feeding(folder: Path, seconds: float) -> dict[str, dict]:
    """What a simulated H200 gets from the default store, by the number of worker processes."""
    from mae_jax.data import Index, crop_batches

    index = Index.read(folder / "zarr 64" / "index.parquet")
    results = {}
    for workers in (0, os.cpu_count() or 1):
        shares = {}
        for name, appetite in CONSUMPTION.items():
            batches = crop_batches(
                index, crop=CROP, batch=BATCH, seed=0, split=None, cache_bytes=0, workers=workers
            )
            try:
                for _ in range(2 + 2 * workers):
                    next(batches)
                started, waited, eaten = time.perf_counter(), 0.0, 0
                while time.perf_counter() - started < seconds:
                    time.sleep(BATCH / appetite)  # busy with the batch before
                    next(batches)
                    waited += batches.data_wait
                    eaten += BATCH
                shares[name] = 1 - waited / (time.perf_counter() - started)
            finally:
                batches.close()
        results[str(workers)] = shares
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=8, help="fields of view (8)")
    parser.add_argument("--seconds", type=float, default=4.0, help="per layout (4)")
    parser.add_argument("--processes", type=int, default=16, help="cores per device (16)")
    parser.add_argument(
        "--latency",
        type=float,
        default=0.03,
        help="of the simulated store, in seconds (0.03)",
    )
    parser.add_argument("--folder", type=Path, help="folder of the stores (a temporary one)")
    parser.add_argument(
        "--only", nargs="+", choices=CASES, help="these layouts alone; writes nothing"
    )
    add_output_args(parser, "data")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one layout, in its own process
    args = parser.parse_args()
    shared = Path(__file__).parent.parent.parent / "shared" / "data"
    if args.case:
        print(json.dumps(case(args.folder, args.case, args)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        if not (folder / "tiles exact" / "index.parquet").exists():
            build(folder, args.fields, shared)
        results: dict[str, dict] = {}
        for name in args.only or CASES:
            # One process per layout, so that threads and memory are not shared.
            command = [sys.executable, __file__, "--case", name, "--folder", str(folder)]
            command += ["--seconds", str(args.seconds), "--latency", str(args.latency)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            print(f"{name}: measured", file=sys.stderr)
            result = json.loads(output.splitlines()[-1])
            results |= result if name == "latency" else {name: result}
    text = report(results, args.processes)
    print(text)
    if not args.only:
        save(args.out, text, results, (shared / "cpjump1_images").exists())


def case(folder: Path, name: str, args: argparse.Namespace) -> dict:
    """The measurement of one layout."""
    sizes = {"tiff": 1.0 * sum(f.stat().st_size for f in (folder / "tiff").glob("*.tiff"))}
    sizes["tiff"] /= len(list((folder / "tiff").glob("*_0.tiff")))
    if name == "latency":
        return behind_latency(folder, args.latency, args.seconds, sizes)
    if name == "feeding":
        return feeding(folder, args.seconds)
    if name == "png tar":
        return from_tar(folder / "fields.tar", args.seconds)
    store, _, variant = name.partition(", ")
    if variant == "opened":
        from mae_jax.data import zarr_reader as arrays

        arrays.open_array = arrays.open_array.__wrapped__  # which keeps nothing open
    size = {"tiles": 4.0 * CROP_BYTES, "tiles exact": 1.0 * CROP_BYTES, **sizes}.get(store)
    per_site = 8 if variant == "8 crops" else 1
    batch = 8 if per_site == 1 and store in ("tiff", "zarr whole") else BATCH  # slow ones
    return from_index(str(folder / store / "index.parquet"), per_site, args.seconds, size, batch)


def report(results: dict[str, dict], processes: int) -> str:
    """The tables, in Markdown."""
    consumption = ", ".join(f"{name} {rate:,}" for name, rate in CONSUMPTION.items())
    columns = [f"{processes} cores feed {name}" for name in CONSUMPTION]
    lines = [
        f"Goals of the default store: at most {GOALS['bytes']} bytes read per byte of crop, "
        f"{GOALS['crops']:,} crops/s/core. An H200 trains on, in crops/s: {consumption}.",
        "",
        "| layout | bytes read / crop | crops/s | crops/s/core | " + " | ".join(columns) + " |",
        "|---" * (4 + len(columns)) + "|",
    ]
    for name, result in results.items():
        if name != "feeding":
            per_core = result["crops/s/core"]
            shares = [f"{per_core * processes / rate:.0%}" for rate in CONSUMPTION.values()]
            rates = f"{result['bytes']:.2f} | {result['crops/s']:,.0f} | {per_core:,.0f}"
            lines.append(f"| {name} | {rates} | {' | '.join(shares)} |")
    if "feeding" in results:
        lines += [
            "",
            "A simulated H200 and the default store: the share of its time in which it computes.",
            "",
            "| worker processes | " + " | ".join(CONSUMPTION) + " |",
            "|---" * (1 + len(CONSUMPTION)) + "|",
        ]
        for workers, shares in results["feeding"].items():
            named = workers if workers != "0" else "none (threads of the training process)"
            cells = [f"{shares[name]:.0%}" for name in CONSUMPTION]
            lines.append(f"| {named} | {' | '.join(cells)} |")
    return "\n".join(lines)


def save(out: Path, text: str, results: dict[str, dict], real: bool) -> None:
    """Writes the tables and the numbers, with machine and versions."""
    from mae_jax.files import write_json, write_text

    packages = ("tensorstore", "grain", "array-record", "imagecodecs", "numpy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    images = "real Cell Painting images" if real else "drawn images"
    head = (
        f"# Reading crops\n\n`{' '.join(['python', *sys.argv])}`, "
        f"{datetime.date.today().isoformat()}, {os.cpu_count()} cores ({platform.machine()}), "
        f"load {os.getloadavg()[1]:.1f}, Python {platform.python_version()}, {versions}; {images}. "
        "The docstring of `benchmarks/data.py` describes the layouts.\n\n"
    )
    write_json(out / "results.json", results)
    print(f"\nwrote {write_text(out / 'README.md', head + text + chr(10))}")


if __name__ == "__main__":
    main()
