"""Remote files: retries, time limits, a cache on disk; over memory:// and a server on loopback."""

import http.server
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from mae_jax.data.image_uri import parse
from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.pack import PackSettings, pack
from mae_jax.data.pipeline import crop_batches
from mae_jax.data.readers.loaddata import read_loaddata
from mae_jax.data.readers.open_screen import open_screen
from mae_jax.data.storage import Remote, list_remote, read_bytes, read_remote
from mae_jax.data.zarr_reader import open_array
from mae_jax.errors import InputError, MachineError

QUICK = Remote(attempts=3, timeout=0.5, pause=0.01)


class _Server(http.server.ThreadingHTTPServer):
    """Serves a folder; the first `fails` requests get 503, the first `hangs` no answer in time."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.fails = self.hangs = 0
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: object) -> None:
                super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.requests.append(self.path)
                if outer.hangs > 0:
                    outer.hangs -= 1
                    time.sleep(1.5)
                if outer.fails > 0:
                    outer.fails -= 1
                    self.send_error(503)
                    return
                if "Range" in self.headers:
                    self.send_range(self.headers["Range"])
                else:
                    super().do_GET()

            def send_range(self, asked: str) -> None:
                raw = Path(self.translate_path(self.path)).read_bytes()
                start, end = asked.removeprefix("bytes=").split("-")
                first = int(start) if start else len(raw) - int(end)
                last = min(int(end), len(raw) - 1) if start and end else len(raw) - 1
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(raw)}")
                self.send_header("Content-Length", str(last + 1 - first))
                self.end_headers()
                self.wfile.write(raw[first : last + 1])

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[_Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"plate")
    found = _Server(folder)
    thread = threading.Thread(target=found.serve_forever, args=(0.01,))
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_a_failing_server_is_asked_again(server: _Server) -> None:
    server.fails = 2
    assert read_remote(f"{server.url}/a.bin", QUICK) == b"plate"
    assert len(server.requests) == 3
    server.fails = 99
    with pytest.raises(MachineError, match=r"a.bin is out of reach after 3 attempts .*503"):
        read_remote(f"{server.url}/a.bin", QUICK)


def test_a_hanging_server_is_given_up_on(server: _Server) -> None:
    server.hangs = 1
    started = time.perf_counter()
    assert read_remote(f"{server.url}/a.bin", QUICK) == b"plate"
    assert 0.5 < time.perf_counter() - started < 1.4


def test_a_missing_file_is_not_asked_for_again(server: _Server) -> None:
    with pytest.raises(InputError, match=r"none.bin does not exist"):
        read_remote(f"{server.url}/none.bin", QUICK)
    assert len(server.requests) == 1


def test_cache_on_disk_is_bounded(server: _Server, tmp_path: Path) -> None:
    for name in ("b.bin", "c.bin", "d.bin"):
        (tmp_path / "served" / name).write_bytes(name.encode() * 200)
    cached = Remote(cache=str(tmp_path / "cache"), cache_bytes=2500)
    for _ in range(3):
        assert read_remote(f"{server.url}/a.bin", cached) == b"plate"
    assert len(server.requests) == 1
    for name in ("b.bin", "c.bin", "d.bin"):
        assert read_remote(f"{server.url}/{name}", cached) == name.encode() * 200
        time.sleep(0.02)  # so that the files' times differ
    sizes = [file.stat().st_size for file in (tmp_path / "cache").iterdir()]
    assert sizes == [1000, 1000]
    read_remote(f"{server.url}/d.bin", cached)
    assert len(server.requests) == 4


def test_settings_come_from_the_environment() -> None:
    found = Remote.from_environment({"MAE_JAX_CACHE": "/c", "MAE_JAX_CACHE_GB": "0.5"})
    assert (found.cache, found.cache_bytes, found.attempts) == ("/c", 500_000_000, 4)
    with pytest.raises(InputError, match="not a number"):
        Remote.from_environment({"MAE_JAX_TIMEOUT": "soon"})


def test_protocols_must_be_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for url in ("nonsense://x", "zip://a.png::https://example.com/x.zip", "https://a::ftp://b"):
        with pytest.raises(InputError, match=r"which is not allowed.*MAE_JAX_PROTOCOLS"):
            read_bytes(url)
        with pytest.raises(InputError, match="which is not allowed"):
            open_array(url)
    monkeypatch.setenv("MAE_JAX_PROTOCOLS", "nonsense")
    with pytest.raises(InputError, match="nonsense://x cannot be opened: Protocol not known"):
        read_bytes("nonsense://x")
    monkeypatch.delenv("MAE_JAX_PROTOCOLS")
    with pytest.raises(InputError, match="http, which is not allowed"):
        read_bytes("http://127.0.0.1:1/x")


def test_credentials_are_never_shown(server: _Server, caplog: pytest.LogCaptureFixture) -> None:
    server.fails = 99
    url = server.url.replace("://", "://user:hunter2@") + "/a.bin?X-Amz-Signature=s3cr3t&x=1"
    with caplog.at_level("INFO"), pytest.raises(MachineError) as error:
        read_remote(url, QUICK)
    shown = str(error.value) + caplog.text + str(parse(url + "#page=1"))
    assert "hunter2" not in shown
    assert "s3cr3t" not in shown
    assert "a.bin?X-Amz-Signature=***" in shown


def test_a_folder_that_vanishes_is_a_machine_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAE_JAX_ATTEMPTS", "2")
    mount = tmp_path / "mount"
    (mount / "plate").mkdir(parents=True)
    for name in "ab":
        (mount / "plate" / name).write_bytes(b"plate")
    assert read_bytes(f"{mount}/plate/a") == b"plate"
    with pytest.raises(InputError, match="c does not exist"):
        read_bytes(f"{mount}/plate/c")
    mount.rename(tmp_path / "gone")
    with pytest.raises(MachineError, match="b is out of reach after 2 attempts"):
        read_bytes(f"{mount}/plate/b")
    back = threading.Timer(0.2, (tmp_path / "gone").rename, [mount])
    back.start()
    assert read_bytes(f"{mount}/plate/b") == b"plate"
    back.join()


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(InputError, match="is a device, pipe or socket"):
            read_bytes(path)
    with pytest.raises(InputError, match="is a folder"):
        read_bytes(str(tmp_path))
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"1024.0 GiB, more than"):
        read_bytes(str(tmp_path / "sparse"))


def test_a_screen_in_memory(screen: Callable[..., Path]) -> None:
    path = screen()
    local = read_loaddata(str(path))
    memory = fsspec.filesystem("memory")
    for file in path.parent.rglob("*"):
        if file.is_file():
            memory.pipe(f"/screen/{file.relative_to(path.parent)}", file.read_bytes())
    try:
        index = read_loaddata("memory://screen/load_data.csv")
        assert index.root == "memory://screen"
        assert np.array_equal(read_site(index, 5), read_site(local, 5))
        assert "images/0000/a1_s1_DNA.tiff" in list_remote("memory://screen")
        index.write(path.with_name("remote.parquet"))
        again = Index.read(path.with_name("remote.parquet"))
        assert np.array_equal(read_site(again, 2), read_site(local, 2))
    finally:
        memory.rm("/screen", recursive=True)


def test_a_packed_store_over_http(
    screen: Callable[..., Path], server: _Server, tmp_path: Path
) -> None:
    local = read_loaddata(str(screen()))
    pack(local, tmp_path / "served" / "store", PackSettings(chunk=8))
    packed = Index.read(tmp_path / "served" / "store")
    remote = Index.read(f"{server.url}/store")  # its arrays are read by tensorstore, in ranges
    assert remote.root == f"{server.url}/store"
    assert np.array_equal(read_site(remote, 5), read_site(packed, 5))
    batches = [
        crop_batches(index, crop=16, batch=4, seed=0, split=None) for index in (remote, packed)
    ]
    for over_http, from_disk in itertools.islice(zip(*batches, strict=True), 3):
        assert np.array_equal(over_http["pixels"], from_disk["pixels"])
    for found in batches:
        found.close()
    plate = open_screen(f"{server.url}/store/plates/lab/E1/0001.zarr")
    assert plate.channels == ("DNA", "ER", "Mito")
    assert len(plate) == 3


def test_a_screen_over_http(screen: Callable[..., Path], server: _Server, tmp_path: Path) -> None:
    path = screen()
    local = read_loaddata(str(path))
    path.parent.rename(tmp_path / "served" / "screen")
    index = read_loaddata(f"{server.url}/screen/load_data.csv")
    server.fails = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAE_JAX_CACHE", str(tmp_path / "cache"))
        site = read_site(index, 5)
        asked = len(server.requests)
        assert np.array_equal(read_site(index, 5), site)
    assert len(server.requests) == asked
    assert site.shape == (3, 24, 24)
    assert len(local) == len(index)
