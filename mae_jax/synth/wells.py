"""Rendering of one field of view: cells, then optics and camera."""

import functools

import numpy as np
import scipy.ndimage
from jaxtyping import Float, Float32, UInt16

from mae_jax.errors import InputError
from mae_jax.synth.batch_effects import WellConditions, conditions
from mae_jax.synth.biology import CONTROL_NAME, PARAMETERS, gene_effects
from mae_jax.synth.cells import STRUCTURES, WINDOW, Cell, draw_structure, shape_cell
from mae_jax.synth.config import CHANNEL_STRUCTURES, ScreenConfig
from mae_jax.synth.plate_layout import contents_of_wells
from mae_jax.synth.rng import generator

_FULL = 7000.0  # counts of a structure at level 1, gain 1
_HAZE_WIDTH = 21  # pixels that out-of-focus light spreads over
_CELL_SPREAD = 0.6  # spread of the parameters between the cells of a well
_CELL_AREA = 1900.0  # pixels that a cell covers, for the number of cells


def draw_well(
    config: ScreenConfig, experiment: str, plate: str, well: str, site: int
) -> UInt16[np.ndarray, "channels height width"]:
    """Render one site of a well as camera counts, channels in the order of `config.channels`.

    A function of its arguments alone. A channel does not depend on the other channels of the
    screen, except for their bleed-through.

    Args:
      site: number of the field of view, from 1.

    Raises:
      InputError: the screen has no such well or site.
    """
    key = (experiment, plate, well)
    if key not in contents_of_wells(config):
        raise InputError(f"the screen has no well {well} on plate {plate} of {experiment}.")
    if not 1 <= site <= config.sites:
        raise InputError(f"site must be 1 to {config.sites}, not {site}.")
    gene = contents_of_wells(config)[key]
    state = conditions(config, experiment, plate, well)
    names = (plate, well, f"site {site}")
    cells = _place_cells(config, generator(config.seed, "cells", *names), state, gene)
    parts = _draw_cells(config, cells, names)
    light = np.stack([_stain(config, name, parts) for name in config.channels])
    light += state.bleed * np.roll(light, -1, axis=0) if len(light) > 1 else 0
    return np.stack(
        [
            _image(
                config, channel, picture, state, generator(config.seed, "camera", *names, channel)
            )
            for channel, picture in zip(config.channels, light, strict=True)
        ]
    )


@functools.lru_cache(maxsize=8)
def _effects(config: ScreenConfig) -> dict[str, Float[np.ndarray, " parameters"]]:
    table = gene_effects(config)
    values = table[list(PARAMETERS)].to_numpy(float)
    effects = dict(zip(table["Metadata_Gene"], values, strict=True))
    return {**effects, CONTROL_NAME: np.zeros(len(PARAMETERS))}


def _place_cells(
    config: ScreenConfig, rng: np.random.Generator, state: WellConditions, gene: str
) -> list[Cell]:
    """Cells at well-separated positions, also just outside the field's border."""
    margin = 16.0
    side = config.image_size + 2 * margin
    expected = config.confluence * state.density * side**2 / (_CELL_AREA * state.cell_scale**2)
    number = max(1, round(expected + config.noise_strength * 0.5 * rng.standard_normal()))
    apart = 30.0 * state.cell_scale
    centers = np.zeros((0, 2))
    for _ in range(number):
        candidates = rng.uniform(-margin, config.image_size + margin, (12, 2))
        if len(centers):
            gaps = np.sqrt(((candidates[:, None] - centers[None]) ** 2).sum(-1)).min(axis=1)
            fits = np.flatnonzero(gaps > apart)
            candidates = candidates[[fits[0] if len(fits) else gaps.argmax()]]
            if not len(fits) and gaps.max() < 0.6 * apart:
                continue  # the field is full
        centers = np.vstack([centers, candidates[:1]])
    mean = _effects(config)[gene] + state.shift
    spread = config.noise_strength * _CELL_SPREAD
    cells = []
    for row, column in centers:
        traits = mean + spread * rng.standard_normal(len(PARAMETERS))
        cells.append(shape_cell(rng, (float(row), float(column)), traits, state.cell_scale))
    return cells


def _draw_cells(
    config: ScreenConfig, cells: list[Cell], names: tuple[str, ...]
) -> dict[str, Float32[np.ndarray, "height width"]]:
    """One image of the field per structure that the screen's channels show."""
    needed = {part for name in config.channels for part in CHANNEL_STRUCTURES[name]}
    size = config.image_size + 2 * WINDOW  # room for cells that reach over the border
    # The two smallest distances to any cell's center: where they meet, two cells touch.
    nearest = np.full((2, size, size), 9.0, np.float32)
    windows = []
    for cell in cells:
        window = len(cell.depth)
        rows = slice(cell.row + WINDOW, cell.row + WINDOW + window)
        columns = slice(cell.column + WINDOW, cell.column + WINDOW + window)
        windows.append((rows, columns))
        first, second = nearest[0, rows, columns], nearest[1, rows, columns]
        np.minimum(second, np.maximum(first, cell.from_center), out=second)
        np.minimum(first, cell.from_center, out=first)
    # Each cell's mask. Its border is soft over about a pixel only: a softer one would dim
    # structures at the border, and intensity would then reveal location.
    shapes = []
    for cell, (rows, columns) in zip(cells, windows, strict=True):
        first, second = nearest[0, rows, columns], nearest[1, rows, columns]
        other = np.where(cell.from_center <= first, second, first)
        edge = np.minimum(1 - cell.from_center, (other - cell.from_center) * np.float32(0.7))
        soft = np.clip(edge * np.float32(20) + np.float32(0.5), 0, 1)
        shapes.append((soft, soft > 0))
    parts = {}
    for structure in STRUCTURES:
        if structure not in needed:
            continue
        rng = generator(config.seed, "structure", *names, structure)
        field = np.zeros((size, size), np.float32)
        for cell, (rows, columns), (soft, inside) in zip(cells, windows, shapes, strict=True):
            field[rows, columns] += draw_structure(structure, rng, cell, inside) * soft
        parts[structure] = field[WINDOW:-WINDOW, WINDOW:-WINDOW]
    return parts


def _stain(
    config: ScreenConfig, channel: str, parts: dict[str, Float32[np.ndarray, "height width"]]
) -> Float32[np.ndarray, "height width"]:
    shares = CHANNEL_STRUCTURES[channel].items()
    return sum(
        (np.float32(share) * parts[part] for part, share in shares),
        np.zeros((config.image_size, config.image_size), np.float32),
    )


def _image(
    config: ScreenConfig,
    channel: str,
    light: Float32[np.ndarray, "height width"],
    state: WellConditions,
    rng: np.random.Generator,
) -> UInt16[np.ndarray, "height width"]:
    """Camera image of a stain: optics, illumination, background, noise."""
    size = config.image_size
    signal = light ** np.float32(state.contrast[channel])
    around = signal
    for _ in range(2):  # two running means are close to a Gaussian
        around = scipy.ndimage.uniform_filter(around, _HAZE_WIDTH, mode="nearest")
    signal += np.float32(state.haze[channel]) * around
    signal *= np.float32(_FULL * state.gain[channel])
    # Specks of dirt and dead cells: few, small and very bright.
    for _ in range(rng.poisson(1.2 * config.noise_strength * (size / 192) ** 2)):
        row, column = rng.integers(0, size - 2, 2)
        signal[row : row + 2, column : column + 2] += (
            _FULL * state.gain[channel] * rng.exponential(2)
        )
    signal = scipy.ndimage.gaussian_filter(signal, state.focus, mode="nearest", truncate=3.0)
    position = np.arange(size, dtype=np.float32) / size
    down, across = (
        position[:, None] - state.light_centre[1],
        position[None, :] - state.light_centre[0],
    )
    lamp = np.maximum(1 - state.light_loss * 4 * (down**2 + across**2) / 2, 0.15)
    counts = (signal + state.background[channel]) * lamp
    shot = np.sqrt(counts * np.float32(3) + np.float32(30**2)) * np.float32(config.noise_strength)
    counts = counts + shot * rng.standard_normal((size, size), dtype=np.float32)
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
