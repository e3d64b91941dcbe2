"""From a list of image files with their metadata to an index: planes, channels and sites."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
from tqdm import tqdm

from mae_jax.data import metadata
from mae_jax.data.image_uri import resolve
from mae_jax.data.index import Index
from mae_jax.data.readers.file_axes import FileAxes, choose_planes, read_axes, with_fragment
from mae_jax.data.readers.planes import choose, choose_plane, number
from mae_jax.errors import InputError, redact_credentials

SITE_FIELDS = ("experiment", "plate", "well", "site")
FIELDS = (*SITE_FIELDS, "channel", "z", "time")
_HEADERS_AT_ONCE = 16
_MANY = 1000  # files whose headers are read with a progress bar


def index_of_files(
    rows: Sequence[Mapping[str, Any]],
    root: str,
    *,
    stacks: bool = False,
    whole: bool = False,
    channel_names: Sequence[str] = (),
    default_names: Mapping[str, str] | Sequence[str] = (),
    metadata_value: Mapping[str, str] | None = None,
    plane: int | str | None = None,
    time: int | None = None,
) -> Index:
    """The index of some image files.

    Args:
      rows: one per file: its `path` below the root, the texts of `FIELDS` ("" where there is none),
        and further metadata, named without `Metadata_`.
      root: the folder or URL.
      stacks: every file holds all channels of its site.
      whole: the paths are URIs of single planes already.
      channel_names: names of the channels, as `name_channels` takes them.
      default_names: names by number that the source itself gives, or all of them in order, which
        are taken where their number is right.
      metadata_value: metadata columns set to one value for all rows.
      plane, time: the z-plane and time point to take; see `read_folder`.

    Raises:
      InputError: several planes or times and none chosen, two files for one channel of a site, or
        names that do not fit the channels.
    """
    table = pd.DataFrame(rows)
    # The folder belongs to a site's identity where no plate is named by the file names.
    keys = list(SITE_FIELDS)
    table = choose_plane(table, [*keys, "time", "channel"], plane, root)
    if (table["time"] != "").any():
        table = choose(table, "time", time, "--time", root)
        time = None
    if (table["z"] != "").any():
        plane = None
    if not whole:
        table = (_unstacked if stacks else _selected)(table, plane, time, root)
    numbers = _ordered(table["channel"])
    if not channel_names:
        if isinstance(default_names, Mapping):
            channel_names = [f"{n}={default_names[n]}" for n in numbers if n in default_names]
        elif len(numbers) == len(default_names):
            channel_names = default_names
    names = name_channels(numbers, channel_names)
    table["channel"] = table["channel"].map(names)
    order = {name: position for position, name in enumerate(names.values())}
    for column, value in (metadata_value or {}).items():
        name = column.removeprefix("Metadata_").lower()
        if name in keys:
            table[name] = value
    duplicates = table[table.duplicated([*keys, "channel"])]
    if len(duplicates):
        first = duplicates.iloc[0]
        same = table[(table[[*keys, "channel"]] == first[[*keys, "channel"]]).all(axis=1)]
        raise InputError(
            f"{redact_credentials(root)} has two images of channel {first['channel']} of plate "
            f"{first['plate']}, well {first['well']}, site {first['site']}: "
            f"{' and '.join(same['path'][:2])}."
        )
    table = table.assign(order=table["channel"].map(order)).sort_values([*keys, "order"])
    known = {"path", "channel", "z", "time", "order", *keys}
    others = {c: (c, "first") for c in table.columns if c not in known}
    sites = table.groupby(keys, sort=False, as_index=False).agg(
        Channels=("channel", list), Images=("path", list), **others
    )
    sites = sites.rename(columns={c: f"Metadata_{c}" for c in others})
    sites = sites.rename(columns={key: f"Metadata_{key.capitalize()}" for key in keys})
    return Index(metadata.complete(sites, root, metadata_value), root)


def _selected(
    table: pd.DataFrame, plane: int | str | None, time: int | None, root: str
) -> pd.DataFrame:
    """Files of one channel each, with the z-plane and time chosen where files hold several."""
    path = table["path"].iloc[0].partition("#")[0]
    try:
        axes = read_axes(root, path)  # of one file, since all are alike
    except InputError:
        return table  # the check of the index lists it
    planes = choose_planes(axes, redact_credentials(resolve(root, path)), plane, time)
    if len(planes) == 1 and planes[0].fragment and axes.key != "channel":
        return table.assign(path=[with_fragment(p, planes[0].fragment) for p in table["path"]])
    if len(planes) > 1 and axes.pages:
        raise InputError(
            f"{redact_credentials(resolve(root, path))} holds {len(planes)} planes; choose one "
            "with --plane (from 0), or --plane max or mean to project them."
        )
    return table


def _unstacked(
    table: pd.DataFrame, plane: int | str | None, time: int | None, root: str
) -> pd.DataFrame:
    """One row per channel of each file."""
    paths = table["path"].tolist()
    rows = []
    for row, path, axes in zip(table.to_dict("records"), paths, axes_of(root, paths), strict=True):
        name = redact_credentials(resolve(root, path))
        for channel in choose_planes(axes, name, plane, time):
            uri = with_fragment(path, channel.fragment)
            rows.append({**row, "path": uri, "channel": channel.channel or "1"})
    return pd.DataFrame(rows)


def axes_of(root: str, paths: Sequence[str]) -> list[FileAxes]:
    """The axes of some files; a damaged one is taken to be like the first that is not.

    So it stands in the index, whose check lists all damaged files at once.

    Raises:
      InputError: none of the files can be read.
    """

    def attempt(path: str) -> FileAxes | InputError:
        try:
            return read_axes(root, path)
        except InputError as error:
            return error

    with ThreadPoolExecutor(_HEADERS_AT_ONCE) as pool:
        results = tqdm(
            pool.map(attempt, paths), "reading headers", len(paths), unit="file",
            disable=None if len(paths) > _MANY else True,
        )  # fmt: skip
        axes = list(results)
    usual = next((one for one in axes if isinstance(one, FileAxes)), None)
    if usual is None:
        assert isinstance(axes[0], InputError)
        raise axes[0]
    return [one if isinstance(one, FileAxes) else usual for one in axes]


def name_channels(numbers: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The name of each channel, by its number in the file names.

    Raises:
      InputError: too few or too many names, or a name for a channel that does not exist.
    """
    if not names:
        return {c: f"Ch{int(c)}" if c.isdecimal() else c for c in numbers}
    if all("=" in name for name in names):
        given = dict(name.split("=", 1) for name in names)
        known = {str(number(c)): c for c in numbers}
        given = {str(number(c)): name for c, name in given.items()}
        for channel in given:
            if channel not in known:
                raise InputError(
                    f"there is no channel {channel} to name {given[channel]}; "
                    f"the files have {', '.join(known)}."
                )
        default = {c: f"Ch{int(c)}" if c.isdecimal() else c for c in numbers}
        return {c: given.get(str(number(c)), default[c]) for c in numbers}
    if len(names) != len(numbers):
        raise InputError(
            f"{len(names)} channel names ({', '.join(names)}) for {len(numbers)} channels "
            f"({', '.join(numbers)}); give one each."
        )
    return dict(zip(numbers, names, strict=True))


def _ordered(channels: pd.Series) -> list[str]:
    """Numbered channels by number; named ones in the order in which the files hold them."""
    names = list(dict.fromkeys(channels))
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names
