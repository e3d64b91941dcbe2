"""BBBC021: compounds on MCF7 cells, one ZIP file of images per plate."""

import pandas as pd

from mae_jax.data.fetch.endpoints import address
from mae_jax.data.fetch.plan import FILES, SitePlan, Workspace, read_strings
from mae_jax.data.fetch.selection import Selection
from mae_jax.data.fetch.transfer import RemoteFile

CHANNELS = ("DAPI", "Tubulin", "Actin")


def plan_bbbc021(workspace: Workspace, selection: Selection) -> SitePlan:
    """BBBC021: its table of images, joined with the mechanisms of action."""

    def table(name: str) -> pd.DataFrame:
        return read_strings(workspace.table(address("bbbc", f"BBBC021/{name}"), name))

    images = table("BBBC021_v1_image.csv")
    moa = table("BBBC021_v1_moa.csv").drop_duplicates(["compound", "concentration"])
    sites = pd.DataFrame(
        {
            "Metadata_Source": "bbbc021",
            "Metadata_Batch": images["Image_Metadata_Plate_DAPI"].str.partition("_")[0],
            "Metadata_Plate": images["Image_Metadata_Plate_DAPI"],
            "Metadata_Well": images["Image_Metadata_Well_DAPI"],
            "Metadata_Compound": images["Image_Metadata_Compound"],
            "Metadata_Concentration": images["Image_Metadata_Concentration"],
        }
    )
    sites["Metadata_Experiment"] = sites["Metadata_Batch"]
    number = sites.groupby(["Metadata_Plate", "Metadata_Well"]).cumcount() + 1
    sites["Metadata_Site"] = number.astype(str)
    mechanism = dict(
        zip(
            zip(moa["compound"], moa["concentration"].astype(float), strict=True),
            moa["moa"],
            strict=True,
        )
    )
    treatment = zip(sites["Metadata_Compound"], sites["Metadata_Concentration"], strict=True)
    sites["Metadata_MoA"] = [mechanism.get((c, float(d or 0)), "") for c, d in treatment]
    sites["Metadata_Perturbation"] = (
        sites["Metadata_Compound"] + "@" + sites["Metadata_Concentration"]
    )
    dmso = sites["Metadata_Compound"] == "DMSO"
    sites.loc[dmso, "Metadata_Perturbation"] = "DMSO"
    sites["Metadata_ControlType"] = dmso.map({True: "negcon", False: ""})
    names = images[[f"Image_FileName_{channel}" for channel in CHANNELS]].to_numpy().tolist()
    sites["_names"] = pd.Series(names, index=sites.index)
    sites = selection.apply(sites).reset_index(drop=True)

    def files(plate: str, names: list[str]) -> list[RemoteFile]:
        url = address("bbbc", f"BBBC021/BBBC021_v1_images_{plate}.zip")
        return [
            RemoteFile(url, f"images/{plate}/{name}", member=f"{plate}/{name}", optional=True)
            for name in names
        ]

    sites[FILES] = pd.Series(
        [files(p, n) for p, n in zip(sites["Metadata_Plate"], sites["_names"], strict=True)]
    )
    sites["Images"] = pd.Series([[file.path for file in each] for each in sites[FILES]])
    sites["Channels"] = pd.Series([list(CHANNELS)] * len(sites))
    return SitePlan(sites.drop(columns="_names"))
