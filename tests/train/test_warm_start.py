import dataclasses

import jax
import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.task import MAETask
from mae_jax.networks.registry import init_params
from mae_jax.networks.saved_model import save_model
from mae_jax.train.step import TrainState
from mae_jax.train.warm_start import warm_start
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pytree_paths import flatten

CONFIG = MAEConfig(
    encoder=ParallelViTConfig(
        patch=8, width=64, depth=1, heads=2, crop=16, channels=("DNA", "ER", "RNA")
    ),
    decoder=DecoderConfig(width=32, depth=1, heads=2, cross_heads=2),
)


def with_encoder(config=CONFIG, **changes):
    return dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, **changes))


def saved(config, folder, seed=1):
    params = jax.jit(lambda key: init_params(config, key))(jax.random.key(seed))
    encoder = config.encoder if isinstance(config, MAEConfig) else config
    preprocessing = Preprocessing(encoder.channels, encoder.channel_agnostic, 16)
    save_model(folder, params, config, preprocessing)
    return flatten(params)


def warmed(config, folder):
    """Flat parameters before and after."""
    task = MAETask(config)
    params, model_state = jax.jit(task.init)(jax.random.key(2))
    state = TrainState(
        step=np.int32(0), params=params, opt_state=None, model_state=model_state, ema=None,
        divergence=None,
    )  # fmt: skip
    return flatten(params), flatten(warm_start(str(folder), task, state).params)


def test_the_same_architecture_continues_from_the_same_weights(tmp_path):
    source = saved(CONFIG, tmp_path / "model")
    _, after = warmed(CONFIG, tmp_path / "model")
    for name, value in source.items():
        np.testing.assert_array_equal(after[name], value)


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"bias_layout": "legacy"}, "--config.model.encoder.bias_layout=legacy"),
        ({"norm_eps": 1e-3}, "--config.model.encoder.norm_eps=0.001"),
    ],
)
def test_another_architecture_is_refused(tmp_path, changes, option):
    saved(with_encoder(**changes), tmp_path / "model")
    with pytest.raises(InputError, match=f"init_from: .*give {option}"):
        warmed(CONFIG, tmp_path / "model")


def test_heads_and_epsilons_are_compared_where_no_shape_shows_them(tmp_path):
    saved(with_encoder(heads=4, qk_norm=False), tmp_path / "model")
    with pytest.raises(InputError, match=r"encoder\.heads 4.*but the model has 2"):
        warmed(with_encoder(qk_norm=False), tmp_path / "model")
    decoder = dataclasses.replace(CONFIG.decoder, heads=4, norm_eps=1e-5)
    saved(dataclasses.replace(CONFIG, decoder=decoder), tmp_path / "decoder")
    with pytest.raises(InputError, match=r"decoder\.heads 4, decoder\.norm_eps 1e-05"):
        warmed(CONFIG, tmp_path / "decoder")


@pytest.mark.parametrize("agnostic", [True, False], ids=["channel-agnostic", "joint"])
@pytest.mark.parametrize(
    "channels", [("RNA", "DNA"), ("AGP", "RNA", "DNA", "ER"), ("ER", "RNA", "DNA")]
)
def test_channels_are_matched_by_name(tmp_path, agnostic, channels):
    config = with_encoder(channel_agnostic=agnostic)
    names = config.encoder.channels
    source = saved(config, tmp_path / "model")
    before, after = warmed(with_encoder(config, channels=channels), tmp_path / "model")
    # Parameters with an axis of channels: (position of the axis, values per channel).
    stacked = ("decoder.block_", "decoder.channel_tokens")
    joint = ("encoder.patch_embed.kernel", "decoder_pred.kernel", "decoder_pred.bias")
    checked = 0
    for name, value in after.items():
        if agnostic and name.startswith(stacked):
            axis = 0
        elif not agnostic and name in joint:
            axis = 1 if name == "decoder_pred.kernel" else 0
        else:
            np.testing.assert_array_equal(value, source[name])
            continue
        checked += 1
        parts = [np.moveaxis(v, axis, 0) for v in (value, source[name], before[name])]
        new, old, initial = (
            p.reshape(-1, len(c), *p.shape[1:])
            for p, c in zip(parts, (channels, names, channels), strict=True)
        )
        for i, channel in enumerate(channels):
            expected = old[:, names.index(channel)] if channel in names else initial[:, i]
            np.testing.assert_array_equal(new[:, i], expected)
    assert checked >= 3


def test_no_channel_in_common_is_refused(tmp_path):
    saved(with_encoder(channels=("a", "b", "c")), tmp_path / "model")
    with pytest.raises(InputError, match="has the channels a, b, c, none of the model's"):
        warmed(CONFIG, tmp_path / "model")


def test_an_encoder_alone_leaves_the_decoder_as_it_was(tmp_path):
    source = saved(CONFIG.encoder, tmp_path / "model")
    before, after = warmed(CONFIG, tmp_path / "model")
    for name, value in after.items():
        encoder = name.startswith("encoder.")
        expected = source[name.removeprefix("encoder.")] if encoder else before[name]
        np.testing.assert_array_equal(value, expected)
