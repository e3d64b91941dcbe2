"""One embedding per cell: around centers of a table, of label images, and of detected nuclei."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile

from mae_jax.cli.main import main
from mae_jax.data.cells import DetectedNuclei, LabelImages, open_cells, read_cell_table, read_labels
from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.embeddings.cells import write_cells
from mae_jax.embeddings.reader import read_embeddings
from mae_jax.errors import InputError
from mae_jax.inference import embed_index

CENTERS = ((5.0, 7.2), (24.4, 23.6), (47.0, 0.0))


def table_of(index: Index, path: Path, skip: tuple[str, str] | None = None) -> Path:
    """Three cells per site, as CellProfiler names their centers."""
    rows = [
        {
            "Metadata_Plate": site["Metadata_Plate"],
            "Metadata_Well": site["Metadata_Well"],
            "Metadata_Site": site["Metadata_Site"],
            "ObjectNumber": 10 + number,
            "Nuclei_Location_Center_X": x,
            "Nuclei_Location_Center_Y": y,
        }
        for _, site in index.table.iterrows()
        for number, (y, x) in enumerate(CENTERS)
        if (site["Metadata_Plate"], site["Metadata_Well"]) != skip
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def obs(path: Path) -> tuple[np.ndarray, dict[str, list]]:
    with h5py.File(path) as file:
        columns = {}
        for name, column in file["obs"].items():
            if isinstance(column, h5py.Group):
                names = column["categories"].asstr()[:]
                columns[name] = [names[code] for code in column["codes"][:]]
            else:
                columns[name] = [v.decode() if isinstance(v, bytes) else v for v in column[:]]
        return file["X"][:], columns


def test_every_cell_is_embedded_once(make_screen, tiny_encoder, tmp_path: Path) -> None:
    index = make_screen(wells=3, sites=2)
    cells = read_cell_table(table_of(index, tmp_path / "cells.csv"))
    folder = tmp_path / "out"
    # In two tasks, of which the first is run twice.
    for task in ("0/2", "0/2", "1/2"):
        embed_index(tiny_encoder, index, folder, cells=cells, wells_per_shard=1, batch_size=4,
                    task=task, progress=False)  # fmt: skip
    features, columns = obs(write_cells(folder))
    assert len(features) == 3 * 2 * 3
    assert len(set(zip(*(columns[c] for c in ("Metadata_Plate", "Metadata_Well", "Metadata_Site",
                                              "Metadata_Cell")), strict=True))) == 18  # fmt: skip
    assert columns["Metadata_Cell"][:3] == [10, 11, 12]
    assert columns["Metadata_Cell_Y"][:3] == [5, 24, 47]
    assert columns["Metadata_Cell_X"][:3] == [7, 24, 0]

    # Each is what the encoder makes of the crop around it, mirrored at the border.
    pixels = read_site(index, 0, ("DNA", "ER", "Mito"))
    padded = np.pad(pixels, ((0, 0), (16, 16), (16, 16)), mode="symmetric")
    for row, (y, x) in enumerate(CENTERS):
        top, left = round(y), round(x)
        crop = padded[:, top : top + 32, left : left + 32]
        wanted = np.asarray(tiny_encoder.embed(crop[None]))[0]
        np.testing.assert_allclose(features[row], wanted, rtol=1e-4, atol=1e-5)

    # A well is the mean of its cells.
    metadata, wells, _ = read_embeddings(folder)
    np.testing.assert_allclose(wells[0], features[:6].mean(axis=0), rtol=1e-5, atol=1e-6)
    assert metadata["Metadata_Cell_Count"].tolist() == ["6"] * 3


def test_a_well_without_cells_is_reported(make_screen, tiny_encoder, tmp_path: Path) -> None:
    index = make_screen(wells=2, sites=1)
    cells = read_cell_table(table_of(index, tmp_path / "cells.csv", skip=("P1", "A02")))
    report = embed_index(tiny_encoder, index, tmp_path / "out", cells=cells, progress=False)
    assert (report.wells, report.skipped) == (1, 1)
    assert "it has no cells" in report.first_skipped


def test_other_cells_are_another_job(make_screen, tiny_encoder, tmp_path: Path) -> None:
    index = make_screen(wells=1, sites=1)
    cells = read_cell_table(table_of(index, tmp_path / "cells.csv"))
    embed_index(tiny_encoder, index, tmp_path / "out", cells=cells, progress=False)
    with pytest.raises(InputError, match="cells"):
        embed_index(tiny_encoder, index, tmp_path / "out", progress=False)
    embed_index(tiny_encoder, index, tmp_path / "plain", progress=False)
    with pytest.raises(InputError, match="has no cells; embed with --cells"):
        write_cells(tmp_path / "plain")


def test_label_images(make_screen, tmp_path: Path) -> None:
    index = make_screen(wells=1, sites=2)
    labels = np.zeros((48, 48), np.uint16)
    labels[4:7, 10:13], labels[20:31, 30:41] = 3, 7
    (tmp_path / "P1").mkdir()
    tifffile.imwrite(tmp_path / "P1/A01_1.tif", labels)
    tifffile.imwrite(tmp_path / "P1/A01_2.tif", np.zeros((48, 48), np.uint16))
    template = f"{tmp_path}/{{Metadata_Plate}}/{{Metadata_Well}}_{{Metadata_Site}}.tif"
    source = open_cells(template, index)
    assert isinstance(source, LabelImages)
    cells = source.cells(index, 0)
    assert cells.labels.tolist() == [3, 7]
    np.testing.assert_allclose(cells.centers, [[5, 11], [25, 35]])
    assert len(source.cells(index, 1).centers) == 0
    with pytest.raises(InputError, match="no column 'Metadata_Wel': did you mean 'Metadata_Well'"):
        open_cells("masks/{Metadata_Wel}.tif", index)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png", ".zarr"])
def test_kinds_of_label_images(tmp_path: Path, suffix: str) -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = tmp_path / f"labels{suffix}"
    if suffix == ".npz":
        np.savez(path, labels[None])  # as JUMP-lite's masks
    elif suffix == ".npy":
        np.save(path, labels)
    elif suffix == ".png":
        from PIL import Image

        Image.fromarray(labels).save(path)
    else:
        import zarr

        zarr.create_array(path, data=labels[None])
    np.testing.assert_array_equal(read_labels(str(path)), labels)


def test_nuclei_are_detected_on_the_dna_stain(make_screen) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    index = make_screen(wells=1, sites=1, size=128, channels=("Hoechst", "ER"))
    yy, xx = np.mgrid[:128, :128]
    spots = [(30, 40), (90, 70)]
    image = sum(3000 * (np.hypot(yy - y, xx - x) < 10) for y, x in spots) + 200
    noise = np.random.default_rng(0).normal(0, 20, image.shape)
    tifffile.imwrite(
        Path(index.root) / index.sites[0][1][0], (image + noise).clip(0).astype(np.uint16)
    )
    source = open_cells("nuclei", index, diameter=20.0)
    assert source == DetectedNuclei("Hoechst", 20.0)
    centers = source.cells(index, 0).centers
    np.testing.assert_allclose(sorted(map(tuple, centers)), spots, atol=1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("plate,well,y,x\nP1,A01,1,2\n", "has no column of Metadata_Site"),
        ("plate,well,site\nP1,A01,1\n", "no column of the centers of cells"),
        ("plate,well,site,y,x\nP1,A01,1,2,x\n", "row 1 of .* has no number in y or x"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "cells.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        read_cell_table(tmp_path / "cells.csv")


def test_a_center_outside_of_the_field_is_named(make_screen, tiny_encoder, tmp_path: Path) -> None:
    index = make_screen(wells=1, sites=1)
    (tmp_path / "c.csv").write_text("plate,well,site,y,x\nP1,a1,1,400,2\n")
    cells = read_cell_table(tmp_path / "c.csv")
    report = embed_index(tiny_encoder, index, tmp_path / "out", cells=cells, progress=False)
    assert "a cell at row 400, column 2 lies outside of the field of 48" in report.first_skipped


def test_from_the_command_line(make_screen, tmp_path: Path, capsys) -> None:
    index = make_screen(wells=2, sites=1)
    path = index.write(tmp_path / "index.parquet")
    table = table_of(index, tmp_path / "cells.csv")
    command = ["embed", "--encoder", "intensity", "--index", str(path), "--cells", str(table)]
    assert main([*command, "--out", str(tmp_path / "out"), "--crop", "16", "--quiet"]) == 0
    assert f"one row per cell: {tmp_path / 'out_cells.h5ad'}" in capsys.readouterr().out
    features, columns = obs(tmp_path / "out_cells.h5ad")
    assert features.shape[0] == 6
    assert len(pd.read_parquet(tmp_path / "out")) == 2
    assert columns["Metadata_Gene"] == ["gene0"] * 3 + ["gene1"] * 3
