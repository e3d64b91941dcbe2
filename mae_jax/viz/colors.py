"""Contrast and false colors: channels of any brightness as visible pixels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

# Colors by stain: the first prefix that matches the channel's name decides.
_BY_NAME = (
    (("dna", "hoechst", "dapi", "nucle"), (0.25, 0.45, 1.0)),
    (("mito",), (1.0, 0.15, 0.35)),
    (("er", "concanavalin", "endoplasm"), (0.1, 1.0, 0.35)),
    (("agp", "actin", "phalloidin", "golgi", "wga"), (1.0, 0.6, 0.05)),
    (("rna", "syto"), (0.9, 0.9, 0.15)),
    (("red",), (1.0, 0.0, 0.0)),
    (("green",), (0.0, 1.0, 0.0)),
    (("blue",), (0.0, 0.0, 1.0)),
)
_OTHERS = ((0.2, 0.9, 1.0), (0.85, 0.3, 1.0), (0.6, 1.0, 0.2), (1.0, 0.55, 0.75), (0.5, 0.6, 0.8))
_TRANSMITTED = ("bright", "phase", "dic", "bf")
_MASKED = (0.28, 0.28, 0.35)  # dark gray-blue of masked patches


def is_transmitted(channel: str) -> bool:
    """Whether a channel's name means transmitted light, which false colors leave out."""
    return channel.lower().startswith(_TRANSMITTED)


def are_colors(channels: Sequence[str]) -> bool:
    """Whether the channels are those of a color image, which have one contrast in common."""
    return {name.lower() for name in channels} == {"red", "green", "blue"}


def channel_colors(channels: Sequence[str]) -> Float[np.ndarray, "channels 3"]:
    """A color (red, green, blue from 0 to 1) for each channel by name, no two alike.

    Transmitted light is black next to fluorescence, since it would whiten the rest.
    """
    colors: list[tuple[float, float, float]] = []
    others = list(_OTHERS)
    fluorescent = [name for name in channels if not is_transmitted(name)]
    for name in channels:
        lower = name.lower()
        matches = [c for keys, c in _BY_NAME if lower.startswith(keys) and c not in colors]
        if is_transmitted(name) and fluorescent:
            color = (0.0, 0.0, 0.0)
        elif matches:
            color = matches[0]
        else:
            color = others.pop(0)
            others.append(color)
        colors.append(color)
    return np.asarray(colors, np.float64).reshape(-1, 3)


def contrast_limits(
    image: Float[np.ndarray, "channels height width"],
) -> Float[np.ndarray, "channels 2"]:
    """Black and white level of each channel: its 0.5 % and 99.7 % quantiles.

    The limits of a constant channel are its value and one more, so that it becomes black.
    """
    low, high = np.quantile(image, [0.005, 0.997], axis=(1, 2))
    return np.stack([low, np.where(high > low, high, low + 1)], axis=1).astype(image.dtype)


def rescale_intensity(
    image: Float[np.ndarray, "channels height width"], limits: Float[np.ndarray, "channels 2"]
) -> Float[np.ndarray, "channels height width"]:
    """The image from 0 at each channel's lower limit to 1 at its upper, clipped."""
    low, high = limits[:, 0, None, None], limits[:, 1, None, None]
    return np.clip((image - low) / (high - low), 0, 1)


def to_gray(
    plane: Float[np.ndarray, "height width"], hidden: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """One rescaled channel in gray, hidden pixels in one dark gray-blue."""
    rgb = np.repeat(plane[..., None], 3, axis=-1).astype(np.float64)
    rgb[hidden] = _MASKED
    return (rgb * 255).round().astype(np.uint8)


def false_color(
    image: Float[np.ndarray, "channels height width"],
    hidden: Bool[np.ndarray, "channels height width"],
    channels: Sequence[str],
) -> UInt8[np.ndarray, "height width 3"]:
    """All rescaled channels, each in its color, added up like light.

    A pixel that is hidden in every channel is dark gray-blue; one hidden in some shows the others.
    """
    colors = channel_colors(channels)
    # Many bright stains would add up to white: scaled so that two may saturate, but not five.
    colors = colors * min(1.0, 1.6 / max(colors.sum(axis=0).max(), 1e-9))
    visible = np.where(hidden, 0, image)
    rgb = np.clip(np.einsum("chw,cr->hwr", visible.astype(np.float64), colors), 0, 1)
    rgb[hidden.all(axis=0)] = _MASKED
    return (rgb * 255).round().astype(np.uint8)
