"""The page holds the figures that stand in the tables, and says what it lacks."""

import json
import shutil

import pandas as pd
import pytest

from mae_jax.errors import InputError
from mae_jax.files import write_json
from mae_jax.report.page import UNSEEN, Sources, verdict, write_report


def test_the_figures_of_the_tables_stand_in_the_page(evaluation, write_comparison, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(evaluation, other)
    table = pd.read_csv(other / "recall.csv")
    table.loc[(table["embeddings"] == "trained") & (table["correction"] == "tvn"), "recall"] = 0.58
    table.to_csv(other / "recall.csv", index=False)
    write_comparison(other, 0.58, 0.17, 0.06)
    complexes = tmp_path / "complexes.csv"
    complexes.write_text("Metadata_Gene,Complex\nG1,A\nG2,A\nG3,\n")
    sources = Sources(
        evaluation=evaluation,
        complexes=complexes,
        commands=[("mae-jax evaluate recall", 3.4)],
        seeds={0: evaluation, 1: other},
    )
    page = write_report(tmp_path / "report.html", sources).read_text()
    assert "Each under its best correction, trained recalls 0.64 of the known pairs" in page
    assert "Yes: the 95 % interval of its lead" in page
    for value in ("0.21", "0.59–0.69", "48 known pairs", "mae-jax evaluate recall   # 3 s"):
        assert value in page
    assert "+0.47" in page
    assert "+0.42 to +0.52" in page
    assert "0.58" in page
    assert "+0.35 to +0.47" in page
    assert page.count("data:image/svg+xml") == 3  # bars, sweep, map
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing is fetched


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        (0.9, "No: untrained recalls as much or more."),
        (0.62, "Not clearly: its lead over untrained may be chance."),
        (0.5, "Yes: "),
    ],
)
def test_a_network_that_did_not_learn_is_told(evaluation, write_comparison, theirs, says):
    table = pd.read_csv(evaluation / "recall.csv")
    rival = (table["embeddings"] == "untrained") & (table["correction"] == "tvn")
    table.loc[rival, "recall"] = theirs
    table.to_csv(evaluation / "recall.csv", index=False)
    write_comparison(evaluation, 0.64, theirs, 0.05)
    assert says in verdict(evaluation)


def test_a_training_alone(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    config = {
        "model": {
            "encoder": {"channel_agnostic": True, "width": 96, "depth": 3, "patch": 8,
                        "crop": 32, "channels": ["DNA"]},
            "mask_ratio": 0.75,
            "fourier_weight": 0.01,
        },
        "optimizer": {"name": "lion", "lr": 1e-3},
        "data": {"batch": 48},
    }  # fmt: skip
    write_json(workdir / "config.json", config)
    rows = [{"step": step, "train/loss": 1 / step, "speed/crops_per_second": 100 + step,
             "speed/data_wait": 0.01} for step in (1, 2, 3)]  # fmt: skip
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(tmp_path / "r.html", Sources(train=workdir)).read_text()
    assert "width 96" in page
    assert "102 crops/s (median), 1.0 % of the time waiting for data" in page
    assert "reconstruction losses of several runs" not in page

    other = tmp_path / "plain"
    other.mkdir()
    write_json(other / "config.json", {"network": "unet", "model": {"channels": ["DNA"]}})
    (other / "metrics.jsonl").write_text('{"step": 1, "train/mae": 1.0}\n')
    sources = Sources(train=workdir, compared=[other])
    page = write_report(tmp_path / "r.html", sources).read_text()
    assert "reconstruction losses of several runs" in page


def test_the_page_links_the_cards_of_the_model(evaluation, tmp_path):
    workdir = tmp_path / "my run"
    (workdir / "model").mkdir(parents=True)
    (workdir / "model" / "README.md").write_text("card")
    (workdir / "model" / "RESULTS.md").write_text("before")
    config = {"network": "unet", "model": {"channels": ["DNA"]}, "data": {"batch": 48},
              "optimizer": {"name": "lion", "lr": 1e-3}}  # fmt: skip
    write_json(workdir / "config.json", config)
    (workdir / "metrics.jsonl").write_text('{"step": 10, "validation/loss": 0.5}\n')
    out = tmp_path / "pages" / "r.html"
    page = write_report(out, Sources(train=workdir, evaluation=evaluation)).read_text()
    for name in ("README.md", "RESULTS.md"):
        assert f'href="../my%20run/model/{name}"' in page
    card = (workdir / "model" / "RESULTS.md").read_text()
    assert "| 10 | 0.5000 |" in card
    assert "| complexes | trained | TVN | 0.640 (0.590 to 0.690) | 48 |" in card


@pytest.mark.parametrize(
    ("experiments", "sentence"),
    [(("E1", "E2"), UNSEEN), (("E1", "E1"), "that training saw other wells of"),
     (None, "Crops of the validation split.")],
)  # fmt: skip
def test_the_page_tells_which_crops_are_shown(tmp_path, experiments, sentence):
    index = tmp_path / "index.parquet"
    if experiments is not None:
        table = pd.DataFrame({"Metadata_Split": ["train", "validation"],
                              "Metadata_Experiment": experiments})  # fmt: skip
        table.to_parquet(index)
    workdir = tmp_path / "run"
    (workdir / "panels").mkdir(parents=True)
    (workdir / "panels" / "step_1.png").write_bytes(b"picture")
    config = {"network": "unet", "model": {"channels": ["DNA"]},
              "optimizer": {"name": "lion", "lr": 1e-3},
              "data": {"batch": 48, "index": str(index)}}  # fmt: skip
    write_json(workdir / "config.json", config)
    (workdir / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    page = write_report(tmp_path / "r.html", Sources(train=workdir)).read_text()
    assert sentence in page
    assert (UNSEEN in page) == (sentence == UNSEEN)
    pictures = Sources(train=workdir, reconstructions=[workdir / "panels" / "step_1.png"])
    assert UNSEEN not in write_report(tmp_path / "r.html", pictures).read_text()


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(InputError, match="needs --train, --evaluation or both"):
        write_report(tmp_path / "r.html", Sources())
    with pytest.raises(InputError, match=r"has no recall.csv"):
        write_report(tmp_path / "r.html", Sources(evaluation=tmp_path))
    assert not (tmp_path / "r.html").exists()
