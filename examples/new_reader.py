"""A reader for a format of one's own: a folder of arrays and a table of their wells.

    mae-jax index --import examples/new_reader.py my_screen --out index.parquet

A folder in this format has `wells.tsv` with the columns well and gene, and an array (height, width)
for each well and channel, `A01_DNA.npy`. The index says only where images lie; they are read when
they are needed. A plane of a larger file is named by a fragment (`mae_jax.data.image_uri`).
"""

from pathlib import Path

import pandas as pd

from mae_jax.data import CERTAIN, Index, Reader, ReadOptions, Source, register_reader
from mae_jax.data.metadata import complete

CHANNELS = ["DNA", "ER"]


def matches(source: Source) -> float:
    """Whether a path is a screen of this format: where it is, it can be no other."""
    return CERTAIN if "wells.tsv" in source.files else 0.0


def read(path: str, options: ReadOptions) -> Index:
    wells = pd.read_csv(Path(path) / "wells.tsv", sep="\t", dtype=str)
    channels = list(options.channel_names) or CHANNELS
    table = pd.DataFrame(
        {
            "Metadata_Plate": "plate1",
            "Metadata_Well": wells["well"],
            "Metadata_Gene": wells["gene"],
            "Metadata_Perturbation": wells["gene"],
            "Channels": [channels] * len(wells),
            "Images": [[f"{well}_{name}.npy" for name in channels] for well in wells["well"]],
        }
    )
    return Index(complete(table, path, options.metadata_value), path)


register_reader(
    Reader("npy-wells", "a folder of .npy images", read, matches, takes=("channel_names",))
)
