"""Listings of public object stores and of the Hugging Face hub."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from urllib.parse import urlencode

from mae_jax.data.fetch.endpoints import address
from mae_jax.data.fetch.http import read_url
from mae_jax.errors import InputError


@dataclass(frozen=True)
class StoredObject:
    """One object of a store.

    Attributes:
      key: its name.
      size: bytes.
      md5, sha256: of its content, "" where the store does not tell.
    """

    key: str
    size: int
    md5: str = ""
    sha256: str = ""


def list_objects(endpoint: str, prefix: str) -> list[StoredObject]:
    """All objects of an S3 bucket below a prefix.

    Raises:
      InputError: the bucket may not be listed, or answers in no known form.
      MachineError: it is out of reach.
    """
    objects, token = [], ""
    while True:
        query = {"list-type": "2", "prefix": prefix}
        if token:
            query["continuation-token"] = token
        root = _parse(read_url(f"{address(endpoint)}?{urlencode(query)}"), endpoint)
        for item in root.iter("Contents"):
            etag = (item.findtext("ETag") or "").strip('"')
            md5 = etag if len(etag) == 32 and "-" not in etag else ""  # not of multipart uploads
            objects.append(
                StoredObject(item.findtext("Key") or "", int(item.findtext("Size") or 0), md5)
            )
        token = root.findtext("NextContinuationToken") or ""
        if not token:
            return objects


def list_folders(endpoint: str, prefix: str) -> list[str]:
    """The names of the folders directly below a prefix that ends in a slash."""
    query = urlencode({"list-type": "2", "prefix": prefix, "delimiter": "/"})
    root = _parse(read_url(f"{address(endpoint)}?{query}"), endpoint)
    names = [item.findtext("Prefix") or "" for item in root.iter("CommonPrefixes")]
    return [name[len(prefix) :].strip("/") for name in names]


def _parse(content: bytes, endpoint: str) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError:
        raise InputError(
            f"{address(endpoint)} sent no listing; check MAE_JAX_ENDPOINT_{endpoint.upper()}."
        ) from None
    for element in root.iter():  # the store's name space says nothing here
        element.tag = element.tag.rpartition("}")[2]
    return root


def list_hub_dataset(repository: str, revision: str = "main") -> list[StoredObject]:
    """All files of a dataset on the hub.

    Raises:
      InputError: there is no such dataset, or it is not public.
      MachineError: the hub is out of reach.
    """
    url = address("hub", f"api/datasets/{repository}/tree/{revision}") + "?recursive=true"
    try:
        entries = json.loads(read_url(url))
        return [
            StoredObject(
                entry["path"], int(entry["size"]), sha256=(entry.get("lfs") or {}).get("oid", "")
            )
            for entry in entries
            if entry["type"] == "file"
        ]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{url} sent no list of files; check MAE_JAX_ENDPOINT_HUB.") from None


def hub_file(repository: str, path: str, revision: str = "main") -> str:
    """The address of a file of a dataset on the hub."""
    return address("hub", f"datasets/{repository}/resolve/{revision}/{path}")
