"""Zarr groups with one array per site, whose keys name the site, as JUMP-lite's stores are.

`images.zarr/source_4__2021_06_14_Batch6__BR00124778__E14__2` is an array of the axes channel, y, x
(or channel, z, y, x), on Zarr version 2 (JPEG-XL) or 3 (zstd). The parts of the key are source,
batch, plate, well and site; `--pattern` describes other keys. JUMP-lite's five channels are AGP,
DNA, ER, Mito and RNA, in this order in every store; other stores need `--channel-names`.
"""

import os
import posixpath
import re
from itertools import islice

from mae_jax.data.image_uri import PROJECTIONS, is_url
from mae_jax.data.index import Index
from mae_jax.data.readers.file_table import FIELDS, index_of_files, name_channels
from mae_jax.data.readers.name_templates import NameTemplate, compile_template
from mae_jax.data.readers.registry import CERTAIN, Reader, ReadOptions, Source
from mae_jax.data.storage import exists, list_names
from mae_jax.data.zarr_reader import open_array
from mae_jax.errors import InputError, redact_credentials

JUMP_LITE_CHANNELS = ("AGP", "DNA", "ER", "Mito", "RNA")
KEY = r"^(?P<source>(?!__).+?)__(?P<batch>.+?)__(?P<plate>.+?)__(?P<well>[^_]+)__(?P<site>[^_]+)$"
_GROUP_FILES = (".zgroup", "zarr.json")
_LOOKED_AT = 64  # names in a folder that decide whether it is such a store


def read_site_arrays(root: str, options: ReadOptions) -> Index:
    """The index of a group of arrays, one per site.

    The number of channels is read from the first array; the arrays' heights and widths may differ.

    Raises:
      InputError: no key names a site, the arrays have other axes, or channels without names.
    """
    shown = redact_credentials(root)
    template = compile_template(options.pattern or KEY)
    names = list_names(root)
    matches = [(name, match) for name in names if (match := template.expression.search(name))]
    if not matches:
        example = next((name for name in names if name not in _GROUP_FILES), "")
        raise InputError(
            f"{shown} has no array named source__batch__plate__well__site"
            + (f", but '{example}'; describe its keys with --pattern." if example else ".")
        )
    shape = open_array(posixpath.join(root, matches[0][0])).shape
    if len(shape) not in (3, 4):
        raise InputError(
            f"{shown}/{matches[0][0]} has the shape {shape}; expected channel, y, x or channel, z, "
            "y, x."
        )
    middle = _z_index(shape, options.plane, f"{shown}/{matches[0][0]}")
    channel_names = options.channel_names
    if not channel_names and shape[0] == len(JUMP_LITE_CHANNELS) and options.pattern is None:
        channel_names = JUMP_LITE_CHANNELS
    if not channel_names and shape[0] > 1:
        raise InputError(f"{shown} has {shape[0]} channels; name each with --channel-names.")
    numbers = [str(number + 1) for number in range(shape[0])]
    known = name_channels(numbers, channel_names)
    rows = []
    for name, match in matches:
        fields = _fields(template, match)
        for channel, number in enumerate(numbers):
            uri = f"{name}#index={channel}{middle}"
            rows.append({**fields, "path": uri, "channel": known[number]})
    return index_of_files(rows, root, whole=True, metadata_value=options.metadata_value)


def _z_index(shape: tuple[int, ...], plane: int | str | None, shown: str) -> str:
    """The rest of an index behind the channel, and of the fragment."""
    if len(shape) == 3:
        return ""
    if shape[1] == 1:
        return ",0"
    if plane in PROJECTIONS:
        return f",*&project={plane}"
    if isinstance(plane, int) and 0 <= plane < shape[1]:
        return f",{plane}"
    raise InputError(
        f"{shown} has {shape[1]} z-planes; choose one with --plane (from 0), or --plane max or "
        "mean to project them."
    )


def _fields(template: NameTemplate, match: re.Match[str]) -> dict[str, str]:
    values = {template.fields[group]: text or "" for group, text in match.groupdict().items()}
    fields = {field: values.pop(field, "") for field in FIELDS}
    fields["plate"] = fields["plate"] or "1"
    fields["site"] = fields["site"] or "1"
    if "source" in values:
        values["Source"] = values.pop("source")
    return fields | values


def _matches(source: Source) -> float:
    if not source.is_folder or not any(
        exists(posixpath.join(source.path, name)) for name in _GROUP_FILES
    ):
        return 0.0
    if is_url(source.path):
        names = list_names(source.path)
    else:
        with os.scandir(source.path) as entries:
            names = [entry.name for entry in islice(entries, _LOOKED_AT)]
    template = compile_template(KEY)
    return CERTAIN if any(template.expression.search(name) for name in names) else 0.0


READERS = (
    Reader(
        "site-arrays",
        "a Zarr group with one array per site (JUMP-lite)",
        read_site_arrays,
        _matches,
        ("channel_names", "plane", "pattern"),
    ),
)
