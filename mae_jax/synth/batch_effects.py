"""Batch effects: technical differences between experiments, plates and wells.

Experiments differ most, plates of an experiment less, wells of a plate least: stain gains,
background, illumination, focus, cell density, bleed-through, and a shift of the cells' own
morphology such as another lot of cells brings.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

from mae_jax.synth.biology import PARAMETERS
from mae_jax.synth.config import CHANNEL_STRUCTURES, ScreenConfig
from mae_jax.synth.plate_layout import row_and_column
from mae_jax.synth.rng import generator

_ALL_CHANNELS = tuple(CHANNEL_STRUCTURES)  # every draw covers all, whichever the screen shows


@dataclasses.dataclass(frozen=True)
class WellConditions:
    """The conditions under which one well is imaged.

    Attributes:
      gain: factor of each channel's signal, by channel name.
      background: counts added to the signal, by channel name.
      contrast: exponent of each channel's light, by channel name (evenness of staining).
      haze: share of the light around a pixel that reaches it out of focus, by channel name.
      bleed: share of the next channel's light that a channel also sees.
      focus: blur of the optics in pixels (standard deviation of a Gaussian).
      density: factor of the number of cells.
      cell_scale: factor of all lengths of a cell.
      shift: shift of the morphological parameters that all cells of the well share.
      light_centre: where the illumination peaks, in fields (0.5, 0.5 is the middle).
      light_loss: share of the light lost one half-field away from the peak.
    """

    gain: dict[str, float]
    background: dict[str, float]
    contrast: dict[str, float]
    haze: dict[str, float]
    bleed: float
    focus: float
    density: float
    cell_scale: float
    shift: Float[np.ndarray, " parameters"]
    light_centre: tuple[float, float]
    light_loss: float


@dataclasses.dataclass(frozen=True)
class _Level:
    """Draws of one experiment, plate or well, all standard normal."""

    gain: Float[np.ndarray, " channels"]
    background: Float[np.ndarray, " channels"]
    shift: Float[np.ndarray, " parameters"]
    others: Float[np.ndarray, " 9"]
    contrast: Float[np.ndarray, " channels"]
    haze: Float[np.ndarray, " channels"]


@functools.lru_cache(maxsize=4096)
def _level(seed: int, *names: str) -> _Level:
    rng = generator(seed, "conditions", *names)
    channels = len(_ALL_CHANNELS)
    return _Level(
        gain=rng.standard_normal(channels),
        background=rng.standard_normal(channels),
        shift=rng.standard_normal(len(PARAMETERS)),
        others=rng.standard_normal(9),
        contrast=rng.standard_normal(channels),
        haze=rng.standard_normal(channels),
    )


def conditions(config: ScreenConfig, experiment: str, plate: str, well: str) -> WellConditions:
    """The imaging conditions of a well, a function of the seed and the three names alone."""
    e = _level(config.seed, "experiment", experiment)
    p = _level(config.seed, "plate", plate)
    w = _level(config.seed, "well", plate, well)
    batch, noise = config.batch_strength, config.noise_strength

    rows, columns = config.plate_format
    row, column = row_and_column(well)
    across = 2 * column / (columns - 1) - 1
    down = 2 * row / (rows - 1) - 1
    # Wells at the border dry out first, and a stain is dispensed along a gradient.
    border = float(row in (0, rows - 1) or column in (0, columns - 1))
    position = 0.12 * (p.others[5] * across + p.others[6] * down) - 0.15 * border

    log_gain = batch * (0.40 * e.gain + 0.25 * p.gain + position) + noise * 0.20 * w.gain
    log_background = (
        batch * (0.45 * e.background + 0.25 * p.background) + noise * 0.10 * w.background
    )
    log_density = batch * (0.18 * e.others[0] + 0.12 * p.others[0] - 0.15 * border)
    log_density += noise * 0.20 * w.others[0]
    log_scale = batch * (0.06 * e.others[1] + 0.03 * p.others[1]) + noise * 0.02 * w.others[1]
    shift = batch * (0.6 * e.shift + 0.3 * p.shift) + noise * 0.35 * w.shift
    log_contrast = batch * (0.10 * e.contrast + 0.06 * p.contrast) + noise * 0.10 * w.contrast
    log_haze = batch * (0.30 * e.haze + 0.20 * p.haze) + noise * 0.40 * w.haze
    focus = 0.60 + batch * (0.12 * e.others[2] + 0.08 * p.others[2]) + noise * 0.03 * w.others[2]
    light_loss = batch * min(0.25 + 0.10 * abs(e.others[3] + p.others[3]), 0.6)
    return WellConditions(
        gain=dict(zip(_ALL_CHANNELS, np.exp(log_gain).tolist(), strict=True)),
        background=dict(zip(_ALL_CHANNELS, (450 * np.exp(log_background)).tolist(), strict=True)),
        contrast=dict(zip(_ALL_CHANNELS, np.exp(log_contrast).tolist(), strict=True)),
        haze=dict(
            zip(_ALL_CHANNELS, np.minimum(0.12 * np.exp(log_haze), 0.5).tolist(), strict=True)
        ),
        bleed=batch * min(0.05 + 0.03 * abs(e.others[4] + p.others[8]), 0.2),
        focus=float(np.clip(focus, 0.35, 1.1)),
        density=float(np.exp(np.clip(log_density, -0.7, 0.5))),
        cell_scale=float(np.exp(np.clip(log_scale, -0.18, 0.18))),
        shift=shift,
        light_centre=(0.5 + 0.18 * float(p.others[4]), 0.5 + 0.18 * float(p.others[7])),
        light_loss=min(light_loss, 0.7),
    )
