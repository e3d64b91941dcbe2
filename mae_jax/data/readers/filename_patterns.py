"""Screens that are folders of images, described by the images' file names.

Each microscope or data set has a pattern, matched against the path below the source folder:
`Pattern.expression` has named groups: `well`, or `row` (a number or letters) and `column`, or
`sample` where there are no wells; and optionally `experiment`, `plate`, `site`, `channel`, `z` and
`time`; others become metadata. Without `channel` every file holds all channels of a site, as
OME-TIFF does. `--pattern` describes other names (`mae_jax.data.readers.name_templates`).
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mae_jax.data.index import Index
from mae_jax.data.readers.file_table import index_of_files, name_channels
from mae_jax.data.readers.name_templates import compile_template, what_to_try
from mae_jax.data.readers.planes import number
from mae_jax.data.readers.registry import Reader, ReadOptions, Source
from mae_jax.data.readers.yokogawa import channel_targets
from mae_jax.data.storage import list_folder
from mae_jax.data.well_names import normalize_well_name, well_name
from mae_jax.errors import InputError, redact_credentials

__all__ = ["PATTERNS", "RXRX_CHANNELS", "Pattern", "name_channels", "read_folder"]

_GROUPS = {"experiment", "plate", "well", "row", "column", "site", "channel", "z", "time", "sample"}
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
    fields: Mapping[str, str] = field(default_factory=dict)  # of groups named otherwise
    # (folder, paths) -> the names that the instrument's own files give to the numbered channels
    channel_names: Callable[[str, Sequence[str]], Mapping[str, str]] | None = None

    def count(self, source: Source) -> float:
        """The number of a source's files that are named so."""
        return float(sum(bool(self.expression.search(path)) for path in source.files))


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
            title="a folder of ImageXpress (MetaXpress)",
        ),
        # Yokogawa CV7000, CV8000 and CQ1: Plate_B03_T0001F002L01A04Z01C05.tif
        Pattern(
            "yokogawa",
            re.compile(
                r"(?:^|/)(?:(?P<plate>[^/]+)_)?(?P<well>[A-Z]{1,2}\d{2})_T(?P<time>\d+)"
                r"F(?P<site>\d+)L\d+A\d+Z(?P<z>\d+)C(?P<channel>\d+)\.(?:tiff?|png)$",
                re.IGNORECASE,
            ),
            title="a folder of Yokogawa CV7000 or CV8000",
            channel_names=channel_targets,
        ),
        # CellProfiler's SBS example: Channel2-01-A-01.tif (channel, number of the image, row,
        # column)
        Pattern(
            "sbs",
            re.compile(
                r"(?:^|/)Channel(?P<channel>\d+)-\d+-(?P<row>[A-P]|A[A-F])-(?P<column>\d{2})"
                + _SUFFIX,
                re.IGNORECASE,
            ),
            title="names as in CellProfiler's SBS example, such as Channel2-01-A-01.tif",
        ),
        # BioTek Cytation (Gen5): B2_01_1_3_DAPI_001.tif (well, read, channel's number, field, time)
        Pattern(
            "cytation",
            re.compile(
                r"(?:^|/)(?P<well>(?:[A-P]|A[A-F])\d{1,2})_\d{2}_\d{1,2}(?:Z(?P<z>\d+))?_"
                r"(?P<site>\d+)_(?P<channel>[^/_]+)_(?P<time>\d{3})\.tiff?$",
                re.IGNORECASE,
            ),
            title="a folder of BioTek Cytation (Gen5)",
        ),
        # GE IN Cell: B - 02(fld 3 wv DAPI - DAPI z 1).tif
        Pattern(
            "incell",
            re.compile(
                r"(?:^|/)(?P<row>[A-P]|A[A-F]) - (?P<column>\d{1,2})\(fld (?P<site>\d+)"
                r" wv (?P<channel>[^/)]+?)(?: - [^/)]*?)?(?: z (?P<z>\d+))?"
                r"(?: time (?P<time>\d+)[^/)]*)?\)\.tiff?$",
                re.IGNORECASE,
            ),
            title="a folder of GE IN Cell",
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
      plane, time: the z-plane and time point to take, where there are several (from 0 inside a
        file); as plane also 'max' or 'mean', for a projection made while reading, and
        'projection', for files without a z beside those of the planes. Where a projection of
        every image is there, projections are the default.
      images: paths below `root`; None to list the folder.

    Raises:
      InputError: nothing matches, several planes or times and none chosen, two files for one
        channel of a site, or names that do not fit the channels.
    """
    paths = list(list_folder(root) if images is None else images)
    rows = []
    for path in paths:
        match = pattern.expression.search(path)
        if match:
            rows.append({"path": path, **_named(match, path, root, pattern.fields)})
    if not rows:
        if pattern.name != "pattern":
            raise InputError(
                f"no file in {redact_credentials(root)} is named as {pattern.name} names its "
                f"images; choose another format ({', '.join(PATTERNS)}) or --pattern."
            )
        raise InputError(f"no file fits --pattern: {what_to_try(redact_credentials(root), paths)}")
    _tell_plates_apart(rows, root)
    groups = {pattern.fields.get(group, group) for group in pattern.expression.groupindex}
    names: Mapping[str, str] | None = None
    if not channel_names and pattern.channel_names is not None:
        names = pattern.channel_names(root, paths)
    return index_of_files(
        rows,
        root,
        stacks="channel" not in groups,
        channel_names=channel_names,
        default_names=names or pattern.channels,
        metadata_value={"Metadata_Source": pattern.source, **(metadata_value or {})},
        plane=plane,
        time=time,
    )


def _tell_plates_apart(rows: list[dict[str, str]], root: str) -> None:
    """Names plates by their folders where the file names give several of them one name.

    Some instruments write the type of the plate, not its barcode, into the file names.
    """
    first: dict[tuple[str, ...], str] = {}
    for row in rows:
        key = tuple(row[f] for f in ("experiment", "plate", "well", "site", "channel", "z", "time"))
        folder = row["path"].rpartition("/")[0]
        if first.setdefault(key, folder) != folder:
            break
    else:
        return
    for row in rows:
        row["plate"] = _folder_plate(row["path"], root)


def _named(match: re.Match[str], path: str, root: str, fields: Mapping[str, str]) -> dict[str, str]:
    groups = {fields.get(key, key): value or "" for key, value in match.groupdict().items()}
    sample = groups.get("sample", "")
    try:
        if sample and not groups.get("well"):
            well = sample
        elif "well" in groups:
            well = normalize_well_name(groups["well"])
        elif groups["row"].isdecimal() and groups["column"].isdecimal():
            well = well_name(int(groups["row"]), int(groups["column"]))
        else:
            well = normalize_well_name(groups["row"] + groups["column"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return {
        "experiment": groups.get("experiment", ""),
        "plate": groups.get("plate") or _folder_plate(path[: match.start() + 1], root),
        "well": well,
        "site": str(number(groups.get("site") or "1")),
        "channel": groups.get("channel", ""),
        "z": groups.get("z", ""),
        "time": groups.get("time", ""),
        **({"Sample": sample} if sample else {}),
        **{key: value for key, value in groups.items() if key not in _GROUPS},
    }


def _folder_plate(path: str, root: str) -> str:
    """The plate by the nearest folder before what is matched, without a measurement's date.

    'Images', 'TimePoint_1' and 'ZStep_2' name none.
    """
    folders = [*os.path.abspath(root).split(os.sep), *path.split("/")[:-1]]
    plates = (name for name in reversed(folders) if not _NO_PLATE.fullmatch(name))
    return next(plates, "").split("__")[0]


def _own_pattern(text: str) -> Pattern:
    template = compile_template(text)
    return Pattern("pattern", template.expression, fields=template.fields)


def _reader(pattern: Pattern) -> Reader:
    """The reader of the folders whose files `pattern` matches."""

    def read(path: str, options: ReadOptions) -> Index:
        return _read(path, pattern, options)

    takes = ("channel_names", "plane", "time")
    return Reader(pattern.name, pattern.title, read, pattern.count, takes)


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
        raise InputError("the format 'pattern' needs a pattern of names; give it with --pattern.")
    return _read(path, _own_pattern(options.pattern), options)


READERS = (
    *(_reader(pattern) for pattern in PATTERNS.values() if pattern.name != "harmony"),
    Reader(
        "pattern",
        "a folder whose file names --pattern describes",
        _read_own,
        takes=("channel_names", "plane", "time", "pattern"),
    ),
)
