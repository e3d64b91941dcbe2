"""Reconstructions of a screen's wells, as pictures and one page."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.well_names import normal_well
from mae_jax.errors import InputError
from mae_jax.files import replacing, write_text
from mae_jax.inference.reconstruct import predict_missing_channels, reconstruct_crops
from mae_jax.networks.encoder import Encoder
from mae_jax.viz.panels import channel_grid, reconstruction_grid

_TEMPLATE = Path(__file__).parent / "reconstruction_page.html"


@dataclass(frozen=True, eq=False)
class Sample:
    """The centre crop of one site, with the channels that the decoder knows."""

    title: str
    name: str
    channels: tuple[str, ...]
    left_out: tuple[str, ...]
    pixels: Shaped[np.ndarray, "channels crop crop"]


@dataclass
class Shown:
    """One picture of the page."""

    title: str
    file: str
    rows: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""


def reconstruct_index(
    encoder: Encoder,
    index: Index,
    out: str | os.PathLike[str],
    *,
    mask_ratio: float | None = None,
    wells: Sequence[str] = (),
    count: int = 4,
    channels: Sequence[str] | None = None,
    missing: Sequence[str] = (),
    crop: int | None = None,
    seed: int = 0,
) -> Path:
    """Masks, reconstructs and draws the centre crops of some wells (Figures 2 and 7).

    Args:
      encoder: a masked autoencoder that was saved with its decoder.
      index: the screen, or the part of it to choose from.
      out: a folder for `index.html`, `triplets.png` (all wells with the same channels side by
        side) and a `well_*.png` each; with `missing`, a `missing_*.png` each too.
      mask_ratio: the share of patches to hide; None for that of training.
      wells: names of wells ("B07", or "PLATE/B07"); none to draw `count` of them by `seed`.
      count: how many wells, where none are named.
      channels: channels to show, by name; None for all of a site that the decoder knows.
      missing: channels to predict from all others, whether a site has them or not.
      crop: side of a crop in pixels, a multiple of the patch; None for that of training.
      seed: of the masks, and of the choice of wells.

    Returns:
      The path of the page.

    Raises:
      InputError: the encoder has no decoder, a well or channel is unknown, or no well can be read.
    """
    if getattr(encoder, "mae_params", None) is None:
        raise InputError(
            f"the encoder '{encoder.name}' reconstructs nothing: give a masked autoencoder that "
            "was saved with its decoder."
        )
    out = Path(out)
    samples, broken = [], []
    for row in _chosen(index, wells, count, seed):
        try:
            samples.append(_sample(encoder, index, row, channels, crop))
        except InputError as problem:
            broken.append(str(problem))
    if not samples:
        raise InputError(f"none of the wells can be read: {broken[0]}")
    shown = _triplets(encoder, samples, out, mask_ratio, seed)
    if missing:
        shown += [_missing(encoder, sample, tuple(missing), out) for sample in samples]
    ratio = mask_ratio if mask_ratio is not None else _trained_ratio(encoder)
    return _page(out, encoder, ratio, shown, broken)


def _chosen(index: Index, names: Sequence[str], count: int, seed: int) -> list[int]:
    """The rows of the first sites of the wells that are asked for."""
    table = index.wells()
    if not names:
        if count < 1:
            raise InputError(f"at least one well must be shown, not {count}.")
        order = np.random.default_rng(seed).permutation(len(table))[:count]
        return [list(table["rows"])[place][0] for place in sorted(order)]
    rows: list[int] = []
    for name in names:
        plate, _, well = name.rpartition("/")
        found = table["Metadata_Well"] == normal_well(well)
        if plate:
            found &= table["Metadata_Plate"] == plate
        if not found.any():
            raise InputError(f"the index has no well '{name}'.")
        rows += [numbers[0] for numbers in table["rows"][found]]
    return rows


def _sample(
    encoder: Encoder, index: Index, row: int, channels: Sequence[str] | None, crop: int | None
) -> Sample:
    available = index.sites[row][0]
    wanted = available if channels is None else tuple(channels)
    known = [name for name in encoder.preprocessing.channels if name in wanted]
    if channels is not None and len(known) < len(wanted):
        strange = next(name for name in wanted if name not in known)
        raise InputError(f"the decoder does not know the channel '{strange}'.")
    if not known:
        raise InputError(
            f"{index.describe(row)} has no channel that the decoder knows: it has "
            f"{', '.join(available)}, the decoder {', '.join(encoder.preprocessing.channels)}."
        )
    names = encoder.order_channels(known)
    image = read_site(index, row, names)
    crop = crop or encoder.preprocessing.crop
    if min(image.shape[1:]) < crop:
        raise InputError(
            f"{index.describe(row)} is {image.shape[1]} × {image.shape[2]} pixels, less than a "
            f"crop of {crop}."
        )
    top, left = (image.shape[1] - crop) // 2, (image.shape[2] - crop) // 2
    site = index.table.iloc[row]
    words = [site["Metadata_Plate"], site["Metadata_Well"], site["Metadata_Site"]]
    gene = site["Metadata_Gene"] or site["Metadata_Perturbation"]
    return Sample(
        index.describe(row) + (f" ({gene})" if gene else ""),
        "_".join("".join(c if c.isalnum() or c in "-." else "-" for c in word) for word in words),
        names,
        tuple(name for name in available if name not in names),
        image[:, top : top + crop, left : left + crop],
    )


def _triplets(
    encoder: Any, samples: Sequence[Sample], out: Path, ratio: float | None, seed: int
) -> list[Shown]:
    """A picture each, and one of all wells for every list of channels."""
    shown = []
    kinds = list(dict.fromkeys(sample.channels for sample in samples))
    for number, channels in enumerate(kinds):
        alike = [sample for sample in samples if sample.channels == channels]
        pixels = np.stack([sample.pixels for sample in alike])
        found = reconstruct_crops(encoder, pixels, channels, ratio, seed)
        masked, made, true = (np.asarray(part) for part in found[:3])
        hidden = np.asarray(found.mask) > 0
        name = "triplets.png" if len(kinds) == 1 else f"triplets-{number + 1}.png"
        titles = [sample.title for sample in alike]
        _save(out / name, reconstruction_grid(masked, made, true, channels, titles=titles))
        for place, sample in enumerate(alike):
            file = f"well_{sample.name}.png"
            one = reconstruction_grid(masked[place], made[place], true[place], channels)
            _save(out / file, one)
            errors = _errors(made[place], true[place], hidden[place])
            rows = [(c, f"{e:.3f}") for c, e in zip(channels, errors, strict=True)]
            note = ""
            if sample.left_out:
                others = ", ".join(sample.left_out)
                note = f"Not shown, since the decoder was not trained on them: {others}."
            shown.append(Shown(sample.title, file, rows, note))
    return shown


def _errors(
    reconstruction: np.ndarray, original: np.ndarray, hidden: np.ndarray
) -> Float[np.ndarray, " channels"]:
    """Mean squared error over the hidden pixels of each channel (Eq. 1's scale)."""
    squares = np.where(hidden, (reconstruction - original) ** 2, 0).sum(axis=(1, 2))
    return squares / np.maximum(hidden.sum(axis=(1, 2)), 1)


def _missing(encoder: Any, sample: Sample, missing: tuple[str, ...], out: Path) -> Shown:
    """A well whose named channels are predicted from the others."""
    given = tuple(name for name in sample.channels if name not in missing)
    places = [sample.channels.index(name) for name in given]
    predicted = predict_missing_channels(encoder, sample.pixels[None, places], given, missing)[0]
    shape = (len(given) + len(missing), *sample.pixels.shape[1:])
    columns = [np.full(shape, np.nan, np.float32) for _ in range(3)]
    seen = sample.pixels[places].astype(np.float32)
    for column in columns:
        column[: len(given)] = seen
    columns[1][len(given) :] = predicted
    rows = []
    for number, name in enumerate(missing):
        if name in sample.channels:
            truth = sample.pixels[sample.channels.index(name)].astype(np.float32)
            columns[2][len(given) + number] = truth
            both = np.corrcoef(truth.ravel(), predicted[number].ravel())[0, 1]
            rows.append((name, f"{both:.3f}"))
        else:
            rows.append((name, "not imaged"))
    names = ("given", "predicted", "imaged")
    file = f"missing_{sample.name}.png"
    _save(out / file, channel_grid(columns, names, (*given, *missing)))
    note = f"{', '.join(missing)} predicted from {', '.join(given)}; correlation of the pixels."
    return Shown(sample.title, file, rows, note)


def _trained_ratio(encoder: Any) -> float | None:
    return getattr(getattr(encoder, "config", None), "mask_ratio", None)


def _save(path: Path, picture: UInt8[np.ndarray, "height width 3"]) -> None:
    from PIL import Image

    with replacing(path) as beside:
        Image.fromarray(picture).save(beside, format="PNG")


def _page(
    out: Path, encoder: Encoder, ratio: float | None, shown: list[Shown], broken: list[str]
) -> Path:
    import jinja2

    def embedded(file: str) -> str:
        sink = BytesIO((out / file).read_bytes())
        return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()

    template = jinja2.Environment(autoescape=True).from_string(_TEMPLATE.read_text("utf-8"))
    text = template.render(
        name=encoder.name, ratio=ratio, shown=shown, broken=broken, embedded=embedded
    )
    return write_text(out / "index.html", text)
