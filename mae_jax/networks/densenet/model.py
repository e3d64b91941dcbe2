"""DenseNet-161 with two layers after pooling: the weakly supervised classifiers of Section 4.1."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.errors import InputError
from mae_jax.networks.channels import check_num_channels
from mae_jax.networks.densenet.config import DenseNetConfig

_kernel_init = nn.initializers.he_normal()


class GhostBatchNorm(nn.Module):
    """Batch normalization whose training statistics come from sub-batches.

    Running statistics (collection "batch_stats") follow the mean of the sub-batches' own. With
    `sub_batch` 0 it is ordinary batch normalization.
    """

    sub_batch: int = 0
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "batch *space dim"], train: bool) -> Float[Array, "..."]:
        dim = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (dim,))
        bias = self.param("bias", nn.initializers.zeros, (dim,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (dim,))
        var = self.variable("batch_stats", "var", jnp.ones, (dim,))
        full = x.astype(jnp.float32)
        if not train:
            y = (full - mean.value) * jax.lax.rsqrt(var.value + self.epsilon)
            return (y * scale + bias).astype(x.dtype)
        size = self.sub_batch or x.shape[0]
        if x.shape[0] % size:
            raise InputError(
                f"a batch of {x.shape[0]} does not divide into sub-batches of {size}; "
                "change the batch size or ghost_batch_size."
            )
        groups = full.reshape(x.shape[0] // size, size, *x.shape[1:])
        axes = tuple(range(1, groups.ndim - 1))
        group_mean = groups.mean(axes, keepdims=True)
        group_var = jnp.square(groups - group_mean).mean(axes, keepdims=True)
        if not self.is_initializing():
            count = size * full[0].size // dim
            unbiased = group_var.mean(0) * (count / max(count - 1, 1))
            for running, new in ((mean, group_mean.mean(0)), (var, unbiased)):
                new = jax.lax.stop_gradient(new.reshape(dim))
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        y = ((groups - group_mean) * jax.lax.rsqrt(group_var + self.epsilon)).reshape(x.shape)
        return (y * scale + bias).astype(x.dtype)


class DenseNet(nn.Module):
    """Standardized images to embeddings, or to logits of perturbations."""

    config: DenseNetConfig

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch channels height width"],
        *,
        train: bool = False,
        output: Literal["features", "embedding", "logits"] = "embedding",
    ) -> Float[Array, "batch outputs"]:
        """Pooled features of the backbone, the embedding, or logits.

        With `train`, pass `mutable=["batch_stats"]` and keep what it returns.

        Raises:
          InputError: a wrong number of channels, a batch that does not divide into sub-batches,
            or logits of a network without classes.
        """
        config = self.config
        check_num_channels(images, config.channels)
        if output == "logits" and not config.classes:
            raise InputError("this network has no classifier; set classes.")

        def conv(x: jax.Array, features: int, size: int, name: str, stride: int = 1) -> jax.Array:
            layer = nn.Conv(
                features,
                (size, size),
                strides=stride,
                padding=size // 2,
                use_bias=False,
                dtype=config.dtype,
                kernel_init=_kernel_init,
                name=name,
            )
            return layer(x)

        def norm_relu(x: jax.Array, name: str) -> jax.Array:
            size = 0 if config.norm == "batch" else config.ghost_batch_size
            return nn.relu(GhostBatchNorm(size, config.momentum, name=name)(x, train))

        x = jnp.moveaxis(images, 1, -1)
        x = norm_relu(conv(x, config.stem, 7, "conv0", stride=2), "norm0")
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for b, count in enumerate(config.layers, start=1):
            for i in range(1, count + 1):
                name = f"block{b}_layer{i:02d}"
                y = conv(norm_relu(x, f"{name}_norm1"), 4 * config.growth, 1, f"{name}_conv1")
                y = conv(norm_relu(y, f"{name}_norm2"), config.growth, 3, f"{name}_conv2")
                x = jnp.concatenate([x, y], axis=-1)
            if b < len(config.layers):
                name = f"transition{b}"
                half = x.shape[-1] // 2
                x = conv(norm_relu(x, f"{name}_norm"), half, 1, f"{name}_conv")
                x = nn.avg_pool(x, (2, 2), (2, 2))
        features = norm_relu(x, "norm5").astype(jnp.float32).mean((1, 2))
        hidden = nn.relu(nn.Dense(config.embedding_dims[0], name="neck1")(features))
        embedding = nn.Dense(config.embedding_dims[1], name="neck2")(hidden)
        if config.classes:
            logits = nn.Dense(config.classes, name="classifier")(nn.relu(embedding))
            if output == "logits":
                return logits
        return features if output == "features" else embedding


def domain_statistics(
    model: DenseNet, variables: Any, batches: Float[Array, "batches batch channels height width"]
) -> Any:
    """The batch statistics of one domain (a plate, an experiment): AdaBN at inference.

    Every batch is normalized by its own sub-batches on the way, as in training, and the
    statistics of all are averaged. Use them in place of `variables["batch_stats"]` for the
    images of that domain.

    Args:
      variables: {"params": …, "batch_stats": …}.
      batches: standardized images of this domain alone.
    """
    fresh = DenseNet(dataclasses.replace(model.config, momentum=0.0))

    def batch_statistics(images: jax.Array) -> Any:
        return fresh.apply(variables, images, train=True, mutable=["batch_stats"])[1]

    statistics = jax.lax.map(batch_statistics, batches)["batch_stats"]
    return jax.tree.map(lambda leaf: leaf.mean(0), statistics)
