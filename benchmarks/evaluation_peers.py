"""The public tools' sides of `evaluation.py`: EFAAR, proxbias, copairs, scikit-learn.

EFAAR and proxbias pin much that these functions do not use; install them apart:

    pip install --no-deps --target FOLDER efaar-benchmarking proxbias geomloss

and run `python benchmarks/evaluation.py --peers FOLDER`.
"""

import os
import sys
import tempfile
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from evaluation import (
    L1_RATIOS,
    arms_of,
    embeddings,
    fits_path,
    profiles,
    relationships,
    targets_of,
    timed,
    tvn_path,
    wells_of,
)


def import_efaar() -> None:
    """Make `efaar_benchmarking` importable; scVI, which only its other maps use, is left out."""
    sys.path.insert(0, os.environ["MAE_JAX_PEERS"])
    scvi, model = types.ModuleType("scvi"), types.ModuleType("scvi.model")
    model.SCVI = None  # type: ignore[attr-defined]
    sys.modules.setdefault("scvi", scvi)
    sys.modules.setdefault("scvi.model", model)


def recall_efaar(size: dict[str, int], **_: Any) -> dict[str, Any]:
    """`known_relationship_benchmark` of a map and one source of pairs."""
    import_efaar()
    from efaar_benchmarking.benchmarking import known_relationship_benchmark
    from sklearn.utils import Bunch

    x, pairs = embeddings(size["genes"], size["width"]), relationships(size["genes"])
    names = np.array([f"G{i:05d}" for i in range(len(x))])
    bunch = Bunch(metadata=pd.DataFrame({"gene": names}), features=pd.DataFrame(x))
    with tempfile.TemporaryDirectory() as folder:
        known = pd.DataFrame(names[pairs], columns=["entity1", "entity2"])
        known.to_csv(Path(folder) / "pairs.txt", index=False)
        with timed() as clock:
            result = known_relationship_benchmark(
                bunch, "gene", ["pairs"], [(0.05, 0.95)], benchmark_data_dir=folder
            )
    return {**clock, "recall": float(result["recall_0.05_0.95"].iloc[0])}


def tvn_efaar(size: dict[str, int], **_: Any) -> dict[str, Any]:
    """`tvn_on_controls`, all batches, in float64, and its largest difference from ours."""
    import_efaar()
    from efaar_benchmarking.efaar import tvn_on_controls

    wells = wells_of(size)
    metadata = wells.metadata.rename(columns={"Metadata_ControlType": "control"})
    with timed() as clock:
        out = tvn_on_controls(
            wells.features.astype(np.float64), metadata, "control", "negcon", "Metadata_Experiment"
        )
    # The axes of the principal components may be mirrored: cosines between wells are not.
    ours = np.load(tvn_path(size))
    rows = slice(0, len(ours), max(1, len(ours) // 500))
    difference = np.abs(_cosines(ours[rows]) - _cosines(out[rows])).max()
    return {**clock, "batches": size["batches"], "largest_difference_of_cosines": float(difference)}


def _cosines(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T.copy()


def arms_proxbias(size: dict[str, int], **_: Any) -> dict[str, Any]:
    """proxbias's arm centering: all genes make up the means."""
    sys.path.insert(0, os.environ["MAE_JAX_PEERS"])
    from proxbias.arm_centering import build_arm_centering_df, perform_arm_centering

    x, arms = embeddings(size["genes"], size["width"]), arms_of(size["genes"])
    table = pd.DataFrame(x, columns=[f"f{i}" for i in range(x.shape[1])])
    table.insert(0, "chromosome_arm", arms)
    table.insert(0, "gene", [f"G{i:05d}" for i in range(len(x))])
    columns = ["gene", "chromosome_arm"]
    with timed() as clock:
        means = build_arm_centering_df(table, columns, subset_query="gene == gene")
        out = perform_arm_centering(table, columns, means)
    return {**clock, "norm": float(np.linalg.norm(out.drop(columns=columns).to_numpy(np.float64)))}


def ap_copairs(size: dict[str, int], **_: Any) -> dict[str, Any]:
    from copairs.map import average_precision

    x, codes = profiles(size)
    meta = pd.DataFrame({"label": codes.astype(str)})
    with timed() as clock:
        result = average_precision(meta, x, ["label"], [], [], ["label"], progress_bar=False)
    return {**clock, "mean_ap": float(result["average_precision"].mean())}


def elastic_sklearn(size: dict[str, int], targets: int, **_: Any) -> dict[str, Any]:
    """ElasticNetCV of the same targets, one after the other, on two processes each."""
    from sklearn.linear_model import ElasticNetCV

    x, y = targets_of(size, targets)
    ours = np.load(fits_path(size, targets))
    same, apart, unlike_scores = 0, [], []
    with warnings.catch_warnings(), timed() as clock:
        warnings.simplefilter("ignore")
        for target in range(targets):
            net = ElasticNetCV(l1_ratio=list(L1_RATIOS), cv=5, alphas=100, n_jobs=2)
            net.fit(x, y[:, target])
            chosen = ours["alpha"][target], ours["l1_ratio"][target]
            difference = float(np.abs(net.coef_ - ours["coef"][target]).max())
            if np.allclose((net.alpha_, net.l1_ratio_), chosen, rtol=1e-9):
                same += 1
                apart.append(difference)
            prediction = x @ ours["coef"][target] + ours["intercept"][target]
            unlike_scores.append(float(np.abs(net.predict(x) - prediction).max()))
    return {
        **clock,
        "targets": targets,
        "same_choice": same,
        "largest_difference_of_coefficients_at_the_same_choice": max(apart, default=float("nan")),
        "largest_difference_of_predictions": max(unlike_scores),
    }
