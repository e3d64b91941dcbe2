import io
import pickle
import resource
import struct
import zipfile

import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.weights.state_dict import read_state_dict
from mae_jax.weights.torch_pickle import MAX_PICKLE_BYTES

ZIPPED = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class _Harmful:
    def __reduce__(self):
        return (open, ("/tmp/should-not-exist", "w"))


def test_a_pickle_that_calls_anything_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": _Harmful()}, protocol=2))
    with pytest.raises(InputError, match="wants to call"):
        read_state_dict(path)


def test_an_old_pickle_that_calls_anything_is_refused(tmp_path):
    path = tmp_path / "old.pth"
    path.write_bytes(pickle.dumps(_Harmful(), protocol=2))
    with pytest.raises(InputError, match="wants to call"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps(7, protocol=2))
    with pytest.raises(InputError, match="does not begin with"):
        read_state_dict(path)


@ZIPPED
def test_views_dtypes_and_parameters_of_torch_are_read(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "transposed": base.T,
        "slice": base[1:3, ::2],
        "expanded": base[:1].expand(3, 6),
        "half": base.half(),
        "brain": base.bfloat16(),
        "parameter": torch.nn.Parameter(base),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }
    torch.save(tensors, tmp_path / "t.pt", _use_new_zipfile_serialization=zipped)
    actual = read_state_dict(tmp_path / "t.pt")
    assert actual.keys() == tensors.keys()
    for name, value in tensors.items():
        expected = value.detach().float().numpy()
        np.testing.assert_array_equal(np.asarray(actual[name], np.float32), expected)


@ZIPPED
def test_the_state_dict_of_a_module_with_its_versions_is_read(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    module = torch.nn.BatchNorm1d(3)
    checkpoint = {"state_dict": module.state_dict(), "epoch": 3, "lr": 1e-3, "name": None}
    torch.save(checkpoint, tmp_path / "t.pt", _use_new_zipfile_serialization=zipped)
    assert read_state_dict(tmp_path / "t.pt").keys() == module.state_dict().keys()


@ZIPPED
def test_a_truncated_torch_file_is_refused(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    path = tmp_path / "t.pt"
    torch.save({"a": torch.ones(100)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(InputError, match="not a whole torch file"):
        read_state_dict(path)


def test_another_format_or_no_file_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("hello", "world")
    with pytest.raises(InputError, match=r"without a PyTorch state dict"):
        read_state_dict(tmp_path / "a.zip")
    (tmp_path / "b.bin").write_bytes(b"\x10" * 40)
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_state_dict(tmp_path / "b.bin")
    with pytest.raises(InputError, match="does not exist"):
        read_state_dict(tmp_path / "c.bin")


def state_dict_pickle(shape, strides, *, numel=4):
    """The pickle of {"a": a strided view of the float storage "0"}."""

    def integers(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"

    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    storage += b"X\x03\x00\x00\x00cpuJ" + struct.pack("<i", numel) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00"
    tensor += integers(shape) + integers(strides) + b"\x89NtR"
    return b"\x80\x02}X\x01\x00\x00\x00a" + tensor + b"s."


def write_zip(path, data_pkl, storage=b"\0" * 16, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        archive.writestr("archive/data/0", storage)
    return path


def refused(path, message, *, memory=128 * 2**20):
    """Read a file that must be refused before it takes `memory` bytes of address space."""
    limit = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, limit[1]))
    try:
        with pytest.raises(InputError, match=message):
            read_state_dict(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


def test_the_handmade_pickle_is_one(tmp_path):
    path = write_zip(
        tmp_path / "a.pt", state_dict_pickle((2, 2), (2, 1)), struct.pack("<4f", *range(4))
    )
    np.testing.assert_array_equal(read_state_dict(path)["a"], [[0, 1], [2, 3]])


@pytest.mark.slow
def test_bombs_are_judged_before_they_are_read(tmp_path):
    path = tmp_path / "bomb.pt"
    # One number, repeated by strides of 0 to 9 GB.
    refused(write_zip(path, state_dict_pickle((48000, 48000), (0, 0))), "over the limit")
    # A deflated storage of zeros, and a deflated pickle.
    zeros = write_zip(path, state_dict_pickle((4,), (1,)), bytes(2**30 >> 2), zipfile.ZIP_DEFLATED)
    assert zeros.stat().st_size < 2**20
    refused(zeros, "claim more bytes")
    # A memo index that makes Python's own unpickler allocate 32 GB.
    refused(write_zip(path, b"\x80\x02}r\xff\xff\xff\x7fs."), "not a whole torch file")
    # Empty dicts without end.
    refused(write_zip(path, b"\x80\x02" + b"}0" * 1_100_000 + b"}."), "too long")
    # Tuples nested too deeply to be hashed.
    deep = b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s."
    refused(write_zip(path, deep), "neither text nor a number")
    # A view that starts or ends outside its storage.
    refused(write_zip(path, state_dict_pickle((5,), (1,))), "beyond its storage")
    refused(write_zip(path, state_dict_pickle((2,), (-1,))), "impossible shape")
    assert MAX_PICKLE_BYTES == 64 * 2**20


def test_a_damaged_storage_is_seen_by_its_checksum(tmp_path):
    path = write_zip(tmp_path / "a.pt", state_dict_pickle((4,), (1,)), b"abcd" * 4)
    path.write_bytes(path.read_bytes().replace(b"abcdabcd", b"abcdabce", 1))
    with pytest.raises(InputError, match="Bad CRC-32"):
        read_state_dict(path)


def test_python_2_wrote_ordered_dicts_with_their_items(tmp_path):
    view = state_dict_pickle((4,), (1,))
    tensor = view[view.index(b"ctorch._utils") : -2]
    # A list of one list [name, tensor], as the argument of OrderedDict.
    items = b"\x80\x02ccollections\nOrderedDict\n(]](U\x01a" + tensor + b"eatR."
    path = write_zip(tmp_path / "a.pt", items, struct.pack("<4f", *range(4)))
    np.testing.assert_array_equal(read_state_dict(path)["a"], range(4))


def test_pickles_are_never_executed_even_where_a_state_dict_follows(tmp_path):
    stream = io.BytesIO()
    pickle.dump(_Harmful(), stream, protocol=2)
    payload = stream.getvalue()[2:-1]  # without PROTO and STOP
    path = write_zip(tmp_path / "a.pt", b"\x80\x02" + payload + state_dict_pickle((4,), (1,))[2:])
    with pytest.raises(InputError, match=r"wants to call (io|_io)\.open"):
        read_state_dict(path)
