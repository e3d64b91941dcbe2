"""The page of an evaluation shows what the tables say, and leads to the wells."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import tifffile

from mae_jax.data.readers.open_screen import open_screen
from mae_jax.errors import InputError
from mae_jax.evaluation import ColumnSchema, Profiles, RetrievalSpec, run
from mae_jax.evaluation.results import Result, ScoredWells
from mae_jax.report.evaluation_page import PageOptions, write_evaluation_page
from mae_jax.report.plate_grid import WellCell, plate_svg, row_and_column, row_letters
from mae_jax.report.scored_wells import well_scores

VOID = {"meta", "link", "br", "img", "input"}


@pytest.fixture
def wells() -> Profiles:
    """Two plates of 8 perturbations and 8 controls; T0 to T3 act, and T0 acts like T1."""
    rng = np.random.default_rng(0)
    effects = 4 * rng.standard_normal((8, 6))
    effects[1], effects[4:] = effects[0], 0
    rows, features = [], []
    for plate in ("P1", "P2"):
        for i in range(24):
            label = f"T{i % 8}" if i < 16 else "DMSO"
            rows.append(
                {
                    "Metadata_Plate": plate,
                    "Metadata_Well": f"{chr(65 + i // 12)}{i % 12 + 1:02d}",
                    "Metadata_Perturbation": label,
                    "Metadata_ControlType": "" if i < 16 else "negcon",
                }
            )
            own = effects[i % 8] if i < 16 else 0
            features.append(own + 0.3 * rng.standard_normal(6))
    return Profiles(pd.DataFrame(rows), np.array(features, np.float32), tuple("abcdef"))


class Balance(HTMLParser):
    """Checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def spec(wells) -> RetrievalSpec:
    return RetrievalSpec(
        embeddings={"ours": wells}, correction="center-plate", batch="plate", null_size=2000
    )


def test_the_page_of_a_retrieval(spec, tmp_path):
    result = run(spec)
    result.save(tmp_path)
    page = write_evaluation_page(tmp_path, result, spec).read_text()
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    linked = re.findall(r'href="#(s0-[^"]*)"', page)
    assert len(linked) == 32  # of the treated wells on both plates to their perturbation
    assert set(linked) <= set(parser.ids)
    active = int((result.tables["retrieval"]["q"] < 0.05).sum())
    assert active == 4
    assert f"{active} of 8 perturbations have q &lt; 0.05" in page
    assert "T0, T1" in page or "T1, T0" in page  # they form a cluster
    assert page.count("by plate</figcaption>") == page.count("by treatment</figcaption>") == 2
    assert "corrected (center-plate), by plate" in page
    assert page.count('class="plate"') == 2
    assert "Plates: average precision" in page
    scores = result.wells["ours"].scores
    treated = (result.wells["ours"].after.column("Metadata_ControlType") == "").to_numpy()
    assert np.isnan(scores[~treated]).all()
    assert scores[treated].mean() == pytest.approx(result.tables["retrieval"]["map"].mean())
    assert "http://127.0.0.1:8765/#plate=P2&amp;well=B04" in page
    loaded = re.findall(r'(?:src|url\()=?["\']?(https?:[^"\')]*)', page)
    assert loaded == []  # links lead elsewhere, but nothing is fetched


def test_pictures_of_wells_and_of_a_control(spec, tmp_path):
    (tmp_path / "img").mkdir()
    rows = []
    for well in ("A01", "B05"):  # T0, and a control
        name = tmp_path / "img" / f"{well}.tif"
        tifffile.imwrite(name, np.full((32, 32), 500 if well == "A01" else 200, np.uint16))
        rows.append(
            {"Metadata_Plate": "P1", "Metadata_Well": well, "Metadata_Site": "1",
             "FileName_OrigDNA": name.name, "PathName_OrigDNA": str(name.parent)}
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "load_data.csv", index=False)
    index = open_screen(str(tmp_path / "load_data.csv"))
    options = PageOptions(index=index, index_path="load_data.csv")
    page = write_evaluation_page(tmp_path, run(spec), spec, options).read_text()
    assert page.count("data:image/jpeg;base64,") >= 1
    assert re.search(r'<a href="#s0-w0">pictures</a>', page)
    assert '<div class="card" id="s0-w0"><b>T0</b>' in page
    assert "--index load_data.csv --port 8765" in page

    index.table["Metadata_Plate"] = "another plate"
    with pytest.raises(InputError, match="none of the wells of the embeddings"):
        write_evaluation_page(tmp_path, run(spec), spec, PageOptions(index=index))


def test_tables_alone(tmp_path):
    table = pd.DataFrame({"name": ["<b>"], "value": [np.nan], "small": [0.00012]})
    page = write_evaluation_page(tmp_path, Result(tables={"some_table": table})).read_text()
    assert "&lt;b&gt;" in page
    assert "<b></td>" not in page
    assert ">–<" in page
    assert "1.2e-04" in page
    assert 'href="some_table.csv"' in page


def test_scores_of_wells_are_mean_cosines_to_the_replicates(wells):
    scores, _ = well_scores(ScoredWells(wells, wells, ColumnSchema()))
    unit = wells.features / np.linalg.norm(wells.features, axis=1, keepdims=True)
    cosines = unit @ unit.T
    metadata = wells.metadata
    for i in (0, 9, 20, 47):
        mates = metadata["Metadata_Perturbation"] == metadata["Metadata_Perturbation"][i]
        if metadata["Metadata_ControlType"][i]:
            mates &= metadata["Metadata_Plate"] == metadata["Metadata_Plate"][i]
        mates[i] = False
        assert scores[i] == pytest.approx(cosines[i, mates.to_numpy()].mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("well", "place"), [("A01", (0, 0)), ("P24", (15, 23)), ("AF48", (31, 47)), ("b3", (1, 2))]
)
def test_wells_have_places(well, place):
    assert row_and_column(well) == place
    assert row_letters(place[0]) == well[:-2].upper() or well == "b3"


@pytest.mark.parametrize("name", ["", "12", "A00", "well A1", "AAA1"])
def test_names_that_are_no_wells_have_none(name):
    assert row_and_column(name) is None


def test_plates_have_letters_numbers_and_clipped_colors():
    cells = {
        "A01": WellCell(-9.0, "A01 <x>"),
        "H12": WellCell(9.0, "H12", "#row", control=True),
        "B02": WellCell(float("nan"), "B02"),
        "nowhere": WellCell(1.0, "nowhere"),
    }
    svg = plate_svg(cells, (0.0, 1.0), "plate")
    assert svg.count("<rect") == 3
    assert "#440154" in svg  # viridis' lowest
    assert "#fde725" in svg  # and highest color
    assert svg.count('class="none"') == 1
    assert ">H</text>" in svg
    assert ">I</text>" not in svg  # 96 wells are enough
    assert "A01 &lt;x&gt;" in svg
    assert svg.count("<circle") == 1
