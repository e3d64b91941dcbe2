"""What the tests of fine-tuning share: a screen of stripes, and a tiny encoder."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from mae_jax.data import Index
from mae_jax.data.index import METADATA
from mae_jax.networks.mae.config import ParallelViTConfig
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.networks.registry import init_params
from mae_jax.weights.preprocessing import Preprocessing

CLASSES = ("across", "along", "noise")


@pytest.fixture(scope="session")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Two plates of 18 wells; stripes across, along, or noise, as the column Compound says.

    Metadata_Marks names the stains that show it, and Metadata_Dose how strongly they do.
    """
    folder = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    rows = []
    for plate in ("P1", "P2"):
        for number in range(18):
            kind, strength = CLASSES[number % 3], 0.5 + (number // 3) / 6
            wave = np.cos((np.arange(32) - 15.5) * np.pi / 4)  # the same when flipped
            pattern = {"across": wave[:, None], "along": wave[None], "noise": 0 * wave}[kind]
            images = 1000 + 300 * rng.normal(size=(2, 32, 32)) + 400 * strength * pattern
            name = f"{plate}-{number}.npy"
            np.save(folder / name, images.clip(0, 65535).astype(np.uint16).transpose(1, 2, 0))
            rows.append(
                dict.fromkeys(METADATA, "")
                | {
                    "Metadata_Experiment": "E1",
                    "Metadata_Plate": plate,
                    "Metadata_Well": f"A{number + 1:02d}",
                    "Metadata_Site": "1",
                    "Metadata_Compound": kind,
                    "Metadata_Marks": {"across": "DNA|ER", "along": "ER"}.get(kind, "none"),
                    "Metadata_Dose": f"{0 if kind == 'noise' else strength:.2f}",
                    "Channels": ["DNA", "ER"],
                    "Images": [f"{name}#channel=0", f"{name}#channel=1"],
                }
            )
    return Index(pd.DataFrame(rows), str(folder))


@pytest.fixture(scope="session")
def tiny_encoder() -> MAEEncoder:
    """A channel-agnostic encoder of one block with random weights."""
    config = ParallelViTConfig(
        patch=8, width=16, depth=1, heads=2, channels=("DNA", "ER"), crop=16, layer_scale=None
    )
    params = init_params(config, jax.random.key(0))
    return MAEEncoder(config, params, Preprocessing(config.channels, any_channels=True, crop=16))


@pytest.fixture(scope="session")
def settings() -> dict[str, object]:
    """Settings with which a fine-tuning takes seconds."""
    return {"steps": 60, "batch": 16, "every": 20, "lr": 1e-2}


@pytest.fixture
def out(tmp_path: Path) -> Callable[[str], Path]:
    """A folder for each name."""
    return lambda name: tmp_path / name
