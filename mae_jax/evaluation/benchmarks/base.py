"""What all benchmarks share: models on the benchmark's wells, baselines, and rows of scores."""

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from mae_jax.errors import InputError
from mae_jax.evaluation.benchmarks.cell_counts import NEEDED, count_profiles, read_counts
from mae_jax.evaluation.benchmarks.published import published_rows
from mae_jax.evaluation.columns import ReadOptions
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.protocols.base import Progress, Source, Spec
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.results import Result
from mae_jax.files import read_json, write_json

COUNT, UNTRAINED = "cell count", "untrained"
MEASURED = "measured here"
OF_THE_FIT = "controls of the fit"  # the design of most published rows
HELD_OUT = "held-out controls"
COLUMNS = ["model", "metric", "value", "low", "high", "units", "protocol", "measured", "source"]
_NOT_GIVEN = {
    COUNT: f"not given: {NEEDED}",
    UNTRAINED: "not given: mae-jax embed --encoder RUN/untrained --index INDEX --out untrained, "
    "then untrained=untrained in --embeddings (RUN is a training's work folder)",
}


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec(Spec):
    """A benchmark of one or several tables of embeddings.

    Attributes:
      embeddings: model -> table of wells, or where to read it. `untrained` is the network before
        its training, a baseline.
      metadata: folder of the benchmark's own files.
      counts: table of cell counts of wells; None: those in the tables of the embeddings.
      allow_missing: score the wells that all models have, where some are missing.
      feature_columns: see `ReadOptions`.
      nan: see `Profiles.checked`.
      seed: of everything drawn.
    """

    embeddings: Annotated[
        Mapping[str, Source],
        Option(
            "embeddings folders or files by model; untrained=PATH is the network before training",
            nargs="+",
            metavar="MODEL=PATH,…",
            named=True,
        ),
    ]
    metadata: Annotated[
        str | os.PathLike[str],
        Option("folder of the benchmark's files, or of `mae-jax fetch`", metavar="FOLDER"),
    ]
    counts: Annotated[
        str | os.PathLike[str] | None,
        Option("table of the wells' cell counts, for the baseline", metavar="FILE"),
    ] = None
    allow_missing: Annotated[
        bool, Option("score the wells that all models have, and list the missing ones")
    ] = False
    feature_columns: Annotated[
        Sequence[str],
        Option("patterns of the feature columns", nargs="+", metavar="PATTERN,…"),
    ] = ()
    nan: Annotated[
        str,
        Option(
            "what to do about values that are not finite: stop, drop the rows, drop the features",
            choices=("error", "rows", "features"),
        ),
    ] = "error"
    seed: Annotated[int, Option("random seed")] = 0

    def file(self, *names: str) -> Path:
        """The first of the files that is there: in the metadata folder, or in its `metadata`.

        Raises:
          InputError: none is.
        """
        folder = Path(self.metadata)
        for name in names:
            for path in (folder / name, folder / "metadata" / name):  # as `mae-jax fetch` has it
                if path.exists():
                    return path
        raise InputError(
            f"{self.metadata} has no {' or '.join(names)}; give the folder that has it with "
            f"--metadata (`mae-jax benchmark {self.name} --help` names the files; `mae-jax fetch` "
            "gets those of the data set itself)."
        )


@dataclass(frozen=True)
class Model:
    """One model's wells: those of the benchmark, in its order, with its metadata."""

    name: str
    profiles: Profiles

    @property
    def digest(self) -> str:
        """SHA-256 of the features: the same table gives the same."""
        return hashlib.sha256(np.ascontiguousarray(self.profiles.features).data).hexdigest()

    @property
    def is_count(self) -> bool:
        """Whether it is the baseline of cell counts, one or two features without a direction."""
        return self.name == COUNT


@dataclass
class Scores:
    """Rows of scores and what goes with them, gathered model by model."""

    spec: BenchmarkSpec
    models: list[Model]
    coverage: pd.DataFrame
    missing: pd.DataFrame
    rows: list[dict[str, object]] = field(default_factory=list)
    perturbations: list[pd.DataFrame] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    work: Path | None = None  # where parts that are done are kept, for a run that is interrupted

    def remembered(self, key: Sequence[object], compute: Callable[[], list[float]]) -> list[float]:
        """Some numbers: those of an earlier run with the same key, or computed and kept."""
        if self.work is None:
            return compute()
        name = hashlib.sha256(repr(list(key)).encode()).hexdigest()[:24]
        path = self.work / f"{name}.json"
        if path.exists():
            return [float(value) for value in read_json(path)["values"]]
        values = compute()
        write_json(path, {"key": [str(part) for part in key], "values": values})
        return values

    def add(
        self,
        model: str,
        metric: str,
        value: float,
        interval: tuple[float, float],
        units: int,
        protocol: str = "",
    ) -> None:
        """Add a score that was measured."""
        low, high = interval
        row = (model, metric, value, low, high, units, protocol, True, MEASURED)
        self.rows.append(dict(zip(COLUMNS, row, strict=True)))

    def result(self, main_metrics: Sequence[str], published: pd.DataFrame | None = None) -> Result:
        """The tables `scores`, `coverage`, `missing`, `perturbations`; a figure for each metric.

        Args:
          main_metrics: metrics that get a figure and a line of the summary.
          published: rows of others, in the columns of `scores`; None: those of the benchmark.
        """
        from mae_jax.viz.evaluation_plots import benchmark_scores

        others = published_rows(self.spec.name) if published is None else published
        scores = pd.DataFrame([*self.rows, *self._not_given()], columns=COLUMNS)
        scores = pd.concat([scores, others[COLUMNS]], ignore_index=True)
        order = {metric: i for i, metric in enumerate(dict.fromkeys(scores["metric"]))}
        by_metric = scores["metric"].map(order)
        scores = scores.iloc[
            np.lexsort((~scores["measured"].to_numpy(bool), by_metric.to_numpy(int)))
        ]
        scores = scores.reset_index(drop=True)
        result = Result(settings=self.spec.settings(), main="scores.csv")
        result.settings["evaluation"] = f"benchmark {self.spec.name}"
        result.tables = {"scores": scores, "coverage": self.coverage}
        if len(self.missing):
            result.tables["missing"] = self.missing
        if self.perturbations:
            result.tables["perturbations"] = pd.concat(self.perturbations, ignore_index=True)
        for metric in main_metrics:
            rows = scores[(scores["metric"] == metric) & scores["value"].notna()]
            if rows["measured"].any():
                several = rows.loc[rows["measured"], "protocol"].nunique() > 1
                names = rows["model"].astype(str)
                if several:
                    names += (", " + rows["protocol"]).where(rows["measured"], "")
                figure = benchmark_scores(rows.assign(model=names))
                figure.axes[0].set_title(metric, fontsize=9)
                result.figures[re.sub(r"[^a-zA-Z0-9]+", "_", metric).strip("_")] = figure
        result.summary = [*self._lines(scores, main_metrics), *self.notes]
        return result

    def _not_given(self) -> list[dict[str, object]]:
        """Rows of the baselines that were not given, for every metric."""
        given = {model.name for model in self.models}
        nan = float("nan")
        absent = (nan, nan, nan, nan, "", True)
        return [
            dict(zip(COLUMNS, (name, metric, *absent, _NOT_GIVEN[name]), strict=True))
            for metric in dict.fromkeys(str(row["metric"]) for row in self.rows)
            for name in (COUNT, UNTRAINED)
            if name not in given
        ]

    def _lines(self, scores: pd.DataFrame, main_metrics: Sequence[str]) -> list[str]:
        lines = []
        for row in self.coverage.to_dict("records"):
            if row["missing"]:
                lines.append(
                    f"{row['model']}: {row['missing']:,} of the benchmark's {row['wells']:,} wells "
                    f"are missing; {row['scored']:,} were scored"
                )
        for metric in main_metrics:
            for row in scores[scores["metric"] == metric].to_dict("records"):
                if row["measured"] and row["value"] == row["value"]:
                    interval = f" [{row['low']:.4f}, {row['high']:.4f}]"
                    protocol = f", {row['protocol']}" if row["protocol"] else ""
                    lines.append(
                        f"{metric}: {row['model']}{protocol}: {row['value']:.4f}"
                        + (interval if row["low"] == row["low"] else "")
                    )
        for name in (COUNT, UNTRAINED):
            if name not in {model.name for model in self.models}:
                lines.append(f"{name}: {_NOT_GIVEN[name]}")
        return lines


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: an entry of `BENCHMARKS`, from which the command line is made.

    Attributes:
      spec: the type of its specification; `spec.name` is the benchmark's name.
      wells: its wells, from the files of the metadata folder.
      keys: the columns that identify them.
      run: scores the models, whose wells `load_models` has matched.
      title: one line for the overview, lower case and without a full stop.
      files: what the metadata folder must hold.
      example: options of an example, after `mae-jax benchmark NAME`.
      prepare: adds to a table of embeddings the keys that it lacks.
    """

    spec: type[BenchmarkSpec]
    # Any: each function takes its own type of specification.
    wells: Callable[[Any], pd.DataFrame]
    keys: Sequence[str]
    run: Callable[[Any, Scores, Progress], Result]
    title: str
    files: str
    example: str
    prepare: Callable[[Profiles], Profiles] = lambda table: table


def load_models(spec: BenchmarkSpec, benchmark: Benchmark, progress: Progress) -> Scores:
    """All models on the wells that they have in common.

    Names of wells are compared as A01, whatever their zeros.

    Args:
      spec: names the tables.
      benchmark: its wells and their keys.
      progress: called with a line about each table.

    Raises:
      InputError: no embeddings, a table without the keys, or wells that are missing (unless
        `allow_missing`), or none in common.
    """
    if not spec.embeddings:
        raise InputError(f"{spec.name} needs at least one set of embeddings.")
    keys, wells = benchmark.keys, benchmark.wells(spec)
    expected = _keys(wells, keys)
    if expected.has_duplicates:
        where = " ".join(map(str, expected[int(np.argmax(expected.duplicated()))]))
        raise InputError(
            f"the files of {spec.name} list well {where} twice; give them as published."
        )
    tables, places = {}, {}
    for name, source in spec.embeddings.items():
        tables[name] = benchmark.prepare(_read(spec, source, progress))
        places[name] = _places(name, tables[name], expected, keys)
    if spec.counts is not None:
        tables[COUNT] = benchmark.prepare(read_counts(spec.counts))
    else:
        for table in list(tables.values()):
            if (counts := count_profiles(table)) is not None:
                tables[COUNT] = counts
                break
    if COUNT in tables:
        places[COUNT] = _places(COUNT, tables[COUNT], expected, keys)
    common = np.all([at >= 0 for at in places.values()], axis=0)
    coverage = pd.DataFrame(
        {
            "model": list(places),
            "wells": len(expected),
            "present": [int((at >= 0).sum()) for at in places.values()],
            "missing": [int((at < 0).sum()) for at in places.values()],
            "scored": int(common.sum()),
        }
    )
    if not common.all() and not spec.allow_missing:
        raise InputError(_missing_text(spec, wells, places, keys))
    if not common.any():
        raise InputError(
            f"the models have none of the {len(expected):,} wells of {spec.name} in common; "
            f"compare their {', '.join(keys)} with the benchmark's "
            f"({', '.join(map(str, expected[0]))})."
        )
    missing = [wells.loc[at < 0, list(keys)].assign(model=name) for name, at in places.items()]
    shared = wells[common].reset_index(drop=True).astype("str")
    models = []
    for name, table in tables.items():
        own = table.take(places[name][common])
        extra = own.metadata.drop(columns=[c for c in shared.columns if c in own.metadata])
        metadata = pd.concat([shared, extra], axis=1)
        models.append(Model(name, Profiles(metadata, own.features, own.names)))
    return Scores(spec, models, coverage, pd.concat(missing, ignore_index=True))


def _read(spec: BenchmarkSpec, source: Source, progress: Progress) -> Profiles:
    if not isinstance(source, Profiles):
        options = ReadOptions(feature_columns=tuple(spec.feature_columns))
        source = Profiles.read(source, options=options, notes=progress)
    return source.finite(spec.nan)


def _keys(table: pd.DataFrame, keys: Sequence[str]) -> pd.MultiIndex:
    """The keys of the rows, with names of wells in one form."""
    columns = {}
    for key in keys:
        values = table[key].astype(str)
        if key.lower().endswith("well"):
            values = values.str.upper().str.replace(r"^([A-Z]+)0*([0-9])$", r"\g<1>0\2", regex=True)
        columns[key] = values
    return pd.MultiIndex.from_frame(pd.DataFrame(columns))


def _places(
    name: str, table: Profiles, expected: pd.MultiIndex, keys: Sequence[str]
) -> Int[np.ndarray, " wells"]:
    """The row of the table for each of the benchmark's wells; −1: it has none."""
    for key in keys:
        table.column(key)
    own = _keys(table.metadata, keys)
    twice = own.duplicated()
    if twice.any():
        where = " ".join(map(str, own[int(np.argmax(twice))]))
        raise InputError(
            f"{name} has well {where} more than once ({int(twice.sum())} surplus rows); give one "
            "row per well."
        )
    return np.asarray(own.get_indexer(expected))


def _missing_text(
    spec: BenchmarkSpec,
    wells: pd.DataFrame,
    places: Mapping[str, np.ndarray],
    keys: Sequence[str],
) -> str:
    parts = []
    for name, at in places.items():
        lacking = wells[at < 0]
        if len(lacking):
            some = "; ".join(
                " ".join(row) for row in lacking[list(keys)].head(3).astype(str).to_numpy()
            )
            groups = f" on {lacking[keys[0]].nunique():,} plates" if len(keys) > 1 else ""
            parts.append(f"{name} lacks {len(lacking):,}{groups} ({some} …)")
    return (
        f"{spec.name} has {len(wells):,} wells, of which {', '.join(parts)}; embed them too, or "
        "score those that are there with --allow-missing, which lists the others in missing.csv."
    )
