"""What can be embedded with by name: published encoders, baselines, and one's own saved models."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mae_jax.config import from_dict
from mae_jax.encoders.known_models import KNOWN_MODELS, KnownModel
from mae_jax.errors import InputError
from mae_jax.files import read_json
from mae_jax.networks.saved_model import CONFIG, WEIGHTS
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.recipe import Recipe
from mae_jax.weights.safetensors_file import read_header

_DEPTH = 3  # folders below the one of runs


@dataclasses.dataclass(frozen=True)
class Entry:
    """One encoder of the list.

    Attributes:
      name: what `--encoder` takes.
      title: what it is.
      channels: those that it takes, in words.
      scale: of its raw pixels, in words.
      crop: side of its crops in pixels; None for any.
      licence: of the weights; "" for one's own.
      megabytes: of its weights in float32.
      source: an address or a folder.
      here: whether the weights are on this machine.
      recipes: names of the recipes; the first is taken unless another is named.
    """

    name: str
    title: str
    channels: str
    scale: str
    crop: int | None
    licence: str
    megabytes: float
    source: str
    here: bool
    recipes: tuple[str, ...] = ()


def entries(runs: str | os.PathLike[str] | None = None) -> list[Entry]:
    """All encoders that have a name: published ones, baselines, and the models below `runs`."""
    listed = [published_entry(known) for known in KNOWN_MODELS.values()]
    for name, title in (
        ("intensity", "baseline: five intensity statistics per channel"),
        ("random", "baseline: random vectors, the score without any signal"),
    ):
        listed.append(Entry(name, title, "any", "of the pixel type", None, "", 0.0, "", True))
    return listed + (list(saved_entries(Path(runs))) if runs is not None else [])


def published_entry(known: KnownModel) -> Entry:
    """The entry of a published encoder, as its first recipe uses it."""
    recipe = known.recipes[0]
    names = tuple(recipe.name for recipe in known.recipes)
    return Entry(
        known.name,
        known.title,
        "5, not published" if known.channels is None else _channels(recipe.preprocessing),
        _scale(recipe.preprocessing),
        recipe.preprocessing.crop,
        known.licence,
        known.megabytes,
        known.source,
        _in_cache(known),
        names,
    )


def saved_entries(runs: Path) -> Iterator[Entry]:
    """The saved models below a folder, such as `runs/mine/model`.

    Raises:
      InputError: there is no such folder.
    """
    if not runs.is_dir():
        raise InputError(f"{runs} is no folder; name the one of your trainings with --runs.")
    for depth in range(_DEPTH + 1):
        for path in sorted(runs.glob("/".join(["*"] * depth + [CONFIG]))):
            weights = path.with_name(WEIGHTS)
            try:
                record = read_json(path)
                if not isinstance(record, dict) or "kind" not in record or not weights.is_file():
                    continue
                where = f"{path}: preprocessing"
                prepared = from_dict(Preprocessing, record.get("preprocessing"), where)
                size = sum(t.stop - t.start for t in read_header(weights).tensors.values())
            except InputError:
                continue  # `load_encoder` says what is wrong with it
            # A training's work folder stands for the model in it.
            folder = path.parent.parent if path.parent.name == "model" else path.parent
            yield Entry(
                str(folder),
                f"saved model, network {record['kind']}",
                _channels(prepared),
                _scale(prepared),
                prepared.crop,
                "",
                size / 1e6,
                str(path.parent),
                True,
            )


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """All of a recipe in plain values."""
    values = dataclasses.asdict(recipe)
    prepared = values.pop("preprocessing")
    name = values.pop("name")
    return {"name": name, **prepared, **values}


def _channels(preprocessing: Preprocessing) -> str:
    names = ", ".join(preprocessing.channels)
    if preprocessing.bag_of_channels and preprocessing.any_channels:
        return "any, one at a time"
    if preprocessing.any_channels:
        return f"any (trained on {names})" if names else "any"
    return names


def _scale(preprocessing: Preprocessing) -> str:
    words = {
        "max": "the image's maximum",
        "minmax": "the image's range",
        "self": "",
        "zscore": "",
        "fixed": "",
    }[preprocessing.standardization]
    if words:
        return words
    if preprocessing.scale is None:
        return "of the pixel type"
    return "any" if preprocessing.scale == 1 else f"{preprocessing.scale:g}"


def _in_cache(known: KnownModel) -> bool:
    """Whether the hub's cache has the weights; the hub is not asked."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    return bool(known.hub) and isinstance(try_to_load_from_cache(known.hub, known.file), str)
