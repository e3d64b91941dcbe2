"""The config of DenseNets."""

from typing import Any, Literal

from mae_jax.config import distinct, schema, setting
from mae_jax.networks.channels import CELL_PAINTING
from mae_jax.networks.compute_options import Dtype


def _some_layers(layers: tuple[int, ...]) -> str | None:
    return None if layers else "must have at least one block."


@schema
class DenseNetConfig:
    """A DenseNet, 161 layers by default.

    Attributes:
      growth: channels that every layer adds.
      stem: channels after the first convolution.
      layers: layers of each dense block.
      embedding_dims: widths of the two layers after pooling; the second is the embedding.
      classes: perturbations to tell apart; 0 for no classifier.
      norm: "batch" is ordinary batch normalization; "ghost" takes statistics over sub-batches
        in training; "adabn" does that and expects statistics of each domain at inference too
        (AdaBN: `domain_statistics`).
      ghost_batch_size: sub-batch of "ghost" and "adabn".
      momentum: how much of the running statistics each training step keeps.
    """

    growth: int = setting(48, ge=1)
    stem: int = setting(96, ge=1)
    layers: tuple[int, ...] = setting((6, 12, 36, 24), ge=1, check=_some_layers)
    embedding_dims: tuple[int, int] = setting((512, 128), ge=1, renamed_from="neck")
    channels: tuple[str, ...] = setting(CELL_PAINTING, check=distinct)
    classes: int = setting(0, ge=0)
    norm: Literal["batch", "ghost", "adabn"] = "batch"
    ghost_batch_size: int = setting(16, ge=1, renamed_from="ghost")
    momentum: float = setting(0.9, ge=0, le=1)
    dtype: Dtype = "float32"

    @staticmethod
    def upgrade_saved(values: dict[str, Any]) -> dict[str, Any]:
        """Version 0.1 called the norm "adabn" "ada"."""
        return values | ({"norm": "adabn"} if values.get("norm") == "ada" else {})
