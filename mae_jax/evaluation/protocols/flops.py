"""Training compute of a masked autoencoder, as the paper counts it and analytically."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import pandas as pd

from mae_jax.evaluation.protocols.base import Progress, Spec
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.results import Result
from mae_jax.flops import (
    PublishedMAE,
    embedding_flops,
    mae_training_flops,
    paper_training_flops,
)


@dataclass(frozen=True, kw_only=True)
class FlopsSpec(Spec):
    """Both counts of one network.

    Attributes:
      network: its published size, patch, crop and channels.
      crops: seen in training.
    """

    name: ClassVar[str] = "flops"
    network: PublishedMAE
    crops: Annotated[float, Option("crops seen in training, such as 3.5e9")]


def run_flops(spec: FlopsSpec, progress: Progress) -> Result:
    """Table `flops`: count, flops."""
    del progress
    shape = spec.network.shape
    counts = {
        "as the paper counts": paper_training_flops(shape.encoder, spec.crops),
        "true count (training)": mae_training_flops(shape, spec.crops),
        "embedding one crop": embedding_flops(shape.encoder),
    }
    return Result(
        tables={"flops": pd.DataFrame({"count": list(counts), "flops": list(counts.values())})},
        settings=spec.settings(),
        summary=[f"{name + ':':<23}{value:.3e} FLOPs" for name, value in counts.items()],
        main="flops.csv",
    )
