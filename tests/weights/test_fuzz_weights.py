"""Seeded mutations of every file format that weights are read from.

Whatever happens to a file, reading it ends soon, takes bounded memory, and either gives tensors or
raises one sentence. Where the format has checksums, it never gives other tensors than before.
"""

import resource
import shutil
import time

import jax
import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, parallel_vit_config
from mae_jax.networks.registry import init_params
from mae_jax.networks.saved_model import load_model, save_model
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pytree_paths import flatten
from mae_jax.weights.state_dict import read_state_dict, write_state_dict

SECONDS = 10.0  # per mutated file, on a busy machine
MEMORY = 256 * 2**20  # over all mutated files of one format
FORMATS = ("torch zip", "legacy torch", "safetensors", "model folder")
QUICK, SLOW = 20, 300


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file in one of the ways that disks, transfers and attackers do."""
    result = bytearray(data)
    # Half of the damage is to the first and last kilobyte, where headers and directories are.
    near_ends = rng.random() < 0.5
    where = int(rng.integers(len(data)))
    if near_ends:
        where = where % 1024 if rng.random() < 0.5 else len(data) - 1 - where % 1024
    where = min(max(where, 0), len(data) - 1)
    length = int(rng.integers(1, 64))
    match rng.integers(7):
        case 0:
            result[where] ^= 1 << int(rng.integers(8))
        case 1:
            result[where : where + length] = rng.bytes(length)
        case 2:
            del result[where:]
        case 3:
            del result[where : where + length]
        case 4:
            result[where:where] = rng.bytes(length)
        case 5:
            result[where : where + 4] = b"\xff\xff\xff\x7f"
        case 6:
            other = int(rng.integers(len(data)))
            result[where : where + length] = data[other : other + length]
    return bytes(result)


@pytest.fixture(scope="module")
def model():
    config = MAEConfig(
        encoder=parallel_vit_config(
            "vit_s16", width=16, depth=2, heads=2, crop=32, channels=("a", "b")
        ),
        decoder=DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
    )
    params = jax.jit(lambda rng: init_params(config, rng))(jax.random.key(0))
    return config, params


@pytest.fixture
def target(request, model, tmp_path):
    """(the file to damage, a function that reads it, whether the format has checksums)."""
    config, params = model
    tensors = {name: np.asarray(value) for name, value in flatten(params).items()}
    path = tmp_path / "weights"
    match request.param:
        case "torch zip" | "legacy torch":
            torch = pytest.importorskip("torch")
            saved = {"state_dict": {k: torch.from_numpy(np.array(v)) for k, v in tensors.items()}}
            zipped = request.param == "torch zip"
            torch.save(saved, path, _use_new_zipfile_serialization=zipped)
            return [path], lambda: read_state_dict(path), zipped
        case "safetensors":
            write_state_dict(path, tensors)
            return [path], lambda: read_state_dict(path), False
    save_model(path, params, config, Preprocessing(("a", "b"), True, 32, 255.0))
    files = [path / "config.json", path / "model.safetensors"]
    return files, lambda: flatten(load_model(path).params), True


def check_mutations(target, count, seed):
    files, read, has_checksums = target
    rng = np.random.default_rng(seed)
    intact = {file: file.read_bytes() for file in files}
    expected = read()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    messages = []
    for _ in range(count):
        file = files[int(rng.integers(len(files)))]
        file.write_bytes(mutate(intact[file], rng))
        start = time.monotonic()
        try:
            actual = read()
            if has_checksums:
                assert actual.keys() == expected.keys()
                for name, value in expected.items():
                    np.testing.assert_array_equal(actual[name], value)
        except InputError as problem:
            messages.append(str(problem))
        assert time.monotonic() - start < SECONDS
        file.write_bytes(intact[file])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown * 1024 < MEMORY
    assert len(messages) > count // 4
    assert all(str(files[0].parent) in text and "\n" not in text for text in messages)


@pytest.mark.parametrize("target", FORMATS, indirect=True)
def test_a_few_damaged_files(target):
    check_mutations(target, QUICK, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("target", FORMATS, indirect=True)
def test_many_damaged_files(target):
    check_mutations(target, SLOW, seed=2)


def test_a_folder_that_lacks_a_file_is_refused(model, tmp_path):
    config, params = model
    for name in ("config.json", "model.safetensors"):
        folder = save_model(tmp_path / "model", params, config, Preprocessing(("a", "b"), True, 32))
        (folder / name).unlink()
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            load_model(folder)
        shutil.rmtree(folder)
