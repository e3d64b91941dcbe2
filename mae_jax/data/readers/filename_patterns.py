"""Screens that are folders of images, described by the images' file names.

Each microscope or data set has a pattern, matched against the path below the source folder:
`Pattern.expression` has named groups: `well`, or `row` (a number or letters) and `column`; and
optionally `experiment`, `plate`, `site`, `channel`, `z` and `time`; others become metadata. Without
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
from mae_jax.data.image_uri import resolve
from mae_jax.data.index import Index
from mae_jax.data.readers.registry import Reader, ReadOptions, Source
from mae_jax.data.storage import list_folder, read_bytes, reason
from mae_jax.data.well_names import normalize_well_name, well_name
from mae_jax.errors import InputError, redact_credentials

_GROUPS = {"experiment", "plate", "well", "row", "column", "site", "channel", "z", "time"}
_MAX_CHANNELS = 1000
_NO_PLATE = re.compile(r"images|timepoint_\d+|zstep_\d+|", re.IGNORECASE)
_SUFFIX = r"\.(?:tiff?|png|jp2|j2k)$"


# w1 to w6: Hoechst, concanavalin A, phalloidin, SYTO 14, MitoTracker, wheat germ agglutinin.
RXRX_CHANNELS = ("DNA", "ER", "Actin", "RNA", "Mito", "Golgi")


@dataclass(frozen=True)
class Pattern:
    """How the images of a microscope or data set are named."""

    name: str
    expression: re.Pattern[str]
    source: str = ""
    channels: tuple[str, ...] = ()  # the names of the channels, where the data set fixes them
    title: str = ""  # for the help


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
            title="a folder of Harmony (Opera Phenix)",
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
            title="a folder of ImageXpress (MetaXpress)",
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
            title="RxRx1's images",
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
            title="RxRx3's images",
        ),
        # One file with all channels per site: Plate1/B03_s2.ome.tiff, Plate1/well_B03.tif
        Pattern(
            "stacks",
            re.compile(
                r"(?:^|[/_ -])(?P<well>(?:[A-P]|A[A-F])\d{1,2})"
                r"(?:[_ -](?:s|f|site|field)?[_-]?(?P<site>\d+))?(?:\.ome)?\.tiff?$",
                re.IGNORECASE,
            ),
            title="a folder with one TIFF per site that holds all its channels",
        ),
    )
}


def read_folder(
    root: str,
    pattern: Pattern,
    *,
    channel_names: Sequence[str] = (),
    metadata_value: Mapping[str, str] | None = None,
    plane: int | str | None = None,
    time: int | None = None,
    images: Sequence[str] | None = None,
) -> Index:
    """The index of a folder of images named by `pattern`.

    Args:
      root: the folder.
      pattern: how its files are named; files that do not match are ignored.
      channel_names: names for the numbered channels, in the order of their numbers, or as
        'number=name'; without it they are named Ch1, Ch2, ….
      metadata_value: metadata columns set to one value for all rows. Without a plate in the pattern
        the plate is the folder that the images lie in.
      plane, time: the z-plane and time point to take, where there are several; as plane also
        'projection', for files without a z beside those of the planes. Where a projection of
        every image is there, projections are the default.
      images: paths below `root`; None to list the folder.

    Raises:
      InputError: nothing matches, several planes or times and none chosen, two files for one
        channel of a site, or names that do not fit the channels.
    """
    if images is None:
        images = list_folder(root)
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
                    {"path": f"{path}#channel={number}", **named, "channel": name}
                    for number, name in enumerate(_stack_channels(root, path))
                )
    if not rows:
        raise InputError(
            f"no file in {redact_credentials(root)} is named as {pattern.name} names its images; "
            f"choose another format ({', '.join(PATTERNS)})."
        )
    table = pd.DataFrame(rows)
    # The folder belongs to a site's identity where no plate is named by the pattern.
    keys = ["experiment", "plate", "well", "site"]
    table = _choose_plane(table, [*keys, "time", "channel"], plane, root)
    table = _choose(table, "time", time, "--time", root)
    numbers = _ordered(table["channel"])
    if not channel_names and len(numbers) == len(pattern.channels):
        channel_names = pattern.channels
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
    metadata_value = {"Metadata_Source": pattern.source, **(metadata_value or {})}
    return Index(metadata.complete(sites, root, metadata_value), root)


def name_channels(numbers: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The name of each channel, by its number in the file names.

    Raises:
      InputError: too few or too many names, or a name for a channel that does not exist.
    """
    if not names:
        return {c: f"Ch{int(c)}" if c.isdecimal() else c for c in numbers}
    if all("=" in name for name in names):
        given = dict(name.split("=", 1) for name in names)
        known = {str(_number(c)): c for c in numbers}
        for number in given:
            if number not in known:
                raise InputError(
                    f"there is no channel {number} to name {given[number]}; "
                    f"the files have {', '.join(known)}."
                )
        return {c: given.get(str(_number(c)), f"Ch{_number(c)}") for c in numbers}
    if len(names) != len(numbers):
        raise InputError(
            f"{len(names)} channel names ({', '.join(names)}) for {len(numbers)} channels "
            f"({', '.join(numbers)}); give one each."
        )
    return dict(zip(numbers, names, strict=True))


def _named(match: re.Match[str], path: str, root: str) -> dict[str, str]:
    groups = {key: value or "" for key, value in match.groupdict().items()}
    try:
        if "well" in groups:
            well = normalize_well_name(groups["well"])
        elif groups["row"].isdecimal() and groups["column"].isdecimal():
            well = well_name(int(groups["row"]), int(groups["column"]))
        else:
            well = normalize_well_name(groups["row"] + groups["column"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
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
        names = []
        if described:
            elements = ElementTree.fromstring(described).iter()
            pixels = next(e for e in elements if _tag(e) == "Pixels")
            names = [e.get("Name") or "" for e in pixels if _tag(e) == "Channel"]
    except Exception as error:  # tifffile raises exceptions of many types on damaged files
        name = redact_credentials(resolve(root, path))
        raise InputError(f"{name} is no TIFF or damaged ({reason(error)}).") from None
    count = int(sizes.get("C", 1))
    if count > _MAX_CHANNELS:
        raise InputError(f"{redact_credentials(resolve(root, path))} claims {count} channels.")
    if len(names) != count or not all(names) or len(set(names)) != count:
        return [str(number + 1) for number in range(count)]
    return names


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _folder_plate(path: str, root: str) -> str:
    """The plate by the nearest folder that names one, without a measurement's date.

    'Images', 'TimePoint_1' and 'ZStep_2' name none.
    """
    folders = [*os.path.abspath(root).split(os.sep), *path.split("/")[:-1]]
    plates = (name for name in reversed(folders) if not _NO_PLATE.fullmatch(name))
    return next(plates, "").split("__")[0]


def _ordered(channels: pd.Series) -> list[str]:
    """Numbered channels by number; named ones in the order in which the files hold them."""
    names = list(dict.fromkeys(channels))
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _listed(values: pd.Series) -> list[str]:
    """The distinct values, numbers first and in their order; '' is a projection."""
    key = [(not value.isdecimal(), int(value) if value.isdecimal() else 0, value)
           for value in values.unique()]  # fmt: skip
    return [value or "projection" for _, _, value in sorted(key)]


def _choose_plane(
    table: pd.DataFrame, image: Sequence[str], plane: int | str | None, root: str
) -> pd.DataFrame:
    """One z-plane, or the projections; an image of one plane alone is taken as it is."""
    projected = table["z"] == ""
    if projected.all() or not projected.any():
        return _choose(table, "z", plane, "--plane", root)
    keys = table[list(image)].agg(tuple, axis=1)
    has_projection = keys.isin(set(keys[projected]))
    if plane == "projection" or (plane is None and has_projection.all()):
        return table[projected]
    if plane is None:
        raise InputError(
            f"{redact_credentials(root)} has several values of z "
            f"({', '.join(_listed(table['z'])[:5])}), and not every image has a projection; choose "
            "one with --plane."
        )
    in_plane = pd.Series([_number(z) == plane for z in table["z"]], index=table.index)
    if not in_plane.any():
        raise InputError(
            f"{redact_credentials(root)} has no z {plane}; it has {', '.join(_listed(table['z']))}."
        )
    # A channel of one plane is written without a z.
    single = projected & ~keys.isin(set(keys[~projected]))
    return table[in_plane | single]


def _choose(
    table: pd.DataFrame, column: str, wanted: int | str | None, option: str, root: str
) -> pd.DataFrame:
    values = _listed(table[column])
    if wanted is not None:
        table = table[[_number(value) == wanted for value in table[column]]]
        if table.empty:
            raise InputError(
                f"{redact_credentials(root)} has no {column} {wanted}; it has {', '.join(values)}."
            )
        return table
    if len(values) > 1:
        raise InputError(
            f"{redact_credentials(root)} has several values of {column} "
            f"({', '.join(values[:5])}); choose one with {option}."
        )
    return table


def _own_pattern(expression: str) -> Pattern:
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise InputError(f"--pattern is not a regular expression: {error}.") from None
    groups = compiled.groupindex
    if "well" not in groups and not {"row", "column"} <= set(groups):
        raise InputError("--pattern must name the well: (?P<well>…), or (?P<row>…)(?P<column>…).")
    return Pattern("pattern", compiled)


def _reader(pattern: Pattern) -> Reader:
    """The reader of the folders whose files `pattern` matches."""

    def matches(source: Source) -> float:
        return float(sum(bool(pattern.expression.search(path)) for path in source.files))

    def read(path: str, options: ReadOptions) -> Index:
        return _read(path, pattern, options)

    takes = ("channel_names", "plane", "time")
    return Reader(pattern.name, pattern.title, read, matches, takes)


def _read(path: str, pattern: Pattern, options: ReadOptions) -> Index:
    return read_folder(
        path,
        pattern,
        channel_names=options.channel_names,
        metadata_value=options.metadata_value,
        plane=options.plane,
        time=options.time,
    )


def _read_own(path: str, options: ReadOptions) -> Index:
    if options.pattern is None:
        raise InputError("the format 'pattern' needs a regular expression; give it with --pattern.")
    return _read(path, _own_pattern(options.pattern), options)


READERS = (
    *(_reader(pattern) for pattern in PATTERNS.values()),
    Reader(
        "pattern",
        "a folder whose file names --pattern describes",
        _read_own,
        takes=("channel_names", "plane", "time", "pattern"),
    ),
)
