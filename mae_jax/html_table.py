"""Small tables in HTML, as which notebooks show encoders, indexes and results."""

import html
from collections.abc import Mapping


def html_table(title: str, rows: Mapping[str, object]) -> str:
    """A table of two columns; all texts are escaped.

    Args:
      title: above the table.
      rows: name -> value.
    """
    cells = "".join(
        "<tr><th style='text-align:left'>"
        f"{html.escape(name)}</th><td style='text-align:left'>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<div><b>{html.escape(title)}</b><table><tbody>{cells}</tbody></table></div>"
