"""Every network, and every option of the loop, through a whole run on a few small images."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import mae_jax
from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.saved_model import load_model
from mae_jax.networks.unet.config import UNetConfig
from mae_jax.networks.vit.config import ViTConfig
from mae_jax.train import TrainConfig
from mae_jax.train.config import (
    CheckpointConfig,
    DataConfig,
    DatasetConfig,
    EarlyStoppingConfig,
    LogConfig,
    OptimizerConfig,
)
from mae_jax.train.metric_writers import read_metrics

STAINS = ("DNA", "ER")
MODEL = MAEConfig(
    ParallelViTConfig(
        patch=8, width=32, depth=1, heads=2, crop=16, channels=STAINS, dtype="bfloat16"
    ),
    DecoderConfig(width=32, depth=1, heads=2, cross_heads=2),
)
_HEAD = {"channels": STAINS, "classes": 4}
# Classifiers tell wells, of which the screen has four in every experiment.
NETWORKS = {
    "vit": ViTConfig(patch=8, width=32, depth=1, heads=2, grid=2, **_HEAD),
    "densenet": DenseNetConfig(
        growth=4,
        stem=8,
        layers=(1, 1),
        embedding_dims=(8, 8),
        norm="adabn",
        ghost_batch_size=4,
        **_HEAD,
    ),
    "unet": UNetConfig(widths=(8, 16), convolutions=(1, 1), channels=STAINS, crop=16, patch=4),
}


def config_for(index: Path, **changes) -> TrainConfig:
    data = DataConfig(index=str(index), batch=4, crop=16, validation_crops=4, label="Metadata_Well")
    config = TrainConfig(
        model=MODEL,
        data=data,
        checkpoint=CheckpointConfig(every=2),
        log=LogConfig(scalars=1, validation=2, image_every=4, num_images=2),
        steps=4,
    )
    return replace(config, **changes)


def losses(workdir: Path, name: str = "train/loss") -> list[float]:
    return [row[name] for row in read_metrics(workdir) if name in row]


@pytest.mark.parametrize(
    "network", ["vit", pytest.param("densenet", marks=pytest.mark.slow),
                pytest.param("unet", marks=pytest.mark.slow)]
)  # fmt: skip
def test_every_network_is_trained_by_the_same_loop(index, train, network, tmp_path):
    """And what it leaves is an encoder like any other."""
    config = config_for(index, network=network, model=NETWORKS[network])
    sampling = {"vit": "label", "densenet": "plate", "unet": "sites"}[network]
    config = replace(config, data=replace(config.data, sampling=sampling))
    train(config, tmp_path)
    assert np.isfinite(losses(tmp_path)).all()
    assert len(losses(tmp_path)) == 4
    assert np.isfinite(losses(tmp_path, "validation/loss")).all()
    assert (tmp_path / "panels").exists() == (network == "unet")  # classifiers draw nothing
    encoder = mae_jax.load_encoder(str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 60000, (3, 2, 16, 16), dtype=np.uint16)
    vectors = np.asarray(encoder.embed(pixels))
    assert len(vectors) == 3
    assert np.isfinite(vectors).all()
    assert vectors.std(axis=0).max() > 0


@pytest.mark.slow
def test_bfloat16_early_stopping_profile_and_a_warm_start(index, train, tmp_path):
    """One run of bfloat16 that traces two steps and stops early; one that starts from its end."""
    config = config_for(
        index,
        steps=40,
        # Nothing is ever better by 99 %, so that the second and third validation are the last.
        early_stopping=EarlyStoppingConfig(patience=2, every=2, min_delta=0.99),
        log=LogConfig(scalars=1, validation=2, image_every=40, num_images=2, profile=(1, 2)),
        optimizer=OptimizerConfig(ema_decay=0.5),
    )
    train(config, tmp_path / "first")
    assert len(losses(tmp_path / "first", "validation/loss")) == 3
    assert len(losses(tmp_path / "first")) == 6
    assert list((tmp_path / "first" / "profile").rglob("*.xplane.pb"))
    _, params, _ = load_model(tmp_path / "first" / "model")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float32"}

    again = config_for(index, init_from=str(tmp_path / "first" / "model"), save_initial_model=True)
    again = replace(again, steps=1, optimizer=OptimizerConfig(lr=1e-9))
    train(again, tmp_path / "second")
    _, warmed, _ = load_model(tmp_path / "second" / "untrained")
    jax.tree.map(np.testing.assert_array_equal, params, warmed)


@pytest.mark.slow
def test_two_screens_with_decoders_of_their_own(index, train, tmp_path):
    """The second screen's DNA has a decoder of its own; its ER shares that of the first."""
    channels = ("DNA", "ER", "DNA of B")
    model = replace(MODEL, encoder=replace(MODEL.encoder, channels=channels))
    sets = (
        DatasetConfig("A", str(index), ("DNA", "ER"), weight=1.0),
        DatasetConfig("B", str(index), ("DNA", "ER"), ("DNA of B", "ER"), weight=1.0),
    )
    config = config_for(index, model=model, save_initial_model=True, steps=6)
    config = replace(config, data=replace(config.data, index="", datasets=sets))
    train(config, tmp_path)
    assert np.isfinite(losses(tmp_path)).all()
    assert len(losses(tmp_path)) == 6
    _, before, _ = load_model(tmp_path / "untrained")
    _, after, _ = load_model(tmp_path / "model")
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
    assert all(jax.tree.leaves(moved["decoder"])), moved["decoder"]
