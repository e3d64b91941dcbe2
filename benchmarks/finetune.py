"""Fine-tunes an encoder to classify perturbations, and compares it with a frozen linear probe.

    make demo
    .venv/bin/python benchmarks/finetune.py --model runs/demo/train --index runs/demo/index.parquet

The last plate of every experiment is held out. The probe is a linear layer on embeddings of the
frozen encoder. Fine-tuning starts from encoder and probe and trains both, with a lower learning
rate in early blocks (layer-wise decay). Both predict a well's perturbation from the mean scores of
the crops that tile its sites.
"""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version

import jax
import numpy as np
import optax
from output import add_output_args

import mae_jax
from mae_jax.data.images import read_site
from mae_jax.data.index import WELL, Index
from mae_jax.data.tiling import tile_offsets
from mae_jax.encoders import Encoder
from mae_jax.files import write_text
from mae_jax.finetune import LinearProbe, fit, layer_decay


@dataclasses.dataclass(frozen=True)
class Sites:
    """Pixels of sites (site, channel, height, width), their class, and the well of each."""

    pixels: np.ndarray
    labels: np.ndarray
    wells: np.ndarray

    def random_crops(
        self, crop: int, batch: int, steps: int, seed: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of crops at random positions, randomly flipped, and their classes."""
        rng = np.random.default_rng(seed)
        height, width = self.pixels.shape[2:]
        for _ in range(steps):
            sites = rng.choice(len(self.pixels), batch)
            rows = rng.integers(0, height - crop + 1, batch)
            columns = rng.integers(0, width - crop + 1, batch)
            crops = [
                self.pixels[s, :, r : r + crop, c : c + crop]
                for s, r, c in zip(sites, rows, columns, strict=True)
            ]
            flipped = [
                x[:, :: 1 - 2 * a, :: 1 - 2 * b]
                for x, a, b in zip(crops, *rng.integers(0, 2, (2, batch)), strict=True)
            ]
            yield np.stack(flipped), self.labels[sites]

    def tiles(self, crop: int) -> np.ndarray:
        """The crops that tile every site: (site, tile, channel, crop, crop)."""
        corners = tile_offsets(*self.pixels.shape[2:], crop)
        cut = [self.pixels[:, :, r : r + crop, c : c + crop] for r, c in corners]
        return np.stack(cut, axis=1)


def read_sites(index: Index, encoder: Encoder, perturbations: int) -> tuple[Sites, Sites]:
    """Training and held-out sites of the first `perturbations`, without controls."""
    table = index.table
    treated = table[table["Metadata_ControlType"] == ""]
    names = sorted(treated["Metadata_Perturbation"].unique())[:perturbations]
    treated = treated[treated["Metadata_Perturbation"].isin(names)]
    last = treated.groupby("Metadata_Experiment")["Metadata_Plate"].transform("max")
    held_out = (treated["Metadata_Plate"] == last).to_numpy()
    channels = encoder.select_channels(index.sites[treated.index[0]][0])
    sites = Sites(
        np.stack([read_site(index, row, channels) for row in treated.index]),
        np.array([names.index(name) for name in treated["Metadata_Perturbation"]], np.int32),
        treated.groupby(list(WELL)).ngroup().to_numpy(),
    )

    def part(chosen: np.ndarray) -> Sites:
        return Sites(*(getattr(sites, f.name)[chosen] for f in dataclasses.fields(sites)))

    return part(~held_out), part(held_out)


def run(
    encoder: Encoder,
    index: Index,
    *,
    perturbations: int,
    steps: int,
    batch: int,
    crop: int,
    seed: int = 0,
) -> dict[str, float]:
    """The held-out accuracy of the frozen probe and of the fine-tuned encoder."""
    train, test = read_sites(index, encoder, perturbations)
    pooling = "channel" if "channel" in encoder.poolings else "mean"
    probe = LinearProbe(classes=perturbations)

    def embed(params, crops):
        return encoder.forward(params, crops, pooling=pooling)

    def embeddings(params, sites: Sites) -> jax.Array:
        """(site, tile, feature), one site at a time."""
        return jax.jit(lambda x: jax.lax.map(lambda crops: embed(params, crops), x))(
            sites.tiles(crop)
        )

    def entropy(head, features, labels):
        scores = probe.apply({"params": head}, features)
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    def accuracy(head, features) -> float:
        scores = jax.vmap(lambda x: probe.apply({"params": head}, x))(features).mean(axis=1)
        right = []
        for well in np.unique(test.wells):
            of_well = test.wells == well
            best = scores[of_well].mean(axis=0).argmax()
            right.append(int(best) == int(test.labels[of_well][0]))
        return float(np.mean(right))

    # The probe: embeddings are computed once, then a linear layer learns from all of them.
    known, unseen = embeddings(encoder.params, train), embeddings(encoder.params, test)
    features = known.reshape(-1, known.shape[-1])
    labels = np.repeat(train.labels, known.shape[1])
    head = probe.init(jax.random.key(seed), features[:1])["params"]
    rng = np.random.default_rng(seed)
    picks = (rng.choice(len(features), 512) for _ in range(2000))
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-2, 2000), weight_decay=1e-3)
    head, _ = fit(entropy, head, ((features[i], labels[i]) for i in picks), optimizer)
    result = {"frozen probe": accuracy(head, unseen)}

    # Fine-tuning: the head continues to learn, together with the encoder.
    params = {"encoder": encoder.params, "head": head}
    depth = sum(name.startswith("block_") for name in encoder.params)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, steps // 10, steps)
    optimizer = layer_decay(
        optax.adamw(schedule, weight_decay=0.05), params, decay=0.8, depth=depth
    )

    def loss(params, crops, labels):
        return entropy(params["head"], embed(params["encoder"], crops), labels)

    params, _ = fit(loss, params, train.random_crops(crop, batch, steps, seed), optimizer)
    result["fine-tuned"] = accuracy(params["head"], embeddings(params["encoder"], test))
    return result | {"chance": 1 / perturbations}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a saved model or a training")
    parser.add_argument("--index", required=True, help="index of the screen")
    parser.add_argument("--perturbations", type=int, default=24)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--crop", type=int, help="side of the crops (that of training)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add_output_args(parser, "finetune")
    args = parser.parse_args()
    encoder = mae_jax.load_encoder(args.model)
    began = time.monotonic()
    results = [
        run(
            encoder,
            Index.read(args.index),
            perturbations=args.perturbations,
            steps=args.steps,
            batch=args.batch,
            crop=args.crop or encoder.preprocessing.crop,
            seed=seed,
        )
        for seed in args.seeds
    ]
    names = list(results[0])
    lines = [["seed", *names], ["---"] * (1 + len(names))]
    for seed, result in zip(args.seeds, results, strict=True):
        lines.append([str(seed), *(f"{result[name]:.3f}" for name in names)])
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax"))
    text = "\n".join(
        [
            "# Fine-tuning",
            "",
            f"Accuracy on held-out wells, of {args.perturbations} perturbations. "
            f"`python benchmarks/finetune.py {' '.join(sys.argv[1:])}`, "
            f"{time.strftime('%Y-%m-%d')}: {time.monotonic() - began:.0f} s on {os.cpu_count()} "
            f"cores; {packages}. The docstring of the script describes the comparison.",
            "",
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
        ]
    )
    print(text)
    write_text(args.out / "README.md", text)


if __name__ == "__main__":
    main()
