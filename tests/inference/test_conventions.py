"""What other programs of the field make of the output."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest

from mae_jax.embeddings.anndata import write_anndata
from mae_jax.encoders.baselines import IntensityEncoder
from mae_jax.errors import InputError
from mae_jax.evaluation.profiles import Profiles
from mae_jax.inference import embed_index, read_embeddings

ELSEWHERE = "anndata asks for pandas < 3, so it has an environment of its own: run `make scanpy`"

# The intensity statistics are five per channel.
NAMES = [f"Image_MAE_{channel}_{i:04d}" for channel in ("DNA", "ER", "Mito") for i in range(5)]


@pytest.fixture
def folder(make_screen, tmp_path: Path) -> Path:
    index = make_screen(wells=12, sites=1)
    out = tmp_path / "out"
    embed_index(IntensityEncoder(crop=32), index, out, wells_per_shard=5, progress=False)
    return out


def test_columns_of_the_parquet_shards(folder: Path) -> None:
    shards = sorted((folder / "_shards").iterdir())
    assert [shard.name for shard in shards] == [f"shard-{i:06d}.parquet" for i in range(3)]
    schema = parquet.read_schema(shards[0])
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    assert {kind for name, kind in kinds.items() if name.startswith("Metadata_")} == {"string"}
    features = [name for name in kinds if not name.startswith("Metadata_")]
    assert features == NAMES
    assert {kinds[name] for name in features} == {"float"}


def test_the_manifest_tells_how_it_was_made(folder: Path) -> None:
    manifest = json.loads((folder / "_manifest.json").read_text())
    assert manifest["job"]["encoder"] == "intensity"
    assert manifest["job"]["fingerprint"] == IntensityEncoder(crop=32).fingerprint
    assert manifest["job"]["preprocessing"]["crop"] == 32
    assert manifest["versions"]["jax"]
    assert manifest["counts"]["embedded"] == 12


def test_evaluation_reads_the_folder(folder: Path) -> None:
    metadata, features, names = read_embeddings(folder)
    profiles = Profiles.read(folder)
    np.testing.assert_array_equal(profiles.features, features)
    assert list(profiles.names) == names
    assert list(profiles.metadata["Metadata_Well"]) == list(metadata["Metadata_Well"])


@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
def test_pycytominer_aggregates_and_normalizes(folder: Path) -> None:
    pycytominer = pytest.importorskip("pycytominer", reason="pycytominer is not installed")
    table = pd.read_parquet(folder)
    whole = pycytominer.aggregate(
        table,
        strata=["Metadata_Plate", "Metadata_Gene"],
        image_features=True,
        operation="median",
    )
    assert [name for name in whole if name.startswith("Image_")] == NAMES
    wanted = table.groupby(["Metadata_Plate", "Metadata_Gene"])[NAMES].median()
    np.testing.assert_allclose(whole[NAMES].to_numpy(), wanted.to_numpy(), rtol=1e-5)
    normal = pycytominer.normalize(
        table,
        image_features=True,
        samples="Metadata_ControlType == 'negcon'",
        method="standardize",
    )
    controls = normal["Metadata_ControlType"] == "negcon"
    assert controls.sum() == 4
    np.testing.assert_allclose(normal.loc[controls, NAMES].mean(), 0, atol=1e-3)
    assert normal.loc[~controls, NAMES].abs().mean().max() > 0.1


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
def test_anndata_reads_what_is_written(folder: Path, kind) -> None:
    anndata = pytest.importorskip("anndata", reason=ELSEWHERE)
    path = write_anndata(folder, kind)
    read = anndata.read_h5ad(path) if kind == "h5ad" else anndata.read_zarr(path)
    metadata, features, names = read_embeddings(folder)
    np.testing.assert_array_equal(read.X, features)
    assert read.X.dtype == np.float32
    assert list(read.var_names) == names
    assert list(read.obs_names[:2]) == ["source_1/E1/P1/A01", "source_1/E1/P1/A02"]
    for column in metadata:
        assert list(read.obs[column].astype(str)) == list(metadata[column])
    record = read.uns["mae_jax"]
    assert record["encoder"] == "intensity"
    assert json.loads(record["preprocessing"])["crop"] == 32


@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
def test_scanpy_works_with_what_is_written(folder: Path) -> None:
    scanpy = pytest.importorskip("scanpy", reason=ELSEWHERE)
    wells = scanpy.read_h5ad(write_anndata(folder))
    scanpy.pp.scale(wells)
    scanpy.pp.pca(wells, n_comps=3)
    scanpy.pp.neighbors(wells, n_neighbors=4)
    scanpy.tl.rank_genes_groups(wells, "Metadata_Gene", groups=["gene1"], reference="gene0")
    _, features, names = read_embeddings(folder)
    scaled = (features - features.mean(axis=0)) / features.std(axis=0, ddof=1)
    lengths = np.linalg.svd(scaled, compute_uv=False)
    np.testing.assert_allclose(wells.uns["pca"]["variance"], lengths[:3] ** 2 / 11, rtol=1e-3)
    assert wells.obsp["connectivities"].shape == (12, 12)
    assert set(wells.uns["rank_genes_groups"]["names"]["gene1"]) == set(names)


def test_h5ad_by_the_letter(folder: Path) -> None:
    """The documented layout, read without AnnData."""
    import h5py

    with h5py.File(write_anndata(folder)) as file:
        assert dict(file.attrs) == {"encoding-type": "anndata", "encoding-version": "0.1.0"}
        assert file["X"].shape == (12, 15)
        assert file["X"].attrs["encoding-type"] == "array"
        obs = file["obs"]
        assert obs.attrs["encoding-type"] == "dataframe"
        assert obs.attrs["_index"] == "_index"
        well = obs["Metadata_Well"]
        assert well.attrs["encoding-type"] == "categorical"
        assert not well.attrs["ordered"]
        categories = well["categories"].asstr()[:]
        metadata, _, _ = read_embeddings(folder)
        assert list(categories[well["codes"][:]]) == list(metadata["Metadata_Well"])


def test_uns_says_what_a_validator_asks(folder: Path) -> None:
    """The entries that cp-anndata-validator reads; it is not among the packages of the tests."""
    import h5py

    with h5py.File(write_anndata(folder)) as file:
        uns = file["uns"]
        assert uns["processing_stage"].asstr()[()] == "raw"
        assert uns["aggregation/replicate_count"].asstr()[()] == "4"  # crops of 32 cover 48 x 48
        assert uns["feature_extraction_provenance/tool"].asstr()[()] == "mae_jax"
        assert uns["experiment/name"].asstr()[()] == "E1"
        assert list(file["var/channel/categories"].asstr()) == ["DNA", "ER", "Mito"]
        assert list(file["obs/Metadata_Site_Count"]) == [1] * 12


@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
def test_the_validator_of_cell_painting_passes_it(folder: Path) -> None:
    reason = "cp-anndata-validator is on no package index: install it from its repository"
    validator = pytest.importorskip("cp_anndata_validator", reason=reason)
    report = validator.validate(write_anndata(folder), profile_level="well")
    assert str(report.status).rpartition(".")[2].lower() == "pass"
    # No licence is known here, the screen has no batches, controls have a column of their own name,
    # and names of features are not CellProfiler's.
    assert {issue.code for issue in report.issues} <= {
        "LICENSE001", "CTRL001", "FEAT001", "FEAT002", "META001",
    }  # fmt: skip


def test_evaluation_reads_the_h5ad(folder: Path) -> None:
    profiles = Profiles.read(write_anndata(folder))
    metadata, features, _ = read_embeddings(folder)
    np.testing.assert_array_equal(profiles.features, features)
    assert list(profiles.metadata["Metadata_Gene"]) == list(metadata["Metadata_Gene"])


def test_zarr_at_a_url_is_refused(make_screen) -> None:
    out = "memory://conventions/out"
    embed_index(IntensityEncoder(crop=32), make_screen(wells=1), out, progress=False)
    with pytest.raises(InputError, match="use h5ad"):
        write_anndata(out, "zarr")
    assert write_anndata(out).endswith("embeddings.h5ad")
