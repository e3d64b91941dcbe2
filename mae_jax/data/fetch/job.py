"""The whole way of a data set: plan, download, verify, index."""

import csv
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mae_jax.config import nearest
from mae_jax.data.fetch.datasets import DATASETS
from mae_jax.data.fetch.plan import FILES, Dataset, SitePlan, Workspace
from mae_jax.data.fetch.selection import Selection
from mae_jax.data.fetch.transfer import (
    RemoteFile,
    check_space,
    download_all,
    missing_files,
    with_sizes,
)
from mae_jax.data.index import Index
from mae_jax.data.metadata import complete
from mae_jax.errors import InputError
from mae_jax.files import replacing, write_json

RECORD = "fetch.json"
MAX_GB = 100.0


@dataclass(frozen=True)
class FetchPlan:
    """What would be downloaded.

    Attributes:
      dataset: the data set.
      sites: the selected sites.
      files: their files with sizes, where servers tell them.
      absent: paths of files that the data set names and the server lacks.
    """

    dataset: Dataset
    sites: SitePlan
    files: list[RemoteFile]
    absent: list[str]

    @property
    def bytes(self) -> int:
        """The sum of the known sizes."""
        return sum(file.size or 0 for file in self.files)


def dataset_named(name: str) -> Dataset:
    """A data set by its name.

    Raises:
      InputError: there is none; names the nearest.
    """
    if name not in DATASETS:
        raise InputError(f"there is no data set '{name}': {nearest(name, list(DATASETS))}")
    return DATASETS[name]


def plan_fetch(
    name: str,
    folder: Path | None = None,
    selection: Selection | None = None,
    *,
    options: Mapping[str, str] | None = None,
    threads: int = 8,
) -> FetchPlan:
    """What a selection of a data set consists of.

    Args:
      name: the data set.
      folder: where its tables are kept; None: nowhere.
      selection: which plates, wells and sites.
      options: further choices, such as `{"codec": "zstd"}` for JUMP-lite.
      threads: requests at a time.

    Raises:
      InputError: an unknown data set, name or option.
      MachineError: a server is out of reach.
    """
    dataset = dataset_named(name)
    chosen = _chosen(dataset, options or {})
    with _kept_or_temporary(folder) as place:
        sites = dataset.plan(Workspace(place, chosen), selection or Selection())
        files, absent = with_sizes(sites.files(), threads)
    return FetchPlan(dataset, sites, files, absent)


def fetch(
    name: str,
    folder: Path,
    selection: Selection | None = None,
    *,
    options: Mapping[str, str] | None = None,
    accept_licence: bool = False,
    threads: int = 8,
    max_gb: float = MAX_GB,
    announce: Callable[[FetchPlan, int], None] = lambda plan, needed: None,
    progress: Callable[[int], None] = lambda count: None,
) -> Index:
    """Download a selection of a data set, and write its `index.parquet`.

    What is there already is not downloaded again; after any interruption, the same call resumes.
    Sites whose files the server lacks are left out and listed in `missing.csv`.

    Args:
      name, selection, options, threads: as in `plan_fetch`.
      folder: where everything goes.
      accept_licence: that the terms of the data set are accepted, where they restrict its use.
      max_gb: the most that may be downloaded.
      announce: called with the plan and the bytes still to download, before the download.
      progress: called with numbers of bytes as they arrive.

    Raises:
      InputError: as `plan_fetch`; the licence is not accepted, or more than `max_gb`.
      MachineError: a server is out of reach, or the disk has no room.
    """
    dataset = dataset_named(name)
    if dataset.must_accept and not accept_licence:
        raise InputError(
            f"{dataset.name} has the licence {dataset.licence}; read it, and add --accept-licence "
            "if you accept its terms."
        )
    plan = plan_fetch(name, folder, selection, options=options, threads=threads)
    missing = missing_files(plan.files, folder)
    needed = check_space(missing, folder, max_gb)
    announce(plan, needed)
    absent = {*plan.absent, *download_all(missing, folder, threads=threads, progress=progress)}
    return _write_index(plan, folder, absent, selection or Selection(), options or {})


def _write_index(
    plan: FetchPlan,
    folder: Path,
    absent: set[str],
    selection: Selection,
    options: Mapping[str, str],
) -> Index:
    table = plan.sites.sites
    lacking = [[f.path for f in files if f.path in absent] for files in table[FILES]]
    whole = [not paths for paths in lacking]
    if not any(whole):
        raise InputError(
            f"the server has none of the files of {selection.words()} of {plan.dataset.name}; "
            "choose other plates."
        )
    if not all(whole):
        rows = [
            (*site, path)
            for site, paths in zip(_names(table), lacking, strict=True)
            for path in paths
        ]
        _write_missing(folder / "missing.csv", rows)
    else:
        (folder / "missing.csv").unlink(missing_ok=True)
    sites = complete(table[whole].drop(columns=FILES).reset_index(drop=True), plan.dataset.name)
    index = Index(sites, str(folder))
    index.write(folder / "index.parquet")
    record = {
        "dataset": plan.dataset.name,
        "licence": plan.dataset.licence,
        "selection": selection.words(),
        "options": dict(options),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "sites": len(index),
        "files": len(plan.files),
        "bytes": plan.bytes,
        "sites_left_out": len(table) - sum(whole),
    }
    write_json(folder / RECORD, record)
    return index


def _names(table: object) -> list[tuple[str, ...]]:
    import pandas as pd

    assert isinstance(table, pd.DataFrame)
    keys = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]
    return list(table[keys].itertuples(index=False, name=None))


def _write_missing(path: Path, rows: list[tuple[str, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["plate", "well", "site", "file"])
    writer.writerows(rows)
    with replacing(path) as tmp_path:
        tmp_path.write_text(text.getvalue())


def _chosen(dataset: Dataset, options: Mapping[str, str]) -> dict[str, str]:
    for name, value in options.items():
        if name not in dataset.options:
            raise InputError(f"{dataset.name} takes no --{name}; leave it out.")
        if value not in dataset.options[name]:
            raise InputError(
                f"--{name} of {dataset.name} is one of {', '.join(dataset.options[name])}, not "
                f"'{value}'."
            )
    return {name: options.get(name, values[0]) for name, values in dataset.options.items()}


@contextmanager
def _kept_or_temporary(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
