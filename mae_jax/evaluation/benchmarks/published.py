"""Published scores of the benchmarks, as data: each row says whose it is."""

from importlib import resources

import pandas as pd

from mae_jax.evaluation.paper_tables import published


def published_rows(benchmark: str) -> pd.DataFrame:
    """The published rows of a benchmark, in the columns of its table of scores."""
    where = resources.files("mae_jax.evaluation.benchmarks")
    with where.joinpath("published.csv").open(encoding="utf-8") as file:
        rows = pd.read_csv(file, comment="#")
    rows = rows[rows["benchmark"] == benchmark].reset_index(drop=True)
    return rows.fillna({"protocol": ""}).assign(measured=False, units=float("nan"))


def paper_rows(number: str, protocol: str = "") -> pd.DataFrame:
    """A table of the paper in the columns of a benchmark's scores; its metrics are the paper's."""
    rows = published(number)
    named = rows["model"] + (", " + rows["dataset"]).where(rows["dataset"] != "", "")
    nan = float("nan")
    return rows.assign(model=named, low=nan, high=nan, units=nan, protocol=protocol, measured=False)
