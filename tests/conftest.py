"""What all tests share: eight simulated devices, and the place of the real data."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before anything imports JAX: the tests of sharding need several devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import pytest

ROOT = Path(__file__).parent.parent
# A python that has moto's server: it may be another one, since their needs can clash.
MOTO_PYTHON = os.environ.get("MAE_JAX_MOTO_PYTHON", sys.executable)
# The command of PyPI's gcp-storage-emulator, likewise.
GCS_EMULATOR = os.environ.get("MAE_JAX_GCS_EMULATOR", "gcp-storage-emulator")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real Cell Painting data, or a skip where a checkout has none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data are not at {folder}")
    return folder


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The file system of an S3 server of moto, which has an empty bucket named 'screens'."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    from mae_jax.data import zarr_reader as arrays

    if subprocess.run(
        [MOTO_PYTHON, "-c", "import moto.server"], check=False, cwd=tmp_path
    ).returncode:
        pytest.skip(f"{MOTO_PYTHON} has no moto")
    code = (
        "from moto.server import ThreadedMotoServer as S\n"
        "import time; s = S(ip_address='127.0.0.1', port=0, verbose=False); s.start()\n"
        "print(s.get_host_and_port()[1], flush=True); time.sleep(600)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with subprocess.Popen(
        [MOTO_PYTHON, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=tmp_path,
    ) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        for name, value in {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "MAE_JAX_ATTEMPTS": "2",
        }.items():
            monkeypatch.setenv(name, value)
        _answers(url)
        s3fs.S3FileSystem.clear_instance_cache()
        arrays.open_array.cache_clear()
        system = s3fs.S3FileSystem()
        system.mkdir("screens")
        yield system
        server.terminate()


@pytest.fixture
def google_bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The file system of a Google storage emulator, which has an empty bucket named 'screens'."""
    # The emulator has no gRPC, by which gcsfs asks for the kind of a bucket; read at its import.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs = pytest.importorskip("gcsfs", reason="gcsfs is not installed")
    command = shutil.which(GCS_EMULATOR)
    if command is None:
        pytest.skip(f"{GCS_EMULATOR} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "start",
        "--host=127.0.0.1",
        f"--port={port}",
        "--in-memory",
        "--default-bucket=screens",
    ]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with subprocess.Popen(
        [command, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=tmp_path,
    ) as server:
        url = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        _answers(url)
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield gcsfs.GCSFileSystem()
        server.terminate()


def _answers(url: str) -> None:
    """Waits until the server at `url` answers, whatever it says."""
    for _ in range(100):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
