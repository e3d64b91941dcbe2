"""BBBC021: mechanisms of action of 103 treatments by their nearest neighbor (NSC and NSCB)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.benchmarks.base import BenchmarkSpec, Model, Scores
from mae_jax.evaluation.benchmarks.cell_counts import on_arc
from mae_jax.evaluation.corrections import correct
from mae_jax.evaluation.mechanism import MechanismAccuracy, mechanism_accuracy
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.protocols.base import Progress
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.results import Result, ScoredWells

SCHEMA = ColumnSchema(
    experiment="Metadata_Week",
    perturbation="Metadata_Treatment",
    controls="Metadata_Compound=DMSO",
)
REPLICATES = 3
_PLATE, _WELL = "Image_Metadata_Plate_DAPI", "Image_Metadata_Well_DAPI"
_COMPOUND, _DOSE = "Image_Metadata_Compound", "Image_Metadata_Concentration"


@dataclass(frozen=True, kw_only=True)
class BBBC021Spec(BenchmarkSpec):
    """BBBC021's annotated wells.

    Attributes:
      correction: fitted on DMSO; "standardize-plate" is the z-score of each plate.
      permutations: of the mechanisms between compounds, for the chance level.
    """

    name: ClassVar[str] = "bbbc021"
    correction: Annotated[str, Option("name of a correction, fitted on DMSO")] = "standardize-plate"
    permutations: Annotated[int, Option("of the mechanisms, for the chance level")] = 1000


def run_bbbc021(spec: BBBC021Spec, scores: Scores, progress: Progress) -> Result:
    """Rows NSC and NSCB, and the mechanism that was predicted for every treatment."""
    kept: dict[str, ScoredWells] = {}
    treatments = []
    for model in scores.models:
        progress(model.name)
        corrected = correct(
            model.profiles, "standardize-plate" if model.is_count else spec.correction,
            schema=SCHEMA,
        )  # fmt: skip
        found = _accuracy(spec, model, corrected)
        for metric, accuracy in (("NSC", found.nsc), ("NSCB", found.nscb)):
            assert accuracy is not None
            scores.add(model.name, metric, accuracy.value, accuracy.interval, accuracy.treatments)
            scores.notes.append(
                f"{model.name}: {metric} of {accuracy.treatments} treatments; "
                f"{accuracy.chance:.3f} if compounds exchange their mechanisms"
            )
        treatments.append(found.treatments.assign(embeddings=model.name))
        if not model.is_count:
            kept[model.name] = ScoredWells(model.profiles, corrected, SCHEMA, spec.correction)
    scores.notes.append("intervals of 95 %: over treatments, those of one compound as a cluster")
    result = scores.result(("NSC", "NSCB"))
    result.tables["treatments"] = pd.concat(treatments, ignore_index=True)
    result.wells = kept
    return result


def annotated_wells(spec: BenchmarkSpec) -> pd.DataFrame:
    """The 302 wells of the 103 treatments that have a mechanism, and 330 of DMSO.

    Taxol at 0.3 µM also stands in eleven to thirteen wells of every plate as a control: of such a
    treatment, the wells between two other doses of its compound, its dose series, count.

    Returns:
      Metadata_Plate, _Well, _Week, _Compound, _Treatment, _MoA ("" for DMSO).

    Raises:
      InputError: a missing file or column, or no well with a mechanism.
    """
    images = pd.read_csv(spec.file("BBBC021_v1_image.csv", "BBBC021_v1_image.csv.gz"))
    mechanisms = pd.read_csv(spec.file("BBBC021_v1_moa.csv"))
    for column in (_PLATE, _WELL, _COMPOUND, _DOSE):
        if column not in images:
            raise InputError(f"BBBC021_v1_image.csv has no column {column}.")
    lacking = {"compound", "concentration", "moa"} - set(mechanisms.columns)
    if lacking:
        raise InputError(f"BBBC021_v1_moa.csv has no column {min(lacking)}.")
    wells = images[[_PLATE, _WELL, _COMPOUND, _DOSE]].drop_duplicates([_PLATE, _WELL])
    wells = wells.set_axis(["plate", "well", "compound", "dose"], axis=1)
    # Doses as text of five digits: 0.3 must equal 0.3 however either file writes it.
    wells["dose"], mechanisms["dose"] = (
        values.astype(float).map("{:.5g}".format)
        for values in (wells["dose"], mechanisms["concentration"])
    )
    table = wells.merge(mechanisms[["compound", "dose", "moa"]], on=["compound", "dose"])
    table = table[(table["compound"] == "DMSO") | _in_dose_series(table, wells)]
    if not (table["compound"] != "DMSO").any():
        raise InputError("no well of BBBC021_v1_image.csv has a mechanism in BBBC021_v1_moa.csv.")
    control = table["compound"] == "DMSO"
    return pd.DataFrame(
        {
            "Metadata_Plate": table["plate"],
            "Metadata_Well": table["well"],
            "Metadata_Week": table["plate"].str.split("_").str[0],
            "Metadata_Compound": table["compound"],
            "Metadata_Treatment": (table["compound"] + " " + table["dose"]).where(~control, "DMSO"),
            "Metadata_MoA": table["moa"].where(~control, ""),
        }
    ).reset_index(drop=True)


def _in_dose_series(table: pd.DataFrame, wells: pd.DataFrame) -> np.ndarray:
    """Which wells are not those of a plate control; see `annotated_wells`."""
    size = table.groupby(["compound", "dose"])["well"].transform("size")
    content = {
        (plate, well): (compound, dose)
        for plate, well, compound, dose in wells.itertuples(index=False, name=None)
    }
    between = []
    for plate, well, compound, dose in table[["plate", "well", "compound", "dose"]].itertuples(
        index=False, name=None
    ):
        row, column = well[0], int(well[1:])
        neighbors = [content.get((plate, f"{row}{c:02d}")) for c in (column - 1, column + 1)]
        between.append(all(n and n[0] == compound and n[1] != dose for n in neighbors))
    return np.asarray((size <= REPLICATES) | np.array(between, bool))


def _accuracy(spec: BBBC021Spec, model: Model, corrected: Profiles) -> MechanismAccuracy:
    wells = corrected
    if model.is_count:  # means of treatments first: those of points on an arc are others
        labels = ["Metadata_Treatment", "Metadata_Week"]
        grouped = corrected.metadata.groupby(labels, sort=True)
        codes = grouped.ngroup().to_numpy()
        means = np.bincount(codes, corrected.features[:, 0]) / np.bincount(codes)
        first = np.unique(codes, return_index=True)[1]
        metadata = corrected.metadata.iloc[first].reset_index(drop=True)
        wells = Profiles(metadata, on_arc(means), ("count_x", "count_y"))
    return mechanism_accuracy(
        wells,
        treatment="Metadata_Treatment",
        compound="Metadata_Compound",
        mechanism="Metadata_MoA",
        batch="Metadata_Week",
        permutations=spec.permutations,
        schema=SCHEMA,
        seed=spec.seed,
    )
