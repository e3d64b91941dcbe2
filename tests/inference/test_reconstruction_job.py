"""`reconstruct_index` on a tiny network: files, choices, refusals."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.encoders.baselines import IntensityEncoder
from mae_jax.errors import InputError
from mae_jax.inference.reconstruction_job import normalized_error, reconstruct_index
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.networks.mae.model import MAE
from mae_jax.weights.preprocessing import Preprocessing

CHANNELS = ("DNA", "ER", "Mito")


@pytest.fixture(scope="module")
def encoder() -> MAEEncoder:
    config = MAEConfig(
        encoder=ParallelViTConfig(patch=8, width=16, depth=1, heads=2, channels=CHANNELS, crop=32),
        decoder=DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
    )
    key = jax.random.key(0)
    images = jnp.zeros((1, 3, 32, 32))
    params = jax.jit(MAE(config).init)({"params": key, "mask": key}, images)["params"]
    return MAEEncoder(config, params, Preprocessing(CHANNELS, any_channels=True, crop=32))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Four wells: two with all channels, one with brightfield as well, one without Mito."""
    folder = tmp_path_factory.mktemp("screen")
    rng = np.random.default_rng(0)
    rows = []
    lists = [CHANNELS, CHANNELS, (*CHANNELS, "Brightfield"), ("ER", "DNA")]
    for well, names in enumerate(lists):
        images = []
        for name in names:
            images.append(f"{well}{name}.tiff")
            pixels = rng.integers(100, 9000, (40, 40)).astype(np.uint16)
            tifffile.imwrite(folder / images[-1], pixels)
        rows.append(
            {
                "Metadata_Source": "s",
                "Metadata_Experiment": "E",
                "Metadata_Plate": "P1" if well < 2 else "P2",
                "Metadata_Well": f"B{1 + well % 2:02d}",
                "Metadata_Site": "1",
                "Metadata_Perturbation": "",
                "Metadata_Gene": "TP53" if well else "",
                "Metadata_ControlType": "",
                "Metadata_Split": "train",
                "Channels": list(names),
                "Images": images,
            }
        )
    return Index(pd.DataFrame(rows), str(folder))


def test_page_and_pictures(encoder: MAEEncoder, index: Index, tmp_path: Path) -> None:
    page = reconstruct_index(encoder, index, tmp_path / "out", count=4)
    text = page.read_text()
    assert text.count("<h2>") == 4
    assert text.count("data:image/png;base64,") == 4
    assert "75 % of the patches were hidden" in text
    assert "not trained on them: Brightfield" in text
    names = sorted(path.name for path in page.parent.iterdir())
    assert names == [
        "index.html",
        "triplets-1.png",  # three wells with DNA, ER and Mito
        "triplets-2.png",  # one with DNA and ER
        "well_P1_B01_1.png",
        "well_P1_B02_1.png",
        "well_P2_B01_1.png",
        "well_P2_B02_1.png",
    ]
    whole = np.asarray(Image.open(page.parent / "triplets-1.png"))
    part = np.asarray(Image.open(page.parent / "triplets-2.png"))
    assert whole.shape[1] > 2.5 * part.shape[1]
    assert whole.shape[0] > 1.2 * part.shape[0]


def test_the_mask_ratio_is_the_one_asked_for(
    encoder: MAEEncoder, index: Index, tmp_path: Path
) -> None:
    hidden = {}
    for ratio in (0.25, 0.75):
        out = tmp_path / str(ratio)
        reconstruct_index(encoder, index, out, wells=["P1/B01"], mask_ratio=ratio)
        picture = np.asarray(Image.open(out / "triplets.png"))
        # rows of channels alone: false colors are gray only where all channels are hidden
        hidden[ratio] = (picture == (71, 71, 89)).all(axis=-1)[-402:].sum()
    assert hidden[0.25] == pytest.approx(0.25 * 3 * 128**2, rel=0.001)
    assert hidden[0.75] == pytest.approx(0.75 * 3 * 128**2, rel=0.001)


def test_wells_by_name(encoder: MAEEncoder, index: Index, tmp_path: Path) -> None:
    page = reconstruct_index(encoder, index, tmp_path / "out", wells=["b2"])
    assert page.read_text().count("<h2>") == 2  # B02 of both plates
    with pytest.raises(InputError, match="no well 'P3/B02'"):
        reconstruct_index(encoder, index, tmp_path / "out", wells=["P3/B02"])


def test_predicted_stains(encoder: MAEEncoder, index: Index, tmp_path: Path) -> None:
    page = reconstruct_index(encoder, index, tmp_path / "out", missing=["Mito"])
    text = page.read_text()
    assert text.count("Mito predicted from DNA, ER") == 4
    assert text.count("not imaged") == 1
    assert len(list((tmp_path / "out").glob("missing_*.png"))) == 4


def test_a_broken_well_is_named_and_the_rest_is_shown(
    encoder: MAEEncoder, index: Index, tmp_path: Path
) -> None:
    table = index.table.copy()
    table.at[1, "Images"] = ["gone.tiff", "gone.tiff", "gone.tiff"]
    page = reconstruct_index(encoder, Index(table, index.root), tmp_path / "out")
    assert page.read_text().count("data:image/png;base64,") == 3
    assert "gone.tiff does not exist" in page.read_text()


def test_encoders_without_a_decoder_are_refused(index: Index, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reconstructs nothing"):
        reconstruct_index(IntensityEncoder(), index, tmp_path / "out")


def test_a_typo_leaves_no_output(encoder: MAEEncoder, index: Index, tmp_path: Path) -> None:
    for options in ({"missing": ["Mitoo"]}, {"channels": ["DNA", "Mitoo"]}):
        with pytest.raises(InputError, match=r"no channel 'Mitoo': did you mean 'Mito'\?"):
            reconstruct_index(encoder, index, tmp_path / "out", **options)
    with pytest.raises(InputError, match="no channel left to predict"):
        reconstruct_index(encoder, index, tmp_path / "out", missing=list(CHANNELS))
    assert not (tmp_path / "out").exists()


def test_the_error_is_relative_to_the_variance_of_the_target() -> None:
    target = np.asarray([0.01, 0.03, 0.02, 0.04])  # a dim channel in standardized units
    assert normalized_error(target, target) == 0
    mean = np.full(4, target.mean())
    assert normalized_error(mean, target) == pytest.approx(1)  # R² = 0: no better than the mean
    assert normalized_error(target + 0.03, target) > 1
    assert normalized_error(target, mean) is None


def test_the_page_prints_r2(encoder: MAEEncoder, index: Index, tmp_path: Path) -> None:
    from mae_jax.inference.reconstruct import reconstruct_crops

    page = reconstruct_index(encoder, index, tmp_path / "out", wells=["P1/B01"]).read_text()
    crop = read_site(index, 0, CHANNELS)[None, :, 4:36, 4:36]
    result = reconstruct_crops(encoder, crop, CHANNELS, None, 0)
    hidden = np.asarray(result.mask)[0, 0] > 0
    output, target = (np.asarray(x)[0, 0][hidden] for x in (result.prediction, result.original))
    r2 = 1 - ((output - target) ** 2).sum() / ((target - target.mean()) ** 2).sum()
    assert f"<td>{r2:.3f}</td>" in page


def test_an_output_in_the_way_is_one_sentence(
    encoder: MAEEncoder, index: Index, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        reconstruct_index(encoder, index, tmp_path / "out")
