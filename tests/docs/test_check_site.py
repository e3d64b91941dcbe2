"""The check of the built site finds what it is for."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "scripts" / "check_site.py"


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_site", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="other.html#there">x</a>', None),
        ('<a href="https://example.org">x</a><img src="data:image/png;base64,AA">', None),
        ('<a href="missing.html">x</a>', "index.html links missing.html, which does not exist"),
        ('<a href="other.html#no">x</a>', "links other.html#no, whose anchor does not exist"),
        ('<img src="https://example.org/x.png">', "index.html loads https://example.org/x.png"),
        ('<script src="//example.org/x.js"></script>', "index.html loads //example.org/x.js"),
    ],
)
def test_links_anchors_and_loads(
    checks: ModuleType, tmp_path: Path, body: str, problem: str | None
) -> None:
    (tmp_path / "other.html").write_text('<h2 id="there">x</h2>')
    (tmp_path / "index.html").write_text(body)
    found = checks.site_problems(tmp_path)
    assert [problem in text for text in found] == [True] * (problem is not None)


def test_relative_links_of_markdown(checks: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("[a](README.md) [b](https://example.org) [c](gone.md)\n```\n[d](x.md)\n```\n")
    assert checks.markdown_problems(page) == [f"{page} links gone.md, which does not exist"]
