"""Folders of Harmony (Opera Phenix, Operetta), by their index files or by the images' names.

`Index.idx.xml` (`Index.xml` from version 6) lists every image with its file, row, column, field,
plane, time point and channel, and names the plate and the channels.
"""

import logging
import posixpath
from collections.abc import Iterator
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

from mae_jax.data.image_uri import resolve
from mae_jax.data.index import Index
from mae_jax.data.readers.file_table import index_of_files
from mae_jax.data.readers.filename_patterns import PATTERNS, read_folder
from mae_jax.data.readers.registry import CERTAIN, Reader, ReadOptions, Source
from mae_jax.data.storage import list_folder, read_bytes
from mae_jax.data.well_names import well_name
from mae_jax.errors import InputError, redact_credentials

_NAMES = ("index.idx.xml", "index.xml", "index.ref.xml")  # the first one in a folder is taken
_ROOT = "EvaluationInputData"
_log = logging.getLogger(__name__)


def read_harmony(root: str, options: ReadOptions) -> Index:
    """The index of a folder of Harmony's, with one plate or several below it.

    Raises:
      InputError: no image of the index files is there, an index file is damaged, or several planes
        or time points and none chosen.
    """
    paths = list_folder(root)
    index_files = find_index_files(paths)
    if not index_files:
        return read_folder(
            root,
            PATTERNS["harmony"],
            channel_names=options.channel_names,
            metadata_value=options.metadata_value,
            plane=options.plane,
            time=options.time,
            images=paths,
        )
    known = set(paths)
    rows: list[dict[str, Any]] = []
    lacking: list[str] = []
    for index_file in index_files:
        folder = posixpath.dirname(index_file)
        for row in _images(root, index_file):
            tried = [
                posixpath.normpath(posixpath.join(folder, inside, row["path"]))
                for inside in ("", "Images")
            ]
            path = next((path for path in tried if path in known), None)
            if path is None:
                lacking.append(tried[0])
            else:
                rows.append({**row, "path": path})
    if not rows:
        first = f", such as {lacking[0]}" if lacking else ""
        raise InputError(
            f"{redact_credentials(resolve(root, index_files[0]))} lists {len(lacking)} images, and "
            f"none of them is there{first}; copy the images beside it."
        )
    if lacking:
        _log.warning(
            "%d of %d images that Harmony's index lists are not there, such as %s; they are left "
            "out.",
            len(lacking), len(lacking) + len(rows), lacking[0],
        )  # fmt: skip
    return index_of_files(
        rows,
        root,
        channel_names=options.channel_names,
        metadata_value=options.metadata_value,
        plane=options.plane,
        time=options.time,
    )


def find_index_files(paths: list[str]) -> list[str]:
    """Paths of the index files among `paths`, one per folder."""
    best: dict[str, str] = {}
    for name in _NAMES:
        for path in paths:
            if posixpath.basename(path).lower() == name:
                best.setdefault(posixpath.dirname(path), path)
    return sorted(best.values())


def _images(root: str, path: str) -> Iterator[dict[str, Any]]:
    """One row per image that an index file lists, its path as it is written there."""
    shown = redact_credentials(resolve(root, path))
    plate = ""
    names: dict[str, str] = {}  # by channel number, where the images do not repeat them
    images: list[dict[str, str]] = []
    try:
        for _, element in ElementTree.iterparse(BytesIO(read_bytes(resolve(root, path)))):
            tag = _tag(element)
            if tag == "Plate" and not plate:
                own = _texts(element)
                plate = own.get("Name") or own.get("PlateID") or ""
            elif tag == "Entry" and element.get("ChannelID"):
                name = _texts(element).get("ChannelName")
                if name:
                    names[str(element.get("ChannelID"))] = name
                element.clear()
            elif tag == "Image":
                own = _texts(element)
                if own.get("URL"):
                    images.append(own)
                element.clear()
    except ElementTree.ParseError as error:
        raise InputError(f"{shown} is not valid XML ({error}); copy it again.") from None
    for own in images:
        try:
            channel = own.get("ChannelName") or names.get(own["ChannelID"]) or own["ChannelID"]
            yield {
                "path": own["URL"].replace("\\", "/"),
                "experiment": "",
                "plate": plate,
                "well": well_name(int(own["Row"]), int(own["Col"])),
                "site": str(int(own["FieldID"])),
                "channel": channel,
                "z": own.get("PlaneID", ""),
                "time": own.get("TimepointID", ""),
            }
        except (KeyError, ValueError) as error:  # InputError is a ValueError too
            raise InputError(
                f"{shown} lists the image {own['URL']} without a proper row, column, field or "
                f"channel ({error}); export it again."
            ) from None


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _texts(element: ElementTree.Element) -> dict[str, str]:
    return {_tag(child): (child.text or "").strip() for child in element}


def _matches(source: Source) -> float:
    for path in find_index_files(source.files)[:1]:
        head = read_bytes(posixpath.join(source.path, path))[:2000]
        if _ROOT.encode() in head:
            return CERTAIN
    return PATTERNS["harmony"].count(source)


READERS = (
    Reader(
        "harmony",
        "a folder of Harmony (Opera Phenix, Operetta), by its Index.idx.xml or its images' names",
        read_harmony,
        _matches,
        ("channel_names", "plane", "time"),
    ),
)
