"""Illumination fields estimated from images that were made with a known one."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from mae_jax.cli.main import main
from mae_jax.data import open_screen
from mae_jax.data.illumination_estimate import estimate_field
from mae_jax.data.images import read_site
from mae_jax.errors import InputError


def _field(shape: tuple[int, int], bump: float = 0.0) -> np.ndarray:
    """Brightest off the middle, tilted, 40 % darker in the farthest corner; a narrow bump."""
    y, x = (np.linspace(-1, 1, length) for length in shape)
    y, x = y[:, None], x[None, :]
    field = 1 - 0.15 * ((y - 0.2) ** 2 + (x + 0.1) ** 2) + 0.05 * x
    field = field + bump * np.exp(-((y + 0.4) ** 2 + (x - 0.3) ** 2) / (2 * 0.12**2))
    return field / field.mean()


def _cells(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Background and some bright round cells."""
    points = np.zeros(shape)
    count = rng.poisson(shape[0] * shape[1] / 900)
    at = tuple(rng.integers(0, length, count) for length in shape)
    np.add.at(points, at, rng.uniform(500, 3000, count))
    return 300 * rng.uniform(0.8, 1.2) + 120 * ndimage.gaussian_filter(points, 4)


def _error(field: np.ndarray, true: np.ndarray) -> float:
    return float(np.sqrt(np.mean((field / field.mean() / true - 1) ** 2)))


@pytest.mark.parametrize("bump", [0.0, 0.3])
def test_a_known_field_is_found(bump: float) -> None:
    rng = np.random.default_rng(0)
    shape = (120, 160)
    true = _field(shape, bump)
    images = [rng.poisson(true * _cells(rng, shape)).astype(np.uint16) for _ in range(96)]
    estimate = estimate_field(images)
    error = _error(estimate.field, true)
    assert error < 0.03
    assert estimate.field.mean() == pytest.approx(1)
    assert 0.2 * error < estimate.error < error  # what is smooth in both halves is not seen
    flat = _error(np.ones(shape), true)
    plain = np.mean([image / image.mean() for image in images], axis=0)
    assert error < 0.35 * flat
    assert error < _error(ndimage.gaussian_filter(plain, 8, mode="nearest"), true)


def test_flat_light_is_found_flat() -> None:
    rng = np.random.default_rng(1)
    images = [rng.poisson(_cells(rng, (96, 96))).astype(np.uint16) for _ in range(96)]
    assert np.abs(estimate_field(images).field - 1).max() < 0.12
    assert _error(estimate_field(images).field, np.ones((96, 96))) < 0.02


def test_real_images_through_a_known_field(shared_data: Path) -> None:
    """Pieces of CPJUMP1 images, whose own field averages out, through a field of our own."""
    folder = shared_data / "cpjump1_images" / "example_images"
    true = _field((216, 216))
    pieces = []
    for path in sorted(folder.glob("*/*ch4sk1fk1fl1.tiff")):
        image = tifffile.imread(path).astype(float)
        blocks = image.reshape(5, 216, 5, 216).swapaxes(1, 2).reshape(25, 216, 216)
        pieces += [np.rint(piece * true).astype(np.uint16) for piece in blocks]
    estimate = estimate_field(pieces)
    assert _error(estimate.field, true) < 0.5 * _error(np.ones_like(true), true)
    assert _error(estimate.field, true) < 0.03


def test_refused() -> None:
    with pytest.raises(InputError, match="15 images are too few to tell the illumination"):
        estimate_field([np.ones((64, 64), np.uint8)] * 15)
    with pytest.raises(InputError, match="different sizes"):
        estimate_field([np.ones((64, 64 + n // 15), np.uint8) for n in range(16)])
    with pytest.raises(InputError, match="without light"):
        estimate_field([np.zeros((64, 64), np.uint8)] * 16)


def test_the_command_writes_and_applies_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(2)
    true = _field((64, 64))
    for plate, field in (("P1", true), ("P2", true[::-1])):
        (tmp_path / "screen" / plate).mkdir(parents=True)
        for column in range(1, 25):
            for row in "AB":
                image = rng.poisson(field * _cells(rng, (64, 64))).astype(np.uint16)
                name = f"{plate}_{row}{column:02d}_DNA.tif"
                tifffile.imwrite(tmp_path / "screen" / plate / name, image)
    out, folder = tmp_path / "index.parquet", tmp_path / "illum"
    words = ["index", str(tmp_path / "screen"), "--out", str(out)]
    words += ["--pattern", "{Metadata_Plate}_{Metadata_Well}_{channel}.tif"]
    words += ["--estimate-illumination", str(folder)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "illumination of plate P2, channel DNA from 48 images" in said
    fields = {plate: np.load(folder / f"{plate}_IllumDNA.npy") for plate in ("P1", "P2")}
    assert _error(fields["P1"], true) < 0.5 * _error(np.ones_like(true), true)
    assert _error(fields["P2"], true[::-1]) < 0.5 * _error(np.ones_like(true), true)
    index = open_screen(str(out))
    row = index.table["Metadata_Plate"].tolist().index("P2")
    raw = tifffile.imread(tmp_path / "screen" / "P2" / "P2_A01_DNA.tif")
    assert np.array_equal(read_site(index, row)[0], np.rint(raw / fields["P2"]).astype(np.uint16))
    assert main([*words, "--overwrite"]) == 0
    assert main(["index", str(out), "--estimate-illumination", str(tmp_path / "x")]) == 2
    assert "divided by illumination functions already" in capsys.readouterr().err
