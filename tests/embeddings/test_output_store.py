import threading
import uuid
from pathlib import Path

import pytest

from mae_jax.embeddings.output_store import OutputStore
from mae_jax.errors import InputError, MachineError


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> OutputStore:
    return OutputStore(
        tmp_path / "out" if request.param == "local" else f"memory://{uuid.uuid4()}/out"
    )


def test_files_by_name(store: OutputStore) -> None:
    assert store.list_names("parts") == []
    assert not store.exists("parts/a")
    store.write("parts/b", b"1")
    store.write("parts/a", b"2")
    store.write("parts/a", b"3")
    assert store.list_names("parts") == ["a", "b"]
    assert store.read("parts/a") == b"3"
    store.delete("parts/a")
    store.delete("parts/a")
    assert store.list_names("parts") == ["b"]
    with pytest.raises(InputError, match="does not exist"):
        store.read("parts/a")


def test_create_keeps_what_is_there(store: OutputStore) -> None:
    assert store.create("manifest.json", b"1")
    assert not store.create("manifest.json", b"2")
    assert store.read("manifest.json") == b"1"


def test_commit_and_local_copy(store: OutputStore) -> None:
    path = store.tmp_path("arrays/x.zip")
    path.write_bytes(b"abc")
    store.commit(path, "arrays/x.zip")
    assert not path.exists()
    with store.local_copy("arrays/x.zip") as copy:
        assert copy.read_bytes() == b"abc"
    assert store.list_names("arrays") == ["x.zip"]


def test_only_one_of_many_creates(tmp_path: Path) -> None:
    store = OutputStore(tmp_path)
    won = []

    def work(number: int) -> None:
        if store.create("manifest.json", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("manifest.json") == b"%d" % won[0]


def test_what_was_left_half_written_is_swept_and_never_seen(tmp_path: Path) -> None:
    store = OutputStore(tmp_path)
    for name in ("parts/part-000001.parquet", "parts/part-000002.parquet"):
        store.tmp_path(name).write_bytes(b"half")
    assert store.list_names("parts") == []
    store.clean_tmp()
    assert not list((tmp_path / ".partial").iterdir())


def test_two_processes_may_do_the_same_part(tmp_path: Path) -> None:
    store = OutputStore(tmp_path)
    late = store.tmp_path("parts/part-000001.parquet")
    late.write_bytes(b"same")
    store.write("parts/part-000001.parquet", b"same")
    store.clean_tmp()  # the first one ends the job while the second still writes
    store.commit(late, "parts/part-000001.parquet")
    assert store.read("parts/part-000001.parquet") == b"same"
    with pytest.raises(MachineError):
        store.commit(late, "parts/part-000002.parquet")


def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(InputError, match="nowhere://x cannot be opened"):
        OutputStore("nowhere://x")


@pytest.mark.parametrize("path", ["/proc/out", "/dev/null/out"])
def test_a_folder_that_cannot_be_made_is_the_callers_mistake(path: str) -> None:
    with pytest.raises(InputError, match=path):
        OutputStore(path).write("manifest.json", b"1")
