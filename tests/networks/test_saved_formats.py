"""Saved models of earlier versions still load: old kinds, keys and values are translated."""

import json

import jax
import pytest

from mae_jax.config import to_dict
from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.mae.config import ParallelViTConfig
from mae_jax.networks.registry import from_json, init_params, to_json
from mae_jax.networks.saved_model import load_model, save_model
from mae_jax.networks.unet.config import UNetConfig
from mae_jax.weights.preprocessing import Preprocessing

STAINS = ("DNA", "ER")
DENSENET = DenseNetConfig(
    growth=4, stem=8, layers=(1, 1), embedding_dims=(8, 6), channels=STAINS, norm="adabn",
    ghost_batch_size=4,
)  # fmt: skip
UNET = UNetConfig(widths=(8, 16), convolutions=(1, 1), channels=STAINS, crop=16, patch=4)
VIT = ParallelViTConfig(patch=8, width=32, depth=1, heads=2, crop=16, channels=STAINS)


def old_record(config):
    """The record that version 0.1 wrote."""
    values = to_dict(config)
    if config is DENSENET:
        values["ghost"] = values.pop("ghost_batch_size")
        values["neck"] = values.pop("embedding_dims")
        values["norm"] = "ada"
    if config is UNET:
        values["fourier_weight"] = 0.0
    kinds = {DenseNetConfig: "densenet", UNetConfig: "mu-net", ParallelViTConfig: "encoder"}
    return {"kind": kinds[type(config)], "architecture": values}


@pytest.mark.parametrize("config", [DENSENET, UNET, VIT], ids=["densenet", "mu-net", "encoder"])
def test_old_records_give_todays_configs(config):
    assert from_json(old_record(config), "config.json") == config
    assert from_json(to_json(config), "config.json") == config


def test_an_old_folder_loads(tmp_path):
    params = init_params(DENSENET, jax.random.key(0))
    save_model(tmp_path / "model", params, DENSENET, Preprocessing(STAINS, crop=32))
    file = tmp_path / "model" / "config.json"
    record = json.loads(file.read_text()) | old_record(DENSENET)
    del record["sha256"]  # which version 0.1 did not write
    file.write_text(json.dumps(record))
    assert load_model(tmp_path / "model").config == DENSENET
