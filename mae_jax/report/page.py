"""The report: one HTML page from the files of a run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.files import read_json, writable, write_text
from mae_jax.report.data_urls import png_url, svg_url
from mae_jax.viz import plots

PACKAGES = ("mae_jax", "jax", "flax", "optax", "numpy")
UNSEEN = "Crops of experiments that training never saw."


@dataclass(frozen=True)
class Sources:
    """The sources of a report; those that are None are left out of the page.

    Attributes:
      train: a training work folder (metrics, panels, config).
      compared: further ones, whose losses are drawn in the same plot (with and without the
        Fourier term).
      evaluation: a folder of `mae-jax evaluate recall`.
      reconstructions: pictures of triplets, instead of the training's last panel.
      crops_shown: one sentence on the crops in `reconstructions`, such as `UNSEEN`.
      complexes: a CSV of `Metadata_Gene` and `Complex` that orders the heat map.
      commands: (command line, seconds) of what was run, in order.
      seeds: evaluation folders of all seeds of the same run, by seed, where there are several.
    """

    train: Path | None = None
    compared: Sequence[Path] = ()
    evaluation: Path | None = None
    reconstructions: Sequence[Path] = ()
    crops_shown: str = ""
    complexes: Path | None = None
    commands: Sequence[tuple[str, float | None]] = ()
    seeds: dict[int, Path] = field(default_factory=dict)


def write_report(out: str | Path, sources: Sources, title: str = "mae_jax report") -> Path:
    """Write one self-contained HTML file, and return its path.

    Raises:
      InputError: neither a training folder nor an evaluation is given, or one lacks its files.
    """
    if sources.train is None and sources.evaluation is None:
        raise InputError("a report needs --train, --evaluation or both.")
    values: dict[str, Any] = {
        "title": title,
        "subtitle": "Masked autoencoder for microscopy: reconstructions, training, and the recall "
        "of known relationships by its embeddings.",
        "commands": [
            {"line": line, "seconds": None if seconds is None else round(seconds)}
            for line, seconds in sources.commands
        ],
        "versions": versions(),
        "configs": [],
        "databases": [],
        "names": [],
        "config_name": "demo.py",
        "cards_of_model": [],
    }
    if sources.train is not None:
        values |= _training(sources.train, sources)
        values["cards_of_model"] = _cards_of_model(Path(out), sources)
        if sources.compared:
            values["saddle"] = svg_url(
                plots.compare_losses(_losses([sources.train, *sources.compared]))
            )
        values["configs"] += [_listing("training config", sources.train / "config.json")]
    if sources.evaluation is not None:
        if not (sources.evaluation / "recall.csv").exists():
            raise InputError(
                f"{sources.evaluation} has no recall.csv; give a folder that `mae-jax evaluate "
                "recall` wrote."
            )
        values |= _evaluation(sources)
        values["configs"] += [_listing("evaluation settings", sources.evaluation / "settings.json")]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mae_jax.report", "."), autoescape=True, trim_blocks=True
    )
    return write_text(out, environment.get_template("template.html").render(values))


def _cards_of_model(out: Path, sources: Sources) -> list[dict[str, str]]:
    """Links from the page to the cards beside the saved model.

    With an evaluation, the results card is written again, with its recalls.
    """
    # Here and not above: a page about tables needs no JAX.
    from mae_jax.networks.saved_model import MODEL_CARD, RESULTS_CARD
    from mae_jax.train.metric_writers import read_metrics
    from mae_jax.train.model_card import results_card

    assert sources.train is not None
    model = sources.train / "model"
    if sources.evaluation is not None and (model / RESULTS_CARD).exists():
        card = results_card(read_metrics(sources.train), sources.evaluation)
        with writable(model / RESULTS_CARD):
            write_text(model / RESULTS_CARD, card)
    names = {MODEL_CARD: "model card", RESULTS_CARD: "results card"}
    return [
        {"name": text, "href": quote(os.path.relpath(model / file, out.absolute().parent))}
        for file, text in names.items()
        if (model / file).exists()
    ]


def _losses(workdirs: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """The metrics of runs, each named by its folder and its weight of the Fourier term."""
    from mae_jax.train.metric_writers import read_metrics

    losses = {}
    for workdir in workdirs:
        weight = read_json(workdir / "config.json")["model"].get("fourier_weight", 0.0)
        losses[f"{workdir.name} (α = {weight:g})"] = read_metrics(workdir)
    return losses


def versions() -> str:
    """The versions of the packages that compute the numbers."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)


def _training(workdir: Path, sources: Sources) -> dict[str, Any]:
    from mae_jax.train.metric_writers import read_metrics

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
        "loss": svg_url(plots.loss_curves(metrics)),
        "triplets": [png_url(path) for path in (sources.reconstructions or panels[-1:])],
        "crops_shown": sources.crops_shown
        if sources.reconstructions
        else _validation_crops(config),
    }


def _validation_crops(config: dict[str, Any]) -> str:
    """One sentence on the crops of the training's own pictures, as far as the index tells."""
    try:
        columns = ["Metadata_Split", "Metadata_Experiment"]
        sites = pd.read_parquet(config["data"]["index"], columns=columns)
    except Exception:  # no single index, or one that has moved
        return "Crops of the validation split."
    validation = sites["Metadata_Split"] == "validation"
    experiments = sites["Metadata_Experiment"]
    if set(experiments[validation]) & set(experiments[~validation]):
        return "Crops of the validation split, of experiments that training saw other wells of."
    return UNSEEN


def _network(config: dict[str, Any]) -> str:
    """The network, in one sentence."""
    model = config["model"]
    if config.get("network", "mae") != "mae":
        return f"Network {config['network']}, channels {', '.join(model['channels'])}."
    encoder = model["encoder"]
    network = "Channel-agnostic MAE" if encoder["channel_agnostic"] else "MAE"
    return (
        f"{network}, width {encoder['width']}, depth {encoder['depth']}, patches of "
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
                "bars": svg_url(plots.recall_bars(rows, names, corrections)),
                "sweep": None
                if part is None
                else svg_url(
                    plots.recall_against_percentile(
                        part[part["correction"] == best], names, max_percent=100.0
                    )
                ),
            }
        )
    values: dict[str, Any] = {
        "names": names,
        "databases": databases,
        "best_label": labels[best],
        "cards": _cards(recall, best_recalls(sources.evaluation)),
        "verdict": verdict(sources.evaluation),
        "leads": leads(sources.evaluation),
        "seeds": [
            {
                "seed": seed,
                "recalls": [f"{best_recalls(folder)[name]:.2f}" for name in names],
                "leads": leads(folder),
            }
            for seed, folder in sources.seeds.items()
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
        values["cosines"] = svg_url(plots.cosine_heatmap(pd.read_parquet(cosines), groups))
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


def _cards(recall: pd.DataFrame, recalls: dict[str, float]) -> list[dict[str, str]]:
    cards = [{"value": f"{value:.2f}", "label": name} for name, value in recalls.items()]
    plain = recall[recall["correction"] == "none"]
    first = next(iter(recalls))
    if len(plain):
        value = plain[plain["embeddings"] == first]["recall"].mean()
        cards.insert(1, {"value": f"{value:.2f}", "label": f"{first}, uncorrected"})
    return cards


def best_recalls(evaluation: Path) -> dict[str, float]:
    """Recall of each embedding under its own best correction, by the mean over the databases."""
    table = pd.read_csv(evaluation / "recall.csv")
    means = table.groupby(["embeddings", "correction"], sort=False)["recall"].mean()
    return {str(k): float(v) for k, v in means.groupby("embeddings", sort=False).max().items()}


def _differences(evaluation: Path) -> pd.DataFrame:
    """The first embedding compared with each other: other, recall, lead, low, high."""
    path = evaluation / "compare.csv"
    if not path.exists():
        return pd.DataFrame()
    table = pd.read_csv(path)
    rows = table[table["a"] == table["a"].iloc[0]]
    means = rows.groupby("b", sort=False)[["recall_b", "difference", "low", "high"]].mean()
    # compare.csv says b − a.
    return pd.DataFrame(
        {
            "other": means.index,
            "recall": means["recall_b"].to_numpy(),
            "lead": -means["difference"].to_numpy(),
            "low": -means["high"].to_numpy(),
            "high": -means["low"].to_numpy(),
        }
    )


def leads(evaluation: Path) -> list[dict[str, str]]:
    """The lead of the first embedding over each other: other, lead and 95 % interval, as texts."""
    return [
        {
            "other": row["other"],
            "lead": f"{row['lead']:+.2f}",
            "interval": f"{row['low']:+.2f} to {row['high']:+.2f}",
        }
        for row in _differences(evaluation).to_dict("records")
    ]


def verdict(evaluation: str | Path) -> str:
    """Whether the first embedding is clearly better than chance and all others, in one sentence.

    "Clearly" means that the whole 95 % interval of the difference lies above 0. It is over the
    known pairs that are in both maps and counts pairs that share a gene as dependent; each
    embedding is under its own best correction.
    """
    evaluation = Path(evaluation)
    recalls, differences = best_recalls(evaluation), _differences(evaluation)
    name, *others = recalls
    text = (
        f"Each under its best correction, {name} recalls {recalls[name]:.2f} of the known pairs"
        f" (chance {plots.CHANCE:.2f})"
    )
    if not others:
        return text + "."
    text += "; " + ", ".join(f"{other} {recalls[other]:.2f}" for other in others) + ". "
    table = pd.read_csv(evaluation / "recall.csv").query("embeddings == @name")
    above_chance = table.groupby("correction")[["recall", "low"]].mean().max()["low"] > plots.CHANCE
    beaten = differences[differences["low"] > 0]["other"]
    if len(beaten) == len(others) and above_chance:
        return text + "Yes: the 95 % interval of its lead lies above 0 for every one of them."
    near = [o for o in others if o not in set(beaten) and recalls[o] < recalls[name]]
    ahead = [o for o in others if recalls[o] >= recalls[name]]
    if ahead:
        return text + f"No: {', '.join(ahead)} recall{'s' * (len(ahead) == 1)} as much or more."
    return text + f"Not clearly: its lead over {', '.join(near) or 'chance'} may be chance."


def _listing(name: str, path: Path) -> dict[str, str]:
    return {"name": name, "text": path.read_text() if path.exists() else "not found"}
