"""The cards beside a saved model say what the run was."""

import dataclasses

import pandas as pd
import pytest
import yaml

from mae_jax.data import Index
from mae_jax.data.index import METADATA
from mae_jax.errors import InputError
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.registry import make_task, param_shapes
from mae_jax.networks.saved_model import load_model, save_model
from mae_jax.train import TrainConfig
from mae_jax.train.config import DataConfig
from mae_jax.train.model_card import model_card, results_card

MODEL = MAEConfig(
    ParallelViTConfig(patch=8, width=16, depth=1, heads=2, crop=16, channels=("DNA", "ER")),
    DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
)
METRICS = [
    {"step": step, "train/loss": 2 / step, "validation/loss": abs(step - 70) / 100 + 0.5,
     "speed/crops_per_second": 100.0 + step}
    for step in range(10, 110, 5)
]  # fmt: skip


def card(tmp_path, **changes) -> str:
    rows = [
        dict.fromkeys(METADATA, "")
        | {"Metadata_Experiment": f"E{n // 2}", "Metadata_Well": f"A{n}", "Channels": ["DNA"],
           "Images": ["a"], "Metadata_Split": "validation" if n == 3 else "train"}
        for n in range(4)
    ]  # fmt: skip
    path = Index(pd.DataFrame(rows), "/").write(tmp_path / "index.parquet")
    data = DataConfig(index=str(path), batch=48, scale=4095.0)
    config = dataclasses.replace(TrainConfig(model=MODEL, data=data), **changes)
    return model_card(config, make_task(MODEL, scale=4095.0), param_shapes(MODEL), METRICS, 100)


def test_the_model_card_says_what_was_trained_on_what(tmp_path):
    text = card(tmp_path, license="cc-by-4.0", init_from="openphenom")
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    for row in (
        "| Channels | any channels, in any order; trained on DNA, ER |",
        "| Pixels | divided by 4095, then each channel of a crop standardized by itself |",
        "| Data | index.parquet: 3 sites to train on, 1 for validation, 4 wells, 2 experiments |",
        "| Steps | 100 of 48 crops |",
        "| Losses | training 0.01905, validation 0.85 (lowest 0.5) |",
        "| Started from | openphenom |",
        "| Licence | cc-by-4.0 |",
        "channel-agnostic; patch 8, width 16, depth 1, heads 2; decoder width 16",
        'encoder.embed(pixels, channels=("DNA", "ER"))',
    ):
        assert row in body
    plain = card(tmp_path)
    assert yaml.safe_load(plain.split("---\n")[1])["license"] == "unknown"
    assert "| Licence | not stated |" in plain
    assert "| Started from | random weights |" in plain


def test_the_results_card_shows_losses_and_recalls(tmp_path):
    text = results_card(METRICS)
    assert "Lowest: 0.5000 at step 70." in text
    assert text.count("\n| ") == 11  # the head and ten rows, evenly spaced
    assert "| 105 | 0.8500 |" in text
    assert "Speed: 160 crops per second (median)." in text
    assert "No losses were logged." in results_card([])
    (tmp_path / "recall.csv").write_text("database\nCORUM\n")
    with pytest.raises(InputError, match="evaluate again"):
        results_card(METRICS, tmp_path)


def test_a_model_with_cards_loads(tmp_path):
    import jax.numpy as jnp
    from jax import tree

    params = tree.map(lambda leaf: jnp.zeros(leaf.shape), param_shapes(MODEL.encoder))
    preprocessing = make_task(MODEL).preprocessing()
    documents = {"README.md": "a card"}
    save_model(tmp_path / "model", params, MODEL.encoder, preprocessing, documents)
    assert (tmp_path / "model" / "README.md").read_text() == "a card"
    assert load_model(tmp_path / "model").config == MODEL.encoder
