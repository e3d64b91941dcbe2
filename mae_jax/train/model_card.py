"""The model card and the results card of a run: Markdown beside the saved model."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mae_jax._version import __version__
from mae_jax.data import Index
from mae_jax.errors import InputError
from mae_jax.networks.saved_model import RESULTS_CARD
from mae_jax.networks.task import Task
from mae_jax.train.config import TrainConfig
from mae_jax.train.evaluators import VALIDATION_LOSS
from mae_jax.weights.pytree_paths import flatten_leaves

Rows = Sequence[Mapping[str, Any]]


def model_card(
    config: TrainConfig, task: Task, params: Mapping[str, Any], metrics: Rows, step: int
) -> str:
    """The card of a trained model: architecture, channels, data, training, licence, how to load.

    It begins with the metadata that the Hugging Face hub reads.

    Args:
      params: as saved; only their shapes are read.
      metrics: rows of `metrics.jsonl`.
      step: steps done.
    """
    preprocessing = task.preprocessing()
    count = sum(leaf.size for leaf in flatten_leaves(params).values())
    scale = preprocessing.scale
    divisor = "the maximum of the pixels' type" if scale is None else f"{scale:g}"
    last = next((row["train/loss"] for row in reversed(metrics) if "train/loss" in row), None)
    validation = [row[VALIDATION_LOSS] for row in metrics if VALIDATION_LOSS in row]
    losses = [] if last is None else [f"training {last:.4g}"]
    if validation:
        losses.append(f"validation {validation[-1]:.4g} (lowest {min(validation):.4g})")
    optimizer = config.optimizer
    channels = "any channels, in any order; trained on " if preprocessing.any_channels else ""
    rows = [
        ("Network", f"{config.network}, {count:,} parameters"),
        ("Architecture", _architecture(config.model)),
        ("Channels", channels + ", ".join(preprocessing.channels)),
        ("Crop", f"{preprocessing.crop} × {preprocessing.crop} pixels"),
        ("Pixels", f"divided by {divisor}, then each channel of a crop standardized by itself"),
        ("Data", "; ".join(_data(config))),
        ("Steps", f"{step:,} of {config.data.batch:,} crops"),
        ("Optimizer", f"{optimizer.name}, highest rate {optimizer.lr:g} ({optimizer.schedule})"),
        ("Losses", ", ".join(losses) or "not logged"),
        ("Started from", config.init_from or "random weights"),
        ("Licence", config.license or "not stated"),
    ]
    front = ["---", "library_name: mae_jax", f"license: {config.license or 'unknown'}",
             "tags: [microscopy, masked-autoencoder]", "---"]  # fmt: skip
    return "\n".join(
        [
            *front,
            "",
            f"# {config.network} trained with mae_jax {__version__}",
            "",
            *_table(("", ""), rows),
            "",
            "## Use",
            "",
            "```python",
            "import mae_jax",
            "",
            'encoder = mae_jax.load_encoder("path/of/this/folder")',
            "# raw pixels (batch, channels, height, width)",
            f"vectors = encoder.embed(pixels, channels={_names(preprocessing.channels)})",
            "```",
            "",
            "```",
            "mae-jax embed --encoder path/of/this/folder --index index.parquet --out embeddings",
            "```",
            "",
            f"Losses and scores: [{RESULTS_CARD}]({RESULTS_CARD}).",
            "",
        ]
    )


def results_card(metrics: Rows, evaluation: Path | None = None) -> str:
    """The card of results: losses by step, speed, and the recalls of an evaluation.

    Args:
      metrics: rows of `metrics.jsonl`.
      evaluation: a folder of `mae-jax evaluate recall`.

    Raises:
      InputError: the evaluation's table is damaged.
    """
    lines = ["# Results", "", "## Training", ""]
    looks = [row for row in metrics if VALIDATION_LOSS in row]
    training = [row for row in metrics if "train/loss" in row]
    if looks:
        best = min(looks, key=lambda row: row[VALIDATION_LOSS])
        shown = [(f"{row['step']:,}", f"{row[VALIDATION_LOSS]:.4f}") for row in _spread(looks)]
        lines += [*_table(("step", "validation loss"), shown), ""]
        lines += [f"Lowest: {best[VALIDATION_LOSS]:.4f} at step {best['step']:,}.", ""]
    elif training:
        shown = [(f"{row['step']:,}", f"{row['train/loss']:.4f}") for row in _spread(training)]
        lines += [*_table(("step", "training loss"), shown), ""]
    else:
        lines += ["No losses were logged.", ""]
    speeds = sorted(r["speed/crops_per_second"] for r in metrics if "speed/crops_per_second" in r)
    if speeds:
        lines += [f"Speed: {speeds[len(speeds) // 2]:.0f} crops per second (median).", ""]
    if evaluation is None:
        lines += ["`mae-jax report --train RUN --evaluation EVALUATION` adds the recalls of an "
                  "evaluation.", ""]  # fmt: skip
        return "\n".join(lines)
    try:
        table = pd.read_csv(evaluation / "recall.csv")
        cells = [
            (row["database"], row["embeddings"], row["label"],
             f"{row['recall']:.3f} ({row['low']:.3f} to {row['high']:.3f})", str(row["pairs_used"]))
            for row in table.to_dict("records")
        ]  # fmt: skip
    except (OSError, ValueError, KeyError) as problem:
        raise InputError(
            f"{evaluation}/recall.csv cannot be read ({problem}); evaluate again."
        ) from None
    head = ("relationships", "embeddings", "correction", "recall (95 % interval)", "pairs")
    lines += ["## Recall of known relationships", "", *_table(head, cells), ""]
    return "\n".join(lines)


def _architecture(model: Any) -> str:
    """The sizes of a network, as far as its config names them."""
    parts = []
    for name, config in (("", getattr(model, "encoder", model)),
                         ("decoder ", getattr(model, "decoder", None))):  # fmt: skip
        known = [key for key in ("patch", "width", "depth", "heads", "widths", "layers", "growth")
                 if hasattr(config, key)]  # fmt: skip
        if known:
            parts.append(name + ", ".join(f"{key} {getattr(config, key)}" for key in known))
    if getattr(getattr(model, "encoder", None), "channel_agnostic", False):
        parts.insert(0, "channel-agnostic")
    return "; ".join(parts) or type(model).__name__


def _data(config: TrainConfig) -> list[str]:
    """Each index of the run with its numbers of sites, wells and experiments."""
    paths = [each.index for each in config.data.datasets] or [config.data.index]
    described = []
    for path in filter(None, paths):
        name = Path(path).name if "://" not in path else path
        try:
            index = Index.read(path)
        except InputError:  # moved or deleted meanwhile
            described.append(name)
            continue
        splits = index.table["Metadata_Split"].value_counts()
        described.append(
            f"{name}: {splits.get('train', 0):,} sites to train on, "
            f"{splits.get('validation', 0):,} for validation, {len(index.wells()):,} wells, "
            f"{index.table['Metadata_Experiment'].nunique():,} experiments"
        )
    return described or ["not an index"]


def _spread(rows: Rows, count: int = 10) -> list[Mapping[str, Any]]:
    """At most `count` rows, evenly spaced, the last among them."""
    step = max(1, -(-len(rows) // count))
    return list(rows[::-1][::step])[::-1]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def _names(channels: Sequence[str]) -> str:
    return "(" + ", ".join(f'"{name}"' for name in channels) + ("," * (len(channels) == 1)) + ")"
