"""A small screen on disk and a tiny network."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tifffile

from mae_jax.data.index import Index
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.networks.mae.model import MAE
from mae_jax.weights.preprocessing import Preprocessing

MakeScreen = Callable[..., Index]


@pytest.fixture
def make_screen(tmp_path: Path) -> MakeScreen:
    """Writes TIFFs of noise for `wells` wells of a plate and returns their index."""

    def make(
        wells: int = 7,
        sites: int = 2,
        size: int = 48,
        channels: Sequence[str] = ("DNA", "ER", "Mito"),
        name: str = "screen",
        extra: dict[int, Sequence[str]] | None = None,
        seed: int = 0,
    ) -> Index:
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(seed)
        rows = []
        for well in range(wells):
            names = (*channels, *((extra or {}).get(well, ())))
            for site in range(1, sites + 1):
                images = []
                for channel in names:
                    file = f"w{well:03d}_s{site}_{channel}.tiff"
                    level = rng.integers(500, 20000)
                    plane = rng.normal(level, level / 4, (size, size)).clip(0, 65535)
                    tifffile.imwrite(folder / file, plane.astype(np.uint16))
                    images.append(file)
                rows.append(
                    {
                        "Metadata_Source": "source_1",
                        "Metadata_Experiment": "E1",
                        "Metadata_Plate": f"P{1 + well // 5}",
                        "Metadata_Well": f"A{1 + well % 5:02d}",
                        "Metadata_Site": str(site),
                        "Metadata_Perturbation": f"gene{well % 3}",
                        "Metadata_Gene": f"gene{well % 3}",
                        "Metadata_ControlType": "negcon" if well % 3 == 0 else "",
                        "Metadata_Split": "train",
                        "Channels": list(names),
                        "Images": images,
                    }
                )
        return Index(pd.DataFrame(rows), str(folder))

    return make


@pytest.fixture(scope="session")
def tiny_encoder() -> MAEEncoder:
    """A channel-agnostic masked autoencoder with random weights; crops of 32 pixels."""
    channels = ("DNA", "ER", "Mito")
    config = MAEConfig(
        encoder=ParallelViTConfig(patch=8, width=32, depth=2, heads=2, channels=channels, crop=32),
        decoder=DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
    )
    model = MAE(config)
    key = jax.random.key(0)
    images = jnp.zeros((1, 3, 32, 32))
    params = jax.jit(model.init)({"params": key, "mask": key}, images)["params"]
    # Layer scales start near zero, which would make the network nearly linear.
    params = jax.tree.map(lambda p: p + 0.05, params)
    preprocessing = Preprocessing(channels=channels, any_channels=True, crop=32, scale=65535.0)
    return MAEEncoder(config, params, preprocessing)
