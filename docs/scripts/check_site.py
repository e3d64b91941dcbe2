"""Checks a built site: local links and anchors lead somewhere, and no page loads from elsewhere.

    python docs/scripts/check_site.py site [README.md CONTRIBUTING.md …]

Markdown files of the repository that are named after the site are checked too: their relative links
must lead to files. Exits with 1 and lists what is wrong.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that make a browser fetch something by itself, by tag.
LOADED = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"
}  # fmt: skip
# Relations of <link> that name a page and fetch nothing.
UNFETCHED = {"canonical", "next", "prev", "alternate"}


class Page(HTMLParser):
    """Links, loaded files and anchors of one HTML page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in LOADED and LOADED[tag] in values and values.get("rel") not in UNFETCHED:
            self.loaded.append(values[LOADED[tag]])


def site_problems(root: Path) -> list[str]:
    """Broken links and anchors of a built site, and what its pages load from elsewhere."""
    pages = {path: Page(path) for path in sorted(root.rglob("*.html"))}
    problems = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links are absolute, for any depth
            continue
        name = path.relative_to(root)
        for url in page.loaded:
            if urlsplit(url).scheme not in ("", "data") or url.startswith("//"):
                problems.append(f"{name} loads {url}")
        for url in page.links + page.loaded:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                problems.append(f"{name} links {url}, which does not exist")
            elif parts.fragment and target.suffix == ".html":
                anchors = pages[path.parent.joinpath(target)].anchors if target in pages else None
                if anchors is None:
                    anchors = Page(target).anchors
                if unquote(parts.fragment) not in anchors:
                    problems.append(f"{name} links {url}, whose anchor does not exist")
    for sheet in root.rglob("*.css"):
        for url in re.findall(r"url\(['\"]?(https?:[^)'\"]+)", sheet.read_text()):
            problems.append(f"{sheet.relative_to(root)} loads {url}")
    return problems


def markdown_problems(path: Path) -> list[str]:
    """Relative links of a Markdown file that lead to no file."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    problems = []
    for url in (a or b for a, b in links):
        parts = urlsplit(url)
        if not parts.scheme and parts.path and not (path.parent / unquote(parts.path)).exists():
            problems.append(f"{path} links {url}, which does not exist")
    return problems


def main() -> None:
    problems = site_problems(Path(sys.argv[1]).resolve())
    for name in sys.argv[2:]:
        problems += markdown_problems(Path(name))
    print("\n".join(problems) or "all links lead somewhere; nothing is loaded from elsewhere")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
