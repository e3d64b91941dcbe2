"""The page of an evaluation: its tables, and pictures of perturbations, wells and plates.

One HTML file that loads nothing from elsewhere, for phones, screens (light and dark) and paper.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import jinja2
import numpy as np
import pandas as pd

from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.protocols import EVALUATIONS
from mae_jax.evaluation.protocols.base import Spec
from mae_jax.evaluation.results import Result, ScoredWells
from mae_jax.files import write_text
from mae_jax.report import scored_wells
from mae_jax.report.data_urls import inline_svg
from mae_jax.report.plate_grid import WellCell, color_range, colormap, plate_svg
from mae_jax.report.well_pictures import WellPictures
from mae_jax.viz import evaluation_plots
from mae_jax.viz.plots import recall_bars
from mae_jax.viz.projection import project_2d

if TYPE_CHECKING:
    from mae_jax.data.index import Index

PAGE = "index.html"
Q = 0.05
VIEW_PORT = 8765  # of `mae-jax view`, which the links of wells lead to
MAX_ROWS = 60  # of a table on the page; the CSV has all
MAX_PERTURBATIONS = 400  # with a row of their own
MAX_MAP = 200  # perturbations of the similarity map
MAX_PROJECTED = 5000  # wells
MAX_PLATES = 12
MAX_PICTURES = 24  # perturbations with thumbnails
MIN_NEIGHBORS = 500  # wells from which a projection by neighbors says more than two components
_CONTROL, _OTHERS = "negative controls", "all others"


@dataclass(frozen=True)
class PageOptions:
    """What a page shows beyond its tables.

    Attributes:
      index: the images of the screen, for thumbnails.
      index_path: of that index, for the command that opens the viewer.
      projection: a method of `project_2d`; "auto" is UMAP where it is installed, and principal
        components for fewer than 500 wells.
      title: None: the evaluation's.
      scores_first: figures and tables stand above the pictures of wells.
    """

    index: "Index | None" = None
    index_path: str = ""
    projection: str = "auto"
    title: str | None = None
    scores_first: bool = False


@dataclass
class _Screen:
    """What the page shows of one set of embeddings."""

    name: str
    strip: str = ""
    active: int | None = None
    tested: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    rows_left_out: int = 0
    map: str = ""
    map_of: int = 0
    clusters: list[dict[str, Any]] = field(default_factory=list)
    projections: list[tuple[str, str]] = field(default_factory=list)
    projection: str = ""
    projected: str = ""
    plates: list[tuple[str, str]] = field(default_factory=list)
    plates_left_out: int = 0
    score_name: str = ""
    score_range: tuple[str, str] = ("", "")
    pictures: list[dict[str, Any]] = field(default_factory=list)


def write_evaluation_page(
    folder: str | os.PathLike[str],
    result: Result,
    spec: Spec | None = None,
    options: PageOptions | None = None,
    notes: Callable[[str], None] = lambda message: None,
) -> Path:
    """Write `index.html` into the folder of an evaluation's files, and return its path.

    Args:
      folder: where `result` was saved.
      result: of the evaluation.
      spec: its specification, from which the wells are read and corrected for the pictures; None:
        those in `result.wells` alone are shown.
      options: see `PageOptions`.
      notes: called with a line about what takes long.

    Raises:
      InputError: an index that does not name wells as the embeddings do.
    """
    options = options or PageOptions()
    wells = dict(result.wells)
    if not wells and spec is not None:
        wells = scored_wells.wells_of(spec, result, notes)
    schema = next((w.schema for w in wells.values()), getattr(spec, "schema", None))
    perturbations = scored_wells.perturbation_tables(result, schema)
    score = scored_wells.score_label(result, schema)
    screens = []
    for number, name in enumerate(dict.fromkeys([*perturbations, *wells])):
        notes(f"page: pictures of {name or 'the wells'}")
        screens.append(
            _screen(f"s{number}", name, perturbations.get(name), wells.get(name), score, options)
        )
    evaluation = EVALUATIONS.get(str(result.settings.get("evaluation", "")))
    title = options.title or (evaluation.title if evaluation else "evaluation")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mae_jax.report", "."), autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("evaluation.html").render(
        title=title[0].upper() + title[1:],
        summary=result.summary,
        screens=screens,
        figures=[(_words(n), inline_svg(f)) for n, f in _figures(result).items()],
        tables=[_table(n, t) for n, t in result.tables.items()],
        pages=list(result.pages),
        settings=_settings(result.settings),
        scores_first=options.scores_first,
        q=f"{Q:g}",
        score=score,
        ramp=", ".join(colormap(9)),
        view_command=_view_command(result, options),
        view_port=VIEW_PORT,
    )
    return write_text(Path(folder) / PAGE, page)


def _screen(
    prefix: str,
    name: str,
    table: pd.DataFrame | None,
    wells: ScoredWells | None,
    score: str,
    options: PageOptions,
) -> _Screen:
    shown = _Screen(name)
    if table is not None and len(table):
        q = None if table["q"].isna().all() else table["q"].to_numpy(float)
        figure = evaluation_plots.activity_strip(
            table["score"].to_numpy(float), q, threshold=Q, ylabel=score
        )
        shown.strip, shown.tested = inline_svg(figure), int(table["score"].notna().sum())
        shown.active = None if q is None else int((q < Q).sum())
        shown.rows = _rows(prefix, table.head(MAX_PERTURBATIONS), wells)
        shown.rows_left_out = max(0, len(table) - MAX_PERTURBATIONS)
    if wells is None:
        return shown
    _add_map(shown, table, wells)
    _add_projections(shown, table, wells, options)
    _add_plates(shown, prefix, wells)
    if options.index is not None:
        _add_pictures(shown, prefix, table, wells, options.index)
    return shown


def _rows(prefix: str, table: pd.DataFrame, wells: ScoredWells | None) -> list[dict[str, Any]]:
    """The lines of the table of perturbations, with links to their wells in the viewer."""
    shown = set(table["perturbation"])
    links: Mapping[str, list[dict[str, str]]] = {} if wells is None else _links(wells, shown)
    return [
        {
            "id": f"{prefix}-p{number}",
            "perturbation": row["perturbation"],
            "n": "–" if row["n"] != row["n"] else f"{row['n']:.0f}",
            "score": _number(row["score"]),
            "p": _number(row["p"]),
            "q": _number(row["q"]),
            "active": row["q"] < Q,
            "wells": links.get(row["perturbation"], []),
        }
        for number, row in enumerate(table.to_dict("records"))
    ]


def _links(wells: ScoredWells, shown: Collection[str]) -> dict[str, list[dict[str, str]]]:
    """Perturbation shown -> its wells as links of the viewer (plate and well after the #)."""
    metadata, schema = wells.after.metadata, wells.schema
    if schema.plate not in metadata or schema.well not in metadata:
        return {}
    found: dict[str, list[dict[str, str]]] = {}
    columns = (metadata[schema.perturbation], metadata[schema.plate], metadata[schema.well])
    for label, plate, well in zip(*(c.astype(str) for c in columns), strict=True):
        if label not in shown:
            continue
        address = f"#{urlencode({'plate': plate, 'well': well})}"
        found.setdefault(label, []).append({"text": f"{plate} {well}", "address": address})
    return found


def _add_map(shown: _Screen, table: pd.DataFrame | None, wells: ScoredWells) -> None:
    """The similarity map of the active perturbations, or of all where none are tested."""
    labels = wells.after.metadata[wells.schema.perturbation].astype(str)
    treated = labels[~scored_wells.control_rows(wells.after, wells.schema) & (labels != "")]
    chosen = sorted(set(treated))
    if table is not None and len(table):
        active = table[table["q"] < Q] if (table["q"] < Q).sum() > 2 else table
        best = active.sort_values(["q", "score"], ascending=[True, False], kind="stable")
        chosen = best["perturbation"].tolist()
    names, cosines = scored_wells.similarity(wells, chosen[:MAX_MAP])
    if len(names) < 3:
        return
    order, clusters = evaluation_plots.hierarchical_clusters(cosines)
    figure = evaluation_plots.similarity_map(cosines, order, clusters, names)
    shown.map, shown.map_of = inline_svg(figure), len(names)
    for cluster in dict.fromkeys(clusters[order].tolist()):
        members = [i for i in order if clusters[i] == cluster]
        if len(members) > 1:
            block = cosines[np.ix_(members, members)]
            mean = (block.sum() - np.trace(block)) / (len(members) * (len(members) - 1))
            shown.clusters.append({"members": [names[i] for i in members], "cosine": f"{mean:.2f}"})


def _add_projections(
    shown: _Screen, table: pd.DataFrame | None, wells: ScoredWells, options: PageOptions
) -> None:
    """Before and after correction, colored by plate and by treatment."""
    top = [] if table is None else table["perturbation"].tolist()[:9]
    method = options.projection
    if method == "auto" and len(wells.before) < MIN_NEIGHBORS:
        method = "pca"
    after = f"corrected ({wells.correction})" if wells.correction else "corrected"
    for words, profiles in (("before correction", wells.before), (after, wells.after)):
        sample = _some_plates(profiles, wells)
        if len(sample) < 3:
            continue
        coordinates, used = project_2d(sample.features, method)
        shown.projected += f"{shown.projected and ', '}{len(sample):,} wells {words}"
        plates = _plate_names(sample, wells.schema).tolist()
        controls = scored_wells.control_rows(sample, wells.schema)
        labels = sample.metadata[wells.schema.perturbation].astype(str).to_numpy(dtype=object)
        if top:  # the strongest by score get the colors, whatever their number of wells
            labels = np.where(np.isin(labels, top), labels, _OTHERS)
        treatments = np.where(controls, _CONTROL, labels).tolist()
        background = {_OTHERS: evaluation_plots.SOFT} if top else {}
        background[_CONTROL] = "#e0218a"  # seen on light and on dark
        for title, values, below in (
            (f"{words}, by plate", plates, {}),
            (f"{words}, by treatment", treatments, background),
        ):
            figure = evaluation_plots.projection(coordinates, values, background=below)
            shown.projections.append((title, inline_svg(figure)))
        shown.projection = used


def _some_plates(profiles: Profiles, wells: ScoredWells) -> Profiles:
    """Whole plates, at most 5,000 wells, spread over the screen; the same before and after."""
    if len(profiles) <= MAX_PROJECTED:
        return profiles
    all_plates = wells.after.batches("plate", wells.schema).astype(str)
    names, counts = np.unique(all_plates, return_counts=True)
    kept = np.random.default_rng(0).permutation(len(names))
    kept = kept[: max(1, int((np.cumsum(counts[kept]) <= MAX_PROJECTED).sum()))]
    own = profiles.batches("plate", wells.schema).astype(str)
    sample = np.flatnonzero(np.isin(own, names[kept]))
    return profiles.take(sample[:MAX_PROJECTED])


def _plate_names(profiles: Profiles, schema: ColumnSchema) -> np.ndarray:
    """The plate of every row; with its experiment only where plates of several are called alike."""
    full = profiles.batches("plate", schema).astype(str)
    short = profiles.column(schema.plate).to_numpy(dtype=object).astype(str)
    return short if len(set(short)) == len(set(full)) else full


def _add_plates(shown: _Screen, prefix: str, wells: ScoredWells) -> None:
    """Heat maps of the score per well, with one range of colors for all plates."""
    metadata, schema = wells.after.metadata, wells.schema
    if schema.plate not in metadata or schema.well not in metadata:
        return
    scores, shown.score_name = scored_wells.well_scores(wells)
    limits = color_range(scores)
    shown.score_range = (_number(limits[0]), _number(limits[1]))
    plates = _plate_names(wells.after, schema)
    controls = scored_wells.control_rows(wells.after, schema)
    labels = metadata[schema.perturbation].astype(str).to_numpy(dtype=object)
    names = metadata[schema.well].astype(str).to_numpy(dtype=object)
    anchors = {row["perturbation"]: "#" + row["id"] for row in shown.rows}
    every = sorted(set(plates))
    for plate in every[:MAX_PLATES]:
        cells = {
            str(names[i]): WellCell(
                float(scores[i]),
                f"{names[i]} {labels[i]}: {_number(scores[i])}",
                "" if controls[i] else anchors.get(str(labels[i]), ""),
                bool(controls[i]),
            )
            for i in np.flatnonzero(plates == plate)
        }
        label = f"plate {plate}, {shown.score_name}"
        shown.plates.append((plate, plate_svg(cells, limits, label)))
    shown.plates_left_out = len(every) - len(shown.plates)


def _add_pictures(
    shown: _Screen, prefix: str, table: pd.DataFrame | None, wells: ScoredWells, index: "Index"
) -> None:
    """Thumbnails of the perturbations with the highest scores that the index has images of."""
    pictures = WellPictures(index, wells.after.metadata)
    metadata = wells.after.metadata
    labels = metadata[wells.schema.perturbation].astype(str)
    rows_of = labels.groupby(labels).indices
    controls = metadata[scored_wells.control_rows(wells.after, wells.schema)]
    order = sorted(map(str, rows_of)) if table is None else table["perturbation"].tolist()
    ids = {row["perturbation"]: row for row in shown.rows}
    for label in order:
        if len(shown.pictures) == MAX_PICTURES:
            break
        strip = pictures.strip(metadata.iloc[rows_of.get(label, [])], controls)
        if strip:
            anchor = f"{prefix}-w{len(shown.pictures)}"
            shown.pictures.append({"id": anchor, "perturbation": label, "strip": strip})
            if label in ids:
                ids[label]["pictures"] = anchor


def _figures(result: Result) -> dict[str, Any]:
    """The evaluation's figures, and the bars of recall."""
    figures: dict[str, Any] = dict(result.figures)
    recall = result.tables.get("recall")
    if recall is not None and {"database", "low", "high", "correction"} <= set(recall.columns):
        names = list(dict.fromkeys(recall["embeddings"]))
        for database, rows in recall.groupby("database", sort=False):
            corrections = list(dict.fromkeys(rows["correction"]))
            figures.setdefault(f"recall, {database}", recall_bars(rows, names, corrections))
    return figures


def _table(name: str, table: pd.DataFrame) -> dict[str, Any]:
    """The first rows of a table as text, with the name of its file."""
    first = table.head(MAX_ROWS)
    numeric = [
        pd.api.types.is_numeric_dtype(table[c]) and not pd.api.types.is_bool_dtype(table[c])
        for c in table.columns
    ]
    return {
        "name": _words(name),
        "file": f"{name}.csv",
        "columns": [(str(c), n) for c, n in zip(table.columns, numeric, strict=True)],
        "rows": [
            [(_cell(v), n) for v, n in zip(row, numeric, strict=True)]
            for row in first.itertuples(index=False, name=None)
        ],
        "left_out": len(table) - len(first),
    }


def _cell(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return _number(float(value))
    return str(value)


def _number(value: float) -> str:
    """Three significant digits; "–" for NaN."""
    if value != value:
        return "–"
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 100 else f"{value:,.0f}"


def _settings(settings: Mapping[str, object]) -> list[tuple[str, str]]:
    def text(value: object) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{k} = {text(v)}" for k, v in value.items() if v not in (None, []))
        if isinstance(value, (list, tuple)):
            return ", ".join(text(v) for v in value) or "none"
        return "none" if value is None else str(value)

    return [(str(key).replace("_", " "), text(value)) for key, value in settings.items()]


def _view_command(result: Result, options: PageOptions) -> str:
    embeddings = result.settings.get("embeddings")
    paths: Sequence[object] = list(embeddings.values()) if isinstance(embeddings, Mapping) else []
    path = next((str(p) for p in paths if not str(p).startswith("profiles in memory")), "PATH")
    index = options.index_path or "INDEX"
    return f"mae-jax view --embeddings {path} --index {index} --port {VIEW_PORT}"


def _words(name: str) -> str:
    return name.replace("_", " ")
