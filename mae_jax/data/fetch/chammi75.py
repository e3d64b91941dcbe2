"""CHAMMI-75: single-channel PNGs of many studies; a field of view takes the well's place."""

import posixpath

import pandas as pd

from mae_jax.data.fetch.endpoints import address
from mae_jax.data.fetch.plan import FILES, SitePlan, Workspace, columns_of, read_strings
from mae_jax.data.fetch.selection import Selection
from mae_jax.data.fetch.transfer import RemoteFile
from mae_jax.errors import InputError

SUBSETS = ("small", "train")
_FIELD, _PATH = "imaging.multi_channel_id", "storage.path"
# Names that the columns of studies, plates and channels have had; the first that is there counts.
_STUDY = ("experiment.study", "experiment.id", "experiment.name")
_PLATE = ("experiment.plate", "experiment.plate_id")
_CHANNEL = ("imaging.channel_type", "imaging.channel", "imaging.channel_name")


def plan_chammi75(workspace: Workspace, selection: Selection) -> SitePlan:
    """CHAMMI-75: its table of images, grouped by field of view.

    Raises:
      InputError: the table lacks the columns of paths or fields of view.
    """
    name = f"CHAMMI-75_{workspace.options['subset']}_metadata.csv"
    table = read_strings(workspace.table(address("chammi", f"CHAMMI-75/{name}"), name))
    for column in (_FIELD, _PATH):
        if column not in table:
            raise InputError(f"{name} has no column {column}; the data set has changed its form.")
    study = _first(table, _STUDY, "chammi-75")
    plate = _first(table, _PLATE, "1")
    channel = _first(table, _CHANNEL, "")
    of_experiment = columns_of(table, "experiment.")
    rows = []
    for field, group in table.groupby(_FIELD, sort=False):
        first = group.index[0]
        names = [channel[i] or f"channel_{n + 1}" for n, i in enumerate(group.index)]
        if len(set(names)) < len(names):  # a stain imaged twice
            names = [f"{name}_{n + 1}" for n, name in enumerate(names)]
        paths = [path.partition("/")[2] for path in group[_PATH]]
        files = [
            RemoteFile(
                address("chammi", f"CHAMMI-75/CHAMMI-75_train/{path}"),
                f"images/{path}",
                optional=True,
            )
            for path in paths
        ]
        rows.append(
            {
                "Metadata_Source": study[first],
                "Metadata_Batch": study[first],
                "Metadata_Plate": plate[first],
                "Metadata_Well": str(field),
                "Metadata_Sample": str(field),
                "Metadata_Site": "1",
                **{f"Metadata_{c}": group[c][first] for c in of_experiment},
                "Channels": names,
                "Images": [file.path for file in files],
                FILES: files,
            }
        )
    sites = selection.apply(pd.DataFrame(rows))
    guide = posixpath.join("CHAMMI-75", "README.md")
    readme = RemoteFile(address("chammi", guide), "README.md", optional=True)
    return SitePlan(sites.reset_index(drop=True), (readme,))


def _first(table: pd.DataFrame, names: tuple[str, ...], otherwise: str) -> "pd.Series[str]":
    for name in names:
        if name in table:
            return table[name].where(table[name] != "", otherwise)
    return pd.Series(otherwise, index=table.index)
