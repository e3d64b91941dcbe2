"""The Cell Painting Gallery: CPJUMP1 (cpg0000) and all of JUMP (cpg0016)."""

import posixpath
import re
from collections.abc import Mapping
from urllib.parse import unquote

import pandas as pd

from mae_jax.config import nearest
from mae_jax.data.fetch.endpoints import address
from mae_jax.data.fetch.object_store import StoredObject, list_folders, list_objects
from mae_jax.data.fetch.plan import (
    FILES,
    SitePlan,
    Workspace,
    columns_of,
    read_strings,
    records_of,
)
from mae_jax.data.fetch.selection import Selection
from mae_jax.data.fetch.transfer import RemoteFile
from mae_jax.errors import InputError

BUCKET = "s3://cellpainting-gallery/"
CPJUMP1 = "cpg0000-jump-pilot/source_4"
CPJUMP1_BATCH = "2020_11_04_CPJUMP1"
# Computed for commit c68deb2b of JUMP's tables by a third party, equal at the pinned commit.
_CHECKSUMS = {
    "crispr.csv.gz": "55e36e6802c6fc5f8e5d5258554368d64601f1847205e0fceb28a2c246c8d1ed",
    "orf.csv.gz": "9c7ec4b0fa460a3a30f270a15f11b5e85cef9dd105c8a0ab8ab50f6cc98894b8",
}
_LIST_FROM = 40  # files of one folder, from which its listing is cheaper than a request for each


def plan_cpjump1(workspace: Workspace, selection: Selection) -> SitePlan:
    """CPJUMP1: plates of LoadData tables, platemaps and perturbations."""
    batches = selection.batch or (CPJUMP1_BATCH,)
    known = list_folders("gallery", f"{CPJUMP1}/workspace/load_data_csv/")
    sites = []
    for batch in batches:
        if batch not in known:
            raise InputError(f"CPJUMP1 has no batch '{batch}': {nearest(batch, known)}")
        barcodes = _gallery_table(workspace, f"platemaps/{batch}/barcode_platemap.csv")
        plates = barcodes["Assay_Plate_Barcode"].tolist()
        for plate in selection.plate:
            if plate not in plates and len(batches) == 1:
                raise InputError(f"there is no plate '{plate}' here: {nearest(plate, plates)}")
        wanted = [plate for plate in plates if not selection.plate or plate in selection.plate]
        for plate in wanted[: selection.num_plates]:
            loaded = _load_data(workspace, batch, plate)
            loaded["Metadata_Batch"], loaded["Metadata_Plate"] = batch, plate
            maps = barcodes.loc[barcodes["Assay_Plate_Barcode"] == plate, "Plate_Map_Name"]
            sites.append(_with_platemap(workspace, loaded, batch, maps.iloc[0]))
    table = selection.apply(pd.concat(sites, ignore_index=True))
    plates_name = "experiment-metadata.tsv"
    workspace.keep(address("cpjump1_plates", plates_name), plates_name)
    return SitePlan(_with_files(_joined_annotations(workspace, table)))


def _gallery_table(workspace: Workspace, name: str) -> pd.DataFrame:
    url = address("gallery", f"{CPJUMP1}/workspace/metadata/{name}")
    return read_strings(workspace.table(url, name))


def _load_data(workspace: Workspace, batch: str, plate: str) -> pd.DataFrame:
    """The sites of a plate, with keys of the gallery in `Images` and `Illumination`."""
    folder = f"{CPJUMP1}/workspace/load_data_csv/{batch}/{plate}/"
    names = [posixpath.basename(o.key) for o in list_objects("gallery", folder)]
    tables = [name for name in names if re.match(r"load_data.*\.(csv|csv\.gz|parquet)$", name)]
    if not tables:
        raise InputError(f"{address('gallery', folder)} has no LoadData table of plate {plate}.")
    name = next((name for name in tables if "with_illum" in name), tables[0])
    path = workspace.table(address("gallery", folder + name), f"load_data/{batch}/{plate}/{name}")
    table = read_strings(path)
    records = records_of(table)
    matches = [re.match(r"(?:FileName|URL)_Orig(.+)$", column) for column in columns_of(table)]
    channels = [match[1] for match in matches if match]
    channels = list(dict.fromkeys(channels))
    sites = table[columns_of(table, "Metadata_")].copy()
    for column, prefix in (("Images", "Orig"), ("Illumination", "Illum")):
        keys = [[_key(row, f"{prefix}{c}", batch) for c in channels] for row in records]
        sites[column] = pd.Series(keys, index=sites.index)
    sites["Channels"] = pd.Series([channels] * len(sites), index=sites.index)
    return sites


def _key(row: Mapping[str, str], name: str, batch: str) -> str:
    """The gallery's key of a file in a row of a LoadData table; "" if it names none."""
    url = row.get(f"URL_{name}", "")
    if url:
        return unquote(url).removeprefix(BUCKET)
    file, folder = row.get(f"FileName_{name}", ""), row.get(f"PathName_{name}", "")
    if not file:
        return ""
    # The path is that of another machine: what follows the batch's name is the same here.
    rest = folder.replace("\\", "/").partition(f"/{batch}/")[2].strip("/")
    return f"{CPJUMP1}/images/{batch}/{rest}/{file}"


def _with_platemap(
    workspace: Workspace, sites: pd.DataFrame, batch: str, name: str
) -> pd.DataFrame:
    platemap = _gallery_table(workspace, f"platemaps/{batch}/platemap/{name}.txt")
    platemap = platemap.rename(columns={"well_position": "Metadata_Well"})
    kept = platemap[["Metadata_Well", "broad_sample"]].rename(
        columns={"broad_sample": "Metadata_broad_sample"}
    )
    return sites.merge(kept, on="Metadata_Well", how="left")


def _joined_annotations(workspace: Workspace, sites: pd.DataFrame) -> pd.DataFrame:
    """Genes, targets and kinds of controls from the annotations of all perturbations."""
    prefix = f"{CPJUMP1}/workspace/metadata/external_metadata/"
    columns = ["broad_sample", "gene", "pert_iname", "pert_type", "control_type", "target_list"]
    annotations = []
    for found in list_objects("gallery", prefix):
        if not found.key.endswith(".tsv"):
            continue
        name = f"external_metadata/{posixpath.basename(found.key)}"
        table = read_strings(workspace.table(address("gallery", found.key), name))
        if "broad_sample" in table:
            annotations.append(table[[c for c in columns if c in table]])
    if not annotations:
        return sites
    known = pd.concat(annotations, ignore_index=True).fillna("").drop_duplicates("broad_sample")
    known = known.rename(columns={c: f"Metadata_{c}" for c in known})
    joined = sites.merge(known, on="Metadata_broad_sample", how="left")
    own = [c for c in columns_of(known) if c != "Metadata_broad_sample"]
    joined[own] = joined[own].fillna("")
    # DMSO has no name of its own in the platemaps of compounds.
    if "Metadata_pert_type" in joined:
        unnamed = (joined["Metadata_broad_sample"].fillna("") == "") & (
            joined["Metadata_pert_type"] == ""
        )
        compounds = joined.groupby("Metadata_Plate")["Metadata_pert_iname"].transform(
            lambda names: (names != "").any()
        )
        joined.loc[unnamed & compounds, "Metadata_control_type"] = "negcon"
        joined.loc[unnamed & compounds, "Metadata_broad_sample"] = "DMSO"
    return joined


def plan_jump(workspace: Workspace, selection: Selection) -> SitePlan:
    """JUMP: the index of all sites, joined with the plates, wells and perturbations."""
    path = workspace.table(address("jump_index"), "jump_index.parquet")
    filters = [
        (f"Metadata_{level.capitalize()}", "in", list(getattr(selection, level)))
        for level in ("source", "batch", "plate", "well")
        if getattr(selection, level)
    ]
    sites = read_strings(path, filters=filters or None)
    if sites.empty:
        selection.apply(read_strings(path))  # names what is not there
        raise InputError(f"JUMP has no sites of {selection.words()}; choose fewer names.")
    sites = selection.apply(sites)
    channels = [c.removeprefix("URL_Orig") for c in columns_of(sites, "URL_Orig")]
    keys = [
        [unquote(row[f"URL_Orig{c}"]).removeprefix(BUCKET) for c in channels]
        for row in records_of(sites)
    ]
    sites = sites[columns_of(sites, "Metadata_")].reset_index(drop=True)
    sites["Channels"] = pd.Series([channels] * len(sites))
    sites["Images"] = pd.Series(keys)
    return SitePlan(_with_files(_jump_perturbations(workspace, sites)))


def _jump_perturbations(workspace: Workspace, sites: pd.DataFrame) -> pd.DataFrame:
    def table(name: str) -> pd.DataFrame:
        url = address("jump_metadata", name)
        return read_strings(workspace.table(url, name, _CHECKSUMS.get(name, "")))

    plates = table("plate.csv.gz")[["Metadata_Source", "Metadata_Plate", "Metadata_PlateType"]]
    wells = table("well.csv.gz")
    sites = sites.merge(plates, on=["Metadata_Source", "Metadata_Plate"], how="left")
    sites = sites.merge(
        wells, on=["Metadata_Source", "Metadata_Plate", "Metadata_Well"], how="left"
    )
    genes = pd.concat(
        [
            table(name)[["Metadata_JCP2022", "Metadata_Symbol"]]
            for name in ("orf.csv.gz", "crispr.csv.gz")
        ]
    ).drop_duplicates("Metadata_JCP2022")
    controls = table("perturbation_control.csv")
    controls = controls[["Metadata_JCP2022", "Metadata_pert_type"]].drop_duplicates(
        "Metadata_JCP2022"
    )
    for other in (genes, controls):
        sites = sites.merge(other, on="Metadata_JCP2022", how="left")
    return sites.fillna("")


def _with_files(sites: pd.DataFrame) -> pd.DataFrame:
    """`Images` and `Illumination` as paths in the folder, and the files with their sizes."""
    stored = _stored(sites)

    def path(key: str) -> str:
        return f"images/{key}"

    def file(key: str) -> RemoteFile:
        found = stored.get(key)
        return RemoteFile(
            address("gallery", key),
            path(key),
            size=found.size if found else None,
            md5=found.md5 if found else "",
            optional=True,
        )

    sites = sites.copy()
    lists = [sites["Images"], *([sites["Illumination"]] if "Illumination" in sites else [])]
    keys_of_rows = [
        [key for keys in row for key in keys if key] for row in zip(*lists, strict=True)
    ]
    sites[FILES] = pd.Series(
        [[file(key) for key in keys] for keys in keys_of_rows], index=sites.index
    )
    for column in ("Images", "Illumination"):
        if column in sites:
            paths = [[path(key) if key else "" for key in keys] for keys in sites[column]]
            sites[column] = pd.Series(paths, index=sites.index)
    return sites


def _stored(sites: pd.DataFrame) -> dict[str, StoredObject]:
    """Sizes and checksums of images by key, for folders of which many files are wanted."""
    counts: dict[str, int] = {}
    for keys in sites["Images"]:
        for key in keys:
            counts[posixpath.dirname(key)] = counts.get(posixpath.dirname(key), 0) + 1
    stored = {}
    for folder, count in counts.items():
        if count >= _LIST_FROM:
            stored.update({found.key: found for found in list_objects("gallery", f"{folder}/")})
    return stored
