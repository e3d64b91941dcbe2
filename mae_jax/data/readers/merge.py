"""Several indexes as one, with one root for all their paths."""

import os
import posixpath
from collections.abc import Sequence
from urllib.parse import quote, unquote

import pandas as pd

from mae_jax.data import image_uri
from mae_jax.data.index import Index


def merge(indexes: Sequence[Index]) -> Index:
    """One index with the rows of all; columns that one of them lacks are empty there.

    Paths count from the folder that all have in common, and are written in full where there is
    none. Ranges of gray values are left out, since they belong to the single indexes.
    """
    if len(indexes) == 1:
        return indexes[0]
    root = _common([index.root for index in indexes])
    tables = [_moved(index, root) for index in indexes]
    table = pd.concat(tables, ignore_index=True)
    if "Illumination" in table.columns:
        none = pd.Series([[""] * len(names) for names in table["Channels"]], index=table.index)
        table["Illumination"] = table["Illumination"].where(table["Illumination"].notna(), none)
    if "Zarr" in table.columns:
        table["Zarr"] = table["Zarr"].astype("object").fillna("")
    return Index(table, root)


def _common(roots: Sequence[str]) -> str:
    if len(set(roots)) == 1:
        return roots[0]
    if any(map(image_uri.is_url, roots)):
        same_host = posixpath.commonprefix([f"{root.rstrip('/')}/" for root in roots])
        return same_host[: same_host.rindex("/")] if same_host.count("/") > 3 else roots[0]
    return os.path.commonpath([os.path.abspath(root) for root in roots])


def _moved(index: Index, root: str) -> pd.DataFrame:
    if index.root == root:
        return index.table
    table = index.table.copy()
    old = index.root if image_uri.is_url(index.root) else os.path.abspath(index.root)

    def path(text: str) -> str:
        return image_uri.relative(root, image_uri.resolve(old, text)) if text else ""

    def uri(text: str) -> str:
        parsed = image_uri.parse(text)
        fragment = "&".join(
            f"{key}={','.join(quote(path(unquote(p)), safe='') for p in value.split(','))}"
            if key in ("planes", "illumination")
            else f"{key}={value}"
            for key, value in parsed.fragment
        )
        return f"{path(parsed.path)}#{fragment}" if fragment else path(parsed.path)

    for column, change in (("Images", uri), ("Illumination", path)):
        if column in table.columns:
            changed = [[change(str(text)) for text in texts] for texts in table[column]]
            table[column] = pd.Series(changed, index=table.index)
    return table
