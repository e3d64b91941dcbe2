"""Puts the report together from what a run left on disk."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.files import read_json, write_text
from mae_jax.report import figures

PACKAGES = ("mae_jax", "jax", "flax", "optax", "numpy")
CHANCE = 0.10


@dataclass(frozen=True)
class Sources:
    """What a report is made of; what is None is left out of the page.

    Attributes:
      train: a training work folder (metrics, panels, config).
      compared: further ones, whose losses are drawn beside it (with and without the Fourier term).
      evaluation: a folder of `mae-jax evaluate recall`.
      reconstructions: pictures of triplets, instead of the training's last panel.
      complexes: a CSV of `Metadata_Gene` and `Complex` that orders the heat map.
      commands: (command line, seconds) of what was run, in order.
      seeds: recalls of other seeds of the same run: seed → {embeddings: recall}.
    """

    train: Path | None = None
    compared: Sequence[Path] = ()
    evaluation: Path | None = None
    reconstructions: Sequence[Path] = ()
    complexes: Path | None = None
    commands: Sequence[tuple[str, float | None]] = ()
    seeds: dict[int, dict[str, float]] = field(default_factory=dict)


def write_report(out: str | Path, sources: Sources, title: str = "mae_jax report") -> Path:
    """Writes one HTML file that needs nothing beside it, and returns its path.

    Raises:
      InputError: neither a training folder nor an evaluation is given, or one lacks its files.
    """
    if sources.train is None and sources.evaluation is None:
        raise InputError("a report needs --train, --evaluation or both.")
    values: dict[str, Any] = {
        "title": title,
        "subtitle": "Masked autoencoder for microscopy: what it was shown, what it learned, "
        "and what its embeddings know.",
        "commands": [
            {"line": line, "seconds": None if seconds is None else round(seconds)}
            for line, seconds in sources.commands
        ],
        "versions": ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES),
        "configs": [],
        "databases": [],
        "names": [],
        "config_name": "demo.py",
    }
    if sources.train is not None:
        values |= _training(sources.train, sources.reconstructions)
        if sources.compared:
            values["saddle"] = figures.saddle(_losses([sources.train, *sources.compared]))
        values["configs"] += [_listing("training config", sources.train / "config.json")]
    if sources.evaluation is not None:
        values |= _evaluation(sources)
        values["configs"] += [_listing("evaluation settings", sources.evaluation / "settings.json")]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mae_jax.report", "."), autoescape=True, trim_blocks=True
    )
    return write_text(out, environment.get_template("template.html").render(values))


def _losses(workdirs: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """The metrics of runs, each named by its folder and its weight of the Fourier term."""
    from mae_jax.train.records import read_metrics

    found = {}
    for workdir in workdirs:
        weight = read_json(workdir / "config.json")["model"].get("fourier_weight", 0.0)
        found[f"{workdir.name} (α = {weight:g})"] = read_metrics(workdir)
    return found


def _training(workdir: Path, reconstructions: Sequence[Path]) -> dict[str, Any]:
    from mae_jax.train.records import read_metrics

    config, metrics = read_json(workdir / "config.json"), read_metrics(workdir)
    if not metrics:
        raise InputError(f"{workdir}/metrics.jsonl is empty; let the training reach a step first.")
    optimizer = config["optimizer"]
    speeds = [m["speed/crops_per_second"] for m in metrics if "speed/crops_per_second" in m]
    waits = [m["speed/data_wait"] for m in metrics if "speed/data_wait" in m]
    panels = sorted((workdir / "panels").glob("step_*.png"))
    text = (
        f"{optimizer['name'].capitalize()}, one cycle to a rate of {optimizer['lr']:g}, "
        f"{metrics[-1]['step']} steps of {config['data']['batch']} crops"
    )
    if speeds:
        text += f", {sorted(speeds)[len(speeds) // 2]:.0f} crops/s (median)"
        text += f", {100 * sum(waits) / len(waits):.1f} % of the time waiting for data"
    return {
        "network": _network(config),
        "training": text + ".",
        "mask_percent": round(100 * config["model"].get("mask_ratio", 0)),
        "loss": figures.loss_curves(metrics),
        "triplets": [figures.picture(path) for path in (reconstructions or panels[-1:])],
    }


def _network(config: dict[str, Any]) -> str:
    """What was trained, in a sentence."""
    model = config["model"]
    if config.get("network", "mae") != "mae":
        return f"Network {config['network']}, channels {', '.join(model['channels'])}."
    encoder = model["encoder"]
    kind = "Channel-agnostic MAE" if encoder["channel_agnostic"] else "MAE"
    return (
        f"{kind}, width {encoder['width']}, depth {encoder['depth']}, patches of "
        f"{encoder['patch']}² in crops of {encoder['crop']}² px, channels "
        f"{', '.join(encoder['channels'])}, Fourier weight {model['fourier_weight']:g}."
    )


def _evaluation(sources: Sources) -> dict[str, Any]:
    assert sources.evaluation is not None
    recall = pd.read_csv(sources.evaluation / "recall.csv")
    names = list(dict.fromkeys(recall["embeddings"]))
    corrections = list(dict.fromkeys(recall["correction"]))
    labels = dict(zip(recall["correction"], recall["label"], strict=True))
    sweep_path = sources.evaluation / "sweep.csv"
    sweep = pd.read_csv(sweep_path) if sweep_path.exists() else None

    ours = recall[recall["embeddings"] == names[0]]
    best = str(ours.groupby("correction")["recall"].mean().idxmax())
    databases = []
    for database, rows in recall.groupby("database", sort=False):
        part = None if sweep is None else sweep[sweep["database"] == database]
        databases.append(
            {
                "name": database,
                "pairs": int(rows["pairs_used"].max()),
                "rows": [_row(rows, c, labels[c], names) for c in corrections],
                "bars": figures.recall_bars(rows, names, corrections),
                "sweep": None
                if part is None
                else figures.recall_against_percentile(part, best, names),
            }
        )
    values: dict[str, Any] = {
        "names": names,
        "databases": databases,
        "best_label": labels[best],
        "cards": _cards(recall, names, best, labels[best]),
        "verdict": _verdict(recall, names, best, labels[best]),
        "seeds": [
            {"seed": seed, "values": [f"{found.get(name, float('nan')):.2f}" for name in names]}
            for seed, found in sources.seeds.items()
        ],
    }
    cosines = sources.evaluation / "cosines.parquet"
    if cosines.exists():
        groups = {}
        if sources.complexes is not None:
            table = pd.read_csv(sources.complexes, dtype=str)
            lacking = {"Metadata_Gene", "Complex"} - set(table.columns)
            if lacking:
                raise InputError(
                    f"{sources.complexes} has no column {min(lacking)}; it needs Metadata_Gene "
                    "and Complex."
                )
            groups = {
                gene: complex_
                for gene, complex_ in zip(table["Metadata_Gene"], table["Complex"], strict=True)
                if isinstance(complex_, str) and complex_
            }
        values["cosines"] = figures.cosine_map(pd.read_parquet(cosines), groups)
        shown = read_json(sources.evaluation / "settings.json")["best"]
        values["map_of"] = f"{shown['embeddings']}, {labels[shown['correction']]}"
    return values


def _row(rows: pd.DataFrame, correction: str, label: str, names: Sequence[str]) -> dict[str, Any]:
    part = rows[rows["correction"] == correction].set_index("embeddings")
    top = part["recall"].max()
    cells = [
        {
            "recall": f"{row['recall']:.2f}",
            "interval": f"{row['low']:.2f}–{row['high']:.2f}",
            "best": row["recall"] == top,
        }
        for row in part.loc[list(names), ["recall", "low", "high"]].to_dict("records")
    ]
    return {"label": label, "cells": cells}


def _means(recall: pd.DataFrame, correction: str) -> pd.Series:
    return recall[recall["correction"] == correction].groupby("embeddings")["recall"].mean()


def _cards(
    recall: pd.DataFrame, names: Sequence[str], best: str, label: str
) -> list[dict[str, str]]:
    after = _means(recall, best)
    cards = [{"value": f"{after[name]:.2f}", "says": f"{name}, {label}"} for name in names]
    if "none" in set(recall["correction"]):
        before = _means(recall, "none")[names[0]]
        cards.insert(1, {"value": f"{before:.2f}", "says": f"{names[0]}, no correction"})
    return cards


def _verdict(recall: pd.DataFrame, names: Sequence[str], best: str, label: str) -> str:
    after = _means(recall, best)
    ours = after[names[0]]
    others = {name: after[name] for name in names[1:]}
    text = f"After {label}, {names[0]} recalls {ours:.2f} of the known pairs (chance {CHANCE:.2f})"
    if others:
        text += "; " + ", ".join(f"{name} {value:.2f}" for name, value in others.items())
    rivals = [*others.values(), CHANCE]
    rows = recall[(recall["correction"] == best) & (recall["embeddings"] == names[0])]
    if not all(ours > value for value in rivals):
        return text + ". No, not above all."
    if not all(rows["low"].mean() > value for value in rivals):
        return text + ". It leads, but others stand within its 95 % interval."
    return text + ". Yes: it stands above all of them."


def _listing(name: str, path: Path) -> dict[str, str]:
    return {"name": name, "text": path.read_text() if path.exists() else "not found"}
