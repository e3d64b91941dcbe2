"""The results of the demo, as a folder of tables that can be committed."""

import os
import platform
import shutil
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pandas as pd

from mae_jax.files import replacing, write_text
from mae_jax.report.page import best_recalls, leads, verdict, versions


def write_record(
    folder: str | Path,
    evaluations: Mapping[int, Path],
    command: str,
    picture: Path | None = None,
) -> Path:
    """Write README.md, recall.csv, compare.csv and triplets.png; returns the README's path.

    Args:
      folder: the destination; files of these names are replaced.
      evaluations: folders of `mae-jax evaluate recall`, by seed.
      command: the command line that made them.
      picture: reconstructions of the first seed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("recall.csv", "compare.csv"):
        tables = [pd.read_csv(e / name).assign(seed=seed) for seed, e in evaluations.items()]
        table = pd.concat(tables, ignore_index=True)
        with replacing(folder / name) as tmp_path:
            table.set_index("seed").round(4).to_csv(tmp_path)
    if picture is not None:
        with replacing(folder / "triplets.png") as tmp_path:
            shutil.copyfile(picture, tmp_path)
    return write_text(folder / "README.md", _page(evaluations, command))


def _page(evaluations: Mapping[int, Path], command: str) -> str:
    recalls = {seed: best_recalls(folder) for seed, folder in evaluations.items()}
    names = list(next(iter(recalls.values())))
    first = pd.read_csv(next(iter(evaluations.values())) / "recall.csv")
    lines = [
        "# What the demo measured",
        "",
        f"`{command}`, {date.today()}, Python {platform.python_version()}, {versions()}; "
        f"{os.cpu_count()} CPU cores.",
        "Written by the demo itself: each seed draws its own screen and trains its own network.",
        "",
        f"Recall of the {first['pairs_used'].max()} known pairs (by chance 0.10), each encoder "
        "under its own best correction:",
        "",
        "| seed | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for seed, recall in recalls.items():
        lines.append(f"| {seed} | " + " | ".join(f"{recall[name]:.2f}" for name in names) + " |")
    lines += [
        "",
        f"How far {names[0]} leads, with the 95 % interval over the known pairs, the same for "
        "both; pairs that share a gene count as dependent:",
        "",
        "| seed | " + " | ".join(f"over {name}" for name in names[1:]) + " |",
        "|---|" + "---|" * (len(names) - 1),
    ]
    for seed, folder in evaluations.items():
        cells = [f"{row['lead']} ({row['interval']})" for row in leads(folder)]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    lines += ["", "The report's sentence for each seed:", ""]
    lines += [f"- seed {seed}: {verdict(folder)}" for seed, folder in evaluations.items()]
    lines += [
        "",
        "All corrections of all seeds: [recall.csv](recall.csv); every two encoders: "
        "[compare.csv](compare.csv). The pictures are of the first seed.",
        "",
    ]
    return "\n".join(lines)
