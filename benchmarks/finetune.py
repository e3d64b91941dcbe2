"""Compares the methods of fine-tuning: frozen probes, LoRA, and all parameters.

    make demo
    .venv/bin/python benchmarks/finetune.py --encoder runs/demo/train \\
        --index runs/demo/index.parquet

Perturbations are classified, controls left out. Whole plates are held out, the same for all methods
of a seed; validation wells of the other plates stop the training early. LoRA and full fine-tuning
start from the linear probe. A well's class follows from the mean output over the crops that tile
its sites.
"""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from output import add_output_args

import mae_jax
from mae_jax.data.index import Index
from mae_jax.encoders import Encoder
from mae_jax.files import write_text
from mae_jax.finetune import METHODS, FineTuneConfig, FineTuner


def treated(index: Index, perturbations: int) -> Index:
    """The sites of the first `perturbations`, without controls."""
    table = index.table[index.table["Metadata_ControlType"] == ""]
    names = sorted(table["Metadata_Perturbation"].unique())[:perturbations]
    return Index(table[table["Metadata_Perturbation"].isin(names)], index.root)


def run(
    encoder: Encoder, index: Index, config: FineTuneConfig, methods: Sequence[str] = tuple(METHODS)
) -> dict[str, float]:
    """The accuracy on held-out plates by method, and that by chance."""
    found: dict[str, float] = {}
    for method in methods:
        tuner = FineTuner(encoder, config, method=method)
        scores = tuner.fit(index, "Metadata_Perturbation").scores["test"]
        found[method] = scores["accuracy"]
        found["chance"] = scores["chance"]
    return {name: found[name] for name in (*methods, "chance")}


def main() -> None:
    default = FineTuneConfig()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True, help="folder of a saved model or a training")
    parser.add_argument("--index", required=True, help="index of the screen")
    parser.add_argument("--perturbations", type=int, default=24)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--crop", type=int, help="side of the crops (that of training)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add_output_args(parser, "finetune")
    args = parser.parse_args()
    encoder = mae_jax.load_encoder(args.encoder)
    index = treated(Index.read(args.index), args.perturbations)
    began = time.monotonic()
    settings: dict[str, Any] = {"steps": args.steps, "crop": args.crop, "holdout": "plate"}
    results = [
        run(encoder, index, dataclasses.replace(default, seed=seed, **settings))
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
            f"Accuracy on wells of held-out plates, of {args.perturbations} perturbations. "
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
