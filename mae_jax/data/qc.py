"""Quality control: opens every image of an index and lists all findings, one sentence each."""

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mae_jax.data import qc_sites
from mae_jax.data.index import SITE, WELL, Index
from mae_jax.data.qc_planes import Plane, measure_planes
from mae_jax.files import replacing, writable

SATURATED = 0.001  # share of pixels at the type's maximum that is worth a note
_FIELDS = ("level", "category", "plate", "well", "site", "channel", "file", "message")


@dataclass(frozen=True)
class Finding:
    """One finding: an 'error' to mend, or a 'warning' to know."""

    level: str
    category: str
    message: str
    plate: str = ""
    well: str = ""
    site: str = ""
    channel: str = ""
    file: str = ""


@dataclass(frozen=True)
class Report:
    """All findings, and the measurements by channel and by site."""

    findings: tuple[Finding, ...]
    channels: pd.DataFrame
    sites: pd.DataFrame

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(f for f in self.findings if f.level == "error")

    def write_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes the findings as CSV, one row each."""
        with (
            writable(path),
            replacing(path) as tmp_path,
            tmp_path.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(_FIELDS)
            writer.writerows([getattr(f, name) for name in _FIELDS] for f in self.findings)
        return Path(path)

    def write_sites_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes the quality of every site as CSV (`mae_jax.data.qc_sites.site_table`)."""
        with writable(path), replacing(path) as tmp_path:
            self.sites.to_csv(tmp_path, index=False, float_format="%.6g")
        return Path(path)


def check_index(index: Index, *, threads: int = 8, progress: bool = False) -> Report:
    """Reads all images of the index and looks for everything that would trouble a later step.

    Errors: missing, truncated or undecodable images; planes of different sizes or types within a
    site; different sizes within a well; a channel that a plate lacks though other plates of its
    source have it; a site listed twice, one image given to two sites, or a well with two
    perturbations; an experiment on both sides of the split; values that are not finite; integers of
    32 bits or more, whose type tells no scale; images out of reach.
    Warnings: images with more than 0.1 % saturated pixels, plates without negative controls,
    channels that only some of the sources have, fields that look empty, images out of focus, and
    edge wells that differ from the others of their plate.
    """
    planes = measure_planes(index, threads, progress)
    good = [p for p in planes if p.quality is not None]
    sites = qc_sites.site_table(
        index, [qc_sites.Measured(p.row, p.channel, p.quality, p.nuclei) for p in good if p.quality]
    )
    findings = [
        *_unreadable(index, planes),
        *_bad_values(index, planes),
        *_different_sizes(index, planes),
        *_lacking_channels(index),
        *_duplicates(index),
        *_contradictions(index),
        *_leaks(index),
        *_controls(index),
        *_saturation(index, planes),
        *(
            _finding(index, "warning", note.category, note.row, note.message, channel=note.channel)
            for note in qc_sites.notes(index, sites)
        ),
    ]
    return Report(tuple(findings), _by_channel(planes), sites)


def _finding(
    index: Index, level: str, category: str, row: int, message: str, **more: str
) -> Finding:
    site = index.table.iloc[row]
    return Finding(
        level,
        category,
        message,
        site["Metadata_Plate"],
        site["Metadata_Well"],
        site["Metadata_Site"],
        **more,
    )


def _unreadable(index: Index, planes: Iterable[Plane]) -> Iterator[Finding]:
    for plane in planes:
        if plane.error:
            category = "broken file"
            if plane.error.endswith("does not exist."):
                category = "missing file"
            elif "out of reach" in plane.error:
                category = "out of reach"
            message = f"{index.describe(plane.row)}, channel {plane.channel}: {plane.error}"
            yield _finding(
                index, "error", category, plane.row, message, channel=plane.channel, file=plane.file
            )


def _bad_values(index: Index, planes: Iterable[Plane]) -> Iterator[Finding]:
    """Values that are not finite, and integers whose type tells no scale."""
    wide: dict[tuple[str, str], list[Plane]] = {}
    for plane in planes:
        if plane.error:
            continue
        if not plane.finite:
            message = (
                f"{index.describe(plane.row)}, channel {plane.channel}: it has values that are NaN "
                "or infinite; write it anew without them."
            )
            yield _finding(
                index, "error", "not finite", plane.row, message,
                channel=plane.channel, file=plane.file,
            )  # fmt: skip
        dtype = np.dtype(plane.dtype)
        if dtype.kind in "iu" and dtype.itemsize > 2:
            wide.setdefault((plane.channel, plane.dtype), []).append(plane)
    for (channel, dtype_name), of_channel in wide.items():
        low, high = min(p.low for p in of_channel), max(p.high for p in of_channel)
        message = (
            f"channel {channel}: {len(of_channel)} images are {dtype_name} with values from "
            f"{low:.0f} to {high:.0f}, and that type tells no scale; convert them to 16 bits, or "
            "to 8 with `mae-jax pack --uint8`."
        )
        yield _finding(
            index, "error", "no scale", of_channel[0].row, message,
            channel=channel, file=of_channel[0].file,
        )  # fmt: skip


def _different_sizes(index: Index, planes: Iterable[Plane]) -> Iterator[Finding]:
    readable = [p for p in planes if not p.error]
    sites: dict[int, list[Plane]] = {}
    for plane in readable:
        sites.setdefault(plane.row, []).append(plane)
    for row, of_site in sites.items():
        sizes: dict[tuple[object, str], Plane] = {}
        for plane in of_site:
            sizes.setdefault((plane.shape, plane.dtype), plane)
        if len(sizes) > 1:
            named = " but ".join(f"{p.channel} is {_size(p)}" for p in sizes.values())
            message = f"{index.describe(row)} has channels of different sizes or types: {named}."
            yield _finding(index, "error", "different sizes", row, message, file=of_site[0].file)
    keys = index.table[list(WELL)].agg(tuple, axis=1)
    wells: dict[tuple[str, ...], dict[tuple[int, int], int]] = {}
    for row, of_site in sites.items():
        wells.setdefault(keys[row], {}).setdefault(of_site[0].shape, row)
    for name, shapes in wells.items():
        if len(shapes) > 1:
            listed = " and ".join(f"{h} × {w}" for h, w in shapes)
            message = (
                f"plate {name[2]}, well {name[3]} has sites of different sizes: {listed} pixels."
            )
            yield _finding(index, "error", "different sizes", next(iter(shapes.values())), message)
    overall: dict[str, list[int]] = {}
    for row, of_site in sites.items():
        overall.setdefault(_size(of_site[0]), []).append(row)
    if len(overall) > 1:
        usual = max(overall, key=lambda size: len(overall[size]))
        for size, rows in overall.items():
            if size != usual:
                message = (
                    f"{len(rows)} sites, the first on {index.describe(rows[0])}, are {size} "
                    f"where the others are {usual}."
                )
                yield _finding(index, "error", "different sizes", rows[0], message)


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
                message = f"plate {key[2]} lacks the channel {channel}, which other plates have."
                yield _finding(
                    index, "error", "lacking channel", first[key], message, channel=channel
                )
    for row, key in enumerate(keys):
        for channel in index.channels:
            if channel in plates[key] and channel not in index.sites[row][0]:
                message = f"{index.describe(row)} lacks the channel {channel}, which its plate has."
                yield _finding(index, "error", "lacking channel", row, message, channel=channel)
    for source, names in sources.items():
        lacking = [channel for channel in index.channels if channel not in names]
        if lacking:
            message = f"source '{source}' has no channel {', '.join(lacking)}; other sources do."
            yield Finding("warning", "lacking channel", message)


def _duplicates(index: Index) -> Iterator[Finding]:
    table = index.table
    for row in np.flatnonzero(table.duplicated(list(SITE))).tolist():
        message = f"{index.describe(row)} is listed more than once."
        yield _finding(index, "error", "duplicate", row, message)
    seen: dict[str, int] = {}
    wells = table[list(SITE)].agg(tuple, axis=1)
    for row, (_, images) in enumerate(index.sites):
        for image in images:
            other = seen.setdefault(image, row)
            if wells[other] != wells[row]:
                same = f"{index.describe(row)} has the same image as {index.describe(other)}"
                yield _finding(index, "error", "duplicate", row, f"{same}: {image}.", file=image)
                break


def _contradictions(index: Index) -> Iterator[Finding]:
    """Wells whose sites disagree on what was done to them: two wells under one name."""
    table = index.table
    for column in ("Metadata_Perturbation", "Metadata_Gene", "Metadata_ControlType"):
        pairs = table[[*WELL, column]].drop_duplicates()
        for row in pairs.index[pairs.duplicated(list(WELL))]:
            of_well = (table[list(WELL)] == table.loc[row, list(WELL)]).all(axis=1)
            values = ", ".join(f"'{value}'" for value in table.loc[of_well, column].unique())
            name = (
                f"plate {table.loc[row, 'Metadata_Plate']}, well {table.loc[row, 'Metadata_Well']}"
            )
            message = f"{name} has more than one {column[9:].lower()} ({values})."
            yield _finding(index, "error", "duplicate", int(row), message)


def _leaks(index: Index) -> Iterator[Finding]:
    """Experiments split between training and validation, which then share their batch effects."""
    table = index.table
    if table["Metadata_Experiment"].nunique() < 2:  # plates of a lone experiment may be held out
        return
    for name, splits in table.groupby("Metadata_Experiment", sort=False)["Metadata_Split"]:
        names = sorted(splits.unique())
        if len(names) > 1:
            message = (
                f"experiment {name} is in {' and in '.join(names)}: validation would see its batch "
                "effects in training; split by experiment with --validation."
            )
            yield Finding("error", "leaking split", message)


def _controls(index: Index) -> Iterator[Finding]:
    control_types = index.table["Metadata_ControlType"]
    if not (control_types == "negcon").any():
        yield Finding(
            "warning",
            "no controls",
            "no well is a negative control (Metadata_ControlType = negcon), which batch correction "
            "needs; name the controls in the metadata.",
        )
        return
    for plate, of_plate in control_types.groupby(index.table["Metadata_Plate"], sort=False):
        if not (of_plate == "negcon").any():
            message = f"plate {plate} has no negative controls; other plates do."
            yield Finding("warning", "no controls", message, plate=str(plate))


def _saturation(index: Index, planes: Iterable[Plane]) -> Iterator[Finding]:
    for plane in planes:
        if plane.saturated > SATURATED:
            message = (
                f"{index.describe(plane.row)}, channel {plane.channel}: "
                f"{plane.saturated:.2%} of the pixels are saturated."
            )
            yield _finding(
                index,
                "warning",
                "saturated",
                plane.row,
                message,
                channel=plane.channel,
                file=plane.file,
            )


def _by_channel(planes: Iterable[Plane]) -> pd.DataFrame:
    rows = []
    by_name: dict[str, list[Plane]] = {}
    for plane in planes:
        by_name.setdefault(plane.channel, []).append(plane)
    for name, of_channel in by_name.items():
        good = [p for p in of_channel if not p.error]
        rows.append(
            {
                "channel": name,
                "images": len(of_channel),
                "unreadable": len(of_channel) - len(good),
                "sizes": ", ".join(sorted({f"{p.shape[0]}×{p.shape[1]}" for p in good})),
                "types": ", ".join(sorted({p.dtype for p in good})),
                "lowest": min((p.low for p in good), default=np.nan),
                "median": float(np.median([p.median for p in good])) if good else np.nan,
                "highest": max((p.high for p in good), default=np.nan),
                "saturated": float(np.mean([p.saturated for p in good])) if good else np.nan,
            }
        )
    return pd.DataFrame(rows)
