"""Every data set in its true layout, down to images that the package reads."""

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from mae_jax.cli.main import main
from mae_jax.data import Index
from mae_jax.data.fetch import DATASETS, Selection, fetch, plan_fetch
from mae_jax.data.fetch.object_store import list_objects
from mae_jax.data.images import read_site
from mae_jax.errors import InputError


def tiff(value: int) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, np.full((6, 7), value, np.uint16))
    return out.getvalue()


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((6, 7), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def parquet(table: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    table.to_parquet(out)
    return out.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.fixture
def cpjump1(server):
    """Two plates of two wells and two sites; one image of the second plate is missing."""
    batch, root = "2020_11_04_CPJUMP1", "gallery/cpg0000-jump-pilot/source_4"
    files, metadata = server.files, f"{root}/workspace/metadata"
    maps = "Assay_Plate_Barcode,Plate_Map_Name\nBR1,compounds\nBR2,compounds\n"
    files[f"{metadata}/platemaps/{batch}/barcode_platemap.csv"] = maps.encode()
    platemap = "plate_map_name\twell_position\tbroad_sample\nc\tA01\tBRD-1\nc\tA02\t\n"
    files[f"{metadata}/platemaps/{batch}/platemap/compounds.txt"] = platemap.encode()
    annotation = (
        "broad_sample\tgene\tpert_iname\tpert_type\tcontrol_type\nBRD-1\tTP53\tdrug\ttrt\t\n"
    )
    files[f"{metadata}/external_metadata/compounds.tsv"] = annotation.encode()
    for plate in ("BR1", "BR2"):
        full = f"{plate}__2020-11-08T18_18_00-Measurement1"
        rows = []
        for number, (well, site) in enumerate([("A01", 1), ("A01", 2), ("A02", 1), ("A02", 2)]):
            row = {"Metadata_Plate": plate, "Metadata_Well": well, "Metadata_Site": site}
            for channel, name in enumerate(("DNA", "ER"), 1):
                image = f"r01c0{well[-1]}f0{site}p01-ch{channel}sk1fk1fl1.tiff"
                folder = f"/home/ubuntu/bucket/projects/cpg/{batch}/images/{full}/Images"
                row |= {f"FileName_Orig{name}": image, f"PathName_Orig{name}": folder}
                illum = f"/home/ubuntu/bucket/projects/cpg/{batch}/illum/{plate}"
                row |= {f"FileName_Illum{name}": f"{plate}_Illum{name}.npy"}
                row |= {f"PathName_Illum{name}": illum}
                files[f"{root}/images/{batch}/images/{full}/Images/{image}"] = tiff(
                    10 * number + channel
                )
                out = io.BytesIO()
                np.save(out, np.ones((6, 7)))
                files[f"{root}/images/{batch}/illum/{plate}/{plate}_Illum{name}.npy"] = (
                    out.getvalue()
                )
            rows.append(row)
        table = pd.DataFrame(rows).to_csv(index=False).encode()
        folder = f"{root}/workspace/load_data_csv/{batch}/{plate}"
        files[f"{folder}/load_data.csv"] = b"x\n"
        files[f"{folder}/load_data_with_illum.csv.gz"] = gzip.compress(table)
    del files[f"{root}/images/{batch}/images/{full}/Images/r01c02f02p01-ch2sk1fk1fl1.tiff"]
    return server


def test_cpjump1(cpjump1, tmp_path: Path, capsys) -> None:
    command = [
        "fetch",
        "cpjump1",
        "--out",
        str(tmp_path / "d"),
        "--num-sites",
        "1",
        "--plate",
        "BR2",
    ]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "licence: CC0 1.0" in said
    assert "2 sites of 2 wells" in said
    index = Index.read(tmp_path / "d/index.parquet")
    table = index.table
    assert table["Metadata_Perturbation"].tolist() == ["BRD-1", "DMSO"]
    assert table["Metadata_Gene"].tolist() == ["TP53", ""]
    assert table["Metadata_ControlType"].tolist() == ["", "negcon"]
    assert table["Metadata_Experiment"].tolist() == ["2020_11_04_CPJUMP1"] * 2
    assert read_site(index, 1, ("ER", "DNA"))[:, 0, 0].tolist() == [22, 21]
    assert (tmp_path / "d" / table["Illumination"][0][0]).is_file()

    # A second run downloads nothing but listings.
    cpjump1.requests.clear()
    assert main(command) == 0
    assert not [r for r in cpjump1.requests if r[0] == "GET" and r[1].endswith((".tiff", ".csv"))]


def test_sites_with_missing_images_are_left_out_and_listed(cpjump1, tmp_path: Path, capsys) -> None:
    assert main(["fetch", "cpjump1", "--out", str(tmp_path / "d")]) == 0
    assert "missing.csv lists them" in capsys.readouterr().out
    assert len(Index.read(tmp_path / "d/index.parquet")) == 7
    missing = pd.read_csv(tmp_path / "d/missing.csv", dtype=str)
    assert missing[["plate", "well", "site"]].values.tolist() == [["BR2", "A02", "2"]]
    assert missing["file"][0].endswith("ch2sk1fk1fl1.tiff")


def test_a_dry_run_lists_files_and_writes_nothing(cpjump1, tmp_path: Path, capsys) -> None:
    command = ["fetch", "cpjump1", "--num-plates", "1", "--num-wells", "1", "--dry-run"]
    assert main([*command, "--out", str(tmp_path / "d")]) == 0
    said = capsys.readouterr().out
    assert said.count(".tiff") == 4
    assert "2 sites, 6 files" in said
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--plate", "BR3"], "there is no plate 'BR3' here: did you mean 'BR"),
        (["--batch", "2020_11_04_CPJUMP"], "CPJUMP1 has no batch '2020_11_04_CPJUMP'"),
        (["--plate", "BR1", "--well", "C01"], "there is no well 'C01' here"),
        (["--codec", "zstd"], "cpjump1 takes no --codec"),
        (["--max-gb", "1e-9"], "more than --max-gb"),
    ],
)
def test_wrong_selections(cpjump1, tmp_path: Path, capsys, options, says) -> None:
    assert main(["fetch", "cpjump1", "--out", str(tmp_path / "d"), *options]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "d/index.parquet").exists()


def test_jump(server, tmp_path: Path) -> None:
    rows = []
    for plate in ("P1", "1053601756"):
        for well in ("A01", "B01"):
            row = {"Metadata_Source": "source_8", "Metadata_Batch": "J4", "Metadata_Plate": plate}
            row |= {"Metadata_Well": well, "Metadata_Site": 1}
            for number, channel in enumerate(("DNA", "RNA", "Mito", "AGP", "ER")):
                key = f"cpg0016-jump/source_8/images/J4/images/{plate}/{well} +{channel}.tif"
                row[f"URL_Orig{channel}"] = f"s3://cellpainting-gallery/{key}"
                server.files[f"gallery/{key}"] = tiff(number)
            rows.append(row)
    server.files["jump_index.parquet"] = parquet(pd.DataFrame(rows))
    wells = "Metadata_Source,Metadata_Plate,Metadata_Well,Metadata_JCP2022\n"
    wells += "source_8,1053601756,A01,JCP2022_800002\nsource_8,1053601756,B01,JCP2022_805264\n"
    tables = {
        "plate": "Metadata_Source,Metadata_Batch,Metadata_Plate,Metadata_PlateType\n"
        "source_8,J4,1053601756,CRISPR\n",
        "well": wells,
        "orf": "Metadata_JCP2022,Metadata_Symbol\n",
        "crispr": "Metadata_JCP2022,Metadata_Symbol\nJCP2022_805264,PLK1\n",
    }
    for name, text in tables.items():
        server.files[f"jump_metadata/{name}.csv.gz"] = gzip.compress(text.encode())
    controls = "Metadata_JCP2022,Metadata_pert_type\nJCP2022_800002,negcon\nJCP2022_805264,poscon\n"
    server.files["jump_metadata/perturbation_control.csv"] = controls.encode()
    selection = Selection(plate=("1053601756",))
    with pytest.raises(InputError, match=r"orf.csv.gz is not what was announced \(its sha256"):
        fetch("jump", tmp_path, selection)
    from mae_jax.data.fetch import gallery

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "_CHECKSUMS", {})
        index = fetch("jump", tmp_path, selection)
    assert index.table["Metadata_Gene"].tolist() == ["", "PLK1"]
    assert index.table["Metadata_ControlType"].tolist() == ["negcon", "poscon"]
    assert read_site(index, 0, ("ER", "DNA"))[:, 0, 0].tolist() == [4, 0]


@pytest.fixture
def jump_lite(server):
    """Two sites of different sizes as JPEG-XL and zstd, as the release writes them."""
    imagecodecs = pytest.importorskip("imagecodecs.numcodecs")
    import numcodecs
    import zarr

    numcodecs.register_codec(imagecodecs.Jpegxl)
    root = "gallery/cpg0016-jump/source_all"
    tables = f"{root}/workspace/publication_data/2026_jump_lite/metadata/v1.0"
    stores = f"{root}/images/2026_jump_lite_v1.0/images_compressed"
    keys = ["source_4__2021_06_14_Batch6__BR1__A01__1", "source_4__2021_06_14_Batch6__BR1__A02__1"]
    names = [f"Metadata_{n}" for n in ("Source", "Batch", "Plate", "Well", "Site")]
    sites = pd.DataFrame([key.split("__") for key in keys], columns=names)
    sites["Metadata_Site"] = sites["Metadata_Site"].astype(int)
    sites.insert(0, "Metadata_Site_Key", keys)
    wells = sites[names[:4]].assign(
        Metadata_JCP2022=["JCP2022_033924", "JCP2022_000001"],
        Metadata_pert_type=["negcon", "trt"],
        Metadata_Symbol=["", ""],
    )
    server.files[f"{tables}/jump_lite_site_index.parquet"] = parquet(sites)
    server.files[f"{tables}/jump_lite_perturbation_metadata.parquet"] = parquet(wells)
    server.files[f"{tables}/jump_lite_refchem_annotations.parquet"] = parquet(wells[:0])
    for codec, version in (("jpegxl_lossy_mq", 2), ("zstd", 3)):
        store = zarr.storage.MemoryStore()
        group = zarr.create_group(store, zarr_format=version)
        for number, key in enumerate(keys):
            shape = (5, 32 + 8 * number, 40)
            if version == 2:
                compressors = imagecodecs.Jpegxl(lossless=False, distance=3.0)
            else:
                compressors = zarr.codecs.BloscCodec(cname="zstd", clevel=9, shuffle="bitshuffle")
            array = group.create_array(
                key, shape=shape, chunks=shape, dtype="u2", compressors=compressors
            )
            array[:] = np.arange(5, dtype=np.uint16)[:, None, None] * 1000
        for path, content in store._store_dict.items():
            server.files[f"{stores}/{codec}.zarr/{path}"] = content.to_bytes()
    return server


@pytest.mark.parametrize("codec", ["jpegxl_lossy_mq", "zstd"])
def test_jump_lite(jump_lite, tmp_path: Path, codec: str) -> None:
    index = fetch("jump-lite", tmp_path, options={"codec": codec})
    assert index.channels == ("AGP", "DNA", "ER", "Mito", "RNA")
    assert index.table["Metadata_ControlType"].tolist() == ["negcon", ""]
    for row, height in ((0, 32), (1, 40)):
        pixels = read_site(index, row, ("DNA", "RNA"))
        assert pixels.shape == (2, height, 40)
        np.testing.assert_allclose(pixels.mean((1, 2)), [1000, 4000], atol=60)


def test_jump_lite_before_its_release(server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"JUMP-lite is not public at .*fetch jump"):
        fetch("jump-lite", tmp_path)


def test_rxrx3_core(server, tmp_path: Path, capsys) -> None:
    root = "hub/datasets/recursionpharma/rxrx3-core/resolve/main"
    rows = []
    for plate in (1, 2, 3):
        for number in range(1, 7):
            key = f"compound-001/Plate{plate}/AA15_s1_{number}"
            rows.append({"__key__": key, "jp2": {"bytes": png(10 * plate + number), "path": key}})
    for shard in range(3):
        table = pd.DataFrame(rows[6 * shard : 6 * shard + 6])
        server.files[f"{root}/data/train-0000{shard}-of-00003.parquet"] = parquet(table)
    metadata = "well_id,experiment_name,plate,address,gene,treatment\n"
    metadata += "compound-001_1_AA15,compound-001,1,AA15,EMPTY_control,EMPTY_control\n"
    metadata += "compound-001_2_AA15,compound-001,2,AA15,PLK1,PLK1_guide_1\n"
    server.files[f"{root}/metadata_rxrx3_core.csv"] = metadata.encode()
    server.files[f"{root}/LICENSE"] = b"terms"
    server.files["efaar/compound_gene_interactions.csv"] = b"gene_symbol,nM_value\n"
    command = ["fetch", "rxrx3-core", "--out", str(tmp_path / "d"), "--plate", "2"]
    assert main(command) == 2
    assert "add --accept-licence if you accept" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()
    assert main([*command, "--accept-licence"]) == 0
    index = Index.read(tmp_path / "d/index.parquet")
    assert index.table["Metadata_Gene"].tolist() == ["PLK1"]
    assert read_site(index, 0, index.channels)[:, 0, 0].tolist() == [21, 22, 23, 24, 25, 26]
    assert [p.name for p in (tmp_path / "d/data").iterdir()] == ["train-00001-of-00003.parquet"]
    assert (tmp_path / "d/LICENSE").read_bytes() == b"terms"
    assert (tmp_path / "d/metadata/compound_gene_interactions.csv").is_file()


def test_rxrx1_takes_single_images_out_of_the_archive(server, tmp_path: Path) -> None:
    metadata = (
        "site_id,well_id,cell_type,dataset,experiment,plate,well,site,well_type,sirna,sirna_id\n"
    )
    metadata += "x,x,HUVEC,train,HUVEC-1,1,B02,1,treatment,s1,7\n"
    metadata += "y,y,HUVEC,train,HUVEC-1,1,B03,1,negative_control,EMPTY,1138\n"
    server.files["rxrx/rxrx1/rxrx1-metadata.zip"] = zipped(
        {"rxrx1/metadata.csv": metadata.encode()}
    )
    images = {
        f"rxrx1/images/HUVEC-1/Plate1/{well}_s1_w{number}.png": png(number)
        for well in ("B02", "B03")
        for number in range(1, 7)
    }
    filler = {"rxrx1/images/filler": np.random.default_rng(0).bytes(8_000_000)}
    server.files["rxrx/rxrx1/rxrx1-images.zip"] = zipped({**filler, **images})
    index = fetch("rxrx1", tmp_path, Selection(well=("B03",)), accept_licence=True, threads=2)
    assert index.table["Metadata_ControlType"].tolist() == ["negcon"]
    assert index.table["Metadata_Perturbation"].tolist() == ["EMPTY"]
    assert read_site(index, 0, index.channels)[:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]
    read = [r[2] for r in server.requests if r[1].endswith("images.zip") and r[0] == "GET"]
    sizes = [int(r.split("-")[1]) - int(r.removeprefix("bytes=").split("-")[0]) for r in read]
    assert sum(sizes) < 5_000_000  # not the whole archive


def test_bbbc021(server, tmp_path: Path) -> None:
    image = (
        "TableNumber,ImageNumber,Image_FileName_DAPI,Image_PathName_DAPI,Image_FileName_Tubulin,"
        "Image_PathName_Tubulin,Image_FileName_Actin,Image_PathName_Actin,"
        "Image_Metadata_Plate_DAPI,Image_Metadata_Well_DAPI,Replicate,Image_Metadata_Compound,"
        "Image_Metadata_Concentration\n"
    )
    for number, compound in enumerate(("taxol", "taxol", "DMSO")):
        files = ",".join(f"{number}_w{c}.tif,Week1/Week1_22123" for c in (1, 2, 4))
        well = "B02" if compound == "taxol" else "B11"
        dose = "0.3" if compound == "taxol" else "0.0"
        image += f"1,{number},{files},Week1_22123,{well},1,{compound},{dose}\n"
    server.files["bbbc/BBBC021/BBBC021_v1_image.csv"] = image.encode()
    moa = b"compound,concentration,moa\ntaxol,0.3,Microtubule stabilizers\nDMSO,0.0,DMSO\n"
    server.files["bbbc/BBBC021/BBBC021_v1_moa.csv"] = moa
    images = {
        f"Week1_22123/{number}_w{c}.tif": tiff(10 * number + c)
        for number in range(3)
        for c in (1, 2, 4)
    }
    server.files["bbbc/BBBC021/BBBC021_v1_images_Week1_22123.zip"] = zipped(images)
    index = fetch("bbbc021", tmp_path, accept_licence=True)
    table = index.table
    assert table["Metadata_Site"].tolist() == ["1", "2", "1"]
    assert table["Metadata_MoA"].tolist() == ["Microtubule stabilizers"] * 2 + ["DMSO"]
    assert table["Metadata_Perturbation"].tolist() == ["taxol@0.3", "taxol@0.3", "DMSO"]
    assert table["Metadata_ControlType"].tolist() == ["", "", "negcon"]
    assert read_site(index, 1, ("Actin",))[0, 0, 0] == 14


def test_chammi75(server, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "storage.path": [f"CHAMMI-75_train/study 1/{i}.png" for i in range(4)],
            "imaging.multi_channel_id": ["f1", "f1", "f2", "f2"],
            "imaging.channel_type": ["nucleus", "actin", "nucleus", "nucleus"],
            "experiment.study": ["s"] * 4,
        }
    )
    name = "CHAMMI-75/CHAMMI-75_small_metadata.csv"
    server.files[f"chammi/{name}"] = table.to_csv(index=False).encode()
    for i in range(4):
        server.files[f"chammi/CHAMMI-75/CHAMMI-75_train/study 1/{i}.png"] = png(i)
    index = fetch("chammi-75", tmp_path, accept_licence=True)
    assert not index.has_plates
    assert [names for names, _ in index.sites] == [("nucleus", "actin"), ("nucleus_1", "nucleus_2")]
    assert read_site(index, 1, ("nucleus_1", "nucleus_2"))[:, 0, 0].tolist() == [2, 3]


def test_the_list_of_data_sets(capsys) -> None:
    assert main(["fetch"]) == 0
    said = capsys.readouterr().out
    assert all(f"{name} " in said for name in DATASETS)
    with pytest.raises(InputError, match="no data set 'cpjmup1': did you mean 'cpjump1'"):
        plan_fetch("cpjmup1")


def test_a_real_object_store_lists_and_serves(tmp_path: Path, monkeypatch) -> None:
    """The same requests against moto's S3, which answers as the real one does."""
    moto_server = pytest.importorskip("moto.server", reason="moto is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    from mae_jax.data.fetch.endpoints import address
    from mae_jax.data.fetch.transfer import RemoteFile, download

    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="x",
        )
        client.create_bucket(Bucket="bucket")
        for name in ("a+1.tiff", "b 2.tiff", "c/d.tiff"):
            client.put_object(
                Bucket="bucket", Key=f"folder/{name}", Body=name.encode(), ACL="public-read"
            )
        monkeypatch.setenv("MAE_JAX_ENDPOINT_GALLERY", f"http://{host}:{port}/bucket")
        objects = list_objects("gallery", "folder/")
        assert [o.key for o in objects] == ["folder/a+1.tiff", "folder/b 2.tiff", "folder/c/d.tiff"]
        for found in objects:
            url = address("gallery", found.key)
            file = RemoteFile(url, found.key, found.size, md5=found.md5)
            assert download(file, tmp_path).read_text() == found.key.removeprefix("folder/")
        with pytest.raises(InputError, match="does not exist or is not public"):
            download(RemoteFile(address("gallery", "folder/none"), "none"), tmp_path)
    finally:
        server.stop()
