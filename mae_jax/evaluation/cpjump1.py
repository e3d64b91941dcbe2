"""The CPJUMP1 benchmark (section 5.3, A.7; Tables 4, 8 and 9), from the data set's own metadata.

The folder holds the files that the data set publishes: `experiment-metadata.tsv`,
`barcode_platemap.csv`, the platemaps and the metadata of compounds, guides and ORFs.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.retrieval import (
    Retrieval,
    fraction_over_seeds,
    perturbation_retrieval,
    sibling_retrieval,
)

BATCH = "2020_11_04_CPJUMP1"
# Hours that the benchmark calls short and long.
TIMES = {"compound": (24, 48), "crispr": (96, 144), "orf": (48, 96)}
CONTROLS = "Metadata_control_type=negcon"
SCHEMA = ColumnSchema(
    experiment="Metadata_Condition", perturbation="Metadata_broad_sample", controls=CONTROLS
)
# Random rankings of the siblings' null, as published.
SIBLING_NULL_SIZE = 100_000


def select_plates(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """The benchmark's 40 plates in 12 conditions.

    Batch 2020_11_04_CPJUMP1, density 100, no antibiotics, and no compound plates on Cas9 cells.

    Returns:
      One row per plate: plate, platemap, modality, cell, time ("short" or "long"), hours,
      condition (`compound_A549_short`).
    """
    table = _read(Path(folder) / "experiment-metadata.tsv")
    keep = (table["Batch"] == BATCH) & (table["Density"] == "100")
    keep &= table["Antibiotics"] == "absent"
    keep &= ~((table["Perturbation"] == "compound") & (table["Cell_line"] == "Cas9"))
    table = table[keep]
    times = [
        {str(h): name for h, name in zip(TIMES[m], ("short", "long"), strict=True)}[t]
        for m, t in zip(table["Perturbation"], table["Time"], strict=True)
    ]
    plates = pd.DataFrame(
        {
            "plate": table["Assay_Plate_Barcode"],
            "platemap": table["Plate_Map_Name"],
            "modality": table["Perturbation"],
            "cell": table["Cell_type"],
            "time": times,
            "hours": table["Time"].astype(int),
        }
    ).reset_index(drop=True)
    plates["condition"] = plates["modality"] + "_" + plates["cell"] + "_" + plates["time"]
    return plates


def wells(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Annotations of every well on the benchmark plates.

    Returns:
      Metadata_Plate, _Well, _Condition, _Modality, _broad_sample, _control_type, _Gene (compounds:
      their targets, separated by "|").
    """
    folder = Path(folder)
    parts = []
    for (platemap, modality), plates in select_plates(folder).groupby(["platemap", "modality"]):
        platemap_wells = _read(folder / f"{platemap}.txt")
        reagents = _reagents(folder, str(modality))
        placed = platemap_wells.merge(reagents, on="broad_sample", how="left").fillna("")
        empty = placed["broad_sample"] == ""
        if modality == "compound":  # wells without a compound hold the solvent
            placed.loc[empty, "control_type"] = "negcon"
            placed.loc[empty, "broad_sample"] = "DMSO"
        else:
            placed = placed[~empty]
        for plate in plates.itertuples():
            parts.append(
                pd.DataFrame(
                    {
                        "Metadata_Plate": plate.plate,
                        "Metadata_Well": placed["well_position"],
                        "Metadata_Condition": plate.condition,
                        "Metadata_Modality": modality,
                        "Metadata_broad_sample": placed["broad_sample"],
                        "Metadata_control_type": placed["control_type"],
                        "Metadata_Gene": placed["gene"],
                    }
                )
            )
    return pd.concat(parts, ignore_index=True).astype("str")


def annotate(profiles: Profiles, folder: str | os.PathLike[str]) -> Profiles:
    """The rows of `profiles` that the benchmark uses, with what stands in their wells.

    Args:
      profiles: wells with Metadata_Plate (the barcode) and Metadata_Well.
      folder: the data set's metadata.

    Raises:
      InputError: none of the benchmark's wells is there.
    """
    known = wells(folder)
    keys = ["Metadata_Plate", "Metadata_Well"]
    own = pd.DataFrame({k: profiles.column(k) for k in keys})
    merged = own.assign(_row=np.arange(len(own))).merge(known, on=keys, how="inner")
    if merged.empty:
        raise InputError(
            "the profiles hold none of CPJUMP1's 40 benchmark plates (such as "
            f"{known['Metadata_Plate'].iloc[0]}); Metadata_Plate must be the barcode."
        )
    annotated = profiles.take(merged["_row"].to_numpy())
    added = merged.drop(columns="_row")
    others = annotated.metadata.drop(columns=[c for c in added.columns if c in annotated.metadata])
    return Profiles(pd.concat([added, others], axis=1), annotated.features, annotated.names)


def benchmark(
    profiles: Profiles,
    *,
    rule: str = "2023",
    null_size: int = 10_000,
    sibling_null_size: int = SIBLING_NULL_SIZE,
    seed: int = 0,
    similarity: str = "cosine",
    correct: Callable[[Profiles], Profiles] | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[pd.DataFrame, dict[tuple[str, str], Retrieval]]:
    """Tables 8 and 9: the fraction retrieved in each of the 12 conditions.

    Args:
      profiles: `annotate`d wells.
      rule: "2023" (default: the tables used it) or "copairs".
      null_size, seed: of the null.
      sibling_null_size: of the siblings' null.
      similarity: see `perturbation_retrieval`.
      correct: a batch correction, run on each condition's wells (the paper's is TVN on the
        negative controls); None if the profiles are corrected already.
      progress: called with the condition that is scored next.

    Returns:
      The table: cell, modality, time, condition, plates, perturbations, perturbation (fraction),
      siblings (fraction, NaN where there are none), note; and every `Retrieval` by (condition,
      "perturbation" or "siblings").
    """
    rows, results = [], {}
    condition_of = profiles.column("Metadata_Condition")
    for condition in sorted(set(condition_of)):
        progress(condition)
        modality, cell, time = condition.split("_")
        subset = profiles.take((condition_of == condition).to_numpy(dtype=bool))
        subset = correct(subset) if correct else subset
        replicates = perturbation_retrieval(
            subset,
            by="Metadata_broad_sample",
            similarity=similarity,
            schema=SCHEMA,
            rule=rule,
            null_size=null_size,
            seed=seed,
        )
        retrieved = replicates.groups.loc[
            replicates.groups["retrieved"].astype(bool), "Metadata_broad_sample"
        ]
        siblings = sibling_retrieval(
            subset,
            retrieved.tolist(),
            by="Metadata_broad_sample",
            absolute=modality == "compound",
            # As published: guides alone are left out, compounds stay among the negatives.
            drop_without_sibling=modality == "crispr",
            similarity=similarity,
            schema=SCHEMA,
            rule=rule,
            null_size=sibling_null_size,
            seed=seed,
        )
        results[condition, "perturbation"], results[condition, "siblings"] = replicates, siblings
        rows.append(
            {
                "cell": cell,
                "modality": modality,
                "time": time,
                "condition": condition,
                "plates": subset.metadata["Metadata_Plate"].nunique(),
                "perturbations": len(replicates.groups),
                "perturbation": replicates.fraction,
                "siblings": siblings.fraction,
                "note": "; ".join(
                    note
                    for result, size, by in (
                        (replicates, null_size, "Metadata_broad_sample"),
                        (siblings, sibling_null_size, "label"),
                    )
                    for note in (result.note, _spread(result, by, rule, size, seed))
                    if note
                ),
            }
        )
    return pd.DataFrame(rows), results


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Table 4: mean ± standard deviation (ddof 1) over the conditions that could be tested."""
    rows = []
    for task in ("perturbation", "siblings"):
        values = table[task].dropna().to_numpy(dtype=float)
        mean = float(values.mean()) if len(values) else float("nan")
        spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        rows.append({"task": task, "mean": mean, "std": spread, "conditions": len(values)})
    return pd.DataFrame(rows)


def _spread(result: Retrieval, by: str, rule: str, null_size: int, seed: int) -> str:
    """How much the fraction depends on the draws of the null; "" if not at all."""
    if result.queries.empty:
        return ""
    low, high = fraction_over_seeds(result, by, rule=rule, null_size=null_size, seed=seed)
    what = "siblings" if by == "label" else "perturbation"
    return "" if low == high else f"{what} {low:.4f} to {high:.4f} over 3 seeds of the null"


def _reagents(folder: Path, modality: str) -> pd.DataFrame:
    name = {
        "compound": "JUMP-Target-1_compound_metadata_additional_annotations.tsv",
        "crispr": "JUMP-Target-1_crispr_metadata.tsv",
        "orf": "JUMP-Target-1_orf_metadata.tsv",
    }[modality]
    table = _read(folder / name)
    gene = table["target_list" if modality == "compound" else "gene"]
    columns = {"broad_sample": table["broad_sample"], "control_type": table["control_type"]}
    return pd.DataFrame({**columns, "gene": gene}).drop_duplicates("broad_sample")


def _read(path: Path) -> pd.DataFrame:
    # The folder itself, or where `mae-jax fetch cpjump1` puts what it reads.
    folders = [path.parent, path.parent / "metadata"]
    below = ("", f"platemaps/{BATCH}", f"platemaps/{BATCH}/platemap", "external_metadata")
    found = [f for top in folders for sub in below if (f := top / sub / path.name).is_file()]
    if not found:
        where = ""
        if path.name == "experiment-metadata.tsv":
            where = "; it is in benchmark/output of the repository of the data set's paper"
        raise InputError(f"{path} does not exist; give the folder of CPJUMP1's metadata{where}.")
    separator = "," if path.suffix == ".csv" else "\t"
    return pd.read_csv(found[0], sep=separator, dtype=str, keep_default_na=False)
