"""Figures and reprs for notebooks, and one image of any size through an encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import mae_jax
from mae_jax.encoders.baselines import IntensityEncoder
from mae_jax.errors import InputError
from mae_jax.evaluation.results import Result
from mae_jax.networks.image_embedding import embed_crops_of_image
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.networks.mae.model import MAE
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.recipe import Recipe

CHANNELS = ("DNA", "ER")
IMAGE = np.random.default_rng(0).integers(0, 9999, (3, 40, 24)).astype(np.uint16)
NAMES = ("ER", "Phase", "DNA")  # of IMAGE


@pytest.fixture(scope="module")
def encoder() -> MAEEncoder:
    config = MAEConfig(
        encoder=ParallelViTConfig(
            patch=8, width=16, depth=1, heads=2, channels=CHANNELS, crop=16, channel_agnostic=True
        ),
        decoder=DecoderConfig(width=16, depth=1, heads=1),
    )
    keys = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    params = jax.jit(MAE(config).init)(keys, np.zeros((1, 2, 16, 16), np.float32))["params"]
    return MAEEncoder(config, params, Preprocessing(CHANNELS, True, 16, None))


@pytest.fixture
def profiles() -> mae_jax.Profiles:
    rng = np.random.default_rng(1)
    wells = [f"{row}{column:02d}" for row in "ABC" for column in range(1, 5)]
    doses = [str(i) for i in range(12)]
    metadata = pd.DataFrame({
        "Metadata_Plate": "P1", "Metadata_Well": wells, "Metadata_Dose": doses,
        "Metadata_Perturbation": ["a", "b", "c"] * 4,
    })  # fmt: skip
    return mae_jax.Profiles(metadata, rng.normal(size=(12, 5)).astype(np.float32), tuple("vwxyz"))


def test_an_image_is_the_mean_over_the_crops_that_cover_it(encoder, capsys):
    ordered = IMAGE[[2, 0, 1]]  # DNA, ER, then what training did not have
    corners = [(y, x) for y in (0, 12, 24) for x in (0, 8)]  # 3 x 2 crops of 16 cover 40 x 24
    crops = np.stack([ordered[:, y : y + 16, x : x + 16] for y, x in corners])
    wanted = np.asarray(encoder.embed(crops)).mean(axis=0)
    got = encoder.embed_image(IMAGE, channels=NAMES, batch_size=4)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert "6/6" in capsys.readouterr().err  # the bar
    single, found = embed_crops_of_image(encoder, IMAGE, NAMES, batch_size=4, progress=False)
    assert found.tolist() == [list(corner) for corner in corners]
    np.testing.assert_allclose(single.mean(axis=0), wanted, atol=1e-5)
    assert capsys.readouterr().err == ""


def test_a_recipe_takes_the_median_of_the_image(encoder):
    found = embed_crops_of_image(encoder, IMAGE, NAMES, progress=False)[0]
    other = MAEEncoder(encoder.config, encoder.mae_params, encoder.preprocessing)
    other.recipe = Recipe("test", encoder.preprocessing, aggregation="median")
    got = other.embed_image(IMAGE, NAMES, progress=False)
    np.testing.assert_allclose(got, np.median(found, axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("image", "channels", "says"),
    [(IMAGE, CHANNELS, "with the 2 channels DNA, ER"),
     (IMAGE, ("A", "A", "B"), "named twice"), (IMAGE[:, :8], NAMES, "smaller than a crop")],
)  # fmt: skip
def test_an_image_that_does_not_fit_is_refused(encoder, image, channels, says):
    with pytest.raises(InputError, match=says):
        encoder.embed_image(image, channels, progress=False)


def test_what_takes_long_is_said_beforehand(encoder, capsys, monkeypatch):
    monkeypatch.setattr("mae_jax.networks.image_embedding._SAID_SECONDS", 0)
    encoder.embed_image(IMAGE, NAMES, batch_size=1)
    assert "6 crops of 16 pixels: about" in capsys.readouterr().err


def test_reconstruction_has_a_row_per_channel(encoder):
    figure = mae_jax.plot_reconstruction(encoder, IMAGE[[2, 0]], CHANNELS, mask_ratio=0.5)
    assert len(figure.axes) == 6
    assert [axes.get_ylabel().split()[0] for axes in figure.axes[::3]] == ["DNA", "ER"]
    masked = [axes.images[0].get_array().filled(np.nan) for axes in figure.axes[::3]]
    assert np.isnan(np.stack(masked)).mean() == 0.5  # hidden patches of all channels
    with pytest.raises(InputError, match="no decoder"):
        mae_jax.plot_reconstruction(IntensityEncoder(), IMAGE, NAMES)
    with pytest.raises(InputError, match="no crop of 16"):
        mae_jax.plot_reconstruction(encoder, IMAGE[:, :8], NAMES)


def test_attention_is_that_of_the_class_token(encoder):
    figure = mae_jax.plot_attention(encoder, IMAGE[[2, 0]], CHANNELS)
    crop = IMAGE[[2, 0], 12:28, 4:20][None]
    weights = np.asarray(encoder.attention_maps(encoder.params, jnp.asarray(crop)))[0].mean(axis=0)[
        0, 1:
    ]
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes[2:4]]
    np.testing.assert_allclose(np.stack(shown).reshape(-1), weights, rtol=1e-5)
    with pytest.raises(InputError, match="no attention"):
        mae_jax.plot_attention(IntensityEncoder(), IMAGE, NAMES)


def test_a_map_of_wells_has_every_well(profiles):
    figure = mae_jax.plot_umap(profiles, "Perturbation", method="pca")
    shown = sum(len(points.get_offsets()) for points in figure.axes[0].collections)
    assert shown == 12
    with pytest.raises(InputError, match="no column"):
        mae_jax.plot_umap(profiles, "Genes", method="pca")


def test_a_plate_has_its_wells_in_their_places(profiles):
    grid = np.asarray(mae_jax.plot_plate(profiles, value="Dose").axes[0].images[0].get_array())
    np.testing.assert_array_equal(grid[:3, :4].reshape(-1), range(12))
    figure = mae_jax.plot_plate(profiles, "P1", value="x")
    grid = np.asarray(figure.axes[0].images[0].get_array())
    assert grid[1, 2] == pytest.approx(profiles.features[6, 2])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][:3] == ["A", "B", "C"]
    distance = np.asarray(mae_jax.plot_plate(profiles).axes[0].images[0].get_array())
    assert np.nanmean(distance**2) == pytest.approx(1, rel=1e-5)  # in deviations of the plate
    wrong = {"no plate 'P2'": {"plate": "P2"}, "numbers": {"value": "Perturbation"},
             "3 values do not fit": {"value": np.zeros(3)}}  # fmt: skip
    for says, options in wrong.items():
        with pytest.raises(InputError, match=says):
            mae_jax.plot_plate(profiles, **options)


def test_reprs_say_what_there_is(encoder, profiles):
    assert repr(profiles) == (
        "Profiles(12 wells x 5 features; metadata: Plate, Well, Dose, Perturbation)"
    )
    assert "3 values: a, b, c" in profiles._repr_html_()
    assert "any; trained on DNA, ER" in encoder._repr_html_()
    result = Result(tables={"scores": pd.DataFrame({"a<b": [1]})}, summary=["recall 0.5 <best>"],
                    settings={"evaluation": "recall"})  # fmt: skip
    assert repr(result) == "Result of recall:\nrecall 0.5 <best>"
    assert "recall 0.5 &lt;best&gt;" in result._repr_html_()
    table = pd.DataFrame({
        **dict.fromkeys(("Metadata_Source", "Metadata_Experiment", "Metadata_Site",
                         "Metadata_Perturbation", "Metadata_Gene", "Metadata_ControlType",
                         "Metadata_Split"), ""),
        "Metadata_Plate": ["P", "P"], "Metadata_Well": ["A01", "A02"],
        "Channels": [["DNA"]] * 2, "Images": [["a.tiff"]] * 2,
    })  # fmt: skip
    index = mae_jax.Index(table, "/screen")
    assert repr(index) == "Index(2 sites of 2 wells on 1 plates; channels: DNA)"
    assert "2 values: A01, A02" in index._repr_html_()
