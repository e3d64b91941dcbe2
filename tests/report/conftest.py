"""An evaluation folder as `mae-jax evaluate recall` leaves it."""

import pandas as pd
import pytest

from mae_jax.files import write_json

RECALLS = {("trained", "none"): 0.21, ("trained", "tvn"): 0.64,
           ("untrained", "none"): 0.11, ("untrained", "tvn"): 0.17}  # fmt: skip


def write_comparison(folder, ours, theirs, half):
    """compare.csv with the difference b − a, as `mae-jax evaluate` writes it."""
    change = theirs - ours
    row = {"database": "complexes", "a": "trained", "b": "untrained", "recall_a": ours,
           "recall_b": theirs, "difference": change, "low": change - half,
           "high": change + half}  # fmt: skip
    pd.DataFrame([row]).to_csv(folder / "compare.csv", index=False)


@pytest.fixture(name="write_comparison")
def _write_comparison():
    return write_comparison


@pytest.fixture
def evaluation(tmp_path):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    rows = [
        {"embeddings": name, "correction": correction, "database": "complexes",
         "label": {"none": "No transformation", "tvn": "TVN"}[correction],
         "recall": value, "low": value - 0.05, "high": value + 0.05, "pairs_used": 48}
        for (name, correction), value in RECALLS.items()
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "recall.csv", index=False)
    sweep = [
        {"embeddings": name, "correction": correction, "database": "complexes",
         "percentile": percentile, "recall": value * percentile / 50}
        for (name, correction), value in RECALLS.items() for percentile in (5, 25, 50)
    ]  # fmt: skip
    pd.DataFrame(sweep).to_csv(folder / "sweep.csv", index=False)
    write_comparison(folder, 0.64, 0.17, 0.05)
    genes = ["G1", "G2", "G3"]
    pd.DataFrame(
        [[1, 0.9, -0.2], [0.9, 1, 0.1], [-0.2, 0.1, 1]], index=genes, columns=genes
    ).to_parquet(folder / "cosines.parquet")
    best = {"embeddings": "trained", "correction": "tvn"}
    write_json(folder / "settings.json", {"best": best})
    return folder
