"""Real Cell Painting: five channels, and the eight of a well with brightfield, one encoder."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.readers.open_screen import open_screen
from mae_jax.inference import embed_index, read_embeddings
from mae_jax.networks.mae.config import ParallelViTConfig
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.networks.mae.parallel_vit import ParallelViT
from mae_jax.nn.tiling import tile_offsets
from mae_jax.weights.preprocessing import Preprocessing

STAINS = ("DNA", "ER", "RNA", "AGP", "Mito")
PLANES = ("Brightfield1", "Brightfield2", "Brightfield3")


@pytest.fixture(scope="module")
def index(shared_data: Path) -> Index:
    """The four wells of CPJUMP1; the DMSO well with its brightfield planes too."""
    index = open_screen(str(shared_data / "cpjump1_images" / "load_data.csv"))
    table = index.table.copy()
    row = int(np.flatnonzero(table["Metadata_Well"] == "D14")[0])
    images = list(table.at[row, "Images"])
    more = [images[0].replace("-ch1", f"-ch{number}") for number in (6, 7, 8)]
    table.at[row, "Channels"] = [*table.at[row, "Channels"], *PLANES]
    table.at[row, "Images"] = [*images, *more]
    return Index(table, index.root)


def test_five_and_eight_channels(index: Index, tmp_path: Path) -> None:
    config = ParallelViTConfig(patch=32, width=16, depth=1, heads=1, channels=STAINS)
    params = jax.jit(ParallelViT(config).init)(jax.random.key(0), jnp.zeros((1, 5, 256, 256)))[
        "params"
    ]
    params = jax.tree.map(lambda p: p + 0.02, params)
    encoder = MAEEncoder(config, params, Preprocessing(STAINS, any_channels=True))
    report = embed_index(
        encoder,
        index,
        tmp_path / "out",
        batch_size=8,
        devices=jax.local_devices()[:1],
        progress=False,
    )
    assert (report.wells, report.crops, report.skipped) == (4, 4 * 25, 0)  # 1080² in 25 crops
    metadata, features, _ = read_embeddings(tmp_path / "out")
    lengths = [len(names) for names, _ in index.sites]
    assert sorted(lengths) == [5, 5, 5, 8]
    for row in (lengths.index(5), lengths.index(8)):
        names = encoder.select_channels(index.sites[row][0])
        assert names[:5] == STAINS
        pixels = read_site(index, row, names)
        assert pixels.dtype == np.uint16
        tiles = tile_offsets(1080, 1080, 256)
        crops = np.stack([pixels[:, y : y + 256, x : x + 256] for y, x in tiles])
        wanted = np.asarray(encoder.embed(crops)).mean(axis=0)
        np.testing.assert_allclose(features[row], wanted, atol=1e-5, rtol=1e-5)
    genes = metadata["Metadata_Gene"].tolist()
    same = [row for row, gene in enumerate(genes) if gene == "NAMPT"]
    assert len(same) == 2  # one compound on two plates
