"""tensorflow-datasets builders for RxRx1, RxRx3-core, CPJUMP1 and any indexed screen.

TensorFlow is not needed: data sets are written as ArrayRecord and read with `as_data_source`.

    builder = Rxrx1(data_dir="data", file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="downloads/rxrx1")
    )
    sites = builder.as_data_source(split="train")
    sites[0]["pixels"]                         # (6, 512, 512) uint8, raw

An example is one site: `pixels` (channels, height, width) as the files hold them, and the metadata
of the index as byte strings. Splits are those of the index, by experiment.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mae_jax.data.images import read_site
from mae_jax.data.index import METADATA, Index
from mae_jax.data.metadata import complete, join
from mae_jax.data.readers.filename_patterns import PATTERNS, RXRX_CHANNELS, read_folder
from mae_jax.data.readers.loaddata import read_csv, read_loaddata
from mae_jax.data.readers.rxrx3_core import read_rxrx3_core
from mae_jax.errors import InputError

TEXTS = {column: column.removeprefix("Metadata_").lower() for column in METADATA[:-1]}


class _Sites(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Builder with one example per site of an index."""

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION = ""
    CHANNELS: tuple[str, ...] = ()
    DTYPE: Any = np.uint8

    def _index(self, folder: Path) -> Index:
        """Return the index of the files that the user has downloaded to `folder`."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        channels, dtype = self._pixels()
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    # 'bytes' reads several times faster than the default encoding.
                    "pixels": tfds.features.Tensor(
                        shape=(len(channels), None, None), dtype=dtype, encoding="bytes"
                    ),
                    **{name: tfds.features.Text() for name in TEXTS.values()},
                }
            ),
            metadata=tfds.core.MetadataDict(channels=list(channels)),
        )

    def _pixels(self) -> tuple[Sequence[str], Any]:
        return self.CHANNELS, self.DTYPE

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        index = self._index(Path(dl_manager.manual_dir))
        splits = sorted(set(index.table["Metadata_Split"]))
        return {split: self._generate_examples(index, split) for split in splits}

    def _generate_examples(self, index: Index, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        channels, _ = self._pixels()
        table = index.table
        for row in np.flatnonzero(table["Metadata_Split"] == split):
            site = table.iloc[row]
            texts = {name: site[column] for column, name in TEXTS.items()}
            yield int(row), {"pixels": read_site(index, int(row), channels), **texts}


def _annotated(index: Index, folder: Path, name: str, by_dataset: bool = False) -> Index:
    """Join the data set's table of wells, the file `name` in `folder`, to the index."""
    path = folder / name
    table = complete(join(index.table, read_csv(str(path)), str(path)), str(path))
    if by_dataset and "Metadata_dataset" in table.columns:  # RxRx1 splits by experiment itself
        split = table["Metadata_dataset"].map({"test": "validation"}).fillna("train")
        table = table.assign(Metadata_Split=split)
    return Index(table, index.root)


class Rxrx1(_Sites):
    """RxRx1: 1,108 siRNAs, 51 experiments of 4 plates, 512² sites, 6 channels of 8 bits."""

    DESCRIPTION = "RxRx1: siRNA knock-downs in four cell types, 6 channels, 512 × 512 pixels."
    CHANNELS = RXRX_CHANNELS
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack RxRx1's images and metadata into manual_dir, so that it holds metadata.csv and "
        "images/HUVEC-1/Plate1/B02_s1_w1.png and so on."
    )

    def _index(self, folder: Path) -> Index:
        index = read_folder(str(folder), PATTERNS["rxrx1"], channel_names=self.CHANNELS)
        return _annotated(index, folder, "metadata.csv", by_dataset=True)


class Rxrx3Core(_Sites):
    """RxRx3-core: 735 genes and 1,674 compounds, 512² sites, 6 channels of 8 bits."""

    DESCRIPTION = "RxRx3-core: gene knock-outs and compounds in HUVEC, 6 channels."
    CHANNELS = RXRX_CHANNELS
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put RxRx3-core's parquet files and metadata_rxrx3_core.csv into manual_dir."
    )

    def _index(self, folder: Path) -> Index:
        index = read_rxrx3_core(str(folder), channel_names=self.CHANNELS)
        return _annotated(index, folder, "metadata_rxrx3_core.csv")


class Cpjump1(_Sites):
    """CPJUMP1: compounds, ORFs and CRISPR guides, 1080² sites, 5 channels of 16 bits."""

    DESCRIPTION = "CPJUMP1: the JUMP consortium's pilot, Cell Painting, 5 channels."
    CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito")
    DTYPE = np.uint16
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put the LoadData CSV as load_data.csv into manual_dir, and the images where it names them."
    )

    def _index(self, folder: Path) -> Index:
        return read_loaddata(str(folder / "load_data.csv"))


class ScreenConfig(tfds.core.BuilderConfig):
    """Configuration of `Screen`, with the path of its index.

    `Screen(config=ScreenConfig(name="mine", index="index.parquet"))`
    """

    def __init__(self, *, name: str, index: str | os.PathLike[str], **others: Any) -> None:
        super().__init__(name=name, **others)
        self.index = os.fspath(index)


class Screen(_Sites):
    """Any screen that has an index (`mae-jax index`), all of whose sites have the same channels."""

    DESCRIPTION = "A screen with an index of mae_jax."
    BUILDER_CONFIGS = ()

    def _index(self, folder: Path) -> Index:
        return self._read()

    def _read(self) -> Index:
        if not isinstance(self.builder_config, ScreenConfig):
            raise InputError("Screen needs config=ScreenConfig(name=…, index=PATH).")
        return Index.read(self.builder_config.index)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        index = self._read()
        splits = sorted(set(index.table["Metadata_Split"]))
        return {split: self._generate_examples(index, split) for split in splits}

    def _pixels(self) -> tuple[Sequence[str], Any]:
        index = self._read()
        return index.channels, read_site(index, 0, index.channels).dtype
