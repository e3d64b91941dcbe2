"""Runs that start from another model continue from that model's architecture."""

import dataclasses
import json
import logging
import shutil

import jax
import numpy as np
import pytest

from mae_jax import from_pretrained, load_encoder
from mae_jax.errors import InputError
from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.registry import param_shapes
from mae_jax.networks.saved_model import save_model
from mae_jax.networks.torch_import import export_state_dict
from mae_jax.networks.vit.config import ViTConfig
from mae_jax.train import TrainConfig, Trainer
from mae_jax.train.config import CheckpointConfig, DataConfig, LogConfig
from mae_jax.train.initial_architecture import adopt_architecture
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.state_dict import write_state_dict

pytestmark = pytest.mark.usefixtures("compiled_once")

STAINS = ("DNA", "ER", "RNA", "AGP", "Mito", "Brightfield")
# As the released channel-agnostic model is, but small; nothing of it is a default of configs.
RELEASED = MAEConfig(
    ParallelViTConfig(
        patch=8, width=32, depth=1, heads=4, crop=16, channels=STAINS,
        bias_layout="legacy", norm_eps=1e-5, qk_norm=False, layer_scale=None, drop_path=0.0,
    ),
    DecoderConfig(width=16, depth=1, heads=4, cross_heads=4, norm_eps=1e-5),
    mask_ratio=0.5,
)  # fmt: skip


def encoder_of(channels, **changes):
    return ParallelViTConfig(
        patch=8, width=48, depth=2, heads=2, crop=16, channels=channels, drop_path=0.2, **changes
    )


def config_for(initial, channels=STAINS[:5], index="", **changes) -> TrainConfig:
    values = {
        "model": MAEConfig(encoder_of(channels), DecoderConfig(width=32, depth=2, heads=2)),
        "data": DataConfig(index=str(index), batch=4, crop=16, validation_crops=0, scale=255.0),
        "checkpoint": CheckpointConfig(every=1),
        "log": LogConfig(scalars=1, validation=100, image_every=100),
        "steps": 1,
        "init_from": str(initial),
        "save_initial_model": True,
    }
    return TrainConfig(**(values | changes))


def random_params(config):
    """Parameters that are all random, biases too, so that their layout matters."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), param_shapes(config)
    )


def saved(config, folder):
    channels = config.encoder.channels if isinstance(config, MAEConfig) else config.channels
    preprocessing = Preprocessing(channels, True, 16, scale=255.0)
    return save_model(folder, random_params(config), config, preprocessing)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return saved(RELEASED, tmp_path_factory.mktemp("released") / "model")


@pytest.mark.slow
def test_a_run_embeds_as_its_initial_model_and_resumes_without_it(index, train, released, tmp_path):
    initial, run = tmp_path / "initial", tmp_path / "run"
    shutil.copytree(released, initial)
    config = config_for(initial, ("ER", "DNA"), index)
    train(config, run)
    own = json.loads((run / "config.json").read_text())["model"]
    assert own["encoder"]["bias_layout"] == "legacy"
    assert own["decoder"]["norm_eps"] == 1e-5
    pixels = np.random.default_rng(0).integers(0, 255, (2, 2, 16, 16), dtype=np.uint8)
    before, after = load_encoder(str(initial)), load_encoder(str(run / "untrained"))
    expected = np.asarray(before.embed(pixels, channels=("ER", "DNA")))
    np.testing.assert_allclose(
        np.asarray(after.embed(pixels, channels=("ER", "DNA"))), expected, rtol=1e-5, atol=1e-6
    )

    # Interrupted before its end, and the initial model is gone: the same command resumes.
    shutil.rmtree(initial)
    shutil.rmtree(run / "model")
    assert train(config, run) == run / "model"
    assert from_pretrained(run).config.encoder.bias_layout == "legacy"
    for changed, key in (
        (dataclasses.replace(config, seed=3), "seed"),
        (dataclasses.replace(config, init_from="elsewhere"), "init_from"),
        (config_for(initial, ("DNA", "ER"), index), r"model\.encoder\.channels"),
        (dataclasses.replace(config, init_architecture="config"), "init_architecture"),
    ):
        with pytest.raises(InputError, match=f"another {key}"):
            train(changed, run)


def test_the_run_keeps_what_is_its_own(released, tmp_path, caplog):
    config = config_for(released)
    with caplog.at_level(logging.WARNING):
        model = adopt_architecture(config, tmp_path).model
    encoder = dataclasses.replace(RELEASED.encoder, channels=STAINS[:5], drop_path=0.2)
    assert model == dataclasses.replace(RELEASED, encoder=encoder, mask_ratio=0.75)
    (line,) = caplog.messages
    assert f"the architecture is that of {released}: " in line
    assert "encoder.bias_layout legacy (not fixed)" in line
    assert "decoder.norm_eps 1e-05 (not 1e-06)" in line


def test_a_pytorch_file_of_the_released_layout_is_continued(tmp_path):
    encoder = dataclasses.replace(RELEASED.encoder, width=384, heads=6, channels=STAINS[:2])
    config = MAEConfig(encoder, DecoderConfig(width=512, depth=1, norm_eps=1e-5))
    file = tmp_path / "model.safetensors"
    write_state_dict(file, export_state_dict(random_params(config), config))
    model = adopt_architecture(config_for(file, STAINS[3:5]), tmp_path / "run").model
    assert model.encoder.bias_layout == "legacy"
    assert (model.encoder.width, model.encoder.depth, model.encoder.heads) == (384, 1, 6)
    assert model.decoder == config.decoder
    assert model.encoder.channels == STAINS[3:5]
    with pytest.raises(InputError, match=r"does not name its 2 channels.*convert.*--channels"):
        adopt_architecture(config_for(file, STAINS[:1]), tmp_path / "run")


def test_the_configs_architecture_is_compared_if_asked(index, train, released, tmp_path):
    config = config_for(released, ("DNA", "ER"), index, init_architecture="config")
    assert adopt_architecture(config, tmp_path) is config
    with pytest.raises(InputError, match=r"but the model has .*init_architecture=own"):
        train(config, tmp_path / "run")


def test_another_network_is_refused(released, tmp_path):
    config = config_for(released, network="vit", model=ViTConfig(channels=STAINS))
    with pytest.raises(InputError, match="is of the network 'mae', but network is 'vit'"):
        Trainer(config, workdir=tmp_path)


def test_a_crop_that_the_models_patches_do_not_divide_is_refused(released, tmp_path):
    model = MAEConfig(dataclasses.replace(encoder_of(STAINS), patch=4, crop=12))
    with pytest.raises(InputError, match="does not fit the config: crop 12 must be a multiple of"):
        adopt_architecture(config_for(released, model=model), tmp_path)


def test_an_encoder_alone_leaves_the_decoder_to_the_config(tmp_path):
    initial = saved(RELEASED.encoder, tmp_path / "encoder")
    config = config_for(initial)
    model = adopt_architecture(config, tmp_path / "run").model
    assert (model.encoder.bias_layout, model.encoder.heads) == ("legacy", 4)
    assert model.decoder == config.model.decoder


def test_classifiers_keep_classes_channels_crop_and_norm(tmp_path):
    vit = ViTConfig(patch=8, width=32, depth=1, heads=4, grid=4, channels=STAINS[:3], classes=7,
                    norm_eps=1e-5, fc_norm=True)  # fmt: skip
    own = ViTConfig(patch=16, width=16, depth=2, heads=2, grid=4, channels=STAINS[:2], classes=4)
    config = config_for(saved(vit, tmp_path / "vit"), network="vit", model=own)
    expected = dataclasses.replace(vit, channels=STAINS[:2], classes=4, grid=8)  # a crop of 64
    assert adopt_architecture(config, tmp_path / "run").model == expected

    densenet = DenseNetConfig(growth=4, stem=8, layers=(1, 1), embedding_dims=(8, 8),
                              channels=STAINS[:3])  # fmt: skip
    own = DenseNetConfig(channels=STAINS[:2], classes=4, norm="adabn", embedding_dims=(16, 8))
    config = config_for(saved(densenet, tmp_path / "densenet"), network="densenet", model=own)
    expected = dataclasses.replace(own, growth=4, stem=8, layers=(1, 1))
    assert adopt_architecture(config, tmp_path / "run").model == expected
