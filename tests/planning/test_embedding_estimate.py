"""What embedding a screen takes, beforehand."""

import json

import jax
import numpy as np
import pytest
import tifffile

from mae_jax.cli.main import main
from mae_jax.data.index import Index
from mae_jax.distributed.hardware import ACCELERATORS, device_memory, parse_slice
from mae_jax.errors import InputError
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.networks.mae.flops import embedding_flops
from mae_jax.networks.mae.model import MAE
from mae_jax.planning.embedding_estimate import estimate_embedding, format_embedding
from mae_jax.weights.preprocessing import Preprocessing

CHANNELS = ("DNA", "ER")
CONFIG = MAEConfig(
    encoder=ParallelViTConfig(
        patch=8, width=32, depth=2, heads=2, channels=CHANNELS, crop=32, channel_agnostic=True
    ),
    decoder=DecoderConfig(width=16, depth=1, heads=1),
)


@pytest.fixture(scope="module")
def encoder() -> MAEEncoder:
    images = np.zeros((1, 2, 32, 32), np.float32)
    keys = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    params = jax.jit(MAE(CONFIG).init)(keys, images)["params"]
    return MAEEncoder(CONFIG, params, Preprocessing(CHANNELS, True, 32, None))


@pytest.fixture
def index(tmp_path) -> Index:
    """Three wells of two sites of 64 x 80 pixels: 2 x 3 crops of 32 cover a site."""
    lines = ["Metadata_Plate,Metadata_Well,Metadata_Site,FileName_OrigDNA,FileName_OrigER"]
    for well in range(3):
        for site in (1, 2):
            names = [f"{well}{site}{channel}.tiff" for channel in CHANNELS]
            for name in names:
                tifffile.imwrite(tmp_path / name, np.ones((64, 80), np.uint16))
            lines.append(",".join(["P", f"A0{well + 1}", str(site), *names]))
    (tmp_path / "load_data.csv").write_text("\n".join(lines) + "\n")
    assert main(["index", str(tmp_path / "load_data.csv"), "--out", str(tmp_path / "i.parquet"),
                 "--quiet"]) == 0  # fmt: skip
    return Index.read(tmp_path / "i.parquet")


def test_crops_and_hours_follow_from_the_screen_and_the_peak(encoder, index):
    found = estimate_embedding(encoder, index, parse_slice("t4-2"), mfu=0.25, price=0.4)
    assert (found.wells, found.sites, found.crops) == (3, 6, 36)
    assert found.flops_per_crop == embedding_flops(CONFIG.encoder, channels=2)
    seconds = 36 * found.flops_per_crop / (2 * 8.1e12 * 0.25)
    assert found.seconds == pytest.approx(seconds)
    assert found.device_hours == pytest.approx(2 * seconds / 3600)
    assert found.cost == pytest.approx(2 * seconds / 3600 * 0.4)
    assert found.pixel_bytes == 6 * 2 * 64 * 80 * 2
    assert found.pixel_bandwidth == pytest.approx(found.pixel_bytes / seconds)


def test_more_channels_and_smaller_crops_take_more(encoder, index):
    slice_ = parse_slice("h100-1")
    one = estimate_embedding(encoder, index, slice_, channels=["DNA"])
    two = estimate_embedding(encoder, index, slice_)
    assert one.flops_per_crop < two.flops_per_crop
    assert one.assumed
    assert "assumed" in format_embedding(one)


def test_what_does_not_fit_is_refused(encoder, index):
    slice_ = parse_slice("t4-1")
    with pytest.raises(InputError, match="--mfu is 40"):
        estimate_embedding(encoder, index, slice_, mfu=40.0)
    with pytest.raises(InputError, match="--price is -1"):
        estimate_embedding(encoder, index, slice_, price=-1.0)
    with pytest.raises(InputError, match="Golgi"):
        estimate_embedding(encoder, index, slice_, channels=["Golgi"])


def test_the_command(index, tmp_path, capsys):
    words = ["plan", "--encoder", "intensity", "--index", str(tmp_path / "i.parquet")]
    assert main([*words, "--on", "rtx4090-1", "--json"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert (document["crops"], document["slice"]) == (
        12,
        "rtx4090-1",
    )  # two squares of 64 cover 64 x 80
    assert "no matrix products" in shown.err
    assert main([*words, "--on", "t4-1", "--config", "demo"]) == 2
    assert "--config does not belong" in capsys.readouterr().err
    assert main(["plan", "--on", "t4-1"]) == 2
    assert "nothing to plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Tesla T4", "t4"), ("NVIDIA L4", "l4"), ("NVIDIA L40S", "l40s"), ("NVIDIA A10G", "a10"),
     ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA GeForce RTX 4090", "rtx4090"),
     ("NVIDIA RTX 6000 Ada Generation", "rtx6000ada")],
)  # fmt: skip
def test_cards_are_told_by_their_names(kind, name):
    assert device_memory(kind) == pytest.approx(0.95 * ACCELERATORS[name].memory)


def test_a_step_that_does_not_fit_gets_the_number_that_does(capsys):
    words = ["plan", "--config", "demo", "--on", "t4-1", "--config.data.batch=65536"]
    assert main([*words, "--config.optimizer.grad_accum_steps=1"]) == 0
    shown = capsys.readouterr().out
    assert "fits         no" in shown
    (advised,) = [w for w in shown.split() if w.startswith("--config.optimizer.grad_accum_steps=")]
    steps = int(advised.rpartition("=")[2])
    assert steps > 1
    assert f"micro-batches of {65536 // steps} crops" in shown
