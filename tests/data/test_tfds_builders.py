"""tensorflow-datasets builders, without TensorFlow, on small files in the true layouts."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.readers.loaddata import read_loaddata
from mae_jax.data.splits import with_split
from mae_jax.data.tfds_builders import Cpjump1, Rxrx1, Rxrx3Core, Screen, ScreenConfig


def _prepared(builder: Any, manual: Path | None) -> Any:
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual and str(manual))
    )
    return builder


def test_rxrx1(tmp_path: Path) -> None:
    manual = tmp_path / "rxrx1"
    lines = ["site_id,well_id,cell_type,dataset,experiment,plate,well,site,well_type,sirna"]
    for number, (experiment, dataset) in enumerate([("HUVEC-01", "train"), ("RPE-02", "test")]):
        folder = manual / "images" / experiment / "Plate1"
        folder.mkdir(parents=True)
        for site in (1, 2):
            for channel in range(1, 7):
                image = np.full((16, 16), 100 * number + 10 * site + channel, np.uint8)
                name = f"B02_s{site}_w{channel}.png"
                (folder / name).write_bytes(imagecodecs.png_encode(image))
            lines.append(
                f"{experiment}_1_B02_{site},{experiment}_1_B02,HUVEC,{dataset},{experiment},1,B02,"
                f"{site},negative_control,EMPTY"
            )
    (manual / "metadata.csv").write_text("\n".join(lines) + "\n")
    builder = _prepared(Rxrx1(data_dir=tmp_path / "data", file_format="array_record"), manual)
    assert {name: s.num_examples for name, s in builder.info.splits.items()} == {
        "train": 2,
        "validation": 2,
    }
    sites = builder.as_data_source(split="validation")
    assert {site["experiment"] for site in sites} == {b"RPE-02"}
    assert sites[0]["controltype"] == b"negcon"
    values = sorted(tuple(site["pixels"][:, 0, 0].tolist()) for site in sites)
    assert values == [tuple(range(111, 117)), tuple(range(121, 127))]


def test_rxrx3_core(tmp_path: Path) -> None:
    manual = tmp_path / "core"
    manual.mkdir()
    rows = []
    for well in ("A01", "AF48"):
        for channel in range(1, 7):
            image = np.full((16, 16), channel + 10 * (well == "A01"), np.uint8)
            raw = imagecodecs.jpeg2k_encode(image, reversible=True, codecformat="jp2")
            key = f"gene-001/Plate1/{well}_s1_{channel}"
            rows.append({"__key__": key, "jp2": {"bytes": raw, "path": None}})
    pq.write_table(pa.Table.from_pylist(rows), manual / "train-00000-of-00001.parquet")
    (manual / "metadata_rxrx3_core.csv").write_text(
        "well_id,experiment_name,plate,address,gene,treatment,perturbation_type\n"
        "gene-001_1_A01,gene-001,1,A01,TP53,TP53_guide_1,CRISPR\n"
        "gene-001_1_AF48,gene-001,1,AF48,EMPTY_control,EMPTY_control,CRISPR\n"
    )
    builder = _prepared(Rxrx3Core(data_dir=tmp_path / "data", file_format="array_record"), manual)
    sites = {site["well"]: site for site in builder.as_data_source(split="train")}
    assert sites[b"A01"]["gene"] == b"TP53"
    assert sites[b"AF48"]["controltype"] == b"negcon"
    assert sites[b"A01"]["pixels"][:, 3, 3].tolist() == [11, 12, 13, 14, 15, 16]


def test_cpjump1(shared_data: Path, tmp_path: Path) -> None:
    manual = shared_data / "cpjump1_images"
    builder = _prepared(Cpjump1(data_dir=tmp_path / "data", file_format="array_record"), manual)
    sites = builder.as_data_source(split="train")
    assert len(sites) == 4
    negcon = next(site for site in sites if site["controltype"] == b"negcon")
    expected = read_site(read_loaddata(str(manual / "load_data.csv")), 3, Cpjump1.CHANNELS)
    assert negcon["pixels"].dtype == np.uint16
    assert np.array_equal(negcon["pixels"], expected)


def test_a_screen_of_ones_own(screen: Callable[..., Path], tmp_path: Path) -> None:
    index = read_loaddata(str(screen()))
    index = Index(with_split(index.table, experiments=["E2"]), index.root)
    path = index.write(tmp_path / "index.parquet")
    builder = _prepared(
        Screen(
            config=ScreenConfig(name="mine", index=path),
            data_dir=tmp_path / "data",
            file_format="array_record",
        ),
        None,
    )
    sites = builder.as_data_source(split="validation")
    assert len(sites) == 6
    assert {site["experiment"] for site in sites} == {b"E2"}
    assert list(builder.info.metadata["channels"]) == ["DNA", "ER", "Mito"]
    for site in sites:
        row = index.select(Plate=site["plate"].decode(), Well=site["well"].decode())
        assert np.array_equal(site["pixels"], read_site(row, 0))


@pytest.mark.parametrize("kind", [Rxrx1, Rxrx3Core, Cpjump1])
def test_mock_data(kind: Any, tmp_path: Path) -> None:
    with tfds.testing.mock_data(num_examples=3):
        builder = kind(data_dir=tmp_path, file_format="array_record")
        sites = builder.as_data_source(split="train")
        assert len(sites) == 3
        pixels = sites[0]["pixels"]
        assert pixels.shape[0] == len(kind.CHANNELS)
        assert pixels.dtype == kind.DTYPE


def test_no_tensorflow() -> None:
    code = "import sys, mae_jax.data.tfds_builders; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
