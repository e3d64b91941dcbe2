"""The corrections by name, and the operations that each consists of."""

from dataclasses import dataclass

from mae_jax.config import nearest
from mae_jax.errors import InputError

# Name on the command line -> name in Table 2.
CORRECTIONS = {
    "none": "No transformation",
    "pca": "PCA",
    "center-plate": "Center by plate",
    "center-experiment": "Center by experiment",
    "standardize-plate": "Standardize by plate",
    "standardize-experiment": "Standardize by experiment",
    "pca-standardize-plate": "PCA+Standardize by plate",
    "pca-standardize-experiment": "PCA+Standardize by experiment",
    "tvn": "TVN",
}
# Not in the paper.
VARIANTS = {"tvn-centered": "TVN, each batch's controls centered"}


@dataclass(frozen=True)
class CorrectionSpec:
    """What a correction consists of.

    Attributes:
      axes: "" (keep the features), "pca" (centre, rotate) or "tvn" (z-score, rotate, z-score).
      batch: "" (one map for all), "plate", "experiment" or a metadata column.
      shift: subtract each batch's mean.
      scale: divide by each batch's σ.
      whiten: multiply by (C_b + 0.5 I)^(−1/2).
    """

    axes: str = ""
    batch: str = ""
    shift: bool = False
    scale: bool = False
    whiten: bool = False

    @staticmethod
    def from_name(method: str, batch: str | None = None) -> "CorrectionSpec":
        """The spec of a correction by name; `batch` overrides its grouping.

        Raises:
          InputError: there is no such correction.
        """
        known = {**CORRECTIONS, **VARIANTS}
        if method not in known:
            raise InputError(f"there is no correction '{method}': {nearest(method, list(known))}")
        if method in ("none", "pca"):
            return CorrectionSpec(axes="" if method == "none" else "pca")
        if method.startswith("tvn"):
            # By experiment: a plate seldom has enough controls for a covariance.
            shift = method == "tvn-centered"
            return CorrectionSpec("tvn", batch or "experiment", shift=shift, whiten=True)
        operation, _, grouping = method.rpartition("-")
        axes = "pca" if operation.startswith("pca") else ""
        return CorrectionSpec(axes, batch or grouping, shift=True, scale="standardize" in operation)


def label(method: str) -> str:
    """A correction's name in Table 2."""
    CorrectionSpec.from_name(method)  # refuses an unknown one
    return {**CORRECTIONS, **VARIANTS}[method]
