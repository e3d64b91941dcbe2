"""Opens every image of an index and says all that is wrong at once, one sentence each."""

import csv
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mae_jax.data.image_uri import ImageURI
from mae_jax.data.images import read_planes
from mae_jax.data.index import SITE, WELL, Index
from mae_jax.errors import InputError
from mae_jax.files import replacing

SATURATED = 0.001  # share of pixels at the type's maximum that is worth a note
_FIELDS = ("level", "kind", "plate", "well", "site", "channel", "file", "says")


@dataclass(frozen=True)
class Finding:
    """One thing found: a 'problem' to mend, or a 'note' to know."""

    level: str
    kind: str
    says: str
    plate: str = ""
    well: str = ""
    site: str = ""
    channel: str = ""
    file: str = ""


@dataclass(frozen=True)
class Plane:
    """What was measured of one image."""

    row: int
    channel: str
    file: str
    shape: tuple[int, int] = (0, 0)
    dtype: str = ""
    low: float = 0.0
    median: float = 0.0
    high: float = 0.0
    saturated: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Report:
    """All findings, and the measurements by channel."""

    findings: tuple[Finding, ...]
    channels: pd.DataFrame

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that are problems."""
        return tuple(f for f in self.findings if f.level == "problem")

    def write_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes the findings as CSV, one row each."""
        with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(_FIELDS)
            writer.writerows([getattr(f, name) for name in _FIELDS] for f in self.findings)
        return Path(path)


def check(index: Index, *, threads: int = 8, progress: bool = False) -> Report:
    """Reads all images of the index and looks for everything that would trouble a later step.

    Problems: missing, truncated or undecodable images; planes of unlike sizes or types within a
    site; unlike sizes within a well; a channel that a plate lacks though other plates of its
    source have it; a site listed twice, one image given to two sites, or a well with two
    perturbations; an experiment on both sides of the split; no negative controls.
    Notes: images with more than 0.1 % saturated pixels, unlike sizes or types between wells, and
    channels that only some of the sources have.
    """
    planes = list(_measured(index, threads, progress))
    findings = [
        *_unreadable(index, planes),
        *_unlike_sizes(index, planes),
        *_lacking_channels(index),
        *_duplicates(index),
        *_contradictions(index),
        *_leaks(index),
        *_controls(index),
        *_saturation(index, planes),
    ]
    return Report(tuple(findings), _by_channel(planes))


def _measured(index: Index, threads: int, progress: bool) -> Iterator[Plane]:
    from tqdm import tqdm

    def measure(row: int) -> list[Plane]:
        names = index.sites[row][0]
        places = index.image_uris(row)
        return [_measure(row, c, place) for c, place in zip(names, places, strict=True)]

    with ThreadPoolExecutor(threads) as pool:
        done = pool.map(measure, range(len(index)))
        shown = tqdm(done, "checking sites", len(index), unit="site", disable=not progress)
        for planes in shown:
            yield from planes


def _measure(row: int, channel: str, place: ImageURI) -> Plane:
    try:
        plane = read_planes([place])[0]
    except InputError as problem:
        return Plane(row, channel, str(place), error=str(problem))
    top = np.iinfo(plane.dtype).max if plane.dtype.kind in "iu" else np.inf
    height, width = plane.shape
    return Plane(
        row,
        channel,
        str(place),
        (height, width),
        str(plane.dtype),
        float(plane.min()),
        float(np.median(plane)),
        float(plane.max()),
        float(np.mean(plane == top)),
    )


def _finding(index: Index, level: str, kind: str, row: int, says: str, **more: str) -> Finding:
    site = index.table.iloc[row]
    return Finding(
        level,
        kind,
        says,
        site["Metadata_Plate"],
        site["Metadata_Well"],
        site["Metadata_Site"],
        **more,
    )


def _unreadable(index: Index, planes: Iterable[Plane]) -> Iterator[Finding]:
    for plane in planes:
        if plane.error:
            missing = plane.error.endswith("does not exist.")
            kind = "missing file" if missing else "broken file"
            says = f"{index.describe(plane.row)}, channel {plane.channel}: {plane.error}"
            yield _finding(
                index, "problem", kind, plane.row, says, channel=plane.channel, file=plane.file
            )


def _unlike_sizes(index: Index, planes: Iterable[Plane]) -> Iterator[Finding]:
    readable = [p for p in planes if not p.error]
    sites: dict[int, list[Plane]] = {}
    for plane in readable:
        sites.setdefault(plane.row, []).append(plane)
    for row, of_site in sites.items():
        kinds: dict[tuple[object, str], Plane] = {}
        for plane in of_site:
            kinds.setdefault((plane.shape, plane.dtype), plane)
        if len(kinds) > 1:
            named = " but ".join(f"{p.channel} is {_size(p)}" for p in kinds.values())
            says = f"{index.describe(row)} has channels of unlike sizes or types: {named}."
            yield _finding(index, "problem", "unlike sizes", row, says, file=of_site[0].file)
    keys = index.table[list(WELL)].agg(tuple, axis=1)
    wells: dict[tuple[str, ...], dict[tuple[int, int], int]] = {}
    for row, of_site in sites.items():
        wells.setdefault(keys[row], {}).setdefault(of_site[0].shape, row)
    for name, shapes in wells.items():
        if len(shapes) > 1:
            sizes = " and ".join(f"{h} × {w}" for h, w in shapes)
            says = f"plate {name[2]}, well {name[3]} has sites of unlike sizes: {sizes} pixels."
            yield _finding(index, "problem", "unlike sizes", next(iter(shapes.values())), says)
    overall: dict[str, list[int]] = {}
    for row, of_site in sites.items():
        overall.setdefault(_size(of_site[0]), []).append(row)
    if len(overall) > 1:
        usual = max(overall, key=lambda size: len(overall[size]))
        for size, rows in overall.items():
            if size != usual:
                says = (
                    f"{len(rows)} sites, the first on {index.describe(rows[0])}, are {size} "
                    f"where the others are {usual}."
                )
                yield _finding(index, "problem", "unlike sizes", rows[0], says)


def _size(plane: Plane) -> str:
    return f"{plane.shape[0]} × {plane.shape[1]} {plane.dtype}"


def _lacking_channels(index: Index) -> Iterator[Finding]:
    table = index.table
    plates: dict[tuple[str, str, str], set[str]] = {}
    first: dict[tuple[str, str, str], int] = {}
    keys = table[["Metadata_Source", "Metadata_Experiment", "Metadata_Plate"]].agg(tuple, axis=1)
    for row, key in enumerate(keys):
        plates.setdefault(key, set()).update(index.sites[row][0])
        first.setdefault(key, row)
    sources: dict[str, set[str]] = {}
    for (source, _, _), names in plates.items():
        sources.setdefault(source, set()).update(names)
    for key, names in plates.items():
        for channel in index.channels:
            if channel in sources[key[0]] and channel not in names:
                says = f"plate {key[2]} lacks the channel {channel}, which other plates have."
                yield _finding(
                    index, "problem", "lacking channel", first[key], says, channel=channel
                )
    for row, key in enumerate(keys):
        for channel in index.channels:
            if channel in plates[key] and channel not in index.sites[row][0]:
                says = f"{index.describe(row)} lacks the channel {channel}, which its plate has."
                yield _finding(index, "problem", "lacking channel", row, says, channel=channel)
    for source, names in sources.items():
        lacking = [channel for channel in index.channels if channel not in names]
        if lacking:
            says = f"source '{source}' has no channel {', '.join(lacking)}; other sources do."
            yield Finding("note", "lacking channel", says)


def _duplicates(index: Index) -> Iterator[Finding]:
    table = index.table
    for row in np.flatnonzero(table.duplicated(list(SITE))).tolist():
        says = f"{index.describe(row)} is listed more than once."
        yield _finding(index, "problem", "duplicate", row, says)
    seen: dict[str, int] = {}
    wells = table[list(SITE)].agg(tuple, axis=1)
    for place, (_, images) in enumerate(index.sites):
        for image in images:
            other = seen.setdefault(image, place)
            if wells[other] != wells[place]:
                same = f"{index.describe(place)} has the same image as {index.describe(other)}"
                yield _finding(
                    index, "problem", "duplicate", place, f"{same}: {image}.", file=image
                )
                break


def _contradictions(index: Index) -> Iterator[Finding]:
    """Wells whose sites disagree on what was done to them: two wells under one name."""
    table = index.table
    for column in ("Metadata_Perturbation", "Metadata_Gene", "Metadata_ControlType"):
        pairs = table[[*WELL, column]].drop_duplicates()
        for row in pairs.index[pairs.duplicated(list(WELL))]:
            here = (table[list(WELL)] == table.loc[row, list(WELL)]).all(axis=1)
            values = ", ".join(f"'{value}'" for value in table.loc[here, column].unique())
            name = (
                f"plate {table.loc[row, 'Metadata_Plate']}, well {table.loc[row, 'Metadata_Well']}"
            )
            says = f"{name} has more than one {column[9:].lower()} ({values})."
            yield _finding(index, "problem", "duplicate", int(row), says)


def _leaks(index: Index) -> Iterator[Finding]:
    """Experiments split between training and validation, which then share their batch effects."""
    table = index.table
    if table["Metadata_Experiment"].nunique() < 2:  # plates of a lone experiment may be held out
        return
    for name, splits in table.groupby("Metadata_Experiment", sort=False)["Metadata_Split"]:
        found = sorted(splits.unique())
        if len(found) > 1:
            says = (
                f"experiment {name} is in {' and in '.join(found)}: validation would see its batch "
                "effects in training; split by experiment with --validation."
            )
            yield Finding("problem", "leaking split", says)


def _controls(index: Index) -> Iterator[Finding]:
    kinds = index.table["Metadata_ControlType"]
    if not (kinds == "negcon").any():
        yield Finding(
            "problem",
            "no controls",
            "no well is a negative control (Metadata_ControlType = negcon), which batch correction "
            "needs; name the controls in the metadata.",
        )
        return
    for plate, of_plate in kinds.groupby(index.table["Metadata_Plate"], sort=False):
        if not (of_plate == "negcon").any():
            says = f"plate {plate} has no negative controls; other plates do."
            yield Finding("note", "no controls", says, plate=str(plate))


def _saturation(index: Index, planes: Iterable[Plane]) -> Iterator[Finding]:
    for plane in planes:
        if plane.saturated > SATURATED:
            says = (
                f"{index.describe(plane.row)}, channel {plane.channel}: "
                f"{plane.saturated:.2%} of the pixels are saturated."
            )
            yield _finding(
                index, "note", "saturated", plane.row, says, channel=plane.channel, file=plane.file
            )


def _by_channel(planes: Iterable[Plane]) -> pd.DataFrame:
    rows = []
    by_name: dict[str, list[Plane]] = {}
    for plane in planes:
        by_name.setdefault(plane.channel, []).append(plane)
    for name, found in by_name.items():
        good = [p for p in found if not p.error]
        rows.append(
            {
                "channel": name,
                "images": len(found),
                "unreadable": len(found) - len(good),
                "sizes": ", ".join(sorted({f"{p.shape[0]}×{p.shape[1]}" for p in good})),
                "types": ", ".join(sorted({p.dtype for p in good})),
                "lowest": min((p.low for p in good), default=np.nan),
                "median": float(np.median([p.median for p in good])) if good else np.nan,
                "highest": max((p.high for p in good), default=np.nan),
                "saturated": float(np.mean([p.saturated for p in good])) if good else np.nan,
            }
        )
    return pd.DataFrame(rows)
