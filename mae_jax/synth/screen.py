"""Writing a screen to disk: TIFFs, a LoadData CSV and the ground truth of its genes.

An interrupted screen is resumed. `screen.json` is written last and marks a complete folder;
`drawing.json` holds the configuration in the meantime.
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import tifffile
from tqdm import tqdm

from mae_jax.config import to_dict
from mae_jax.errors import InputError
from mae_jax.files import read_json, replacing, write_json
from mae_jax.synth.biology import gene_effects, known_relationships
from mae_jax.synth.config import ScreenConfig
from mae_jax.synth.plate_layout import design, row_and_column
from mae_jax.synth.wells import draw_well

# Raised with every change of the rendering code that changes a pixel, so that no folder mixes wells
# of two versions.
DRAWING_VERSION = 2

_WELLS_PER_JOB = 4
_Site = tuple[str, str, str, int]


def make_screen(
    folder: str | os.PathLike[str],
    config: ScreenConfig,
    processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Render the screen of `config` into `folder`, or the rest of an interrupted one.

    The folder then holds `images/<experiment>/<plate>/r01c02f01-ch1.tiff` (uint16, channel
    numbers from 1 in the order of `config.channels`), `load_data.csv` (one row per site, paths
    relative to the folder), `relationships.csv` (pairs of genes in the same complex),
    `complexes.csv` (each gene's complex and true effect) and `screen.json` (the configuration, and
    under `drawing_version` the version of the drawing code).
    The files do not depend on `processes`.

    Args:
      processes: number of worker processes; None for one per CPU of this process. They are
        spawned, so a script that calls this needs the guard `if __name__ == "__main__":`.
      progress: whether to show a progress bar.

    Returns:
      The path of `load_data.csv`.

    Raises:
      InputError: the folder holds another screen, or something else under the screen's names.
    """
    folder = Path(folder)
    table = folder / "load_data.csv"
    if _finished(folder, config):
        return table
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "drawing.json", _described(config))

    _draw_all(folder, config, processes or len(os.sched_getaffinity(0)), progress)
    _write_table(table, load_data(config))
    _write_table(folder / "relationships.csv", known_relationships(config))
    _write_table(folder / "complexes.csv", gene_effects(config))
    for leftover in folder.rglob(".*.partial*"):  # of a process that was killed
        leftover.unlink()
    write_json(folder / "screen.json", _described(config))
    (folder / "drawing.json").unlink()
    return table


def load_data(config: ScreenConfig) -> pd.DataFrame:
    """The LoadData table: `Metadata_*` and, for each channel, `FileName_Orig…`, `PathName_Orig…`.

    One row per site, strings throughout; paths are relative to the screen's folder.
    """
    wells = design(config)
    rows = []
    for row in wells.to_dict("records"):
        for site in range(1, config.sites + 1):
            well = {str(key): str(value) for key, value in row.items()}
            well["Metadata_Site"] = str(site)
            key = (well["Metadata_Experiment"], well["Metadata_Plate"], well["Metadata_Well"])
            for number, channel in enumerate(config.channels, start=1):
                path = _image_path((*key, site), number)
                well[f"FileName_Orig{channel}"] = path.name
                well[f"PathName_Orig{channel}"] = path.parent.as_posix()
            rows.append(well)
    return pd.DataFrame(rows)


def _image_path(site: _Site, channel: int) -> Path:
    experiment, plate, well, number = site
    row, column = row_and_column(well)
    name = f"r{row + 1:02d}c{column + 1:02d}f{number:02d}-ch{channel}.tiff"
    return Path("images") / experiment / plate / name


def _finished(folder: Path, config: ScreenConfig) -> bool:
    """Whether the folder holds this screen, complete; refuses any other content."""
    for marker in ("screen.json", "drawing.json"):
        if (folder / marker).exists():
            # Compared as plain values, which also detects a screen of another version.
            existing, wanted = read_json(folder / marker), _described(config)
            if existing == wanted:
                return marker == "screen.json"
            keys = sorted({*existing, *wanted}) if isinstance(existing, dict) else []
            differ = [key for key in keys if existing.get(key) != wanted.get(key)]
            raise InputError(
                f"{folder} holds another screen (it differs in "
                f"{', '.join(differ) or 'everything'}); choose another folder or remove it."
            )
    for name in ("images", "load_data.csv"):
        if (folder / name).exists():
            raise InputError(
                f"{folder / name} exists but does not belong to a synthetic screen; "
                "choose another folder."
            )
    return False


def _described(config: ScreenConfig) -> dict[str, object]:
    return {**to_dict(config), "drawing_version": DRAWING_VERSION}


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with replacing(path) as tmp_path:
        table.to_csv(tmp_path, index=False)


def _draw_all(folder: Path, config: ScreenConfig, processes: int, progress: bool) -> None:
    sites: list[_Site] = []
    for row in design(config).to_dict("records"):
        well = (row["Metadata_Experiment"], row["Metadata_Plate"], row["Metadata_Well"])
        sites += [(*well, site) for site in range(1, config.sites + 1)]
    missing = [site for site in sites if not _is_drawn(folder, config, site)]
    jobs = [missing[i : i + _WELLS_PER_JOB] for i in range(0, len(missing), _WELLS_PER_JOB)]
    with tqdm(
        total=len(sites),
        initial=len(sites) - len(missing),
        desc="drawing",
        unit="site",
        disable=not progress,
    ) as bar:
        if processes == 1 or len(jobs) <= 1:
            for job in jobs:
                bar.update(_draw_sites(folder, config, job))
            return
        with _pool(min(processes, len(jobs))) as pool:
            futures = [pool.submit(_draw_sites, folder, config, job) for job in jobs]
            for future in as_completed(futures):
                bar.update(future.result())


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    # Spawned: forking a process that runs JAX's threads can hang.
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _is_drawn(folder: Path, config: ScreenConfig, site: _Site) -> bool:
    # Files are written whole or not at all, so a file that exists is complete.
    channels = range(1, len(config.channels) + 1)
    return all((folder / _image_path(site, channel)).exists() for channel in channels)


def _draw_sites(folder: Path, config: ScreenConfig, sites: list[_Site]) -> int:
    for site in sites:
        image = draw_well(config, *site)
        for number, picture in enumerate(image, start=1):
            with replacing(folder / _image_path(site, number)) as tmp_path:
                tifffile.imwrite(tmp_path, picture, compression="zlib", predictor=True)
    return len(sites)
