"""Downloads that break off, lie, change, or find no room."""

from pathlib import Path

import pytest

from mae_jax.data.fetch.endpoints import address
from mae_jax.data.fetch.http import RangeFile
from mae_jax.data.fetch.transfer import RemoteFile, check_space, download, download_all
from mae_jax.errors import InputError, MachineError

CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def file(server) -> RemoteFile:
    server.files["gallery/a b+c.bin"] = CONTENT
    return RemoteFile(address("gallery", "a b+c.bin"), "folder/file.bin", size=len(CONTENT))


def test_a_cut_transfer_resumes_where_it_stopped(server, file, tmp_path: Path) -> None:
    server.cut["gallery/a b+c.bin"] = 300_000
    arrived: list[int] = []
    path = download(file, tmp_path, arrived.append)
    assert path.read_bytes() == CONTENT
    assert [r[2] for r in server.requests] == ["", "bytes=300000-"]
    assert sum(arrived) == len(CONTENT)
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_an_interrupted_transfer_leaves_no_file_under_its_name(
    server, file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(file, tmp_path, interrupt)
    assert not (tmp_path / file.path).exists()
    assert download(file, tmp_path).read_bytes() == CONTENT
    assert server.requests[-1][2].startswith("bytes=")
    count = len(server.requests)
    download(file, tmp_path)  # is there
    assert len(server.requests) == count


def test_a_file_that_changed_meanwhile_starts_anew(server, file, tmp_path: Path) -> None:
    partial = tmp_path / "folder/file.bin.part"
    partial.parent.mkdir()
    partial.write_bytes(b"of an older version")
    partial.with_name("file.bin.part.etag").write_text('"older"')
    assert download(file, tmp_path).read_bytes() == CONTENT


def test_content_that_is_not_what_was_announced(server, file, tmp_path: Path) -> None:
    import dataclasses

    wrong = dataclasses.replace(file, md5="0" * 32)
    with pytest.raises(InputError, match=r"a%20b%2Bc.bin is not what was announced \(its md5"):
        download(wrong, tmp_path)
    assert list((tmp_path / "folder").iterdir()) == []
    server.lies["gallery/a b+c.bin"] = b"short"
    with pytest.raises(InputError, match="5 bytes instead of 512000"):
        download(file, tmp_path)


def test_a_busy_server_is_asked_again_and_a_silent_one_named(server, file, tmp_path: Path) -> None:
    server.busy["gallery/a b+c.bin"] = 1
    assert download(file, tmp_path).read_bytes() == CONTENT
    other = RemoteFile("http://127.0.0.1:9/x", "x")
    with pytest.raises(MachineError, match=r"127.0.0.1:9/x is out of reach after 2 attempts"):
        download(other, tmp_path)


def test_optional_files_may_be_absent(server, file, tmp_path: Path) -> None:
    gone = RemoteFile(address("gallery", "gone"), "gone", size=4, optional=True)
    assert download_all([file, gone], tmp_path) == ["gone"]
    needed = RemoteFile(address("gallery", "gone"), "gone", size=4)
    with pytest.raises(InputError, match="gallery/gone does not exist or is not public"):
        download_all([needed], tmp_path)


def test_no_path_leads_out_of_the_folder(server, file, tmp_path: Path) -> None:
    outside = RemoteFile(file.url, "../outside", size=file.size)
    with pytest.raises(InputError, match="leads out of"):
        download(outside, tmp_path / "inside")


def test_disk_space_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"5\.0 GB are to be downloaded, more than --max-gb 4"):
        check_space([RemoteFile("u", "p", 5 * 10**9)], tmp_path, 4.0)
    with pytest.raises(MachineError, match="choose another folder"):
        check_space([RemoteFile("u", "p", 10**18)], tmp_path / "new", 1e12)


def test_ranges_of_a_remote_file(server, file) -> None:
    remote = RangeFile(file.url)
    remote.seek(-10, 2)
    assert remote.read() == CONTENT[-10:]
    remote.seek(1000)
    assert remote.read(5) == CONTENT[1000:1005]
    assert remote.tell() == 1005
