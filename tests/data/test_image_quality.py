"""Measures of focus, structure and saturation, nuclei, and what the check makes of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

from mae_jax.cli.main import main
from mae_jax.data.image_quality import focus_slope, measure_quality, saturation, structure
from mae_jax.data.nuclei import EMPTY, count_nuclei, detect_nuclei, nucleus_centers

RNG = np.random.default_rng(0)


def _power_law(exponent: float, side: int = 512) -> np.ndarray:
    """Noise whose power spectrum is f^exponent."""
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    f[0, 0] = 1
    spectrum = np.fft.fft2(RNG.normal(size=(side, side))) * f ** (exponent / 2)
    return np.fft.ifft2(spectrum).real


@pytest.mark.parametrize("exponent", [0.0, -1.0, -2.0, -3.0])
def test_the_slope_of_a_known_spectrum(exponent: float) -> None:
    assert focus_slope(_power_law(exponent)) == pytest.approx(exponent, abs=0.15)


def test_blur_steepens_the_slope_and_lowers_sharpness() -> None:
    image = 500 + 50 * _power_law(-2.0)
    measured = [measure_quality(ndimage.gaussian_filter(image, sigma)) for sigma in (0, 1, 2)]
    assert measured[0].focus > measured[1].focus + 0.3 > measured[2].focus + 0.6
    assert measured[0].sharpness > measured[1].sharpness > measured[2].sharpness


def _nuclei(count: int, side: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """An image of ellipses that do not touch, on a vignetted background, with camera noise."""
    y, x = np.mgrid[:side, :side]
    image = 300 * (1 - 0.3 * ((y - side / 2) ** 2 + (x - side / 2) ** 2) / (side**2 / 2))
    grid = [(r, c) for r in range(24, side - 20, 40) for c in range(24, side - 20, 40)]
    chosen = [grid[i] for i in RNG.permutation(len(grid))[:count]]
    for row, column in chosen:
        a, b, angle = RNG.uniform(9, 13), RNG.uniform(7, 9), RNG.uniform(0, np.pi)
        u = (y - row) * np.cos(angle) + (x - column) * np.sin(angle)
        v = (x - column) * np.cos(angle) - (y - row) * np.sin(angle)
        image = image + RNG.uniform(600, 1500) * ((u / a) ** 2 + (v / b) ** 2 < 1)
    return RNG.poisson(ndimage.gaussian_filter(image, 1)).astype(np.uint16), np.array(chosen)


@pytest.mark.parametrize("level", [50, 500, 5000])
def test_an_unevenly_lit_empty_field_has_no_structure(level: int) -> None:
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    empty = RNG.poisson(level * (1 - 0.3 * (x**2 + y**2))).astype(np.uint16)
    assert structure(empty) < EMPTY
    assert count_nuclei(empty) == 0
    assert structure(_nuclei(3)[0]) > 10


def test_saturation_at_the_cameras_own_maximum() -> None:
    image = np.full((40, 40), 1000, np.uint16)
    image[:4, :10] = 4095
    assert saturation(image) == pytest.approx(40 / 1600)
    image[0, 0] = 5000  # not a 12-bit camera
    assert saturation(image) == 0
    assert saturation(np.full((4, 4), 255, np.uint8)) == 1


@pytest.mark.parametrize("count", [1, 9, 25])
def test_nuclei_are_found_where_they_are(count: int) -> None:
    image, places = _nuclei(count)
    labels = detect_nuclei(image)
    assert labels.max() == count
    found = nucleus_centers(labels)
    distance = np.linalg.norm(found[:, None] - places[None], axis=-1)
    assert distance.min(axis=1).max() < 2
    assert len(set(distance.argmin(axis=1))) == count


def test_touching_nuclei_are_separated() -> None:
    y, x = np.mgrid[:128, :128]
    image = np.full((128, 128), 100.0)
    for row, column in ((40, 40), (40, 58), (90, 80)):
        image[(y - row) ** 2 + (x - column) ** 2 < 100] = 1000
    assert detect_nuclei(RNG.poisson(ndimage.gaussian_filter(image, 1))).max() == 3


def test_nuclei_of_real_images(shared_data: Path) -> None:
    """About a hundred in the DMSO field, by outlines that were looked at; fewer under FK-866."""
    folder = shared_data / "cpjump1_images" / "example_images"
    dmso = tifffile.imread(folder / "DMSO" / "r04c14f05p01-ch5sk1fk1fl1.tiff")
    toxic = tifffile.imread(folder / "FK-866" / "r04c08f05p01-ch5sk1fk1fl1.tiff")
    assert 95 <= count_nuclei(dmso) <= 110
    assert 40 <= count_nuclei(toxic) <= 52


def test_the_check_writes_the_quality_of_every_site(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plate of 96 wells: one field empty, one out of focus, edge wells 30 % brighter."""
    image, _ = _nuclei(4, side=128)
    pixels = image.astype(np.float64)
    folder = tmp_path / "P1"
    folder.mkdir()
    for row in range(8):
        for column in range(12):
            edge = row in (0, 7) or column in (0, 11)
            plane = pixels * (1.3 if edge else 1.0) * RNG.uniform(0.98, 1.02)
            if (row, column) == (3, 4):
                plane = np.full(plane.shape, 200.0)
            if (row, column) == (3, 5):
                plane = ndimage.gaussian_filter(plane, 4)
            name = f"P1_{chr(65 + row)}{column + 1:02d}_DAPI.tif"
            tifffile.imwrite(folder / name, RNG.poisson(plane).astype(np.uint16))
    report = tmp_path / "qc.csv"
    pattern = "{Metadata_Plate}_{Metadata_Well}_{channel}.tif"
    words = ["index", str(tmp_path), "--pattern", pattern, "--check", "--report", str(report)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 sites look empty, 1 out of focus; nuclei per site: median 4" in said
    findings = pd.read_csv(report, keep_default_na=False).set_index("category")
    assert findings.loc["empty field", "well"] == "D05"
    assert findings.loc["out of focus", "well"] == "D06"
    assert "in channel DAPI the edge wells are 3" in findings.loc["edge effect", "message"]
    sites = pd.read_csv(tmp_path / "qc_sites.csv").set_index("Metadata_Well")
    assert sites["QC_Empty"].sum() == sites["QC_OutOfFocus_DAPI"].sum() == 1
    assert sites.loc["D05", "QC_NucleusCount"] == 0
    assert sites["QC_EdgeWell"].sum() == 36
    assert sites["QC_EdgeEffect_DAPI"].iloc[0] == pytest.approx(0.3, abs=0.03)
