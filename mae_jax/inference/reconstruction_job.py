"""Reconstructions of wells of a screen, as pictures and one page."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from mae_jax.config import nearest
from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.well_names import normalize_well_name
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.errors import InputError
from mae_jax.inference.reconstruct import predict_missing_channels, reconstruct_crops
from mae_jax.networks.encoder import Encoder
from mae_jax.viz.panels import channel_grid, reconstruction_grid

_TEMPLATE = Path(__file__).parent / "reconstruction_page.html"

Picture = UInt8[np.ndarray, "picture_height picture_width 3"]


@dataclass(frozen=True, eq=False)
class Sample:
    """The center crop of one site, with the channels that the decoder knows.

    Attributes:
      title: plate, well, site and gene.
      name: the part of file names that tells sites apart.
      channels: the names of the channels in `pixels`.
      left_out: channels of the site that the decoder does not know.
      pixels: the raw crop.
    """

    title: str
    name: str
    channels: tuple[str, ...]
    left_out: tuple[str, ...]
    pixels: Shaped[np.ndarray, "channels crop crop"]


@dataclass
class Figure:
    """One picture of the page, with a table of numbers."""

    title: str
    file: str
    picture: Picture
    head: Sequence[str] = ()
    rows: Sequence[tuple[str, ...]] = ()
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
    """Mask, reconstruct and draw the center crops of some wells (Figures 2 and 7).

    Nothing is written before all pictures have been drawn.

    Args:
      encoder: a masked autoencoder that was saved with its decoder.
      index: the screen, or the selection of it to choose from.
      out: a folder for `index.html`, `triplets.png` (all wells with the same channels side by
        side) and one `well_*.png` per well; with `missing`, one `missing_*.png` per well too.
      mask_ratio: the share of patches to hide; None for that of training.
      wells: names of wells ("B07", or "PLATE/B07"); empty to draw `count` of them by `seed`.
      count: how many wells, if none are named.
      channels: channels to show, by name; None for all of a site that the decoder knows.
      missing: channels to predict from all others, whether a site has them or not.
      crop: crop side in pixels, a multiple of the patch; None for that of training.
      seed: of the masks, and of the choice of wells.

    Returns:
      The path of the page.

    Raises:
      InputError: the encoder has no decoder, a well or channel is unknown, no well can be read, or
        `out` cannot be written to.
      MachineError: the disk is full or fails.
    """
    if getattr(encoder, "mae_params", None) is None:
        raise InputError(
            f"the encoder '{encoder.name}' reconstructs nothing: give a masked autoencoder that "
            "was saved with its decoder."
        )
    known = encoder.preprocessing.channels
    for name in (*(channels or ()), *missing):
        if name not in known:
            raise InputError(f"the decoder has no channel '{name}': {nearest(name, known)}")
    samples, unreadable = [], []
    for row in _choose(index, wells, count, seed):
        try:
            samples.append(_sample(encoder, index, row, channels, crop))
        except InputError as error:
            unreadable.append(str(error))
    if not samples:
        raise InputError(f"none of the wells can be read: {unreadable[0]}")
    overviews, figures = _reconstructions(encoder, samples, mask_ratio, seed)
    if missing:
        figures += [_predictions(encoder, sample, tuple(missing)) for sample in samples]
    ratio = mask_ratio if mask_ratio is not None else _trained_ratio(encoder)
    pictures = {**overviews, **{figure.file: figure.picture for figure in figures}}
    encoded = {file: _png(picture) for file, picture in pictures.items()}
    page = _page(encoder, ratio, figures, encoded, unreadable)
    store = OutputStore(Path(out))
    for file, content in encoded.items():
        store.write(file, content)
    store.write("index.html", page)
    store.remove_tmp_folder()
    return Path(out) / "index.html"


def _choose(index: Index, names: Sequence[str], count: int, seed: int) -> list[int]:
    """The rows of the first sites of the requested wells."""
    table = index.wells()
    if not names:
        if count < 1:
            raise InputError(f"at least one well must be shown, not {count}.")
        order = np.random.default_rng(seed).permutation(len(table))[:count]
        return [list(table["rows"])[number][0] for number in sorted(order)]
    rows: list[int] = []
    for name in names:
        plate, _, well = name.rpartition("/")
        matches = table["Metadata_Well"] == name  # a sample's name may be anything
        if not matches.any():
            matches = table["Metadata_Well"] == normalize_well_name(well)
            if plate:
                matches &= table["Metadata_Plate"] == plate
        if not matches.any():
            raise InputError(f"the index has no well '{name}'.")
        rows += [numbers[0] for numbers in table["rows"][matches]]
    return rows


def _sample(
    encoder: Encoder, index: Index, row: int, channels: Sequence[str] | None, crop: int | None
) -> Sample:
    available = index.sites[row][0]
    found = encoder.match_channels(available).found
    if channels is not None:
        found = {name: found.get(name, name) for name in encoder.preprocessing.channels
                 if name in channels}  # fmt: skip
    if not found:
        raise InputError(
            f"{index.describe(row)} has no channel that the decoder knows: it has "
            f"{', '.join(available)}, the decoder {', '.join(encoder.preprocessing.channels)}."
        )
    names = encoder.select_channels(list(found))
    image = read_site(index, row, [found[name] for name in names])
    crop = crop or encoder.preprocessing.crop
    if min(image.shape[1:]) < crop:
        raise InputError(
            f"{index.describe(row)} has {image.shape[1]} × {image.shape[2]} pixels, less than a "
            f"crop of {crop}; choose a smaller --crop."
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


def _reconstructions(
    encoder: Any, samples: Sequence[Sample], ratio: float | None, seed: int
) -> tuple[dict[str, Picture], list[Figure]]:
    """One picture of all wells per list of channels, by file name, and one per well."""
    overviews: dict[str, Picture] = {}
    figures = []
    channel_lists = list(dict.fromkeys(sample.channels for sample in samples))
    for number, channels in enumerate(channel_lists):
        group = [sample for sample in samples if sample.channels == channels]
        pixels = np.stack([sample.pixels for sample in group])
        result = reconstruct_crops(encoder, pixels, channels, ratio, seed)
        masked, output, target = (np.asarray(images) for images in result[:3])
        hidden = np.asarray(result.mask) > 0
        file = "triplets.png" if len(channel_lists) == 1 else f"triplets-{number + 1}.png"
        titles = [sample.title for sample in group]
        overviews[file] = reconstruction_grid(masked, output, target, channels, titles=titles)
        for i, sample in enumerate(group):
            scores = [
                _scores(*arrays) for arrays in zip(output[i], target[i], hidden[i], strict=True)
            ]
            note = ""
            if sample.left_out:
                others = ", ".join(sample.left_out)
                note = f"Not shown, since the decoder was not trained on them: {others}."
            figures.append(
                Figure(
                    sample.title,
                    f"well_{sample.name}.png",
                    reconstruction_grid(masked[i], output[i], target[i], channels),
                    ("channel", "R²", "error / variance"),
                    [(name, *score) for name, score in zip(channels, scores, strict=True)],
                    note,
                )
            )
    return overviews, figures


def _scores(
    output: Float[np.ndarray, "height width"],
    target: Float[np.ndarray, "height width"],
    hidden: Bool[np.ndarray, "height width"],
) -> tuple[str, str]:
    """R² over the hidden pixels of a channel, and the squared error per variance of the target."""
    if not hidden.any():
        return "nothing hidden", ""
    relative = normalized_error(output[hidden], target[hidden])
    if relative is None:
        return "constant", ""
    return f"{1 - relative:.3f}", f"{relative:.3f}"


def normalized_error(
    prediction: Float[np.ndarray, "..."], target: Float[np.ndarray, "..."]
) -> float | None:
    """Mean squared error divided by the variance of the target: 1 - R²; None if it is constant."""
    target = np.asarray(target, np.float64)
    variance = float(target.var())
    if not variance > 1e-12 * float(np.square(target).mean()):
        return None
    return float(np.square(prediction - target).mean()) / variance


def _predictions(encoder: Any, sample: Sample, missing: tuple[str, ...]) -> Figure:
    """A well whose channels `missing` are predicted from the others."""
    given = tuple(name for name in sample.channels if name not in missing)
    if not given:
        raise InputError(
            f"{sample.title} has no channel left to predict {', '.join(missing)} from; name fewer "
            "with --missing."
        )
    inputs = [sample.channels.index(name) for name in given]
    predicted = predict_missing_channels(encoder, sample.pixels[None, inputs], given, missing)[0]
    shape = (len(given) + len(missing), *sample.pixels.shape[1:])
    columns = [np.full(shape, np.nan, np.float32) for _ in range(3)]
    for column in columns:
        column[: len(given)] = sample.pixels[inputs].astype(np.float32)
    columns[1][len(given) :] = predicted
    rows = []
    for number, name in enumerate(missing):
        if name in sample.channels:
            target = sample.pixels[sample.channels.index(name)].astype(np.float32)
            columns[2][len(given) + number] = target
            if target.std() > 0 and predicted[number].std() > 0:
                correlation = np.corrcoef(target.ravel(), predicted[number].ravel())[0, 1]
                rows.append((name, f"{correlation:.3f}"))
            else:
                rows.append((name, "constant"))
        else:
            rows.append((name, "not imaged"))
    names = ("given", "predicted", "imaged")
    return Figure(
        sample.title,
        f"missing_{sample.name}.png",
        channel_grid(columns, names, (*given, *missing)),
        ("channel", "correlation"),
        rows,
        f"{', '.join(missing)} predicted from {', '.join(given)}; correlation of the pixels.",
    )


def _trained_ratio(encoder: Any) -> float | None:
    return getattr(getattr(encoder, "config", None), "mask_ratio", None)


def _png(picture: Picture) -> bytes:
    from PIL import Image

    out = BytesIO()
    Image.fromarray(picture).save(out, format="PNG")
    return out.getvalue()


def _page(
    encoder: Encoder,
    ratio: float | None,
    figures: list[Figure],
    encoded: dict[str, bytes],
    unreadable: list[str],
) -> bytes:
    import jinja2

    def data_url(file: str) -> str:
        return "data:image/png;base64," + base64.b64encode(encoded[file]).decode()

    template = jinja2.Environment(autoescape=True).from_string(_TEMPLATE.read_text("utf-8"))
    text = template.render(
        name=encoder.name, ratio=ratio, figures=figures, unreadable=unreadable, data_url=data_url
    )
    return text.encode()
