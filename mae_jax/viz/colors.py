"""Contrast and false colours: from channels of any brightness to pixels one can look at."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

# By what a stain shows; the first word found in the channel's name decides.
_BY_NAME = (
    (("dna", "hoechst", "dapi", "nucle"), (0.25, 0.45, 1.0)),
    (("mito",), (1.0, 0.15, 0.35)),
    (("er", "concanavalin", "endoplasm"), (0.1, 1.0, 0.35)),
    (("agp", "actin", "phalloidin", "golgi", "wga"), (1.0, 0.6, 0.05)),
    (("rna", "syto"), (0.9, 0.9, 0.15)),
)
_OTHERS = ((0.2, 0.9, 1.0), (0.85, 0.3, 1.0), (0.6, 1.0, 0.2), (1.0, 0.55, 0.75), (0.5, 0.6, 0.8))
_TRANSMITTED = ("bright", "phase", "dic", "bf")
_HIDDEN = 0.28  # grey of masked patches


def is_transmitted(channel: str) -> bool:
    """Whether a channel's name says transmitted light, which has no place among false colours."""
    return channel.lower().startswith(_TRANSMITTED)


def channel_colors(channels: Sequence[str]) -> Float[np.ndarray, "channels 3"]:
    """A colour (red, green, blue from 0 to 1) for each channel by name, no two alike.

    Transmitted light is black where there is any fluorescence, since it would whiten the rest.
    """
    colours: list[tuple[float, float, float]] = []
    others = list(_OTHERS)
    fluorescent = [name for name in channels if not is_transmitted(name)]
    for name in channels:
        words = name.lower()
        found = [c for keys, c in _BY_NAME if words.startswith(keys) and c not in colours]
        if is_transmitted(name) and fluorescent:
            colour = (0.0, 0.0, 0.0)
        elif found:
            colour = found[0]
        else:
            colour = others.pop(0)
            others.append(colour)
        colours.append(colour)
    return np.asarray(colours, np.float64).reshape(-1, 3)


def contrast_limits(
    image: Float[np.ndarray, "channels height width"],
) -> Float[np.ndarray, "channels 2"]:
    """What becomes black and what white in each channel: its 0.5 % and 99.7 % quantiles.

    A constant channel gets limits of its own value and one more, so that it becomes black.
    """
    low, high = np.quantile(image, [0.005, 0.997], axis=(1, 2))
    return np.stack([low, np.where(high > low, high, low + 1)], axis=1).astype(image.dtype)


def stretched(
    image: Float[np.ndarray, "channels height width"], limits: Float[np.ndarray, "channels 2"]
) -> Float[np.ndarray, "channels height width"]:
    """The image from 0 at each channel's lower limit to 1 at its upper, and cut off beyond."""
    low, high = limits[:, 0, None, None], limits[:, 1, None, None]
    return np.clip((image - low) / (high - low), 0, 1)


def grey(
    plane: Float[np.ndarray, "height width"], hidden: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """One stretched channel in grey, hidden pixels in one dark grey-blue."""
    rgb = np.repeat(plane[..., None], 3, axis=-1).astype(np.float64)
    rgb[hidden] = (_HIDDEN, _HIDDEN, _HIDDEN * 1.25)
    return (rgb * 255).round().astype(np.uint8)


def false_color(
    image: Float[np.ndarray, "channels height width"],
    hidden: Bool[np.ndarray, "channels height width"],
    channels: Sequence[str],
) -> UInt8[np.ndarray, "height width 3"]:
    """All stretched channels, each in its colour, added up as light is.

    A pixel that is hidden in every channel is dark grey-blue; one hidden in some shows the others.
    """
    colours = channel_colors(channels)
    # Many stains in one place would all be white: so that two may saturate, but not five.
    colours = colours * min(1.0, 1.6 / max(colours.sum(axis=0).max(), 1e-9))
    seen = np.where(hidden, 0, image)
    rgb = np.clip(np.einsum("chw,cr->hwr", seen.astype(np.float64), colours), 0, 1)
    rgb[hidden.all(axis=0)] = (_HIDDEN, _HIDDEN, _HIDDEN * 1.25)
    return (rgb * 255).round().astype(np.uint8)
