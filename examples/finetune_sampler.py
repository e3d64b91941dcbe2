"""Fine-tunes an encoder with the crops that the library samples.

    python examples/finetune_sampler.py --encoder runs/demo/train --index runs/demo/index.parquet

`crop_batches` with `sampling="label"` draws a label first, then one of its sites, then a random
crop, flipped at random: rare labels come as often as frequent ones, and step t has the same crops
on any number of hosts. The encoder learns through LoRA, the head is a linear layer.
"""

import argparse
import itertools
from collections.abc import Iterator
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mae_jax
from mae_jax.finetune import LinearProbe, fit, lora_init, lora_merge


def main(argv: list[str] | None = None) -> list[float]:
    """Fine-tune, and return the loss of each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--index", required=True)
    parser.add_argument("--label", default="Metadata_Gene", help="column of the labels")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args(argv)

    encoder = mae_jax.load_encoder(args.encoder)
    index = mae_jax.Index.read(args.index)
    channels = encoder.select_channels(index.channels)
    batches = mae_jax.crop_batches(
        index,
        crop=encoder.preprocessing.crop,
        batch=args.batch,
        seed=0,
        channels=channels,
        sampling="label",
        label=args.label,
    )

    def crops() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in itertools.islice(batches, args.steps):
            yield batch["pixels"], batch["label"]

    probe = LinearProbe(classes=len(batches.labels))
    width = encoder.width(len(channels))
    weights = jax.tree.map(jnp.asarray, encoder.params)  # on the device, once
    params = {
        "lora": lora_init(jax.random.key(0), weights, rank=4),
        "head": probe.init(jax.random.key(1), jnp.zeros((1, width)))["params"],
    }

    def loss(params, pixels, labels):
        features = encoder.forward(lora_merge(weights, params["lora"]), pixels)
        scores = probe.apply({"params": params["head"]}, features)
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    with closing(batches):
        _, losses = fit(loss, params, crops(), optax.adamw(1e-3))
    print(f"{len(batches.labels)} labels: loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last")
    return losses


if __name__ == "__main__":
    main()
