"""Images that are no wells of plates: a folder per class, slides, photographs.

Each file is a sample, which takes the well's place: `Metadata_Sample` and `Metadata_Well` are its
name. A slide is cut into regions, which are its sites (`mae_jax.data.readers.slides`). The folder
that a file lies in is its class (`Metadata_Class`), unless all lie in one; a first folder named
train, validation, val or test gives the split. Colors, pages and channels of a file are its
channels.
"""

import os
import posixpath
from collections.abc import Sequence
from typing import Any

import pandas as pd

from mae_jax.data import metadata
from mae_jax.data.image_uri import resolve
from mae_jax.data.index import Index
from mae_jax.data.readers import slides
from mae_jax.data.readers.file_axes import choose_planes, with_fragment
from mae_jax.data.readers.file_table import axes_of, name_channels
from mae_jax.data.readers.name_templates import guess_template, is_image, what_to_try
from mae_jax.data.readers.registry import Reader, ReadOptions, Source
from mae_jax.data.storage import list_folder
from mae_jax.errors import InputError, redact_credentials

GRAY = "Gray"  # the channel of a file with one
_SPLITS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation",
           "val": "validation", "test": "validation"}  # fmt: skip


def read_plain_images(root: str, options: ReadOptions) -> Index:
    """The index of a folder whose image files are samples, one site each.

    Raises:
      InputError: there are no images, none can be read, or names that do not fit the channels.
    """
    paths = [path for path in list_folder(root) if is_image(path)]
    if not paths:
        raise InputError(what_to_try(redact_credentials(root), list_folder(root)))
    folders = [posixpath.dirname(path).split("/") if "/" in path else [] for path in paths]
    splits = [_SPLITS.get(parts[0].lower(), "") if parts else "" for parts in folders]
    if not all(splits):  # a class may be called test
        splits = [""] * len(paths)
    classes = ["/".join(parts[bool(split) :]) for parts, split in zip(folders, splits, strict=True)]
    rows = []
    for path, name, kind, split, axes in zip(
        paths, _names(paths), classes, splits, axes_of(root, paths), strict=True
    ):
        shown = redact_credentials(resolve(root, path))
        planes = choose_planes(axes, shown, options.plane, options.time)
        numbered = [plane.channel or GRAY for plane in planes]
        names = name_channels(numbered, options.channel_names)
        row: dict[str, Any] = {
            "Metadata_Plate": os.path.basename(os.path.abspath(root)),
            "Metadata_Sample": name,
            **({"Metadata_Class": kind} if len(set(classes)) > 1 else {}),
            **({"Metadata_Split": split} if split else {}),
            "Channels": [names[number] for number in numbered],
        }
        images = [with_fragment(path, plane.fragment) for plane in planes]
        parts = slides.regions(root, path, axes.height, axes.width)
        for number, part in enumerate(parts, start=1):
            region = "region=" + ",".join(map(str, part))
            own = [with_fragment(image, region) for image in images]
            rows.append({**row, "Metadata_Site": str(number), "Images": own})
        if not len(parts):
            rows.append({**row, "Images": images})
    return Index(metadata.complete(pd.DataFrame(rows), root, options.metadata_value), root)


def _names(paths: Sequence[str]) -> list[str]:
    """The files' own names without ending, or with their folders where these are not unique."""
    whole = [path[: path.rindex(".")] for path in paths]
    own = [posixpath.basename(path) for path in whole]
    for names in (own, whole):
        if len(set(names)) == len(paths):
            return names
    return list(paths)


def _matches(source: Source) -> float:
    images = [path for path in source.files if is_image(path)]
    return 0.25 if images and guess_template(images) is None else 0.0


READERS = (
    Reader(
        "images",
        "a folder of images that are no wells (slides, a folder per class): each is a sample",
        read_plain_images,
        _matches,
        ("channel_names", "plane", "time"),
    ),
)
