"""Figures for notebooks: reconstructions, attention, a map of wells, a plate.

Each function returns a matplotlib figure, which a notebook shows by itself and `savefig` writes.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from mae_jax.data.well_names import plate_size, row_and_column, well_name
from mae_jax.errors import InputError
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.inference.reconstruct import reconstruct_crops
from mae_jax.inference.reconstruction_job import normalized_error
from mae_jax.networks.encoder import Encoder
from mae_jax.viz.colors import contrast_limits, rescale_intensity
from mae_jax.viz.evaluation_plots import projection
from mae_jax.viz.plots import INK
from mae_jax.viz.projection import project_2d, standardize_features

if TYPE_CHECKING:
    from matplotlib.figure import Figure

if "IPython" in sys.modules:  # pyplot tells notebooks how figures are shown
    importlib.import_module("matplotlib.pyplot")

Image = Shaped[np.ndarray, "channels height width"]


def plot_reconstruction(
    encoder: Encoder,
    image: Image,
    channels: Sequence[str],
    *,
    mask_ratio: float | None = None,
    seed: int = 0,
) -> "Figure":
    """The center crop of an image: masked, reconstructed and original, one row per channel.

    Each row says the R² of the reconstruction over the hidden pixels.

    Args:
      encoder: a masked autoencoder with its decoder.
      image: raw pixels.
      channels: the names of its channels, in its order.
      mask_ratio: share of the patches to hide; None for that of training.
      seed: of the mask.

    Raises:
      InputError: an encoder without a decoder, or an image or channels that do not fit it.
    """
    if getattr(encoder, "mae_params", None) is None:
        raise InputError(f"the encoder '{encoder.name}' has no decoder to reconstruct with.")
    crop, names = _center_crop(encoder, image, channels)
    result = reconstruct_crops(encoder, crop[None], names, mask_ratio, seed)
    masked, output, target = (np.asarray(part[0]) for part in result[:3])
    hidden = np.asarray(result.mask[0]) > 0
    limits = contrast_limits(target)
    figure, panels = _panels(len(names), 3)
    for row, name in enumerate(names):
        shown = [rescale_intensity(part, limits)[row] for part in (masked, output, target)]
        shown[0] = np.where(hidden[row], np.nan, shown[0])
        error = normalized_error(output[row][hidden[row]], target[row][hidden[row]])
        for axes, plane, title in zip(
            panels[row], shown, ("masked", "reconstructed", "original"), strict=True
        ):
            axes.imshow(plane, cmap=_gray(), vmin=0, vmax=1, interpolation="nearest")
            if row == 0:
                axes.set_title(title, fontsize=9, color=INK)
        score = "" if error is None else f"\nR² {1 - error:.2f}"
        panels[row][0].set_ylabel(f"{name}{score}", fontsize=9, color=INK)
    return figure


def plot_attention(
    encoder: Encoder, image: Image, channels: Sequence[str], *, block: int = -1
) -> "Figure":
    """Where the class token of the center crop attends: each channel, and its patches' weights.

    The weights are means over the heads. Those of all patches shown are of one softmax: together
    with the class token's own they add up to 1. A joint encoder has one map for all channels.

    Args:
      encoder: a vision transformer with a class token.
      image: raw pixels.
      channels: the names of its channels, in its order.
      block: whose attention it is; -1 the last.

    Raises:
      InputError: an encoder without attention, or an image or channels that do not fit it.
    """
    if not hasattr(encoder, "attention_maps"):
        raise InputError(f"the encoder '{encoder.name}' has no attention maps.")
    crop, names = _center_crop(encoder, image, channels)
    maps = np.asarray(encoder.attention_maps(encoder.params, jnp.asarray(crop[None]), block=block))[
        0
    ]
    weights = maps.mean(axis=0)[0, 1:]  # [query: class token, keys: patches]
    agnostic = bool(getattr(getattr(encoder, "encoder_config", None), "channel_agnostic", False))
    count = len(names) if agnostic else 1
    side = round(float(np.sqrt(len(weights) / count)))
    if count * side * side != len(weights):
        raise InputError(f"{len(weights)} tokens are no square patches of {count} channels.")
    planes = weights.reshape(count, side, side)
    shown = rescale_intensity(crop.astype(np.float32), contrast_limits(crop.astype(np.float32)))
    figure, panels = _panels(2, len(names))
    heat: Any = None
    for column, name in enumerate(names):
        upper, lower = panels[0][column], panels[1][column]
        upper.imshow(shown[column], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        plane = planes[column if agnostic else 0]
        heat = lower.imshow(
            plane, cmap="magma", vmin=0, vmax=float(planes.max()), interpolation="nearest"
        )
        share = f"{100 * plane.sum():.0f} %" if agnostic else ""
        upper.set_title(f"{name} {share}".strip(), fontsize=9, color=INK)
    _colorbar(figure, heat, panels[1], "attention of the class token")
    return figure


def plot_umap(
    profiles: Profiles | str | os.PathLike[str],
    color: str = "Metadata_Perturbation",
    *,
    method: str = "auto",
    seed: int = 0,
) -> "Figure":
    """Wells in two dimensions, colored by a metadata column.

    Args:
      profiles: or the folder or file to read them from.
      color: the column; its ten most frequent values get a color.
      method: "umap", "tsne", "pca", or "auto": the first that is installed and suits the number of
        wells.
      seed: of UMAP and t-SNE.

    Raises:
      InputError: profiles that cannot be read, no such column, an unknown method.
    """
    table = profiles if isinstance(profiles, Profiles) else Profiles.read(profiles)
    column = color if color in table.metadata.columns else f"Metadata_{color}"
    labels = [str(value) or "none" for value in table.column(column)]
    coordinates, name = project_2d(table.features, method, seed)
    figure = projection(coordinates, labels)
    figure.axes[0].set_title(f"{len(table):,} wells by {column}\n{name}", fontsize=8, color=INK)
    return figure


def plot_plate(
    profiles: Profiles | str | os.PathLike[str],
    plate: str | None = None,
    *,
    value: str | Float[np.ndarray, " wells"] | None = None,
    schema: ColumnSchema | None = None,
) -> "Figure":
    """One plate as a heat map, rows as letters and columns as numbers.

    Args:
      profiles: or the folder or file to read them from.
      plate: its name; None for the only one.
      value: a feature, a metadata column of numbers, or one number per row of `profiles`; None for
        the distance from the plate's mean: the root mean square of the features in standard
        deviations of the plate.
      schema: which columns are plate and well.

    Raises:
      InputError: profiles that cannot be read, several plates and none named, no such plate or
        value, or well names that are none.
    """
    table = profiles if isinstance(profiles, Profiles) else Profiles.read(profiles)
    schema = schema or ColumnSchema()
    plates = table.column(schema.plate)
    known = list(dict.fromkeys(map(str, plates)))
    if plate is None:
        if len(known) != 1:
            raise InputError(f"there are {len(known)} plates; name one: {', '.join(known[:8])}.")
        plate = known[0]
    rows = np.flatnonzero((plates == plate).to_numpy())
    if not len(rows):
        raise InputError(f"there is no plate '{plate}'; there are {', '.join(known[:8])}.")
    numbers, label = _plate_values(table, rows, value)
    places = [row_and_column(str(name)) for name in table.column(schema.well).iloc[rows]]
    height, width = plate_size(places)
    sums, counts = np.zeros((height, width)), np.zeros((height, width))
    for (row, column), number in zip(places, numbers, strict=True):
        sums[row, column] += number
        counts[row, column] += 1
    grid = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.0, 0.3 * width + 1.6), max(2.6, 0.3 * height + 0.9)),
                    layout="constrained", dpi=130)  # fmt: skip
    axes = figure.add_subplot()
    image = axes.imshow(grid, cmap="viridis", interpolation="nearest")
    axes.set_facecolor("#e8ebee")  # wells without a value
    step = 2 if width > 24 else 1
    size = 7 if width <= 12 else 5.5
    axes.set_xticks(
        range(0, width, step), [str(i + 1) for i in range(0, width, step)], fontsize=size
    )
    letters = [well_name(i + 1, 1)[:-2] for i in range(height)]
    axes.set_yticks(range(0, height, step), letters[::step], fontsize=size)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, colors=INK)
    axes.set_title(f"plate {plate}", fontsize=9, color=INK)
    _colorbar(figure, image, [axes], label)
    return figure


def _plate_values(
    table: Profiles, rows: np.ndarray, value: str | np.ndarray | None
) -> tuple[Float[np.ndarray, " rows"], str]:
    """The number of each of the rows, and what it is."""
    if value is None:
        scaled = standardize_features(table.features[rows])
        return np.sqrt(np.square(scaled, dtype=np.float64).mean(axis=1)), "distance from mean (SD)"
    if not isinstance(value, str):
        if len(value) != len(table):
            raise InputError(f"{len(value)} values do not fit {len(table)} wells.")
        return np.asarray(value, np.float64)[rows], "value"
    if value in table.names:
        return table.features[rows, table.names.index(value)].astype(np.float64), value
    column = value if value in table.metadata.columns else f"Metadata_{value}"
    texts = table.column(column).iloc[rows]
    try:
        return np.asarray([float(text) if text else np.nan for text in texts]), column
    except ValueError:
        raise InputError(f"{column} does not hold numbers; a plate shows numbers.") from None


def _center_crop(
    encoder: Encoder, image: Image, channels: Sequence[str]
) -> tuple[Shaped[np.ndarray, "some crop crop"], tuple[str, ...]]:
    """The crop of the encoder's size at the center, channels in the encoder's order."""
    names = tuple(channels)
    if image.ndim != 3 or len(image) != len(names):
        raise InputError(
            f"the image has the shape {image.shape}, which is not (channels, height, width) with "
            f"the {len(names)} channels {', '.join(names)}."
        )
    side = encoder.preprocessing.crop
    height, width = image.shape[1:]
    if min(height, width) < side:
        raise InputError(f"an image of {height} x {width} pixels has no crop of {side} pixels.")
    y, x = (height - side) // 2, (width - side) // 2
    chosen = encoder.select_channels(names)
    return image[[names.index(name) for name in chosen], y : y + side, x : x + side], chosen


def _gray() -> Any:
    from matplotlib import colormaps

    return colormaps["gray"].with_extremes(bad="#474759")  # masked patches


def _colorbar(figure: "Figure", image: Any, panels: Sequence[Any], label: str) -> None:
    bar = figure.colorbar(image, ax=list(panels), shrink=0.8)
    bar.set_label(label, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, colors=INK)


def _panels(rows: int, columns: int) -> tuple["Figure", list[list[Any]]]:
    """A figure with rows x columns panels for pictures, without ticks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.7 * columns + 0.6, 1.7 * rows + 0.3), layout="constrained", dpi=130)
    panels = [
        [figure.add_subplot(rows, columns, row * columns + column + 1) for column in range(columns)]
        for row in range(rows)
    ]
    for axes in (axes for row in panels for axes in row):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure, panels
