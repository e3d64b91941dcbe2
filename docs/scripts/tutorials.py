"""Executes the tutorials as notebooks, and turns executed ones into pages of the site.

    python docs/scripts/tutorials.py            # all of them
    python docs/scripts/tutorials.py biologist

The sources are docs/tutorials/NAME.md in jupytext's Markdown: blocks of `python` and `bash` are
cells. Each runs from the root of the checkout, in a kernel of this Python, and writes its files to
runs/tutorials/NAME; the executed notebook is runs/tutorials/NAME.ipynb. A cell that fails, takes
too long or prints what it must not ends the run with status 1.
"""

import base64
import hashlib
import html
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "docs" / "tutorials"
RUNS = ROOT / "runs" / "tutorials"
NAMES = ("biologist", "pretrain", "finetune", "evaluate", "pod")
# Without it, jupytext takes the language of a tutorial's first cell for that of all.
HEADER = (
    "---\njupyter:\n  kernelspec: {display_name: Python 3, language: python, name: python3}\n---\n"
)
LIMIT = 900  # seconds for a notebook
# Tutorials whose page must show pictures.
WITH_PICTURES = ("biologist", "pretrain", "finetune", "evaluate")
FORBIDDEN = re.compile(r"Traceback|\bnan\b|Killed|command not found", re.IGNORECASE)


def execute(name: str) -> float:
    """Run one tutorial from its beginning; returns its seconds.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
      ValueError: the outputs are not what a reader should see.
    """
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    source = SOURCES / f"{name}.md"
    notebook = jupytext.reads(HEADER + source.read_text(), fmt="md")
    shutil.rmtree(RUNS / name, ignore_errors=True)
    RUNS.mkdir(parents=True, exist_ok=True)
    # The commands of this environment come first, and pictures are drawn without a screen.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    strict = RUNS / "strict.sh"  # a cell of bash fails with any of its commands
    strict.write_text("set -eo pipefail\n")
    os.environ["BASH_ENV"] = str(strict)
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    began = time.monotonic()
    client = NotebookClient(
        notebook, timeout=LIMIT, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    try:
        client.execute()
    finally:  # also after an error, to look at
        nbformat.write(notebook, RUNS / f"{name}.ipynb")
    seconds = time.monotonic() - began
    check(notebook, name)
    notebook.metadata["mae_jax"] = {"source": _digest(source), "seconds": round(seconds, 1)}
    nbformat.write(notebook, RUNS / f"{name}.ipynb")
    return seconds


def check(notebook: Any, name: str) -> None:
    """Look at the outputs as a reader would.

    Raises:
      ValueError: a cell prints a traceback or a NaN, or a tutorial lacks its pictures.
    """
    pictures = 0
    for cell in notebook.cells:
        for output in _joined(cell.get("outputs", [])):
            text = _text(output)
            match = FORBIDDEN.search(text)
            if match:
                raise ValueError(f"{name}.md: a cell prints '{match[0]}':\n{cell.source}\n{text}")
            pictures += "image/png" in output.get("data", {})
    if not pictures and name in WITH_PICTURES:
        raise ValueError(f"{name}.md shows no picture.")


def page(name: str) -> tuple[str, dict[str, bytes]]:
    """The Markdown page of a tutorial and its pictures by file name.

    With the outputs of its last execution if the source has not changed since; otherwise the
    source alone, with a note.
    """
    source = SOURCES / f"{name}.md"
    path = RUNS / f"{name}.ipynb"
    text = source.read_text()
    if not path.exists():
        return _with_note(text, "Outputs are not shown: `make tutorials` makes them."), {}
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    facts = notebook.metadata.get("mae_jax", {})
    if facts.get("source") != _digest(source):
        return _with_note(text, "Outputs are not shown: the text is newer than the last run."), {}
    parts, pictures = [], {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        shell = cell.source.startswith("%%bash")
        code = cell.source.partition("\n")[2] if shell else cell.source
        parts.append(f"```{'bash' if shell else 'python'}\n{code}\n```")
        shown = []
        for output in _joined(cell.outputs):
            data = output.get("data", {})
            if cell.source.endswith(";") and "image/png" not in data:
                continue  # the value of the last line, which the author has silenced
            if "image/png" in data:
                file_name = f"{name}-{len(pictures)}.png"
                pictures[file_name] = base64.b64decode(data["image/png"])
                shown.append(f'<img src="{file_name}" alt="Output of the cell above">')
            elif "text/html" in data:
                shown.append(re.sub(r"<style.*?</style>|\n\s*", "", data["text/html"], flags=re.S))
            elif _text(output).strip():
                shown.append(f"<pre><code>{html.escape(_text(output).rstrip())}</code></pre>")
        if shown:
            parts.append(f'<div class="output">{"".join(shown)}</div>')
    note = f"Executed in {facts['seconds']:.0f} s on {os.cpu_count()} CPU cores."
    return _with_note("\n\n".join(parts), note), pictures


def _joined(outputs: list[Any]) -> list[Any]:
    """Outputs with the pieces of standard output, which arrive as they are flushed, in one."""
    texts = [o["text"] for o in outputs if o["output_type"] == "stream" and o["name"] == "stdout"]
    rest = [output for output in outputs if output["output_type"] != "stream"]
    stream = {"output_type": "stream", "name": "stdout", "text": "".join(texts)}
    return [stream, *rest] if texts else rest


def _with_note(body: str, note: str) -> str:
    heading, _, rest = body.strip().partition("\n")
    return f"{heading}\n\n*{note}*\n{rest}\n"


def _text(output: Any) -> str:
    """An output as text, as a terminal leaves it: of a progress bar the last state alone."""
    if output["output_type"] == "stream" and output["name"] == "stderr":
        return ""
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    return "\n".join(line.rsplit("\r", 1)[-1] for line in text.split("\n"))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    names = sys.argv[1:] or NAMES
    unknown = set(names) - set(NAMES)
    if unknown:
        sys.exit(f"no tutorial {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}.")
    for name in names:
        print(f"{name}: {execute(name):.0f} s", flush=True)


if __name__ == "__main__":
    main()
