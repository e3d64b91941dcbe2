"""The job as a whole: what it writes is what the encoder says of every crop of every well."""

import csv
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.encoders.baselines import IntensityEncoder
from mae_jax.errors import InputError
from mae_jax.inference import TaskSlice, read_embeddings
from mae_jax.inference import embed_index as embed_on_all
from mae_jax.inference.embedding_plan import make_plan
from mae_jax.networks.encoder import Encoder
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.nn.tiling import tile_offsets
from mae_jax.weights.recipe import Recipe

# One device compiles quicker than the eight that the tests simulate.
ONE = [jax.local_devices()[0]]
embed_index = partial(embed_on_all, devices=ONE, progress=False)


def by_hand(encoder: Encoder, index: Index, rows: list[int], pooling: str = "mean") -> np.ndarray:
    """A well's embedding, one crop at a time and nothing shared with the job."""
    vectors = []
    for row in rows:
        channels = encoder.select_channels(index.sites[row][0])
        image = read_site(index, row, channels)
        crop = encoder.preprocessing.crop
        for y, x in tile_offsets(*image.shape[1:], crop):
            piece = image[None, :, y : y + crop, x : x + crop]
            vectors.append(np.asarray(encoder.embed(piece, pooling=pooling))[0])
    return np.mean(np.asarray(vectors, np.float64), axis=0)


def test_each_well_is_the_mean_over_the_crops_of_all_its_sites(
    make_screen, tiny_encoder: MAEEncoder, tmp_path: Path
) -> None:
    index = make_screen()
    report = embed_index(tiny_encoder, index, tmp_path / "out", batch_size=3, wells_per_shard=3)
    assert (report.wells, report.skipped, report.crops) == (7, 0, 7 * 2 * 4)
    assert report.complete
    metadata, features, names = read_embeddings(tmp_path / "out")
    wells = index.wells()
    assert list(metadata["Metadata_Well"]) == list(wells["Metadata_Well"])
    assert list(metadata["Metadata_Plate"]) == list(wells["Metadata_Plate"])
    assert names[0] == "Image_MAE_0000"
    assert features.dtype == np.float32
    for row, rows in enumerate(wells["rows"]):
        np.testing.assert_allclose(
            features[row], by_hand(tiny_encoder, index, rows), atol=1e-5, rtol=1e-5
        )
    assert features.std(axis=0).min() > 0  # wells differ, or the test would show nothing


@pytest.mark.parametrize("pooling", ["class", "channel"])
def test_other_poolings(make_screen, tiny_encoder: MAEEncoder, tmp_path: Path, pooling) -> None:
    index = make_screen(wells=2)
    embed_index(tiny_encoder, index, tmp_path / "out", pooling=pooling, batch_size=5)
    _, features, _ = read_embeddings(tmp_path / "out")
    assert features.shape[1] == tiny_encoder.width(3, pooling)
    wanted = by_hand(tiny_encoder, index, index.wells()["rows"][1], pooling)
    np.testing.assert_allclose(features[1], wanted, atol=1e-5, rtol=1e-5)


def test_an_earlier_block_gives_other_embeddings(
    make_screen, tiny_encoder: MAEEncoder, tmp_path: Path
) -> None:
    index = make_screen(wells=1, sites=1, size=32)
    embed_index(tiny_encoder, index, tmp_path / "first", block=0)
    embed_index(tiny_encoder, index, tmp_path / "last")
    first, last = (read_embeddings(tmp_path / name)[1][0] for name in ("first", "last"))
    image = read_site(index, 0, tiny_encoder.select_channels(index.channels))
    wanted = np.asarray(tiny_encoder.embed(image[None], block=0))[0]
    np.testing.assert_allclose(first, wanted, atol=1e-5, rtol=1e-5)
    assert np.abs(first - last).max() > 1e-3


def test_wells_with_more_channels_need_no_special_case(
    make_screen, tiny_encoder: MAEEncoder, tmp_path: Path
) -> None:
    index = make_screen(wells=4, extra={1: ("Brightfield", "Phase"), 3: ("Brightfield", "Phase")})
    embed_index(tiny_encoder, index, tmp_path / "out", batch_size=5)
    _, features, _ = read_embeddings(tmp_path / "out")
    for row, rows in enumerate(index.wells()["rows"]):
        wanted = by_hand(tiny_encoder, index, rows)
        np.testing.assert_allclose(features[row], wanted, atol=1e-5, rtol=1e-5)


def test_channels_are_chosen_by_name(make_screen, tiny_encoder: MAEEncoder, tmp_path: Path) -> None:
    index = make_screen(wells=2, extra={1: ("Phase",)})
    embed_index(tiny_encoder, index, tmp_path / "two", channels=("Mito", "DNA"))
    _, features, _ = read_embeddings(tmp_path / "two")
    image = read_site(index, 0, ("DNA", "Mito"))
    crops = [image[:, y : y + 32, x : x + 32] for y, x in tile_offsets(48, 48, 32)]
    image = read_site(index, 1, ("DNA", "Mito"))
    crops += [image[:, y : y + 32, x : x + 32] for y, x in tile_offsets(48, 48, 32)]
    wanted = np.asarray(tiny_encoder.embed(np.stack(crops))).mean(axis=0)
    np.testing.assert_allclose(features[0], wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="Golgi"):
        embed_index(tiny_encoder, index, tmp_path / "three", channels=("Golgi",))


def test_pooling_by_channel_refuses_wells_with_unlike_channels(
    make_screen, tiny_encoder: MAEEncoder, tmp_path: Path
) -> None:
    index = make_screen(wells=3, extra={1: ("Phase",)})
    with pytest.raises(InputError, match=r"others DNA, ER, Mito, Phase; name those .* --channels"):
        embed_index(tiny_encoder, index, tmp_path / "out", pooling="channel")
    channels = ("DNA", "ER", "Mito")
    embed_index(tiny_encoder, index, tmp_path / "out", pooling="channel", channels=channels)
    assert read_embeddings(tmp_path / "out")[1].shape == (3, 96)


def test_pooling_by_channel_reports_wells_that_lack_what_the_others_have(
    make_screen, tiny_encoder: MAEEncoder, tmp_path: Path
) -> None:
    index = make_screen(wells=4, extra=dict.fromkeys((0, 2, 3), ("Phase",)))
    report = embed_index(tiny_encoder, index, tmp_path / "out", pooling="channel")
    assert (report.wells, report.skipped) == (3, 1)
    metadata, features, _ = read_embeddings(tmp_path / "out")
    assert features.shape == (3, 128)
    with open(tmp_path / "out" / "_skipped.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["Metadata_Well"] not in set(metadata["Metadata_Well"])
    assert row["Reason"] == "it lacks the channel Phase; it has DNA, ER, Mito."
    with pytest.raises(InputError, match=f"{row['Metadata_Well']} .*: it lacks the channel Phase"):
        embed_index(tiny_encoder, index, tmp_path / "strict", pooling="channel", strict=True)


def test_a_well_that_lacks_a_stain_is_said(make_screen, tiny_encoder, tmp_path: Path) -> None:
    index = make_screen(wells=4, extra=dict.fromkeys((0, 2, 3), ("Phase",)))
    report = embed_index(tiny_encoder, index, tmp_path / "out")
    assert report.wells == 4
    assert len(report.lacking) == 1
    assert report.lacking[0].startswith("1 well lacks Phase (P1/A02): their embeddings")
    table = pd.read_parquet(tmp_path / "out")
    assert list(table["Metadata_Missing_Channels"]) == ["", "Phase", "", ""]
    whole = make_screen(wells=2, name="whole")
    assert embed_index(tiny_encoder, whole, tmp_path / "all").lacking == ()
    assert "Metadata_Missing_Channels" not in pd.read_parquet(tmp_path / "all")


def test_sites_and_crops_are_counted(make_screen, tiny_encoder, tmp_path: Path) -> None:
    embed_index(tiny_encoder, make_screen(wells=6), tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out")
    assert list(table["Metadata_Plate"]) == ["P1"] * 5 + ["P2"]
    assert list(table["Metadata_Site_Count"]) == [2] * 6
    assert list(table["Metadata_Crop_Count"]) == [8] * 6  # four crops of 32 cover 48 x 48


def test_the_features_of_a_channel_carry_its_name(make_screen, tiny_encoder, tmp_path) -> None:
    embed_index(tiny_encoder, make_screen(wells=1), tmp_path / "out", pooling="channel")
    names = [name for name in pd.read_parquet(tmp_path / "out") if name.startswith("Image_")]
    assert (len(names), names[0], names[-1]) == (96, "Image_MAE_DNA_0000", "Image_MAE_Mito_0031")


def test_columns_that_differ_by_case_alone(make_screen) -> None:
    index = make_screen(wells=2)
    table = index.table.assign(Metadata_plate="P1", Metadata_gene=["x"] * 4)
    plan = make_plan(Index(table, index.root))
    assert "Metadata_plate" not in plan.columns  # it says what Metadata_Plate says
    assert {"Metadata_Gene", "Metadata_gene_2"} <= set(plan.columns)
    assert list(plan.table["Metadata_gene_2"]) == ["x", "x"]


def test_tables_of_plates_follow_the_shards(make_screen, tiny_encoder, tmp_path: Path) -> None:
    index = make_screen(wells=6)
    out = tmp_path / "out"
    embed_index(tiny_encoder, index, out, wells_per_shard=2)
    before = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    assert sorted(before) == ["P1.parquet", "P2.parquet"]
    (out / "P2.parquet").unlink()
    assert embed_index(tiny_encoder, index, out, wells_per_shard=2).shards == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.parquet")} == before


def test_same_settings_same_bits(make_screen, tiny_encoder: MAEEncoder, tmp_path: Path) -> None:
    """Whatever the shard, the number of devices or the threads."""
    index = make_screen(wells=9)
    options = {"batch_size": 4, "wells_per_shard": 2}
    embed_index(tiny_encoder, index, tmp_path / "a", threads=1, **options)
    for i in range(3):
        embed_index(tiny_encoder, index, tmp_path / "b", task=f"{i}/3", threads=5, **options)
    embed_index(tiny_encoder, index, tmp_path / "c", devices=jax.local_devices()[:3], **options)
    first = read_embeddings(tmp_path / "a")
    for name in "bc":
        other = read_embeddings(tmp_path / name)
        assert other[0].equals(first[0])
        np.testing.assert_array_equal(other[1], first[1])


def test_neighbors_and_batch_size_change_no_more_than_rounding(
    make_screen, tiny_encoder: MAEEncoder, tmp_path: Path
) -> None:
    index = make_screen(wells=6)
    embed_index(tiny_encoder, index, tmp_path / "a", batch_size=4)
    embed_index(tiny_encoder, index, tmp_path / "b", batch_size=7, wells_per_shard=1)
    alone = Index(index.table.iloc[6:8], index.root)
    embed_index(tiny_encoder, alone, tmp_path / "c", batch_size=32)
    a, b, c = (read_embeddings(tmp_path / name)[1] for name in "abc")
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(a[3], c[0], atol=1e-5, rtol=1e-5)


def test_broken_wells_are_reported_and_the_others_are_whole(
    make_screen, tiny_encoder: MAEEncoder, tmp_path: Path
) -> None:
    index = make_screen(wells=5)
    embed_index(tiny_encoder, index, tmp_path / "whole", batch_size=4, wells_per_shard=3)
    root = Path(index.root)
    (root / "w001_s2_ER.tiff").unlink()
    file = root / "w003_s1_DNA.tiff"
    file.write_bytes(file.read_bytes()[:200])
    report = embed_index(tiny_encoder, index, tmp_path / "out", batch_size=4, wells_per_shard=3)
    assert (report.wells, report.skipped) == (3, 2)
    report_text = (tmp_path / "out" / "_skipped.csv").read_text()
    rows = list(csv.DictReader(report_text.splitlines()))
    assert [row["Metadata_Well"] for row in rows] == ["A02", "A04"]
    assert "w001_s2_ER.tiff does not exist" in rows[0]["Reason"]
    assert "w003_s1_DNA.tiff is broken" in rows[1]["Reason"]
    metadata, features, _ = read_embeddings(tmp_path / "out")
    assert list(metadata["Metadata_Well"]) == ["A01", "A03", "A05"]
    _, whole, _ = read_embeddings(tmp_path / "whole")
    np.testing.assert_allclose(features, whole[[0, 2, 4]], atol=1e-5, rtol=1e-5)
    counts = json.loads((tmp_path / "out" / "_manifest.json").read_text())["counts"]
    assert counts == {
        "wells": 5, "sites": 10, "shards": 2, "embedded": 3, "skipped": 2, "crops": 24,
        "complete": True, "tables": ["P1.parquet"],
    }  # fmt: skip


def test_strict_stops_and_names_the_well(
    make_screen, tiny_encoder: MAEEncoder, tmp_path: Path
) -> None:
    index = make_screen(wells=5)
    (Path(index.root) / "w003_s2_ER.tiff").unlink()
    with pytest.raises(InputError, match=r"well A04.*w003_s2_ER\.tiff does not exist"):
        embed_index(
            tiny_encoder, index, tmp_path / "out", wells_per_shard=1, batch_size=2, strict=True
        )


def test_skipped_wells_are_tried_again_when_asked(
    make_screen, tiny_encoder: MAEEncoder, tmp_path: Path
) -> None:
    index = make_screen(wells=4)
    file = Path(index.root) / "w001_s2_ER.tiff"
    content = file.read_bytes()
    file.unlink()
    options = {"wells_per_shard": 2}
    assert embed_index(tiny_encoder, index, tmp_path / "out", **options).skipped == 1
    file.write_bytes(content)
    again = embed_index(tiny_encoder, index, tmp_path / "out", **options)
    assert (again.shards, again.already_done) == (0, 2)
    again = embed_index(tiny_encoder, index, tmp_path / "out", retry_skipped=True, **options)
    assert (again.shards, again.already_done, again.wells) == (1, 1, 2)
    assert len(read_embeddings(tmp_path / "out")[0]) == 4
    assert (tmp_path / "out" / "_skipped.csv").read_text().count("\n") == 1


def test_wells_with_other_sizes_and_types(make_screen, tiny_encoder, tmp_path: Path) -> None:
    import tifffile

    index = make_screen(wells=4, sites=1)
    root = Path(index.root)
    rng = np.random.default_rng(1)
    for channel in ("DNA", "ER", "Mito"):
        tifffile.imwrite(root / f"w001_s1_{channel}.tiff", rng.integers(0, 255, (80, 33), np.uint8))
        tifffile.imwrite(root / f"w002_s1_{channel}.tiff", rng.integers(0, 9, (20, 50), np.uint16))
    report = embed_index(tiny_encoder, index, tmp_path / "out")
    assert (report.wells, report.skipped) == (3, 1)
    assert "smaller than a crop" in (tmp_path / "out" / "_skipped.csv").read_text()
    _, features, _ = read_embeddings(tmp_path / "out")
    np.testing.assert_allclose(features[1], by_hand(tiny_encoder, index, [1]), atol=1e-5, rtol=1e-5)


def test_all_wells_broken_is_still_an_end(make_screen, tiny_encoder, tmp_path: Path) -> None:
    index = make_screen(wells=2, sites=1)
    for file in Path(index.root).iterdir():
        file.unlink()
    report = embed_index(tiny_encoder, index, tmp_path / "out")
    assert (report.wells, report.skipped, report.complete) == (0, 2, True)
    metadata, features, _ = read_embeddings(tmp_path / "out")
    assert features.shape == (0, 32)
    assert len(metadata) == 0


def test_one_folder_takes_one_job(make_screen, tiny_encoder: MAEEncoder, tmp_path: Path) -> None:
    index = make_screen(wells=2)
    out = tmp_path / "out"
    embed_index(tiny_encoder, index, out)
    other = MAEEncoder(
        tiny_encoder.config,
        jax.tree.map(lambda p: p * 1.01, tiny_encoder.mae_params),
        tiny_encoder.preprocessing,
    )
    with pytest.raises(InputError, match="another weights or architecture"):
        embed_index(other, index, out)
    import dataclasses

    scaled = dataclasses.replace(tiny_encoder.preprocessing, scale=255.0)
    other = MAEEncoder(tiny_encoder.config, tiny_encoder.mae_params, scaled)
    with pytest.raises(InputError, match=r"preprocessing: scale was 65535\.0, is 255\.0"):
        embed_index(other, index, out)
    with pytest.raises(InputError, match="another pooling"):
        embed_index(tiny_encoder, index, out, pooling="class")
    with pytest.raises(InputError, match="another index"):
        embed_index(tiny_encoder, Index(index.table.iloc[:2], index.root), out)
    with pytest.raises(InputError, match="another encoder"):
        embed_index(IntensityEncoder(crop=32), index, out)


def test_a_part_of_another_job_is_found_out(make_screen, tiny_encoder, tmp_path: Path) -> None:
    index = make_screen(wells=4)
    embed_index(tiny_encoder, index, tmp_path / "a", wells_per_shard=2)
    embed_index(tiny_encoder, index, tmp_path / "b", wells_per_shard=2, pooling="class")
    foreign = (tmp_path / "b" / "_shards" / "shard-000001.parquet").read_bytes()
    (tmp_path / "a" / "_shards" / "shard-000001.parquet").write_bytes(foreign)
    with pytest.raises(InputError, match="another job"):
        read_embeddings(tmp_path / "a")


def test_more_shards_than_parts(make_screen, tiny_encoder: MAEEncoder, tmp_path: Path) -> None:
    index = make_screen(wells=2)
    reports = [
        embed_index(tiny_encoder, index, tmp_path / "out", wells_per_shard=1, task=TaskSlice(i, 3))
        for i in range(3)
    ]
    assert [report.wells for report in reports] == [1, 1, 0]
    assert [report.complete for report in reports] == [False, True, True]
    assert len(read_embeddings(tmp_path / "out")[0]) == 2


def test_the_public_function_runs_under_pmap(make_screen, tiny_encoder: MAEEncoder) -> None:
    index = make_screen(wells=1, sites=1, size=64)
    image = read_site(index, 0, tiny_encoder.select_channels(index.channels))
    crops = np.stack([image[:, y : y + 32, x : x + 32] for y, x in tile_offsets(64, 64, 32)])
    by_device = crops.reshape(2, 2, *crops.shape[1:])
    mapped = jax.pmap(tiny_encoder.forward, in_axes=(None, 0), devices=jax.local_devices()[:2])
    vectors = np.asarray(mapped(tiny_encoder.params, by_device)).reshape(4, -1)
    np.testing.assert_allclose(vectors, tiny_encoder.embed(crops), atol=1e-5, rtol=1e-5)


def test_a_baseline_takes_small_fields_whole(make_screen, tmp_path: Path) -> None:
    index = make_screen(wells=2, sites=1)
    encoder = IntensityEncoder()
    assert embed_index(encoder, index, tmp_path / "out").crops == 2
    wanted = encoder.embed(read_site(index, 0)[None])
    np.testing.assert_allclose(read_embeddings(tmp_path / "out")[1][0], wanted[0], rtol=1e-5)


def test_crops_of_another_size(make_screen, tiny_encoder: MAEEncoder, tmp_path: Path) -> None:
    index = make_screen(wells=1, sites=1)
    assert embed_index(tiny_encoder, index, tmp_path / "out", crop=16).crops == 9


def test_crops_too_large_for_attention_are_refused(
    make_screen, tiny_encoder: MAEEncoder, tmp_path: Path
) -> None:
    index = make_screen(wells=1, sites=1, size=140)
    with pytest.raises(InputError, match="crops of 129 pixels"):
        embed_index(tiny_encoder, index, tmp_path / "out", crop=129)
    assert not (tmp_path / "out").exists()
    assert embed_index(tiny_encoder, index, tmp_path / "out").crops == 25  # tiled


def test_channels_of_other_names_are_recognized_printed_and_recorded(
    make_screen, tiny_encoder: MAEEncoder, tmp_path: Path, capsys
) -> None:
    index = make_screen(wells=1, sites=1, size=32, channels=("MitoTracker", "FITC", "Hoechst"))
    embed_on_all(tiny_encoder, index, tmp_path / "out", devices=ONE, pooling="channel")
    assert "channels: DNA = Hoechst, ER = FITC, Mito = MitoTracker" in capsys.readouterr().err
    image = read_site(index, 0, ("Hoechst", "FITC", "MitoTracker"))
    wanted = np.asarray(tiny_encoder.embed(image[None], pooling="channel"))[0]
    got = read_embeddings(tmp_path / "out")[1][0]
    np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5)
    job = json.loads((tmp_path / "out" / "_manifest.json").read_text())["job"]
    assert job["channels_matched"] == {"DNA": "Hoechst", "ER": "FITC", "Mito": "MitoTracker"}
    with pytest.raises(InputError, match="no channel 'DNB': did you mean 'DNA'"):
        embed_index(tiny_encoder, index, tmp_path / "other", channels=["DNB=Hoechst"])
    assert not (tmp_path / "other").exists()


def test_a_recipe_clips_pads_tiles_and_takes_the_median(
    make_screen, tiny_encoder: MAEEncoder, tmp_path: Path
) -> None:
    index = make_screen(wells=1, sites=2, size=72)
    encoder = MAEEncoder(
        tiny_encoder.config, tiny_encoder.mae_params, tiny_encoder.preprocessing, name="with recipe"
    )
    encoder.recipe = Recipe(
        "test", encoder.preprocessing, "channel", clip=(0.5, 99.5), eight_bit=True, pad_channels=4,
        tiling="grid", aggregation="median",
    )  # fmt: skip
    embed_index(encoder, index, tmp_path / "out", batch_size=3)
    vectors = []
    for row in (0, 1):
        site = read_site(index, row, ("DNA", "ER", "Mito"))
        low, high = (np.percentile(site, q, axis=(1, 2), keepdims=True) for q in (0.5, 99.5))
        site = ((site - low) / (high - low)).clip(0, 1) * 255
        black = np.zeros((1, 72, 72))
        pixels = np.concatenate([site, black])[None].astype(np.uint8)
        for y, x in ((0, 0), (0, 32), (32, 0), (32, 32)):
            tile = pixels[:, :, y : y + 32, x : x + 32]
            vectors.append(np.asarray(encoder.embed(tile, pooling="channel"))[0])
    got = read_embeddings(tmp_path / "out")[1][0]
    np.testing.assert_allclose(got, np.median(vectors, axis=0), atol=2e-3)
    assert got.shape == (4 * 32,)
