"""One index out of any source: finds out what kind it is and calls the reader for it."""

import os
from collections.abc import Mapping, Sequence

from mae_jax.config import nearest
from mae_jax.data import metadata
from mae_jax.data.folders import PATTERNS, list_files, read_folder
from mae_jax.data.index import Index
from mae_jax.data.loaddata import read_csv, read_loaddata
from mae_jax.errors import InputError

FORMATS = ("auto", "index", "loaddata", *PATTERNS)


def read_source(
    source: str,
    *,
    kind: str = "auto",
    images: str | None = None,
    channel_names: Sequence[str] = (),
    fixed: Mapping[str, str] | None = None,
    annotation: str | None = None,
    plane: int | None = None,
    time: int | None = None,
) -> Index:
    """The index of `source`: an index, a LoadData CSV, or a folder in a known pattern.

    Args:
      source: path or URL.
      kind: one of `FORMATS`; 'auto' looks at the source.
      images: where a LoadData CSV's images lie, if not beside it.
      channel_names: names for a folder's numbered channels; see `read_folder`.
      fixed: metadata columns with one value for all sites.
      annotation: a CSV or TSV of wells (a platemap), joined to the sites; see `metadata.join`.
      plane, time: z-plane and time point, where a folder holds several.

    Raises:
      InputError: the source is missing, of no known kind, or wrong.
    """
    if kind not in FORMATS:
        raise InputError(f"there is no format '{kind}': {nearest(kind, FORMATS)}")
    kind = guess(source) if kind == "auto" else kind
    if kind == "index":
        index = Index.read(source)
        index = Index(metadata.complete(index.table, source, fixed), index.root)
    elif kind == "loaddata":
        index = read_loaddata(source, images=images, fixed=fixed)
    else:
        index = read_folder(
            source,
            PATTERNS[kind],
            channel_names=channel_names,
            fixed=fixed,
            plane=plane,
            time=time,
        )
    if annotation:
        table = metadata.join(index.table, read_csv(annotation), annotation)
        index = Index(metadata.complete(table, annotation, fixed), index.root)
    return index


def guess(source: str) -> str:
    """The kind of a source by its name and, for a folder, by its files.

    Raises:
      InputError: it is missing or of no known kind.
    """
    plain = source.removesuffix(".gz").lower()
    if plain.endswith((".csv", ".tsv")):
        return "loaddata"
    if plain.endswith(".parquet"):
        return "index"
    if os.path.isdir(source):
        if os.path.exists(os.path.join(source, "load_data.csv")):
            raise InputError(f"{source} holds a load_data.csv: name that file as the source.")
        files = list_files(source)
        counts = {
            name: sum(bool(pattern.expression.search(path)) for path in files)
            for name, pattern in PATTERNS.items()
        }
        best = max(counts, key=counts.__getitem__)
        if counts[best]:
            return best
        raise InputError(
            f"the files in {source} fit no known pattern; see the formats with `mae-jax index -h`."
        )
    if not os.path.exists(source):
        raise InputError(f"{source} does not exist; check the path.")
    raise InputError(f"{source} is of no known kind; choose one with --format.")
