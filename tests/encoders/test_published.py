"""Published encoders by name, as fetched from a hub, and their recipes from pixels to wells."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

import mae_jax
from mae_jax.cli.main import main
from mae_jax.data.index import Index
from mae_jax.embeddings.manifest import NAME
from mae_jax.encoders import known_models
from mae_jax.encoders.known_models import KNOWN_MODELS, known_model
from mae_jax.errors import InputError
from mae_jax.networks.mae.config import ParallelViTConfig
from mae_jax.networks.registry import param_shapes
from mae_jax.networks.torch_import import export_state_dict
from mae_jax.networks.vit import config as vit_sizes
from mae_jax.networks.vit.config import vit_config
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pytree_paths import flatten_leaves, unflatten
from mae_jax.weights.recipe import Recipe
from mae_jax.weights.state_dict import write_state_dict

SIDE = 16  # of the crops of the tiny networks


def tiny(monkeypatch, name):
    """The known model at a tiny size: its architecture, its crops and its random weights."""
    known = known_model(name)
    changes = {"width": 16, "heads": 2, "depth": 1, "patch": 4, "grid": 4}
    config = vit_config(known.architecture, **changes)
    monkeypatch.setitem(vit_sizes.VIT_SIZES, f"tiny-{name}", dataclasses.asdict(config))
    recipes = tuple(
        dataclasses.replace(
            recipe,
            preprocessing=dataclasses.replace(
                recipe.preprocessing, crop=SIDE, resize=recipe.preprocessing.resize and SIDE
            ),
        )
        for recipe in known.recipes
    )
    model = dataclasses.replace(known, architecture=f"tiny-{name}", recipes=recipes)
    monkeypatch.setitem(KNOWN_MODELS, name, model)
    rng = np.random.default_rng(0)
    shapes = flatten_leaves(param_shapes(config))
    params = {key: rng.normal(size=s.shape).astype(np.float32) for key, s in shapes.items()}
    return model, config, export_state_dict(unflatten(params), config)


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    """Two wells of two sites of five stains under a microscope's names, 40 × 36 pixels."""
    rng = np.random.default_rng(0)
    names = ["Hoechst 33342", "ConA", "SYTO 14", "Phalloidin/WGA", "MitoTracker"]
    rows = []
    for well in ("A01", "A02"):
        for site in ("1", "2"):
            images = []
            for channel in names:
                file = f"{well}_{site}_{channel[:3]}.tiff"
                level = rng.uniform(500, 3000)
                plane = rng.normal(level, level / 5, (40, 36)).clip(0, 65535).astype(np.uint16)
                tifffile.imwrite(tmp_path / file, plane)
                images.append(file)
            row = {"Source": "s", "Experiment": "E", "Plate": "P", "Well": well, "Site": site,
                   "Perturbation": "", "Gene": "", "ControlType": "", "Split": "train"}  # fmt: skip
            metadata = {f"Metadata_{key}": value for key, value in row.items()}
            rows.append({**metadata, "Channels": names, "Images": images})
    return Index(pd.DataFrame(rows), str(tmp_path)).write(tmp_path / "index.parquet")


def test_morphem_as_jump_lite_used_it_is_one_command(
    hub, monkeypatch, screen, tmp_path, capsys
) -> None:
    model, _, state = tiny(monkeypatch, "morphem")
    file = write_state_dict(tmp_path / "weights.safetensors", state)
    hub.files[model.hub, "model.safetensors"] = file.read_bytes()
    out = tmp_path / "out"
    words = ["embed", "--encoder", "morphem", "--recipe", "jump-lite", "--index", str(screen)]
    assert main([*words, "--out", str(out), "--batch-size", "3"]) == 0
    said = capsys.readouterr().err
    assert "channels: AGP = Phalloidin/WGA, DNA = Hoechst 33342, ER = ConA, Mito = " in said
    _, features, names = mae_jax.read_embeddings(out)
    assert features.shape == (2, 5 * 16)
    assert (names[0], names[-1]) == ("Image_MAE_Phalloidin-WGA_0000", "Image_MAE_SYTO-14_0015")
    # The same by hand: sites standardized, tiles side by side, the median of all tiles of a well.
    encoder = mae_jax.load_encoder(file, recipe="morphem/jump-lite")
    index = Index.read(screen)
    order = ["Phalloidin/WGA", "Hoechst 33342", "ConA", "MitoTracker", "SYTO 14"]
    for well in (0, 1):
        vectors = []
        for row in (2 * well, 2 * well + 1):
            site = mae_jax.data.read_site(index, row, order).astype(np.float64)
            mean, std = (getattr(site, f)(axis=(1, 2), keepdims=True) for f in ("mean", "std"))
            site = ((site - mean) / std).astype(np.float32)
            tiles = [site[None, :, y : y + SIDE, x : x + SIDE] for y in (0, 16) for x in (0, 16)]
            vectors += [np.asarray(encoder.embed(t, pooling="channel"))[0] for t in tiles]
        assert len(vectors) == 8
        np.testing.assert_allclose(features[well], np.median(vectors, axis=0), atol=1e-4)
    job = json.loads((out / NAME).read_text())["job"]
    assert job["recipe"] == {
        "name": "jump-lite", "clip": None, "eight_bit": False, "standard_scale": True,
        "pad_channels": 0, "tiling": "grid", "aggregation": "median",
    }  # fmt: skip
    assert (job["encoder"], job["pooling"], job["crop"]) == ("morphem", "channel", SIDE)
    # Another recipe is another job.
    assert mae_jax.from_pretrained("morphem").preprocessing == model.recipes[0].preprocessing
    words[4] = "own"
    assert main([*words, "--out", str(out)]) == 2
    assert "was made with another" in capsys.readouterr().err


def test_openphenom_comes_from_the_hub_in_its_true_layout(hub, tmp_path, capsys) -> None:
    """A torch pickle called model.safetensors, of the keys of the release."""
    torch = pytest.importorskip("torch")
    config = ParallelViTConfig(
        patch=8, width=16, depth=1, heads=2, crop=16, channels=tuple("abcdef"),
        bias_layout="legacy",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    shapes = flatten_leaves(param_shapes(config))
    params = unflatten({k: rng.normal(size=s.shape).astype("f4") for k, s in shapes.items()})
    state = export_state_dict(params, config)
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    torch.save({"state_dict": tensors}, tmp_path / "release")
    name = "recursionpharma/OpenPhenom"
    hub.files[name, "model.safetensors"] = (tmp_path / "release").read_bytes()
    assert main(["models", "openphenom"]) == 0
    assert "here        False" in capsys.readouterr().out
    encoder = mae_jax.load_encoder("openphenom", recipe="jump-lite")
    assert main(["models", "openphenom"]) == 0
    assert "here        True" in capsys.readouterr().out
    assert encoder.preprocessing == known_model("openphenom").recipe("jump-lite").preprocessing
    assert encoder.encoder_config.bias_layout == "legacy"
    asked = len(hub.asked)
    pixels = rng.integers(0, 255, (2, 5, 16, 16)).astype(np.uint8)
    black = np.zeros((2, 1, 16, 16), np.uint8)
    own = mae_jax.load_encoder("openphenom")
    assert not any(request.startswith("GET /recursion") for request in hub.asked[asked:])
    with_black = own.embed(np.concatenate([pixels, black], axis=1))
    assert np.abs(np.asarray(with_black - own.embed(pixels))).max() > 1e-4  # it takes part


def test_what_the_hub_does_not_give_is_one_sentence(hub, tmp_path, capsys) -> None:
    with pytest.raises(InputError) as error:
        mae_jax.load_encoder("morphem")
    text = str(error.value)
    assert text.startswith("morphem: CaicedoLab/MorphEm could not be read from the hub")
    assert "download model.safetensors from https://huggingface.co/CaicedoLab/MorphEm" in text
    assert "--encoder PATH --recipe morphem/RECIPE" in text
    with pytest.raises(InputError, match=r"dinov3-s: .*accept the licence at .*HF_TOKEN"):
        mae_jax.load_encoder("dinov3-s")
    with pytest.raises(
        InputError, match=r"subcell is not on the hub: download it from https://czi"
    ):
        mae_jax.load_encoder("subcell")
    with pytest.raises(InputError, match=r"cell-dino-cp-s is not on the hub: download .*ai\.meta"):
        mae_jax.load_encoder("cell-dino-cp-s")
    assert main(["embed", "--encoder", "morphen", "--index", "i", "--out", "o"]) == 2
    assert "did you mean 'morphem'?" in capsys.readouterr().err
    with pytest.raises(InputError, match="morphem has no recipe 'jumplite': did you mean 'jump-l"):
        mae_jax.load_encoder("morphem", recipe="jumplite")
    (tmp_path / "w.pt").touch()
    with pytest.raises(InputError, match="MODEL/RECIPE, such as morphem/jump-lite"):
        mae_jax.load_encoder(tmp_path / "w.pt", recipe="jump-lite")


@pytest.mark.parametrize("name", ["dinov2-s", "dinov2-reg-b", "dinov3-l", "subcell", "vit-b16",
                                  "channel-adaptive-dino-l", "cell-dino-hpa-l16"])  # fmt: skip
def test_recipes_fit_their_networks(name, monkeypatch, tmp_path) -> None:
    model, config, state = tiny(monkeypatch, name)
    if name == "vit-b16":  # the published file has a classifier
        state["head.weight"], state["head.bias"] = np.ones((7, 16), "f4"), np.ones(7, "f4")
    file = write_state_dict(tmp_path / "weights.safetensors", state)
    for recipe in model.recipes:
        encoder = mae_jax.load_encoder(file, recipe=f"{name}/{recipe.name}")
        assert encoder.config == config
        count = len(recipe.preprocessing.channels) or 5
        pixels = np.random.default_rng(0).integers(0, 4000, (2, count, SIDE, SIDE))
        vectors = encoder.embed(pixels.astype(np.uint16), pooling=encoder.default_pooling)
        assert vectors.shape == (2, encoder.width(count, recipe.pooling))
        assert np.isfinite(vectors).all()
        assert np.abs(np.asarray(vectors[0] - vectors[1])).max() > 1e-3
        assert encoder.name == name


def test_a_converted_model_takes_recipes_too(monkeypatch, tmp_path) -> None:
    _, _, state = tiny(monkeypatch, "morphem")
    file = write_state_dict(tmp_path / "weights.safetensors", state)
    words = ["convert", str(file), str(tmp_path / "saved"), "--recipe", "morphem/own"]
    assert main(words) == 0
    saved = mae_jax.load_encoder(tmp_path / "saved")
    assert saved.preprocessing == known_model("morphem").recipes[0].preprocessing
    with_recipe = mae_jax.load_encoder(tmp_path / "saved", recipe="morphem/jump-lite")
    assert with_recipe.recipe.aggregation == "median"
    with pytest.raises(InputError, match="is of the network 'vit', but openphenom of 'mae'"):
        mae_jax.load_encoder(tmp_path / "saved", recipe="openphenom/own")


def test_channels_that_no_one_has_published_are_asked_for(monkeypatch, tmp_path, capsys) -> None:
    _, _, state = tiny(monkeypatch, "cell-dino-cp-s")
    file = write_state_dict(tmp_path / "weights.safetensors", state)
    words = ["convert", str(file), str(tmp_path / "saved"), "--recipe", "cell-dino-cp-s/own"]
    assert main(words) == 2
    assert "order of the 5 channels of cell-dino-cp-s is not published" in capsys.readouterr().err
    assert main([*words, "--channels", "DNA,ER"]) == 2
    assert "takes 5 channels, but 2 are named (DNA, ER)" in capsys.readouterr().err
    assert main([*words, "--channels", "DNA,ER,RNA,AGP,Mito"]) == 0
    encoder = mae_jax.load_encoder(tmp_path / "saved", recipe="cell-dino-cp-s/own")
    assert encoder.preprocessing.channels == ("DNA", "ER", "RNA", "AGP", "Mito")
    assert encoder.default_pooling == "class"


def test_sites_are_prepared_as_the_recipe_says() -> None:
    site = np.random.default_rng(0).integers(0, 4000, (2, 30, 20)).astype(np.uint16)
    site[1] = 7  # no contrast
    recipe = Recipe("r", Preprocessing(()), clip=(0.5, 99.5), eight_bit=True, pad_channels=3)
    got = recipe.prepare(site)
    assert got.dtype == np.uint8
    low, high = np.percentile(site[0], [0.5, 99.5])
    wanted = np.clip((site[0] - low) / (high - low), 0, 1) * 255
    assert np.abs(got[0] - wanted).max() < 1.001
    assert (got[0] <= wanted + 1e-3).all()  # rounded down
    assert got.shape == (3, 30, 20)
    assert not got[1:].any()
    scaled = Recipe("r", Preprocessing(()), standard_scale=True).prepare(site)
    np.testing.assert_allclose(scaled[0], (site[0] - site[0].mean()) / site[0].std(), atol=1e-5)
    assert not scaled[1].any()
    with pytest.raises(InputError, match="eight_bit needs clip"):
        Recipe("r", Preprocessing(()), eight_bit=True)


def test_every_entry_says_where_it_is_and_how_it_is_used() -> None:
    for name, model in KNOWN_MODELS.items():
        assert model.name == name
        assert model.source.startswith("https://")
        assert model.licence
        assert len({recipe.name for recipe in model.recipes}) == len(model.recipes)
        if model.architecture:
            config = vit_config(model.architecture)
            for recipe in model.recipes:
                assert recipe.preprocessing.crop % config.patch == 0
                channels = recipe.preprocessing.channels
                if not recipe.preprocessing.bag_of_channels and channels:
                    assert len(channels) == len(config.channels)
    assert known_models.known_model("openphenom").megabytes == pytest.approx(712.2, abs=0.1)
