import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mae_jax.errors import InputError
from mae_jax.weights.safetensors_file import read_header, read_safetensors, write_safetensors


def write_raw(path, header, data):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def test_a_file_of_the_library_is_read_as_the_library_reads_it(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.normal(size=(3, 4)).astype(np.float32),
        "b": np.arange(5),
        "half": rng.normal(size=2).astype(np.float16),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "mask": np.array([True, False]),
    }
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(tensors, path, {"by": "test"})
    actual = read_safetensors(path)
    expected = safetensors.numpy.load_file(path)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, strict=True)
    assert read_header(path).metadata == {"by": "test"}


def test_bfloat16_is_read(tmp_path):
    values = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    header = {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    path = write_raw(tmp_path / "a.safetensors", header, values.tobytes())
    np.testing.assert_array_equal(read_safetensors(path)["a"], values, strict=True)


def test_written_files_keep_their_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": np.ones(3).T}, {"scale": "255"})
    assert read_header(path).metadata == {"scale": "255"}


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": F32 | {"shape": [2**40]}}, "shape does not fit"),
        ({"a": F32 | {"data_offsets": [0, 2**40]}}, "shape does not fit"),
        ({"a": F32 | {"data_offsets": [8, 0]}}, "shape does not fit"),
        ({"a": F32 | {"shape": [-2]}}, "not a whole number"),
        ({"a": F32 | {"dtype": "X9"}}, "dtype X9 is not supported"),
        ({"a": F32, "b": F32}, "take 16 bytes and 8 are there"),
        ({"a": {}}, "dtype"),
        ([1, 2], "not a whole safetensors file"),
        (b"{" * 30, "not a whole safetensors file"),
        (b"[" * 100_000, "not a whole safetensors file"),
    ],
)
def test_a_malformed_header_is_refused(tmp_path, header, message):
    path = write_raw(tmp_path / "a.safetensors", header, bytes(8))
    with pytest.raises(InputError, match=message) as problem:
        read_safetensors(path)
    assert "\n" not in str(problem.value)


def test_headers_that_claim_to_be_large_are_not_read(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes((2**63).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="the header does not fit the file"):
        read_safetensors(path)
    path.write_bytes(b"abc")
    with pytest.raises(InputError, match="the header does not fit the file"):
        read_safetensors(path)
