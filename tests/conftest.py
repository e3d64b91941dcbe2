"""What all tests share: eight simulated devices, and the place of the real data."""

import os
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
    from mae_jax.data import arrays

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
        for _ in range(100):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        s3fs.S3FileSystem.clear_instance_cache()
        arrays.open_array.cache_clear()
        system = s3fs.S3FileSystem()
        system.mkdir("screens")
        yield system
        server.terminate()
