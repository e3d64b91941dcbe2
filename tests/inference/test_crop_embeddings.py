from pathlib import Path

import numpy as np
import pytest

from mae_jax.data.images import read_site
from mae_jax.encoders.baselines import IntensityEncoder
from mae_jax.errors import InputError
from mae_jax.inference import embed_index, read_crops, read_embeddings, read_tokens


@pytest.fixture
def screen(make_screen):
    return make_screen(wells=3, extra={1: ("Phase",)})


def test_crops_and_tokens_are_the_encoders(screen, tiny_encoder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    embed_index(
        tiny_encoder,
        screen,
        out,
        batch_size=5,
        wells_per_shard=2,
        save_crops=True,
        save_tokens=True,
    )
    _, features, _ = read_embeddings(out)
    tables, vectors = zip(*read_crops(out), strict=True)
    seen = 0
    for table, rows in zip(tables, vectors, strict=True):
        for (_, crop), vector in zip(table.iterrows(), rows, strict=True):
            site = screen.select(Well=crop["Metadata_Well"], Site=crop["Metadata_Site"])
            channels = tiny_encoder.select_channels(site.sites[0][0])
            y, x = crop["y"], crop["x"]
            piece = read_site(site, 0, channels)[None, :, y : y + 32, x : x + 32]
            np.testing.assert_allclose(vector, tiny_encoder.embed(piece)[0], atol=1e-5, rtol=1e-5)
            seen += 1
    assert seen == 3 * 2 * 4
    for row, (well, channels, tokens) in enumerate(read_tokens(out)):
        assert well["Metadata_Well"] == f"A{row + 1:02d}"
        assert len(channels) == (4 if row == 1 else 3)
        assert tokens.shape == (8, 1 + 16 * len(channels), 32)
        np.testing.assert_allclose(
            tokens[:, 1:].mean(axis=(0, 1)), features[row], atol=1e-5, rtol=1e-5
        )


def test_what_was_not_asked_for_is_not_there(screen, tiny_encoder, tmp_path: Path) -> None:
    embed_index(tiny_encoder, screen, tmp_path / "out")
    with pytest.raises(InputError, match="--crops"):
        next(read_crops(tmp_path / "out"))
    with pytest.raises(InputError, match="--tokens"):
        next(read_tokens(tmp_path / "out"))
    with pytest.raises(InputError, match="another outputs"):
        embed_index(tiny_encoder, screen, tmp_path / "out", save_crops=True)


def test_encoders_without_tokens_say_so(screen, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokens"):
        embed_index(IntensityEncoder(crop=32), screen, tmp_path / "out", save_tokens=True)
