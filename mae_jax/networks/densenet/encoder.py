"""The encoder of DenseNets, and its adaptation to a domain (AdaBN)."""

import json
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PyTree

from mae_jax.config import to_dict
from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.densenet.model import DenseNet, domain_statistics
from mae_jax.networks.encoder import NetworkEncoder


class DenseNetEncoder(NetworkEncoder):
    """A supervised DenseNet: its embedding is the second layer after pooling.

    `params` hold the batch statistics too.
    """

    poolings = ("mean",)
    config: DenseNetConfig

    def default_name(self) -> str:
        """See `NetworkEncoder.default_name`."""
        return "DenseNet" + (" with AdaBN" if self.config.norm == "adabn" else "")

    def architecture(self) -> str:
        """The config as JSON with the names of version 0.1, so that old fingerprints stay valid."""
        record = to_dict(self.config)
        record["ghost"] = record.pop("ghost_batch_size")
        record["neck"] = record.pop("embedding_dims")
        record["norm"] = "ada" if record["norm"] == "adabn" else record["norm"]
        return json.dumps(record, sort_keys=True)

    def forward(
        self,
        params: PyTree,
        pixels: Num[Array, "batch channels height width"],
        *,
        pooling: str = "mean",
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """See `Encoder.forward`; there is one pooling and there are no blocks."""
        self.check_pooling(pooling)
        self.check_no_block(block)
        embedding: Any = DenseNet(self.config).apply(params, self.preprocessing.standardize(pixels))
        return embedding.astype(jnp.float32)

    def width(self, channels: int, pooling: str = "mean") -> int:
        """The width of the second layer after pooling."""
        return self.config.embedding_dims[1]

    def with_adabn(
        self, batches: Num[Array, "batches batch channels height width"]
    ) -> "DenseNetEncoder":
        """This encoder with the batch statistics of one domain: AdaBN at inference.

        Args:
          batches: raw crops of that domain alone (a plate), in batches of a multiple of
            `ghost_batch_size`.
        """
        statistics = domain_statistics(
            DenseNet(self.config), self.params, self.preprocessing.standardize(batches)
        )
        params = {**self.params, "batch_stats": statistics}
        return DenseNetEncoder(self.config, params, self.preprocessing, name=self.name)
