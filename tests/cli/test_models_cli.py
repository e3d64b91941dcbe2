"""`mae-jax models` as a user types it."""

import json

import jax
import pytest

from mae_jax.cli.main import main
from mae_jax.encoders.known_models import KNOWN_MODELS
from mae_jax.networks.registry import init_params
from mae_jax.networks.saved_model import save_model
from mae_jax.networks.vit.config import vit_config
from mae_jax.weights.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    config = vit_config("vit_s16", width=16, heads=1, depth=1, grid=1, channels=("DNA", "ER"))
    params = init_params(config, jax.random.key(0))
    save_model(folder / "mine" / "model", params, config, Preprocessing(("DNA", "ER"), crop=16))
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    return folder


def test_the_list_has_published_baselines_and_own_models(runs, capsys):
    assert main(["models", "--runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["name", "channels", "scale", "crop"]
    (line,) = (line for line in lines if line.startswith("morphem"))
    for words in ("any, one at a time", "224", "MIT", "86", "https://huggingface.co/CaicedoLab"):
        assert words in line
    (own,) = (line for line in lines if line.startswith(str(runs / "mine")))
    assert "DNA, ER" in own
    assert "yes" in own
    assert main(["models", "--runs", str(runs / "none")]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_the_list_as_json(runs, capsys):
    assert main(["models", "--runs", str(runs), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    models = {model["name"]: model for model in document["models"]}
    assert {*KNOWN_MODELS, "intensity", "random", str(runs / "mine")} == models.keys()
    assert models["openphenom"]["channels"] == "any (trained on DNA, ER, AGP, RNA, Mito, BF)"
    assert models["dinov2-reg-g"]["recipes"] == ["own", "jump-lite"]
    assert models["cell-dino-cp-s"]["channels"] == "5, not published"


@pytest.mark.parametrize("name", ["openphenom", "subcell", "dinov3-s", "cell-dino-cp-s"])
def test_one_in_full(name, capsys):
    assert main(["models", name]) == 0
    shown = capsys.readouterr().out
    model = KNOWN_MODELS[name]
    assert model.licence in shown
    assert model.source in shown
    assert f"{model.parameters}" in shown
    for recipe in model.recipes:
        assert f"recipe {recipe.name}\n" in shown
    assert f"mae-jax embed --encoder {name} --recipe {model.recipes[-1].name}" in shown


def test_a_misspelt_name(capsys):
    assert main(["models", "openphenon"]) == 2
    assert "did you mean 'openphenom'?" in capsys.readouterr().err
