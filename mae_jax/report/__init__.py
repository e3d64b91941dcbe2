"""One self-contained HTML page about a run: pictures, curves, recall, and how to do it again."""

from mae_jax.report.page import write_report

__all__ = ["write_report"]
