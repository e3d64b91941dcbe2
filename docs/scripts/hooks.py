"""Hooks of MkDocs: navigation of generated pages, equations as MathML, nothing from elsewhere."""

import html
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from packages import PACKAGES  # noqa: E402

from mae_jax.cli.main import COMMANDS  # noqa: E402

# What pymdownx.arithmatex leaves of $…$ and $$…$$.
_MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
# With it, Material's search works on pages opened from disk.
_SHIM = "https://unpkg.com/iframe-worker/shim"


def on_config(config: Any) -> Any:
    """Fill the sections of generated pages in."""
    benchmarks = sorted(p.name for p in ROOT.glob("benchmarks/results/*/"))
    generated = {
        "Commands": ["reference/commands/index.md"]
        + [{name: f"reference/commands/mae-jax-{name}.md"} for name in COMMANDS],
        "Python": ["reference/python/index.md"]
        + [{name: f"reference/python/{name}.md"} for name in PACKAGES],
        "Benchmarks": ["results/benchmarks.md"]
        + [{name: f"results/benchmarks/{name}.md"} for name in benchmarks],
    }
    for section in config.nav:
        for pages in section.values():
            if isinstance(pages, list):
                for page in pages:
                    if isinstance(page, dict):
                        page |= {name: generated[name] for name in page if name in generated}
    return config


def on_page_content(content: str, **_: Any) -> str:
    """Turn equations into MathML, which browsers draw without a script."""

    def mathml(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        return convert(html.unescape(match[2]).strip(), display=display)

    return _MATH.sub(mathml, content)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Load the shim of the search from the site itself."""
    return output.replace(_SHIM, "../" * page.url.count("/") + "assets/iframe-worker.js")
