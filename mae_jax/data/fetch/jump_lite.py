"""JUMP-lite: one compressed array per site, in stores of four codecs."""

import pandas as pd

from mae_jax.data.fetch.endpoints import address
from mae_jax.data.fetch.plan import FILES, SitePlan, Workspace, columns_of, read_strings
from mae_jax.data.fetch.selection import Selection
from mae_jax.data.fetch.transfer import RemoteFile
from mae_jax.data.readers.site_arrays import JUMP_LITE_CHANNELS
from mae_jax.errors import InputError

ROOT = "cpg0016-jump/source_all"
METADATA = f"{ROOT}/workspace/publication_data/2026_jump_lite/metadata/v1.0"
IMAGES = f"{ROOT}/images/2026_jump_lite_v1.0/images_compressed"
CODECS = ("jpegxl_lossy_mq", "jpegxl_lossy_hq", "jpegxl_lossy_d20", "zstd")
# The files of an array: Zarr version 3 for zstd, 2 for JPEG-XL. One chunk is the whole site.
_V3, _V2 = ("zarr.json", "c/0/0/0"), (".zarray", ".zattrs", "0.0.0")


def plan_jump_lite(workspace: Workspace, selection: Selection) -> SitePlan:
    """JUMP-lite: its table of sites, joined with that of wells.

    Raises:
      InputError: the data set is not public at the address known here.
    """
    codec = workspace.options["codec"]

    def table(name: str) -> pd.DataFrame:
        try:
            return read_strings(workspace.table(address("gallery", f"{METADATA}/{name}"), name))
        except InputError as error:
            if "is not public" not in str(error):
                raise
            raise InputError(
                f"JUMP-lite is not public at {address('gallery', METADATA)}; `mae-jax fetch jump` "
                "has the original images of its plates."
            ) from None

    sites = table("jump_lite_site_index.parquet")
    sites = sites[[c for c in columns_of(sites) if not c.startswith("URL_")]]
    sites = selection.apply(sites)
    wells = table("jump_lite_perturbation_metadata.parquet")
    keys = [f"Metadata_{n}" for n in ("Source", "Batch", "Plate", "Well")]
    table("jump_lite_refchem_annotations.parquet")  # for the benchmark
    sites = sites.merge(wells, on=keys, how="left").fillna("").reset_index(drop=True)

    store = f"images/{codec}.zarr"
    names = _V3 if codec == "zstd" else _V2

    def files(key: str) -> list[RemoteFile]:
        return [
            RemoteFile(
                address("gallery", f"{IMAGES}/{codec}.zarr/{key}/{name}"),
                f"{store}/{key}/{name}",
                optional=True,
            )
            for name in names
        ]

    site_keys = sites["Metadata_Site_Key"]
    sites[FILES] = pd.Series([files(key) for key in site_keys])
    sites["Channels"] = pd.Series([list(JUMP_LITE_CHANNELS)] * len(sites))
    sites["Images"] = pd.Series(
        [
            [f"{store}/{key}#index={number}" for number in range(len(JUMP_LITE_CHANNELS))]
            for key in site_keys
        ]
    )
    group = "zarr.json" if codec == "zstd" else ".zgroup"
    of_group = RemoteFile(address("gallery", f"{IMAGES}/{codec}.zarr/{group}"), f"{store}/{group}")
    return SitePlan(sites, (of_group,))
