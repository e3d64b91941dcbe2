"""Encoders in StableHLO and PyTorch embed as those of this package."""

import base64
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import mae_jax
from mae_jax.cli.main import main
from mae_jax.errors import MACHINE
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.registry import make_encoder, param_shapes
from mae_jax.networks.saved_model import save_model
from mae_jax.networks.vit.config import vit_config
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pytree_paths import flatten_leaves, unflatten

TINY = {"width": 16, "heads": 2, "depth": 2, "patch": 4}
AB = ("a", "b")
RGB = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def encoder_config(**changes):
    return ParallelViTConfig(**TINY, crop=16, channels=AB, **changes)


MODELS = {
    "ca-mae": (
        MAEConfig(
            encoder=encoder_config(bias_layout="legacy"),
            decoder=DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
        ),
        Preprocessing(AB, True, 16, 255.0),
    ),
    "joint": (
        encoder_config(channel_agnostic=False, final_norm=True, qk_norm=False, layer_scale=None),
        Preprocessing(AB, False, 16, 255.0, standardization="zscore"),
    ),
    "dinov2": (
        vit_config("dinov2-reg-s", **TINY, grid=6, mlp="swiglu"),
        Preprocessing(AB, False, 16, 255.0, standardization="max", bag_of_channels=True, **RGB),
    ),
    "dino": (
        vit_config("morphem", **TINY, grid=6),
        Preprocessing(AB, False, 16, 1.0, resize=24, bag_of_channels=True),
    ),
    "dinov3": (
        vit_config("dinov3-s", **TINY, channels=AB),
        Preprocessing(AB, False, 16, 255.0, standardization="fixed"),
    ),
    "subcell": (
        vit_config("subcell", **TINY, grid=3, channels=AB),
        Preprocessing(AB, False, 16, 1.0, 1e-6, standardization="minmax"),
    ),
}
POOLING = {"subcell": "attention", "ca-mae": "channel", "dinov2": "channel", "dino": "channel"}
PIXELS = np.random.default_rng(0).integers(0, 255, (3, 2, 16, 16)).astype(np.float32)


def saved(kind, folder):
    """A saved model with random weights, and its embeddings of PIXELS."""
    config, preprocessing = MODELS[kind]
    rng = np.random.default_rng(0)
    shapes = flatten_leaves(param_shapes(config))
    params = unflatten(
        {name: (0.4 * rng.normal(size=s.shape)).astype(np.float32) for name, s in shapes.items()}
    )
    save_model(folder, params, config, preprocessing)
    encoder = make_encoder(config, params, preprocessing)
    return np.asarray(encoder.embed(PIXELS, pooling=POOLING.get(kind, "mean")))


def module_of(folder: Path):
    spec = importlib.util.spec_from_file_location("exported_encoder", folder / "encoder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", MODELS)
def test_the_torch_module_embeds_the_same(kind, tmp_path):
    torch = pytest.importorskip("torch")
    wanted = saved(kind, tmp_path / "model")
    target = tmp_path / "torch" / "model.safetensors"
    assert main(["convert", str(tmp_path / "model"), str(target), "--format", "torch"]) == 0
    encoder = module_of(target.parent).load(target, POOLING.get(kind))
    with torch.no_grad():
        got = encoder(torch.from_numpy(PIXELS)).numpy()
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * max(1, scale))


@pytest.mark.slow
def test_the_torch_module_can_be_traced_for_onnx(tmp_path):
    torch = pytest.importorskip("torch")
    wanted = saved("dinov2", tmp_path / "model")
    target = tmp_path / "torch" / "model.safetensors"
    assert main(["convert", str(tmp_path / "model"), str(target), "--format", "torch"]) == 0
    encoder = module_of(target.parent).load(target)
    program = torch.export.export(encoder, (torch.from_numpy(PIXELS),))  # torch.onnx's first step
    with torch.no_grad():
        got = program.module()(torch.from_numpy(PIXELS)).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of PyTorch's exporter
@pytest.mark.parametrize("kind", MODELS)
def test_onnx_embeds_the_same(kind, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript", reason="onnxscript, which torch.onnx needs, is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    wanted = saved(kind, tmp_path / "model")
    target = tmp_path / "torch" / "model.safetensors"
    assert main(["convert", str(tmp_path / "model"), str(target), "--format", "torch"]) == 0
    encoder = module_of(target.parent).load(target, POOLING.get(kind))
    file = str(tmp_path / "encoder.onnx")
    torch.onnx.export(encoder, (torch.from_numpy(PIXELS),), file, input_names=["pixels"])
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"pixels": PIXELS})
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["ca-mae", "dino"])
def test_stablehlo_embeds_the_same(kind, tmp_path):
    wanted = saved(kind, tmp_path / "model")
    target = tmp_path / "encoder.stablehlo"
    words = ["convert", str(tmp_path / "model"), str(target), "--format", "stablehlo"]
    assert main([*words, "--pooling", "channel"]) == 0
    function = jax.export.deserialize(bytearray(target.read_bytes()))
    assert function.platforms == ("cpu", "cuda", "tpu")
    for count in (3, 1):  # any batch
        got = np.asarray(function.call(PIXELS[:count]))
        np.testing.assert_allclose(got, wanted[:count], rtol=1e-5, atol=1e-5)
    record = json.loads((tmp_path / "encoder.stablehlo.json").read_text())
    assert record["pixels"] == ["batch", 2, 16, 16]
    assert (record["channels"], record["features"]) == (list(AB), wanted.shape[1])


def test_a_model_is_pushed_with_its_card(hub, tmp_path, capsys):
    saved("dino", tmp_path / "model")
    (tmp_path / "recall").mkdir()
    (tmp_path / "recall" / "recall.csv").write_text("embeddings,recall\nmine,0.41\nrandom,0.1\n")
    words = ["convert", str(tmp_path / "model"), "--push", "me/dino", "--blocks", "1"]
    assert main([*words, "--results", str(tmp_path / "recall")]) == 0
    assert f"{hub.url}/me/dino/commit/" in capsys.readouterr().out
    ((name, lines),) = hub.commits
    assert name == "me/dino"
    files = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"])
        for line in lines
        if line["key"] == "file"
    }
    assert files.keys() == {"README.md", "config.json", "model.safetensors"}
    card = files["README.md"].decode()
    assert 'library_name: "mae_jax"' in card.split("---")[1]
    for words_of_card in ("# dino", "mae-jax embed --encoder me/dino", "| channels | a, b |",
                          "| depth | 1 |", "| mine | 0.41 |"):  # fmt: skip
        assert words_of_card in card
    # What was pushed is a model again: fetched by name from the same hub.
    hub.files |= {("me/dino", file): content for file, content in files.items()}
    again = mae_jax.load_encoder("me/dino")
    assert again.config.depth == 1
    assert again.preprocessing == MODELS["dino"][1]


def test_a_refused_push_is_one_sentence(hub, tmp_path, capsys, monkeypatch):
    saved("dino", tmp_path / "model")
    assert main(["convert", str(tmp_path / "model"), "--push", "dino"]) == 2
    assert "'dino' is no name of a model on the hub; write OWNER/NAME" in capsys.readouterr().err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert main(["convert", str(tmp_path / "model"), "--push", "me/dino"]) == MACHINE
    error = capsys.readouterr().err
    assert "me/dino could not be pushed to the hub" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "stablehlo", "--pooling", "class", "--push", "a/b"], "leave one out"),
        (["x", "--pooling", "class"], "--pooling needs --format stablehlo"),
        (["x", "--results", "f"], "--results needs --push"),
        ([], "no target is given"),
        (["x", "--blocks", "9"], "from 1 to 2, not 9"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message, tmp_path, capsys):
    saved("dino", tmp_path / "model")
    assert main(["convert", str(tmp_path / "model"), *words]) == 2
    assert message in capsys.readouterr().err
