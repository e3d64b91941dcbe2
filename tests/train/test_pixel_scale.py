import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.data.index import ValueRange
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.registry import make_task, param_shapes
from mae_jax.networks.torch_import import export_state_dict
from mae_jax.train.config import DataConfig, TrainConfig
from mae_jax.train.pixel_scale import resolve_scale, scale_of_ranges
from mae_jax.weights.state_dict import write_state_dict


@pytest.mark.parametrize(
    ("p99_9", "scale"), [(200, 255), (256, 511), (3900, 4095), (5000, 8191), (65000, 65535)]
)
def test_the_scale_covers_the_bits_that_are_used(p99_9, scale):
    dim = ValueRange("uint16", 0.0, 40.0, 30.0)
    bright = ValueRange("uint16", 0.0, 65535.0, float(p99_9))  # a few pixels are saturated
    assert scale_of_ranges([dim, bright]) == scale


def test_floats_of_up_to_one_are_not_divided_and_nothing_measured_is_no_scale():
    assert scale_of_ranges([ValueRange("float32", 0.0, 1.0, 0.9)]) == 1.0
    assert scale_of_ranges([ValueRange("float32", 0.0, 900.0, 800.0)]) == 1023.0
    assert scale_of_ranges([]) is None


def test_a_given_scale_a_resumed_run_and_a_model_come_first(tmp_path):
    given = TrainConfig(data=DataConfig(scale=100.0))
    assert resolve_scale(given, tmp_path) is given
    # Version 0.1 had no scale: its runs resume with the maximum of the type.
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text(json.dumps({"data": {"index": "none.parquet"}}))
    assert resolve_scale(TrainConfig(data=DataConfig(index="none.parquet")), old).data.scale is None
    (old / "config.json").write_text(json.dumps({"data": {"scale": 4095.0}}))
    assert resolve_scale(TrainConfig(), old).data.scale == 4095.0
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"preprocessing": {"scale": 255.0}}))
    new = TrainConfig(init_from=str(tmp_path / "run"))
    assert resolve_scale(new, tmp_path / "new").data.scale == 255.0
    assert resolve_scale(TrainConfig(), tmp_path / "new").data.scale is None


def test_pytorch_weights_bring_their_scale(tmp_path):
    """Released weights expect 8-bit images divided by 255; a run that starts from them does so."""
    model = MAEConfig(
        ParallelViTConfig(patch=8, width=64, depth=1, heads=1, crop=16, channels=("DNA", "ER")),
        DecoderConfig(width=512, depth=1, heads=16, cross_heads=8),
    )
    shapes = param_shapes(model)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    file = tmp_path / "released.safetensors"
    write_state_dict(file, export_state_dict(params, model))
    config = TrainConfig(model=model, init_from=str(file))
    assert resolve_scale(config, tmp_path / "new").data.scale == 255.0


def test_what_a_task_learns_from_is_what_its_model_records():
    """Dim 16-bit images reach a standard deviation of 1 only when divided by their own range."""
    config = TrainConfig()
    rng = np.random.default_rng(0)
    pixels = jnp.asarray(rng.integers(80, 120, (1, 5, 32, 32)).astype(np.uint16))
    dim = np.asarray(make_task(config.model).standardize(pixels)).std()
    task = make_task(config.model, scale=255.0, eps=1e-6)
    assert dim < 0.1
    assert abs(float(np.asarray(task.standardize(pixels)).std()) - 1) < 1e-2
    recorded = task.preprocessing()
    assert (recorded.scale, recorded.eps) == (255.0, 1e-6)
    expected = dataclasses.replace(make_task(config.model).preprocessing(), scale=255.0, eps=1e-6)
    assert recorded == expected
