"""The screen is neither trivial nor hopeless: what can and cannot find its complexes."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage

from mae_jax.synth import (
    PARAMETERS,
    ScreenConfig,
    design,
    draw_well,
    gene_effects,
    known_relationships,
)
from mae_jax.synth.config import complex_sizes_for

# The demo's screen. Smaller ones have so few known pairs that recall varies by .15 between seeds.
CONFIG = ScreenConfig(
    seed=0,
    genes=72,
    complex_sizes=complex_sizes_for(72, 4),
    wells_per_gene=3,
    controls=52,
    image_size=128,
    phenotype_strength=3.0,
)


def recall(genes: list[str], vectors: np.ndarray, pairs: pd.DataFrame) -> float:
    """Share of the known pairs among the 5 % least or most alike, straight from its definition."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = pd.DataFrame(unit @ unit.T, index=genes, columns=genes)
    null = cosines.to_numpy()[np.triu_indices(len(genes), 1)]
    found = 0
    for first, second in pairs.itertuples(index=False):
        cosine = cosines.loc[first, second]
        found += (null <= cosine).mean() <= 0.05 or (null < cosine).mean() >= 0.95
    return found / len(pairs)


def gene_vectors(wells: pd.DataFrame, features: np.ndarray, corrected: bool) -> np.ndarray:
    """Spherical means over the wells of each gene, standardized by plate on request."""
    values = features.copy()
    controls = (wells["Metadata_ControlType"] == "negcon").to_numpy()
    if corrected:
        for plate in wells["Metadata_Plate"].unique():
            there = (wells["Metadata_Plate"] == plate).to_numpy()
            reference = values[there & controls]
            values[there] = (values[there] - reference.mean(0)) / reference.std(0)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    genes = sorted(set(wells.loc[~controls, "Metadata_Gene"]))
    return np.stack([values[(wells["Metadata_Gene"] == g).to_numpy()].mean(0) for g in genes])


def intensities(image: np.ndarray) -> np.ndarray:
    rows = [[x.mean(), x.std(), *np.percentile(x, (1, 25, 50, 75, 99))] for x in image]
    return np.array(rows).ravel()


def textures(image: np.ndarray) -> np.ndarray:
    """Band energies of each channel and correlations between channels, free of gain and offset."""
    centered = image - image.mean((1, 2), keepdims=True)
    images = centered / centered.std((1, 2), keepdims=True)
    smooth = [scipy.ndimage.gaussian_filter(images, (0, s, s)) for s in (0.7, 1.2, 2, 3.5, 6)]
    bands = [images - smooth[0], *(a - b for a, b in itertools.pairwise(smooth))]
    energies = np.log([band.var((1, 2)) for band in bands]).ravel()
    upper = np.triu_indices(len(image), 1)
    flat = (x.reshape(len(image), -1) for x in (smooth[2], images - smooth[2]))
    return np.concatenate([energies, *(np.corrcoef(x)[upper] for x in flat)])


@pytest.fixture(scope="module")
def features() -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    wells = design(CONFIG)
    keys = ["Metadata_Experiment", "Metadata_Plate", "Metadata_Well"]
    images = [
        draw_well(CONFIG, *where, 1).astype(float)
        for where in wells[keys].itertuples(index=False, name=None)
    ]
    return wells, np.stack([*map(intensities, images)]), np.stack([*map(textures, images)])


def test_the_truth_recalls_the_complexes() -> None:
    for seed in range(3):
        config = ScreenConfig(seed=seed)
        table = gene_effects(config)
        effects = table[list(PARAMETERS)].to_numpy()
        assert recall(list(table["Metadata_Gene"]), effects, known_relationships(config)) > 0.8


@pytest.mark.slow
def test_only_corrected_textures_recall_the_complexes(
    features: tuple[pd.DataFrame, np.ndarray, np.ndarray],
) -> None:
    wells, intensity, texture = features
    treated = wells["Metadata_ControlType"] == ""
    genes = sorted(set(wells.loc[treated, "Metadata_Gene"]))
    pairs = known_relationships(CONFIG)
    scores = {
        (name, corrected): recall(genes, gene_vectors(wells, values, corrected), pairs)
        for name, values in (("intensity", intensity), ("texture", texture))
        for corrected in (False, True)
    }
    assert scores["texture", True] >= 0.5
    assert scores["texture", True] >= scores["texture", False] + 0.15
    assert scores["texture", True] >= scores["intensity", True] + 0.2
    assert scores["intensity", False] <= 0.3
