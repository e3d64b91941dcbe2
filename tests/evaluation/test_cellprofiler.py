"""CellProfiler features: categories, transforms, and prediction across experiments."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import skew
from sklearn.metrics import r2_score

from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles
from mae_jax.evaluation.cellprofiler import (
    TargetScale,
    category,
    matched,
    predict_features,
    r_squared,
)


def wells(features: np.ndarray, names: list[str], plate: str = "P1") -> Profiles:
    metadata = pd.DataFrame(
        {"Metadata_Plate": plate, "Metadata_Well": [f"W{i}" for i in range(len(features))]}
    )
    return Profiles(metadata, features.astype(np.float32), tuple(names))


def test_categories() -> None:
    assert category("Cells_AreaShape_Compactness") == "AreaShape"
    assert category("Nuclei_Texture_Entropy_DNA_3_0") == "Texture"
    assert category("Cytoplasm_Correlation_Costes_DNA_ER") == "Other"
    assert category("Cells_Neighbors_AngleBetweenNeighbors_5") == "Neighbors"


def test_skewed_features_are_straightened() -> None:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((4000, 1))
    positive = np.exp(0.8 * normal)
    left = np.sqrt(np.abs(8 + 2 * normal))  # its square is normal
    left = np.where(left > 0, left, 0.1) ** 0.5
    below = -np.exp(0.8 * normal) + 1  # skewed to the left and partly negative
    values = np.concatenate([normal, positive, left, positive - 3, below, 0 * normal + 2], axis=1)
    scale = TargetScale.fit(values)
    assert scale.kind[:2] == ("", "log")
    assert scale.kind[3:] == ("log", "square", "")
    out = scale.transform(values)
    np.testing.assert_allclose(out[:, :5].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(out[:, :5].std(axis=0), 1, atol=1e-9)
    assert (out[:, 5] == 0).all()
    assert abs(skew(out[:, 1])) < 0.1
    assert abs(skew(out[:, 4])) < abs(skew(values[:, 4]))
    np.testing.assert_allclose(
        out[:, 1], (np.log(positive) - np.log(positive).mean())[:, 0] / np.log(positive).std()
    )
    # Values below all that was seen in the fit stay finite.
    assert np.isfinite(scale.transform(values - 50)).all()


def test_r_squared_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.standard_normal((2, 50, 3))
    np.testing.assert_allclose(
        r_squared(truth, guess), r2_score(truth, guess, multioutput="raw_values")
    )
    assert np.isnan(r_squared(np.ones((5, 1)), guess[:5, :1])).all()


def test_prediction_across_experiments() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((6, 4))
    names = [f"Image_MAE_{i:04d}" for i in range(6)]
    features = ["Cells_AreaShape_Area", "Cells_AreaShape_FormFactor"]
    features += ["Nuclei_Texture_Entropy", "Nuclei_Intensity_Mean"]

    def experiment(seed: int) -> tuple[Profiles, Profiles]:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((150, 6))
        y = x @ mixing + rng.standard_normal((150, 4)) * [0.1, 0.1, 1, 30]
        y[:, 3] = rng.standard_normal(150)  # nothing to predict
        order = rng.permutation(150)[:140]  # the tables come in other orders, some wells lack
        return wells(x, names), wells(y, features).take(order)

    found = predict_features(experiment(1), experiment(2))
    r2 = found.table.set_index("feature")["r2"]
    assert r2["Cells_AreaShape_Area"] > 0.95
    assert 0.3 < r2["Nuclei_Texture_Entropy"] < 0.97
    assert abs(r2["Nuclei_Intensity_Mean"]) < 0.1
    table = found.by_category().set_index("category")
    assert table.loc["AreaShape", "features"] == 2
    area = r2[features[:2]]
    assert table.loc["AreaShape", "median"] == pytest.approx(area.mean())
    assert table.loc["AreaShape", "mad"] == pytest.approx(np.ptp(area) / 2)


def test_wells_are_matched_by_name() -> None:
    x = wells(np.arange(6.0)[:, None], ["a"])
    y = wells(np.arange(6.0)[:, None], ["b"]).take(np.array([4, 0, 2]))
    a, b = matched(x, y, on=["Metadata_Plate", "Metadata_Well"])
    assert a.tolist() == b.tolist() == [[0.0], [2.0], [4.0]]
    with pytest.raises(InputError, match="share no well"):
        matched(x, wells(np.ones((3, 1)), ["b"], "P2"), on=["Metadata_Plate", "Metadata_Well"])
    with pytest.raises(InputError, match="P1 W4 is duplicated in the features"):
        matched(x, y.take(np.array([0, 0])), on=["Metadata_Plate", "Metadata_Well"])


def test_real_features_have_the_papers_categories(shared_data: Path) -> None:
    plate = Profiles.read(shared_data / "profiles" / "SQ00015054_normalized_feature_select.csv.gz")
    found = {category(name) for name in plate.names}
    assert {"AreaShape", "Intensity", "Neighbors", "RadialDistribution", "Texture"} <= found
    # Half of the plate predicts the other half's features from its texture features.
    texture = np.array([category(n) == "Texture" for n in plate.names])
    x = Profiles(plate.metadata, plate.features[:, texture], tuple(np.array(plate.names)[texture]))
    area = np.array([category(n) == "AreaShape" for n in plate.names]).nonzero()[0][:3]
    y = Profiles(plate.metadata, plate.features[:, area], tuple(np.array(plate.names)[area]))
    odd = np.arange(384) % 2 == 1
    on = ["Metadata_Plate", "Metadata_Well"]
    found_r2 = predict_features(
        (x.take(odd), y.take(odd)), (x.take(~odd), y.take(~odd)), on=on, l1_ratios=(0.9,)
    ).table["r2"]
    assert (found_r2 > 0.2).all()
