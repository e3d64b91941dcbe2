"""The corrections by name, and the operations that each consists of.

A correction is an affine map in two parts: one for all wells (`axes`), then one for each batch
(`shift`, `scale`, `whiten`). Its interface is that of `Correction`: `fit` on reference wells,
`transform` any wells, `fit_missing_batches` for new plates, `save` and `load`. A correction of this
form needs one entry in `CORRECTIONS` and no code. Methods that are not an affine map per batch fit
neither the specification nor the saved format: Harmony moves each well by its cluster memberships,
and ComBat shrinks the parameters of each batch towards those of the others. Apply such methods
outside, and read the corrected table with `Profiles.read`.
"""

from dataclasses import dataclass, field, replace

from mae_jax.config import nearest
from mae_jax.errors import InputError


@dataclass(frozen=True)
class CorrectionSpec:
    """What a correction consists of.

    Attributes:
      axes: "" (keep the features), "pca" (center, rotate) or "tvn" (z-score, rotate, z-score).
      batch: "" (one map for all), "plate", "experiment" or a metadata column.
      shift: subtract each batch's mean.
      scale: divide by each batch's σ.
      whiten: multiply by (C_b + 0.5 I)^(−1/2).
      label: its name in tables and messages; "": its name on the command line.
    """

    axes: str = ""
    batch: str = ""
    shift: bool = False
    scale: bool = False
    whiten: bool = False
    label: str = field(default="", compare=False)

    @staticmethod
    def from_name(method: str, batch: str | None = None) -> "CorrectionSpec":
        """The spec of a correction by name.

        Args:
          method: a name in `CORRECTIONS`.
          batch: another grouping than the correction's own; ignored where that has none.

        Raises:
          InputError: there is no such correction.
        """
        if method not in CORRECTIONS:
            known = list(CORRECTIONS)
            raise InputError(f"there is no correction '{method}': {nearest(method, known)}")
        spec = CORRECTIONS[method]
        return replace(spec, batch=batch) if batch and spec.batch else spec


# Name on the command line -> what the correction consists of.
CORRECTIONS: dict[str, CorrectionSpec] = {
    "none": CorrectionSpec(
        label="No transformation",
    ),
    "pca": CorrectionSpec(label="PCA", axes="pca"),
    "center-plate": CorrectionSpec(label="Center by plate", batch="plate", shift=True),
    "center-experiment": CorrectionSpec(
        label="Center by experiment", batch="experiment", shift=True
    ),
    "standardize-plate": CorrectionSpec(
        label="Standardize by plate", batch="plate", shift=True, scale=True
    ),
    "standardize-experiment": CorrectionSpec(
        label="Standardize by experiment", batch="experiment", shift=True, scale=True
    ),
    "pca-standardize-plate": CorrectionSpec(
        label="PCA+Standardize by plate", axes="pca", batch="plate", shift=True, scale=True
    ),
    "pca-standardize-experiment": CorrectionSpec(
        label="PCA+Standardize by experiment",
        axes="pca",
        batch="experiment",
        shift=True,
        scale=True,
    ),
    # By experiment: a plate seldom has enough controls for a covariance.
    "tvn": CorrectionSpec(label="TVN", axes="tvn", batch="experiment", whiten=True),
    "tvn-centered": CorrectionSpec(
        label="TVN, each batch's controls centered",
        axes="tvn",
        batch="experiment",
        shift=True,
        whiten=True,
    ),
}
# The rows of Table 2: what `--corrections all` means.
TABLE2 = tuple(name for name in CORRECTIONS if name != "tvn-centered")


def label(method: str) -> str:
    """A correction's name in tables: that of Table 2, where it has one.

    Raises:
      InputError: there is no such correction.
    """
    return CorrectionSpec.from_name(method).label or method
