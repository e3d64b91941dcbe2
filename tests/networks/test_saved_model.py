import json
import os
import stat

import jax
import numpy as np
import pytest

from mae_jax.encoders.pretrained import from_pretrained
from mae_jax.errors import InputError
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.parallel_vit import ParallelViT
from mae_jax.networks.registry import init_params
from mae_jax.networks.saved_model import load_model, save_model
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pytree_paths import flatten, unflatten
from mae_jax.weights.safetensors_file import write_safetensors

CONFIG = MAEConfig(
    encoder=ParallelViTConfig(patch=8, width=16, depth=1, heads=2, crop=16, channels=("a", "b")),
    decoder=DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
)
PREPROCESSING = Preprocessing(("a", "b"), any_channels=True, crop=16, scale=65535.0)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda rng: init_params(CONFIG, rng))(jax.random.key(0))


@pytest.fixture
def folder(params, tmp_path):
    return save_model(tmp_path / "model", params, CONFIG, PREPROCESSING)


def test_a_round_trip_keeps_everything_exactly(params, folder):
    config, loaded, preprocessing = load_model(folder)
    assert config == CONFIG
    assert preprocessing == PREPROCESSING
    before, after = flatten(params), flatten(loaded)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], strict=True)
    x = jax.random.normal(jax.random.key(1), (2, 2, 16, 16))
    apply = jax.jit(ParallelViT(CONFIG.encoder).apply)
    np.testing.assert_array_equal(
        apply({"params": params["encoder"]}, x), apply({"params": loaded["encoder"]}, x)
    )


def test_a_training_folder_is_read_by_its_model(params, tmp_path):
    save_model(tmp_path / "run" / "model", params, CONFIG, PREPROCESSING)
    assert from_pretrained(tmp_path / "run")[0] == CONFIG
    with pytest.raises(InputError, match="nowhere"):
        from_pretrained(tmp_path / "nowhere")


def test_keys_that_do_not_fit_are_all_listed(params, folder, tmp_path):
    flat = flatten(params)
    del flat["encoder.cls_token"]
    flat["encoder.surprise"] = np.zeros(3)
    flat["decoder_pred.bias"] = np.zeros(5)
    with pytest.raises(InputError) as problem:
        save_model(tmp_path / "bad", unflatten(flat), CONFIG, PREPROCESSING)
    for part in (
        "1 missing: encoder.cls_token",
        "1 unexpected: encoder.surprise",
        "decoder_pred.bias",
    ):
        assert part in str(problem.value)
    assert not (tmp_path / "bad").exists()


def test_a_broken_folder_says_what_is_wrong(folder):
    record = json.loads((folder / "config.json").read_text())
    record["architecture"]["encoder"]["widht"] = 3
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="did you mean 'width'"):
        load_model(folder)
    record["kind"] = "may"
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="unknown kind 'may'"):
        load_model(folder)


def test_a_truncated_weights_file_is_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_model(folder)


def test_a_flipped_bit_in_either_file_is_refused(folder):
    weights = folder / "model.safetensors"
    intact = weights.read_bytes()
    damaged = bytearray(intact)
    damaged[-3] ^= 0x10  # in the mantissa of the last value
    weights.write_bytes(damaged)
    with pytest.raises(InputError, match=r"model\.safetensors is damaged: its SHA-256"):
        load_model(folder)
    weights.write_bytes(intact)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("65535.0", "65534.0"))
    with pytest.raises(InputError, match=r"config\.json was damaged or changed"):
        load_model(folder)


def test_a_model_from_before_hashes_loads(params, folder):
    record = json.loads((folder / "config.json").read_text())
    del record["sha256"]
    del record["preprocessing"]["eps"]
    (folder / "config.json").write_text(json.dumps(record))
    assert load_model(folder).preprocessing == PREPROCESSING


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(params, folder, value):
    flat = flatten(params)
    flat["encoder.block_00.mlp_bias"] = np.full_like(flat["encoder.block_00.mlp_bias"], value)
    message = r"64 values that are not finite in 'encoder\.block_00\.mlp_bias'"
    with pytest.raises(InputError, match=message):
        save_model(folder.parent / "other", unflatten(flat), CONFIG, PREPROCESSING)
    record = json.loads((folder / "config.json").read_text())
    del record["sha256"]
    (folder / "config.json").write_text(json.dumps(record))
    write_safetensors(folder / "model.safetensors", flat)
    with pytest.raises(InputError, match=message):
        load_model(folder)


def test_weights_follow_the_umask(params, tmp_path):
    before = os.umask(0o027)
    try:
        save_model(tmp_path / "model", params, CONFIG, PREPROCESSING)
    finally:
        os.umask(before)
    for name in ("config.json", "model.safetensors"):
        assert stat.S_IMODE((tmp_path / "model" / name).stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("key", "value"), [("depth", 10**9), ("width", 4 * 10**9), ("mlp_ratio", float("inf"))]
)
def test_an_impossible_architecture_is_refused_at_once(folder, key, value):
    record = json.loads((folder / "config.json").read_text())
    del record["sha256"]
    record["architecture"]["encoder"][key] = value
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"config\.json"):
        load_model(folder)


def test_a_pipe_is_not_waited_for(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(InputError, match="not a regular file"):
        load_model(folder)


def test_a_loaded_model_unpacks_and_describes_itself(params, folder):
    model = load_model(folder)
    config, _, preprocessing = model
    assert (config, preprocessing) == (model.config, model.preprocessing)
    count = sum(value.size for value in jax.tree.leaves(params))
    assert repr(model) == (
        f"PretrainedModel(mae, {count:,} parameters, channels=(a, b), crop=16, scale=65535.0)"
    )
