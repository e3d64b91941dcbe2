import json
import shutil
import tarfile
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import mae_jax
from mae_jax.cli.main import main
from mae_jax.config import to_dict
from mae_jax.encoders.run_checkpoint import load_checkpoint
from mae_jax.errors import InputError
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.registry import init_params
from mae_jax.networks.saved_model import load_model
from mae_jax.weights.checksum import stacked_checksums, to_hex
from mae_jax.weights.pytree_paths import flatten

ARCHIVE = Path(__file__).parents[1] / "compat" / "v0.1.tar.gz"
CONFIG = MAEConfig(
    encoder=ParallelViTConfig(patch=8, width=16, depth=1, heads=2, crop=16, channels=("a", "b")),
    decoder=DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
)
LOSSES = {1000: 0.5, 2000: 0.25, 3000: float("inf")}


def params_of(seed):
    return jax.jit(lambda key: init_params(CONFIG, key))(jax.random.key(seed))


def write_checkpoint(folder, step, *, ema):
    """A checkpoint as the trainer writes it: the item "state" and checksums in "meta"."""
    state = {"step": np.int32(step), "params": params_of(step), "opt_state": [np.zeros(3)]}
    if ema:
        state["ema"] = params_of(step + 1)
    meta = {"checksums": to_hex(state, np.asarray(stacked_checksums(state))), "callbacks": {}}
    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["validation_loss"])
    with ocp.CheckpointManager(
        folder.absolute(), options=options, item_names=("state", "meta")
    ) as manager:
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        manager.save(step, args=args, metrics={"validation_loss": LOSSES[step]})
        manager.wait_until_finished()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = {"network": "mae", "model": to_dict(CONFIG), "data": {"crop": 256}}
    (folder / "config.json").write_text(json.dumps(config))
    for step in LOSSES:
        write_checkpoint(folder / "checkpoints", step, ema=step == 3000)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize(
    ("step", "seed"), [("1000", 1000), ("best", 2000), ("latest", 3001), ("3000", 3001)]
)
def test_a_step_the_best_and_the_latest_are_read(run, step, seed):
    """Of the checkpoint with a moving average, the average is read."""
    model = mae_jax.from_pretrained(f"{run}@{step}")
    assert model.config == CONFIG
    expected = flatten(params_of(seed))
    actual = flatten(model.params)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)


def test_a_checkpoint_is_an_encoder_and_is_converted(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 999, (2, 2, 16, 16)).astype(np.uint16)
    encoder = mae_jax.load_encoder(f"{run}@2000")
    assert main(["convert", f"{run}@best", str(tmp_path / "model")]) == 0
    converted = mae_jax.load_encoder(tmp_path / "model")
    assert converted.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(encoder.embed(pixels), converted.embed(pixels))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("1500", "has no checkpoint of step 1500; it has the steps 1000, 2000, 3000"),
        ("bst", "'bst' is not a step: did you mean 'best'"),
    ],
)
def test_steps_that_are_not_there_are_named(run, step, message):
    with pytest.raises(InputError, match=message):
        mae_jax.from_pretrained(f"{run}@{step}")


def test_without_a_validation_loss_there_is_no_best(run):
    for path in (run / "checkpoints").glob("*/metrics/metrics"):
        path.write_text('{"validation_loss": Infinity}')
    with pytest.raises(InputError, match="no checkpoint has a validation loss"):
        mae_jax.from_pretrained(f"{run}@best")


def test_a_damaged_checkpoint_is_refused(run):
    meta = run / "checkpoints" / "1000" / "meta" / "metadata"
    values = json.loads(meta.read_text())
    values["checksums"]["params/encoder/cls_token"] = "0" * 16
    meta.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"1000 is damaged.*'params/encoder/cls_token'"):
        mae_jax.from_pretrained(f"{run}@1000")
    for path in (run / "checkpoints" / "2000" / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"2000 (cannot be read|is damaged)"):
        mae_jax.from_pretrained(f"{run}@2000")


def test_a_checkpoint_of_version_0_1_is_read(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    run = tmp_path / "v0.1" / "run"
    last = flatten(load_checkpoint(run, 6).params)
    for name, value in flatten(load_model(run / "model").params).items():
        np.testing.assert_array_equal(last[name], value)
    assert any((flatten(load_checkpoint(run, 3).params)[k] != v).any() for k, v in last.items())
