"""Recursion's data sets: RxRx1 in one ZIP file, RxRx3-core in Parquet tables on the hub."""

import re
import zipfile

import pandas as pd
import pyarrow.parquet as parquet

from mae_jax.data.fetch.endpoints import address
from mae_jax.data.fetch.http import buffered
from mae_jax.data.fetch.object_store import hub_file, list_hub_dataset
from mae_jax.data.fetch.plan import FILES, SitePlan, Workspace, columns_of, read_strings, records_of
from mae_jax.data.fetch.selection import Selection
from mae_jax.data.fetch.transfer import RemoteFile
from mae_jax.data.readers.filename_patterns import RXRX_CHANNELS
from mae_jax.errors import InputError

RXRX3_CORE = "recursionpharma/rxrx3-core"
_KEY = re.compile(r"^(.+)/Plate([^/]+)/([A-Z]+\d+)_s(\d+)_(\d+)")


def plan_rxrx1(workspace: Workspace, selection: Selection) -> SitePlan:
    """RxRx1: its metadata, and single images out of the ZIP file of all."""
    path = workspace.table(address("rxrx", "rxrx1/rxrx1-metadata.zip"), "rxrx1-metadata.zip")
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("metadata.csv"))
            table = pd.read_csv(archive.open(name), dtype=str, keep_default_na=False)
    except (zipfile.BadZipFile, StopIteration):
        raise InputError(f"{path} holds no metadata.csv; delete it and try again.") from None
    table = table.add_prefix("Metadata_").rename(
        columns={
            "Metadata_experiment": "Metadata_Experiment",
            "Metadata_plate": "Metadata_Plate",
            "Metadata_well": "Metadata_Well",
            "Metadata_site": "Metadata_Site",
        }
    )
    table["Metadata_Batch"] = table["Metadata_Experiment"]
    table["Metadata_Source"] = "rxrx1"
    sites = selection.apply(table).reset_index(drop=True)
    url = address("rxrx", "rxrx1/rxrx1-images.zip")

    def files(row: dict[str, str]) -> list[RemoteFile]:
        stem = (
            f"images/{row['Metadata_Experiment']}/Plate{row['Metadata_Plate']}/"
            f"{row['Metadata_Well']}_s{row['Metadata_Site']}"
        )
        paths = [f"{stem}_w{number + 1}.png" for number in range(len(RXRX_CHANNELS))]
        return [RemoteFile(url, path, member=f"rxrx1/{path}", optional=True) for path in paths]

    sites[FILES] = pd.Series([files(row) for row in records_of(sites)])
    sites["Images"] = pd.Series([[file.path for file in each] for each in sites[FILES]])
    sites["Channels"] = pd.Series([list(RXRX_CHANNELS)] * len(sites))
    return SitePlan(sites)


def plan_rxrx3_core(workspace: Workspace, selection: Selection) -> SitePlan:
    """RxRx3-core: the tables that hold the selected wells; keys are read in ranges beforehand."""
    stored = {each.key: each for each in list_hub_dataset(RXRX3_CORE)}
    metadata = "metadata_rxrx3_core.csv"
    wells = read_strings(workspace.table(hub_file(RXRX3_CORE, metadata), metadata))
    interactions = "compound_gene_interactions.csv"
    workspace.keep(address("efaar", interactions), interactions)
    wells = wells.rename(
        columns={
            "experiment_name": "Metadata_Experiment",
            "plate": "Metadata_Plate",
            "address": "Metadata_Well",
        }
    )
    wells = wells.rename(
        columns={c: f"Metadata_{c}" for c in columns_of(wells) if not c.startswith("Metadata_")}
    )
    wells["Metadata_Batch"] = wells["Metadata_Experiment"]
    wells["Metadata_Source"] = "rxrx3-core"
    wells["Metadata_Site"] = "1"
    wells = selection.apply(wells)
    names = ["Metadata_Experiment", "Metadata_Plate", "Metadata_Well"]
    wanted = set(wells[names].itertuples(index=False, name=None))
    shards = sorted(key for key in stored if key.startswith("data/") and key.endswith(".parquet"))
    images: dict[tuple[str, ...], dict[int, tuple[str, int]]] = {}
    for shard in shards:
        keys = parquet.ParquetFile(buffered(hub_file(RXRX3_CORE, shard))).read(["__key__"])
        for row, key in enumerate(keys.column(0).to_pylist()):
            match = _KEY.match(str(key))
            if match and match.groups()[:3] in wanted:
                images.setdefault(match.groups()[:3], {})[int(match[5])] = (shard, row)
        if len(images) == len(wanted) and all(
            len(each) == len(RXRX_CHANNELS) for each in images.values()
        ):
            break
    rows = []
    for well in records_of(wells):
        found = sorted(images.get(tuple(well[n] for n in names), {}).items())
        if not found:
            continue
        rows.append(
            {
                **well,
                "Channels": [RXRX_CHANNELS[number - 1] for number, _ in found],
                "Images": [f"{shard}#row={index}" for _, (shard, index) in found],
                FILES: [
                    RemoteFile(
                        hub_file(RXRX3_CORE, shard),
                        shard,
                        stored[shard].size,
                        sha256=stored[shard].sha256,
                    )
                    for shard in dict.fromkeys(shard for _, (shard, _) in found)
                ],
            }
        )
    if not rows:
        raise InputError(f"no table of {RXRX3_CORE} has images of {selection.words()}.")
    licence = RemoteFile(hub_file(RXRX3_CORE, "LICENSE"), "LICENSE", optional=True)
    return SitePlan(pd.DataFrame(rows), (licence,))
