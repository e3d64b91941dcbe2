"""Screens that are folders of images whose names say what they show.

Each microscope or data set has a pattern, matched against the path below the source folder:
`Pattern.expression` has named groups, of which `well` (or `row` and `column`) must be there, and
`experiment`, `plate`, `site`, `channel`, `z` and `time` may be; any other becomes metadata. Without
`channel` every file holds all channels of a site, as OME-TIFF does.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from xml.etree import ElementTree

import pandas as pd

from mae_jax.data import metadata
from mae_jax.data.image_uri import is_url, resolve
from mae_jax.data.index import Index
from mae_jax.data.storage import list_remote, read_bytes
from mae_jax.data.well_names import normalize_well_name, well_name
from mae_jax.errors import InputError

_GROUPS = {"experiment", "plate", "well", "row", "column", "site", "channel", "z", "time"}
_SUFFIX = r"\.(?:tiff?|png|jp2|j2k)$"


# w1 to w6: Hoechst, concanavalin A, phalloidin, SYTO 14, MitoTracker, wheat germ agglutinin.
RXRX_CHANNELS = ("DNA", "ER", "Actin", "RNA", "Mito", "Golgi")


@dataclass(frozen=True)
class Pattern:
    """How one kind of folder names its images."""

    name: str
    expression: re.Pattern[str]
    source: str = ""
    channels: tuple[str, ...] = ()  # the names of the channels, where the data set fixes them


PATTERNS = {
    pattern.name: pattern
    for pattern in (
        # Harmony/Opera Phenix: <plate>__<date>-Measurement 1/Images/r04c14f05p01-ch6sk1fk1fl1.tiff
        Pattern(
            "harmony",
            re.compile(
                r"(?:^|/)r(?P<row>\d+)c(?P<column>\d+)f(?P<site>\d+)p(?P<z>\d+)"
                r"-ch(?P<channel>\d+)sk(?P<time>\d+)fk\d+fl\d+" + _SUFFIX,
                re.IGNORECASE,
            ),
        ),
        # ImageXpress: 2023-02-21/1334/TimePoint_1/ZStep_1/Name_E07_s1_w1<GUID>.tif
        Pattern(
            "imagexpress",
            re.compile(
                r"(?:^|/)(?:(?P<plate>\d+)/)?(?:TimePoint_(?P<time>\d+)/)?(?:ZStep_(?P<z>\d+)/)?"
                r"(?P<PlateName>[^/]+)_(?P<well>[A-Z]{1,2}\d{2})(?:_s(?P<site>\d+))?_w(?P<channel>\d)"
                r"(?:[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12})?\.tiff?$",
                re.IGNORECASE,
            ),
        ),
        # RxRx1: images/HUVEC-1/Plate1/M23_s2_w3.png
        Pattern(
            "rxrx1",
            re.compile(
                r"(?:^|/)(?P<experiment>(?!gene-|compound-)[^/]+-\d+)/Plate(?P<plate>\d+)/"
                r"(?P<well>[A-Z]{1,2}\d{2})_s(?P<site>\d+)_w(?P<channel>\d+)\.png$"
            ),
            "rxrx1",
            RXRX_CHANNELS,
        ),
        # RxRx3: images/gene-001/Plate1/AA02_s1_w3.png; its excerpts also write AA02_s1_3.jp2
        Pattern(
            "rxrx3",
            re.compile(
                r"(?:^|/)(?P<experiment>(?:gene|compound)-\d+)/Plate(?P<plate>\d+)/"
                r"(?P<well>[A-Z]{1,2}\d{2})_s(?P<site>\d+)_w?(?P<channel>\d+)\.(?:png|jp2)$"
            ),
            "rxrx3",
            RXRX_CHANNELS,
        ),
        # One file with all channels per site: Plate1/B03_s2.ome.tiff, Plate1/well_B03.tif
        Pattern(
            "stacks",
            re.compile(
                r"(?:^|[/_ -])(?P<well>(?:[A-P]|A[A-F])\d{1,2})"
                r"(?:[_ -](?:s|f|site|field)?[_-]?(?P<site>\d+))?(?:\.ome)?\.tiff?$",
                re.IGNORECASE,
            ),
        ),
    )
}


def read_folder(
    root: str,
    pattern: Pattern,
    *,
    channel_names: Sequence[str] = (),
    fixed: Mapping[str, str] | None = None,
    plane: int | None = None,
    time: int | None = None,
    images: Sequence[str] | None = None,
) -> Index:
    """The index of a folder of images named by `pattern`.

    Args:
      root: the folder.
      pattern: how its files are named; files that do not match are left aside.
      channel_names: names for the numbered channels, in the order of their numbers, or as
        'number=name'; without it they are named Ch1, Ch2, ….
      fixed: metadata columns set to one value for all rows. Without a plate in the pattern the
        plate is the folder that the images lie in.
      plane, time: which z-plane and time point to take, where there are several.
      images: paths below `root`; None to list the folder.

    Raises:
      InputError: nothing matches, several planes or times and none chosen, two files for one
        channel of a site, or names that do not fit the channels.
    """
    if images is None:
        images = list_remote(root) if is_url(root) else list_files(root)
    paths = list(images)
    rows = []
    for path in paths:
        match = pattern.expression.search(path)
        if match:
            named = _named(match, path, root)
            if "channel" in pattern.expression.groupindex:
                rows.append({"path": path, **named})
            else:
                rows.extend(
                    {"path": f"{path}#channel={place}", **named, "channel": name}
                    for place, name in enumerate(_stack_channels(root, path))
                )
    if not rows:
        raise InputError(
            f"no file in {root} is named as {pattern.name} names its images; "
            f"choose another format ({', '.join(PATTERNS)})."
        )
    found = pd.DataFrame(rows)
    found = _choose(found, "z", plane, "--plane", root)
    found = _choose(found, "time", time, "--time", root)
    numbers = _ordered(found["channel"])
    if not channel_names and len(numbers) == len(pattern.channels):
        channel_names = pattern.channels
    names = name_channels(numbers, channel_names)
    found["channel"] = found["channel"].map(names)
    order = {name: place for place, name in enumerate(names.values())}
    # The folder belongs to a site's identity where no plate is named by the pattern.
    keys = ["experiment", "plate", "well", "site"]
    for column, value in (fixed or {}).items():
        name = column.removeprefix("Metadata_").lower()
        if name in keys:
            found[name] = value
    twice = found[found.duplicated([*keys, "channel"])]
    if len(twice):
        one = twice.iloc[0]
        same = found[(found[[*keys, "channel"]] == one[[*keys, "channel"]]).all(axis=1)]
        raise InputError(
            f"{root} has two images of channel {one['channel']} of plate {one['plate']}, well "
            f"{one['well']}, site {one['site']}: {' and '.join(same['path'][:2])}."
        )
    found = found.assign(place=found["channel"].map(order)).sort_values([*keys, "place"])
    known = {"path", "channel", "z", "time", "place", *keys}
    others = {c: (c, "first") for c in found.columns if c not in known}
    sites = found.groupby(keys, sort=False, as_index=False).agg(
        Channels=("channel", list), Images=("path", list), **others
    )
    sites = sites.rename(columns={c: f"Metadata_{c}" for c in others})
    sites = sites.rename(columns={key: f"Metadata_{key.capitalize()}" for key in keys})
    fixed = {"Metadata_Source": pattern.source, **(fixed or {})}
    return Index(metadata.complete(sites, root, fixed), root)


def list_files(root: str) -> list[str]:
    """Paths of all files below `root`, with '/', sorted; hidden ones left out.

    Raises:
      InputError: `root` is no folder.
    """
    if not os.path.isdir(root):
        raise InputError(f"{root} is no folder.")
    found: list[str] = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        start = "" if inside == "." else f"{inside}/"
        found.extend(start + name for name in files if not name.startswith("."))
    return sorted(found)


def name_channels(found: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """What to call each of the channels as the files number them.

    Raises:
      InputError: too few or too many names, or a name for a channel that is not there.
    """
    if not names:
        return {c: f"Ch{int(c)}" if c.isdigit() else c for c in found}
    if all("=" in name for name in names):
        given = dict(name.split("=", 1) for name in names)
        numbers = {str(_number(c)): c for c in found}
        for number in given:
            if number not in numbers:
                raise InputError(
                    f"there is no channel {number} to name {given[number]}; "
                    f"found {', '.join(numbers)}."
                )
        return {c: given.get(str(_number(c)), f"Ch{_number(c)}") for c in found}
    if len(names) != len(found):
        raise InputError(
            f"{len(names)} channel names ({', '.join(names)}) for {len(found)} channels "
            f"({', '.join(found)}); give one each."
        )
    return dict(zip(found, names, strict=True))


def _named(match: re.Match[str], path: str, root: str) -> dict[str, str]:
    groups = {key: value or "" for key, value in match.groupdict().items()}
    if "well" in groups:
        well = normalize_well_name(groups["well"])
    else:
        well = well_name(int(groups["row"]), int(groups["column"]))
    return {
        "experiment": groups.get("experiment", ""),
        "plate": groups.get("plate") or _folder_plate(path, root),
        "well": well,
        "site": str(_number(groups.get("site") or "1")),
        "channel": groups.get("channel", ""),
        "z": groups.get("z", ""),
        "time": groups.get("time", ""),
        **{key: value for key, value in groups.items() if key not in _GROUPS},
    }


def _stack_channels(root: str, path: str) -> list[str]:
    """Names of the channels in a file that holds several: OME's names, or their numbers."""
    import tifffile

    raw = read_bytes(resolve(root, path))
    try:
        with tifffile.TiffFile(BytesIO(raw)) as file:
            series = file.series[0]
            sizes = dict(zip(series.axes, series.shape, strict=True))
            described = file.ome_metadata
    except Exception as problem:  # tifffile raises many kinds for a broken file
        raise InputError(f"{resolve(root, path)} is no TIFF ({problem}).") from None
    count = int(sizes.get("C", 1))
    names = []
    if described:
        pixels = next(e for e in ElementTree.fromstring(described).iter() if _tag(e) == "Pixels")
        names = [e.get("Name") or "" for e in pixels if _tag(e) == "Channel"]
    if len(names) != count or not all(names) or len(set(names)) != count:
        return [str(number + 1) for number in range(count)]
    return names


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _folder_plate(path: str, root: str) -> str:
    """The plate by the nearest folder that is not just 'Images', without a measurement's date."""
    folders = [*os.path.abspath(root).split(os.sep), *path.split("/")[:-1]]
    folder = next(name for name in reversed(folders) if name.lower() != "images")
    return folder.split("__")[0]


def _ordered(channels: pd.Series) -> list[str]:
    """Numbered channels by number; named ones in the order in which the files hold them."""
    names = list(dict.fromkeys(channels))
    return sorted(names, key=int) if all(name.isdigit() for name in names) else names


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _choose(
    found: pd.DataFrame, column: str, wanted: int | None, option: str, root: str
) -> pd.DataFrame:
    values = sorted(found[column].unique(), key=_number)
    if wanted is not None:
        found = found[[_number(value) == wanted for value in found[column]]]
        if found.empty:
            raise InputError(f"{root} has no {column} {wanted}; it has {', '.join(values)}.")
        return found
    if len(values) > 1:
        raise InputError(
            f"{root} has several values of {column} ({', '.join(values[:5])}); "
            f"choose one with {option}."
        )
    return found
