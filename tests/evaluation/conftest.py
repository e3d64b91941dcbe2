"""A small screen as numbers alone: genes in complexes, replicates, batches with offsets."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mae_jax.evaluation import Profiles


def _screen(
    genes: int = 40,
    width: int = 12,
    experiments: int = 3,
    plates: int = 2,
    controls: int = 20,
    batch: float = 2.0,
    seed: int = 0,
) -> Profiles:
    """Every plate holds each gene once and some controls; genes 2i and 2i+1 are alike."""
    rng = np.random.default_rng(seed)
    effect = rng.standard_normal((genes // 2, width)).repeat(2, axis=0)
    mixing = rng.standard_normal((width, width))
    rows, blocks = [], []
    for e in range(experiments):
        for p in range(plates):
            offset = batch * rng.standard_normal(width)
            gain = np.exp(0.2 * batch * rng.standard_normal(width))
            for w in range(controls + genes):
                gene = "" if w < controls else f"G{w - controls:03d}"
                rows.append(
                    {
                        "Metadata_Experiment": f"E{e}",
                        "Metadata_Plate": f"P{p}",  # on purpose the same names in every experiment
                        "Metadata_Well": f"{chr(65 + w // 24)}{w % 24 + 1:02d}",
                        "Metadata_Perturbation": gene + "_g1" if gene else "DMSO",
                        "Metadata_Gene": gene,
                        "Metadata_ControlType": "" if gene else "negcon",
                    }
                )
            x = 0.6 * rng.standard_normal((controls + genes, width))
            x[controls:] += effect
            blocks.append((x @ mixing) * gain + offset)
    features = np.concatenate(blocks).astype(np.float32)
    return Profiles(pd.DataFrame(rows), features, tuple(f"Image_MAE_{i:04d}" for i in range(width)))


@pytest.fixture
def make_screen() -> Callable[..., Profiles]:
    """The function that makes screens of any size."""
    return _screen


@pytest.fixture
def screen() -> Profiles:
    """360 wells: 40 genes and 20 controls on each of 2 plates in 3 experiments, 12 features."""
    return _screen()
