"""The card of a model on the hub, from its configuration, its recipe and its measured results."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mae_jax._version import __version__
from mae_jax.config import to_dict
from mae_jax.encoders.catalog import describe_recipe
from mae_jax.encoders.known_models import KnownModel
from mae_jax.errors import InputError
from mae_jax.networks.registry import of_config
from mae_jax.networks.saved_model import PretrainedModel
from mae_jax.weights.recipe import Recipe

_MAX_ROWS = 30  # of one table of results


def model_card(
    name: str,
    model: PretrainedModel,
    *,
    known: KnownModel | None = None,
    recipe: Recipe | None = None,
    results: Sequence[str | os.PathLike[str]] = (),
) -> str:
    """The text of README.md.

    Args:
      name: "owner/name" on the hub.
      known: the published encoder that it is of, if it is.
      recipe: how it is used, if that is said.
      results: folders of `mae-jax evaluate` or `benchmark`, whose tables are shown.

    Raises:
      InputError: a folder has no tables.
    """
    prepared = model.preprocessing
    config = getattr(model.config, "encoder", model.config)
    header: dict[str, Any] = {
        "library_name": "mae_jax",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["microscopy", "cell-painting", of_config(model.config).name],
    }
    if known is not None:
        header |= {"license": "other", "license_name": known.licence, "license_link": known.source}
    # A value of JSON is one of YAML too.
    fields = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    lines = ["---", *fields, "---", ""]
    lines += [f"# {name.split('/')[-1]}", ""]
    if known is not None:
        lines += [f"{known.title}; the weights are those of {known.source}.", ""]
    lines += [
        f"An encoder of microscopy images for mae_jax {__version__}.",
        "",
        "```",
        f"mae-jax embed --encoder {name} --index index.parquet --out embeddings",
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| network | {of_config(model.config).name} |",
        f"| parameters | {model.num_params:,} |",
        f"| channels | {_channels(prepared.channels, prepared.any_channels)} |",
        f"| crop | {prepared.crop} pixels |",
        f"| scale | {'of the pixel type' if prepared.scale is None else f'{prepared.scale:g}'} |",
        f"| standardization | {prepared.standardization}, eps {prepared.eps:g} |",
        "",
        "## Architecture",
        "",
        *_table(to_dict(config)),
    ]
    if recipe is not None:
        lines += ["## Recipe", "", *_table(describe_recipe(recipe))]
    if results:
        lines += ["## Measured results", ""]
        for folder in results:
            lines += _results(Path(folder))
    return "\n".join(lines).rstrip() + "\n"


def _channels(names: Sequence[str], any_channels: bool) -> str:
    words = ", ".join(names)
    if not any_channels:
        return words
    return f"any, trained on {words}" if words else "any"


def _table(values: dict[str, Any]) -> list[str]:
    rows = [
        f"| {key} | {_cell(', '.join(map(str, v)) if isinstance(v, list | tuple) else v)} |"
        for key, v in values.items()
        if v not in (None, "", (), [])
    ]
    return ["| key | value |", "|---|---|", *rows, ""]


def _results(folder: Path) -> list[str]:
    """The tables of an evaluation's folder in Markdown."""
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise InputError(
            f"{folder} has no tables (*.csv); give a folder that `mae-jax evaluate` or "
            "`mae-jax benchmark` wrote."
        )
    lines = []
    for file in files:
        try:
            table = pd.read_csv(file)
        except ValueError:
            raise InputError(f"{file} is no table; evaluate again.") from None
        lines += [f"### {folder.name}: {file.stem}", ""]
        lines.append("| " + " | ".join(map(_cell, table.columns)) + " |")
        lines.append("|" + "---|" * len(table.columns))
        for row in table.head(_MAX_ROWS).itertuples(index=False):
            lines.append("| " + " | ".join(map(_cell, row)) + " |")
        if len(table) > _MAX_ROWS:
            lines.append(f"\nThe first {_MAX_ROWS} of {len(table)} rows.")
        lines.append("")
    return lines


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
