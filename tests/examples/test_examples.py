"""Every script in `examples/` does what its head says (`callback.py`: tests/train)."""

import importlib.util
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest

import mae_jax
from mae_jax.cli.main import main
from mae_jax.data import open_screen, read_site
from mae_jax.data.readers import registry
from mae_jax.networks.mae.config import ParallelViTConfig
from mae_jax.networks.registry import init_params
from mae_jax.networks.saved_model import save_model
from mae_jax.weights.preprocessing import Preprocessing

EXAMPLES = Path(__file__).parents[2] / "examples"
CHANNELS = ("DNA", "ER")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ParallelViTConfig(patch=8, width=16, depth=1, heads=2, crop=16, channels=CHANNELS)
    preprocessing = Preprocessing(CHANNELS, any_channels=True, crop=16)
    params = init_params(config, jax.random.key(0))
    return save_model(tmp_path_factory.mktemp("model") / "model", params, config, preprocessing)


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A screen in the format of `new_reader.py`: stripes in the wells of one gene."""
    monkeypatch.setattr(registry, "_readers", registry.readers())
    load("new_reader")
    rng = np.random.default_rng(0)
    lines = ["well\tgene"]
    for number, well in enumerate(("A01", "A02", "A03", "A04")):
        for channel in CHANNELS:
            noise = rng.integers(0, 60_000, (32, 32)).astype(np.uint16)
            if number % 2:  # stripes
                noise[::4] = 0
            np.save(tmp_path / f"{well}_{channel}.npy", noise)
        lines.append(f"{well}\tGENE{number % 2}")
    (tmp_path / "wells.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_an_array_is_embedded() -> None:
    vectors = load("embed_array").main([])
    assert vectors.shape[0] == 4
    assert np.isfinite(vectors).all()


def test_a_reader_of_ones_own_opens_its_screen(screen: Path) -> None:
    index = open_screen(str(screen))
    assert index.channels == CHANNELS
    assert index.table["Metadata_Gene"].tolist() == ["GENE0", "GENE1"] * 2
    np.testing.assert_array_equal(read_site(index, 2)[1], np.load(screen / "A03_ER.npy"))


def test_fine_tuning_with_the_sampler_of_the_library(screen: Path, model: Path) -> None:
    index = screen / "index.parquet"
    open_screen(str(screen)).write(index)
    words = ["--encoder", str(model), "--index", str(index), "--steps", "40", "--batch", "8"]
    losses = load("finetune_sampler").main(words)
    assert len(losses) == 40
    assert losses[-1] < losses[0]


def test_several_devices_compute_what_one_computes(model: Path) -> None:
    assert jax.device_count() > 1
    assert load("several_devices").main(["--encoder", str(model)]) < 1e-5


@pytest.mark.slow
def test_a_network_of_ones_own_is_trained_and_embeds(screen: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.parquet"
    open_screen(str(screen)).write(index)
    words = ["--config", str(EXAMPLES / "new_network.py"), f"--config.data.index={index}",
             "--config.steps=2", "--workdir", str(tmp_path / "run")]  # fmt: skip
    assert main(["train", *words]) == 0
    encoder = mae_jax.load_encoder(tmp_path / "run" / "model")
    pixels = read_site(mae_jax.Index.read(index), 0)[None, :, :16, :16]
    assert np.asarray(encoder.embed(pixels)).shape == (1, 16)
