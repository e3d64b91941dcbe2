"""Plates as grids of wells with row letters and column numbers, drawn as SVG."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float

_SIZES = ((8, 12), (16, 24), (32, 48))  # 96, 384 and 1,536 wells
_MARGIN = 1.6  # of the letters and numbers, in wells


@dataclass(frozen=True)
class WellCell:
    """One well of a plate.

    Attributes:
      value: its score; NaN: it has none.
      title: what the pointer shows.
      href: where a click leads, or "".
      control: whether it is a negative control, which gets a dot.
    """

    value: float
    title: str
    href: str = ""
    control: bool = False


def row_and_column(well: str) -> tuple[int, int] | None:
    """(row, column) from 0 of a name such as "B03" or "AF48"; None if it is no such name."""
    match = re.fullmatch(r"([A-Za-z]{1,2})0*([0-9]{1,3})", well.strip())
    if match is None or match[2] == "0":
        return None
    row = 0
    for letter in match[1].upper():
        row = 26 * row + ord(letter) - ord("A") + 1
    return row - 1, int(match[2]) - 1


def row_letters(row: int) -> str:
    """The letters of a row counted from 0: A … Z, AA … AF."""
    return (chr(ord("A") + row // 26 - 1) if row >= 26 else "") + chr(ord("A") + row % 26)


def colormap(steps: int = 32) -> list[str]:
    """The colors of the heat maps, from low to high."""
    import matplotlib

    from_low = matplotlib.colormaps["viridis"](np.linspace(0, 1, steps))
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in (from_low[:, :3] * 255).round().astype(int)]


def color_range(values: Float[np.ndarray, " wells"]) -> tuple[float, float]:
    """The 2 % and 98 % quantiles, so that a few wells do not take the whole range."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = (float(v) for v in np.quantile(finite, [0.02, 0.98]))
    return low, high if high > low else low + 1.0


def plate_svg(wells: Mapping[str, WellCell], limits: tuple[float, float], label: str) -> str:
    """One plate as SVG markup as wide as its container.

    Args:
      wells: name of the well (B03) -> what to draw; names that are none are left out.
      limits: the values of the lowest and the highest color.
      label: what the picture is, for those who cannot see it.
    """
    places = {name: place for name in wells if (place := row_and_column(name)) is not None}
    height, width = _size(list(places.values()))
    colors, (low, high) = colormap(), limits
    parts = [
        f'<svg role="img" aria-label="{escape(label)}" class="plate" viewBox="0 0 '
        f'{width + _MARGIN:g} {height + _MARGIN:g}">'
    ]
    size = 0.62 if width <= 24 else 0.8
    step = 1 if width <= 12 else 2 if width <= 24 else 4
    for column in range(0, width, step):
        x, y = _MARGIN + column + 0.5, _MARGIN - 0.45
        parts.append(f'<text x="{x:g}" y="{y:g}" font-size="{size}">{column + 1}</text>')
    for row in range(0, height, 1 if height <= 16 else 2):
        y = _MARGIN + row + 0.5 + 0.35 * size
        parts.append(
            f'<text x="{_MARGIN / 2:g}" y="{y:g}" font-size="{size}">{row_letters(row)}</text>'
        )
    for name, (row, column) in places.items():
        cell = wells[name]
        style = 'class="none"'
        if np.isfinite(cell.value):
            at = int(np.clip((cell.value - low) / (high - low), 0, 1) * (len(colors) - 1) + 0.5)
            style = f'fill="{colors[at]}"'
        x, y = _MARGIN + column, _MARGIN + row
        mark = (
            f'<rect x="{x + 0.04:g}" y="{y + 0.04:g}" width=".92" height=".92" {style}>'
            f"<title>{escape(cell.title)}</title></rect>"
        )
        if cell.control:
            mark += f'<circle cx="{x + 0.5:g}" cy="{y + 0.5:g}" r=".16"/>'
        parts.append(f'<a href="{escape(cell.href)}">{mark}</a>' if cell.href else mark)
    return "".join([*parts, "</svg>"])


def _size(places: Sequence[tuple[int, int]]) -> tuple[int, int]:
    rows = max((row for row, _ in places), default=0) + 1
    columns = max((column for _, column in places), default=0) + 1
    for height, width in _SIZES:
        if rows <= height and columns <= width:
            return height, width
    return rows, columns
