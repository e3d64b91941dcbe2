import json

import jax
import numpy as np
import pytest

from mae_jax.encoders.pretrained import from_pretrained
from mae_jax.errors import InputError
from mae_jax.networks.mae.config import DecoderConfig, EncoderConfig, MAEConfig
from mae_jax.networks.mae.parallel_vit import ViT
from mae_jax.networks.registry import init_params
from mae_jax.networks.saved_model import load_model, save_model
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pytree_paths import flatten, unflatten

CONFIG = MAEConfig(
    encoder=EncoderConfig(patch=8, width=16, depth=1, heads=2, crop=16, channels=("a", "b")),
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
    apply = jax.jit(ViT(CONFIG.encoder).apply)
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
