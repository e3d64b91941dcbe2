"""RxRx3-core and RxRx3: scores equal plain computations."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from mae_jax.evaluation import Profiles
from mae_jax.evaluation.benchmarks import (
    RxRx3CoreSpec,
    RxRx3Spec,
    run,
)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def value(result, metric: str, model: str = "ours", protocol: str | None = None) -> float:
    rows = result.tables["scores"].query("metric == @metric and model == @model")
    if protocol is not None:
        rows = rows.query("protocol == @protocol")
    return float(rows["value"].iloc[0])


def test_rxrx3_core_against_a_plain_computation(rxrx3):
    folder, profiles = rxrx3
    spec = RxRx3CoreSpec(
        embeddings={"ours": profiles}, metadata=folder, correction="standardize-experiment", draws=4
    )
    result = run(spec)
    metadata = pd.read_csv(folder / "metadata_rxrx3_core.csv", dtype=str, keep_default_na=False)
    x = profiles.features.astype(np.float64)
    for experiment in set(metadata["experiment_name"]):
        rows = (metadata["experiment_name"] == experiment).to_numpy()
        empty = x[rows & (metadata["treatment"] == "EMPTY_control").to_numpy()]
        x[rows] = (x[rows] - empty.mean(axis=0)) / empty.std(axis=0)
    genes = sorted({f"G{i}" for i in range(30)})
    of_gene = np.array([x[(metadata["gene"] == g).to_numpy()].mean(axis=0) for g in genes])
    truth = pd.read_csv(folder / "compound_gene_interactions.csv")
    scores = np.zeros((4, 4))
    for c in range(4):
        name = f"compound{c}"
        rows = [((metadata["treatment"] == name) & (metadata["concentration"] == d)).to_numpy()
                for d in ("0.25", "2.5")]  # fmt: skip
        doses = np.array([x[r].mean(axis=0) for r in rows])
        similarity = np.abs(unit(doses) @ unit(of_gene).T).max(axis=0)
        positives = set(truth.loc[truth["treatment"] == name, "gene_symbol"])
        at = [i for i, g in enumerate(genes) if g in positives]
        others = [i for i in range(30) if i not in at]
        for s in range(4):
            drawn = np.random.default_rng(s).choice(np.array(others), 20, replace=False)
            label = np.r_[np.ones(len(at)), np.zeros(20)]
            scores[c, s] = average_precision_score(label, similarity[np.r_[at, drawn]])
    assert value(result, "compound-gene AP, maximum over doses") == pytest.approx(scores.mean())
    published = result.tables["scores"].query("not measured")
    assert published.set_index("model").loc["OpenPhenom", "value"] == 0.273
    row = result.tables["scores"].query("model == 'ours'").iloc[-1]
    assert row["low"] != row["low"] or row["low"] < row["value"]


def test_rxrx3_against_a_plain_computation(rxrx3):
    folder, profiles = rxrx3
    metadata = pd.read_csv(folder / "metadata_rxrx3.csv", dtype=str, keep_default_na=False)
    # Embeddings of `mae-jax embed` name wells by experiment, plate and address.
    named = Profiles(
        pd.DataFrame(
            {
                "Metadata_Experiment": metadata["experiment_name"],
                "Metadata_Plate": "Plate" + metadata["plate"],
                "Metadata_Well": metadata["address"],
            }
        ).astype(str),
        profiles.features,
        profiles.names,
    )
    spec = RxRx3Spec(
        embeddings={"ours": named, "untrained": profiles}, metadata=folder, correction="none"
    )
    result = run(spec)
    crispr = (metadata["perturbation_type"] == "CRISPR").to_numpy()
    empty = (metadata["gene"] == "EMPTY_control").to_numpy()
    x = profiles.features.astype(np.float64)
    x -= x[crispr & empty].mean(axis=0)
    genes = [f"G{i}" for i in range(30)]
    means = np.array([unit(x[(metadata["gene"] == g).to_numpy()]).mean(axis=0) for g in genes])
    cosines = unit(means) @ unit(means).T
    null = cosines[np.triu_indices(30, 1)]
    low, high = np.quantile(null, [0.05, 0.95])
    pairs = np.array([cosines[i, i + 1] for i in range(0, 30, 2)])
    assert value(result, "recall, CORUM") == pytest.approx(
        ((pairs <= low) | (pairs >= high)).mean()
    )
    assert value(result, "recall, CORUM", "untrained") == value(result, "recall, CORUM")
    assert result.tables["coverage"]["wells"].tolist() == [168, 168]
    published = result.tables["scores"].query("not measured and metric == 'recall, CORUM'")
    assert published.set_index("model").loc["MAE ViT-L/8+, RPI-93M", "value"] == 0.622
