"""Paper mode: published numbers as data, ours beside them, and a page that shows both."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mae_jax.evaluation import CORRECTIONS, TABLE2, Profiles, Relationships
from mae_jax.evaluation.cpjump1 import summary
from mae_jax.evaluation.paper_tables import OURS, Paper, published, with_flops
from mae_jax.evaluation.recall_tables import recall_tables
from mae_jax.evaluation.results import Result
from mae_jax.flops import PublishedMAE
from mae_jax.viz.plots import (
    cosine_heatmap,
    feature_r2,
    recall_against_flops,
    recall_against_percentile,
)

PAIRS = Relationships.of("CORUM", [(f"G{i:03d}", f"G{i + 1:03d}") for i in range(0, 40, 2)])


def value(table: str, **where: str) -> float:
    rows = published(table)
    for name, wanted in where.items():
        rows = rows[rows[name] == wanted]
    assert len(rows) == 1
    return float(rows["value"].iloc[0])


def test_published_numbers() -> None:
    """Spot checks against the paper, and the counts of its tables."""
    counts = published()["table"].value_counts().to_dict()
    assert counts == {"2": 36, "3": 120, "4": 10, "5": 15, "6": 76, "7": 10, "8": 48, "9": 32}
    assert value("2", metric="TVN|StringDB") == 0.484
    assert value("3", model="MAE ViT-L/16+", metric="CORUM") == 0.626
    assert value("5", model="MAE ViT-L/8+", metric="MoA-300") == 0.23
    assert value("7", model="ViT-L/8+ (MAE)", metric="Intensity") == 0.737
    assert set(published("2")["metric"].str.partition("|")[0]) == {
        CORRECTIONS[name].label for name in TABLE2
    }
    assert published()["source"].str.contains("CVPR 2024").all()


def test_table_4_is_the_mean_of_8_and_9() -> None:
    """The paper's own Table 4 follows from Tables 8 and 9 with ddof 1."""
    for table, task in (("8", "perturbation"), ("9", "siblings")):
        rows = published(table)
        ours = rows[rows["model"] == "CA-93M-ViT-L-8chans"]
        got = summary(pd.DataFrame({"perturbation": ours["value"], "siblings": ours["value"]}))
        four = published("4")
        four = four[(four["model"] == "CA-MAE ViT-L/16+") & (four["metric"] == task)].iloc[0]
        assert got["mean"].iloc[0] == pytest.approx(four["value"], abs=0.0051)
        assert got["std"].iloc[0] == pytest.approx(four["spread"], abs=0.0061)  # of rounded figures


@pytest.fixture
def recalls(make_screen: Callable[..., Profiles]) -> tuple[pd.DataFrame, Paper]:
    wells = {"small": make_screen(width=6), "large": make_screen(width=16)}
    tables = recall_tables(wells, [PAIRS], ["none", "tvn"])
    paper = Paper()
    paper.add_recall(tables.table, "tvn")
    paper.figures["fig5"] = recall_against_percentile(
        tables.sweep[tables.sweep["correction"] == "tvn"]
    )
    assert tables.cosines is not None
    paper.figures["cosines"] = cosine_heatmap(tables.cosines, title="best")
    return tables.table, paper


def test_ours_stand_beside_the_published(recalls: tuple[pd.DataFrame, Paper]) -> None:
    table, paper = recalls
    three = paper.table("3")
    ours = three[three["source"] == OURS]
    assert set(ours["model"]) == {"small", "large"}
    want = table[(table["correction"] == "tvn") & (table["embeddings"] == "large")]["recall"].iloc[
        0
    ]
    assert ours.set_index("model").loc["large", "value"] == want
    assert len(three) == 2 + 120
    two = paper.table("2")
    assert {"No transformation|CORUM", "TVN|CORUM"} == set(two[two["source"] == OURS]["metric"])
    assert paper.table("7").empty


def test_pages_and_files(recalls: tuple[pd.DataFrame, Paper], tmp_path: Path) -> None:
    table, paper = recalls
    shapes = {
        "small": (PublishedMAE("S").shape, 1e6),
        "large": (PublishedMAE("L").shape, 1e7),
    }
    counted = with_flops(table, shapes)
    assert counted["true_flops"].gt(0).all()
    paper.figures["fig8"] = recall_against_flops(counted)
    rng = np.random.default_rng(0)
    r2 = pd.DataFrame({"category": ["Texture", "AreaShape"] * 10, "r2": rng.random(20)})
    paper.figures["fig6"] = feature_r2({"ours": r2})
    paper.add_features(
        "ours", pd.DataFrame({"category": ["Texture"], "median": [0.5], "mad": [0.1]})
    )
    paper.notes.append("<script>alert(1)</script> was dropped")
    tables = {f"table{number}": rows for number, rows in paper.tables().items()}
    result = Result(tables, figures=paper.figures, pages={"paper.html": paper.page()})
    result.main = "paper.html"
    text = result.save(tmp_path / "out").read_text()
    assert text.count("<img") == 4
    assert "data:image/png;base64," in text
    assert "<script>" not in text
    assert "http" not in text  # one file, nothing loaded from elsewhere
    assert "0.622" in text
    assert "<td>MAE ViT-L/8+: TVN</td>" in text
    assert "<td>large: No transformation</td>" in text
    assert "0.500 ± 0.100" in text
    assert "± in the shaded rows: the median absolute deviation over features." in text
    assert "± in the shaded rows: half of the 95 % interval" in text
    assert "± in the published rows: the median absolute deviation over features." in text
    assert '<meta name="viewport"' in text
    assert "large, CORUM: 20 pairs among 40 genes of the map; 0 pairs have a gene outside" in text
    found = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"table2.csv", "table3.csv", "table6.csv", "table7.csv", "fig5.png", "fig8.png"} <= found
    assert "table8.csv" not in found
    again = pd.read_csv(tmp_path / "out" / "table7.csv")
    assert list(again.columns) == [
        "table",
        "model",
        "dataset",
        "metric",
        "value",
        "spread",
        "source",
    ]
    for png in (tmp_path / "out").glob("*.png"):
        assert png.read_bytes()[:4] == b"\x89PNG"
