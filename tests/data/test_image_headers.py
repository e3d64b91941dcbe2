"""Images that claim too much, hold none, or hold no gray values; fragments that select nothing."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tensorstore
import tifffile

from mae_jax.data import crop_batches
from mae_jax.data.image_uri import parse
from mae_jax.data.images import read_planes, read_site
from mae_jax.data.readers.loaddata import read_loaddata
from mae_jax.errors import InputError

PLANE = np.random.default_rng(0).integers(0, 4000, (20, 30)).astype(np.uint16)


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _tiff(side: int) -> bytes:
    entries = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 16), (259, 3, 1, 1),
               (262, 3, 1, 1), (273, 4, 1, 8), (278, 4, 1, side), (279, 4, 1, 2)]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 10) + bytes(2) + directory


def _jp2(side: int, precincts: bool = False) -> bytes:
    raw = imagecodecs.jpeg2k_encode(PLANE, reversible=True, codecformat="j2k")
    size = struct.pack(">8I", side, side, 0, 0, side, side, 0, 0)
    raw = raw[:8] + size + raw[40:]
    if precincts:  # of one pixel
        cod = raw.find(b"\xff\x52")
        levels, end = raw[cod + 9], cod + 2 + struct.unpack(">H", raw[cod + 2 : cod + 4])[0]
        coding = struct.pack(">HB", 13 + levels, 1) + raw[cod + 5 : cod + 14]
        raw = raw[: cod + 2] + coding + bytes(levels + 1) + raw[end:] + bytes(5000)
    return raw


def _npy(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


BOMBS = {
    "png header": (_png(60_000, 60_000, b"\0" * 99), "cannot hold 60000 × 60000"),
    "png": (_png(60_000, 60_000, bytes(2**20)) + bytes(2**23), "claims 60000 × 60000 pixels"),
    "tiff": (_tiff(60_000), "claims 60000 × 60000 pixels"),
    "jp2": (_jp2(60_000) + bytes(2**16), "claims 60000 × 60000 pixels"),
    "jp2 precincts": (_jp2(16_384, precincts=True), "blocks of 1 pixels"),
    "npy": (_npy(PLANE).replace(b"(20, 30)", b"(60000,)"), "broken or truncated"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_their_header(name: str, tmp_path: Path) -> None:
    raw, message = BOMBS[name]
    (tmp_path / "bomb").write_bytes(raw)
    code = (
        "import resource, sys, mae_jax.data.images as i; from mae_jax.data.image_uri import parse;"
        "import imagecodecs, tifffile; from mae_jax.errors import InputError\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "try: i.read_planes([parse(sys.argv[1])])\n"
        "except InputError as error: print(error)\n"
        "assert peak() - before < 2**26, peak() - before"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bomb")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert ended.returncode == 0, ended.stderr
    assert message in ended.stdout


def test_a_bomb_costs_its_site_and_no_more(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    (Path(index.root) / "images" / "0001" / "a2_s1_ER.tiff").write_bytes(_tiff(60_000))
    batches = crop_batches(
        index, crop=16, batch=12, seed=0, split=None, max_unreadable_fraction=0.2
    )
    assert next(batches)["pixels"].shape == (12, 3, 16, 16)
    batches.close()
    assert batches.unreadable == 1
    assert "a2_s1_ER.tiff" in next(iter(batches.errors))


def test_larger_images_can_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAE_JAX_MAX_PIXELS", "many")
    np.save(tmp_path / "a.npy", PLANE)
    with pytest.raises(InputError, match="give a number of pixels"):
        read_planes([parse(f"{tmp_path}/a.npy")])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 30), np.uint16), "has no pixels"),
        (np.zeros((30, 0), np.uint16), "has no pixels"),
        (np.array([["text"]]), "no gray values"),
        (np.zeros((4, 4), [("a", "u2"), ("b", "u2")]), "no gray values"),
        (np.zeros((4, 4), np.complex64), "no gray values"),
        (np.array([[{}]], object), "no gray values"),
        (np.zeros(7, np.uint8), "not a plane"),
        (np.uint8(7), "not a plane"),
    ],
)
def test_arrays_that_are_no_planes(array: np.ndarray, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(_npy(array))
    with pytest.raises(InputError, match=message):
        read_planes([parse(f"{tmp_path}/a.npy")])


def test_zarr_chunks_are_bounded(tmp_path: Path) -> None:
    for name, shape, message in [
        ("wide", (60_000, 60_000), "claims 60000 × 60000 pixels"),
        ("deep", (70_000, 200, 100), "chunks of"),
        ("flat", (0, 5), "has no pixels"),
        ("line", (5,), "holds no planes"),
    ]:
        kvstore = {"driver": "file", "path": f"{tmp_path / name}/"}
        chunks = {"chunk_layout": {"chunk": {"shape": shape}}}
        schema = chunks if min(shape) else {}
        tensorstore.open(
            {"driver": "zarr3", "kvstore": kvstore, "schema": schema},
            create=True, dtype="uint16", shape=shape,
        ).result()  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_planes([parse(f"{tmp_path / name}#index=0")])


@pytest.mark.parametrize("name", ["plane.tiff", "plane.png", "plane.npy"])
@pytest.mark.parametrize("fragment", ["channel=3", "z=9", "t=4", "page=1"])
def test_a_single_plane_has_no_other(name: str, fragment: str, tmp_path: Path) -> None:
    writers: dict[str, Callable[[Path], object]] = {
        "plane.tiff": lambda path: tifffile.imwrite(path, PLANE),
        "plane.png": lambda path: path.write_bytes(imagecodecs.png_encode(PLANE)),
        "plane.npy": lambda path: np.save(path, PLANE),
    }
    writers[name](tmp_path / name)
    key = fragment.partition("=")[0]
    assert np.array_equal(read_planes([parse(f"{tmp_path / name}#{key}=0")])[0], PLANE)
    with pytest.raises(InputError, match=rf"plane\.\w+#{fragment}"):
        read_planes([parse(f"{tmp_path / name}#{fragment}")])


@pytest.mark.parametrize(
    ("fragment", "message"),
    [
        ("page=-1", "expected a whole number"),
        ("channel=x", "expected a whole number"),
        ("chanel=1", "unknown key 'chanel'.*'channel'"),
        ("page=0&page=1", "'page' twice"),
        ("index=0&page=1", "exclude each other"),
        ("page=0&z=1", "a page and also z"),
    ],
)
def test_fragments_that_make_no_sense(fragment: str, message: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "plane.tiff", PLANE)
    with pytest.raises(InputError, match=message):
        read_planes([parse(f"{tmp_path}/plane.tiff#{fragment}")])


def test_planes_that_the_file_does_not_name(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "p.tif", np.stack([PLANE, PLANE + 1]), photometric="minisblack")
    with pytest.raises(InputError, match="does not say what its 2 planes show"):
        read_planes([parse(f"{tmp_path}/p.tif#channel=1")])


def test_fragments_of_earlier_versions(tmp_path: Path) -> None:
    assert str(parse("a.zarr#at=0,2&light=b.npy")) == "a.zarr#index=0,2&illumination=b.npy"


def test_a_pipe_in_an_index(screen: Callable[..., Path]) -> None:
    import os

    index = read_loaddata(str(screen()))
    victim = Path(index.root) / "images" / "0000" / "a1_s1_DNA.tiff"
    victim.unlink()
    os.mkfifo(victim)
    with pytest.raises(InputError, match="is a device, pipe or socket"):
        read_site(index, 0)
