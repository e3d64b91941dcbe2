"""Figures and image files as parts of a page, so that it needs no other files."""

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def svg_url(figure: "Figure") -> str:
    """A figure as an SVG data URL; equal figures give equal bytes."""
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "mae_jax"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()


def png_url(path: Path) -> str:
    """A PNG file as a data URL."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


# Colors of the plots -> the page's own, which differ between light and dark.
_INK_OF_PAGE = {
    "#22303c": "var(--ink)",
    "#d7dee5": "var(--line)",
    "#000000": "var(--ink)",
    "black": "var(--ink)",
    "#0b6e4f": "var(--mark)",
}


def inline_svg(figure: "Figure") -> str:
    """A figure as SVG markup for the body of a page.

    It has no background, its ink is the page's (`--ink`, `--line`, `--mark`), its text is text, and
    its width is that of its container.
    """
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "mae_jax", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*pt"', r"\1", svg, count=1)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # ids of one page must differ
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px; font-family: inherit", svg)
    for color, variable in _INK_OF_PAGE.items():
        svg = re.sub(rf"(fill|stroke): {color}\b", rf"\1: {variable}", svg)
    # Text without a color of its own would be black in dark pages too.
    return svg.replace("<svg ", '<svg role="img" style="fill: var(--ink)" ', 1)


def jpeg_url(content: bytes) -> str:
    """The bytes of a JPEG file as a data URL."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()
