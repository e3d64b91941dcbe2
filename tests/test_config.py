"""Configs are complete: every key is known, every value has its type."""

import math
import operator
import re
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Literal

import pytest

from mae_jax.config import (
    alternatives,
    as_config_dict,
    from_dict,
    nearest,
    to_dict,
    upgrade_keys,
)
from mae_jax.config_reference import as_text, describe
from mae_jax.errors import InputError
from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.unet.config import UNetConfig
from mae_jax.networks.vit.config import ViTConfig
from mae_jax.synth import ScreenConfig
from mae_jax.train.config import OptimizerConfig, TrainConfig


@dataclass(frozen=True)
class Optimizer:
    name: Literal["lion", "sgd"] = "lion"
    lr: float = 1e-4
    warmup: int | None = None


@dataclass(frozen=True)
class Job:
    optimizer: Optimizer = field(default_factory=Optimizer)
    channels: tuple[str, ...] = ("DNA",)
    rules: tuple[tuple[str, tuple[str, ...]], ...] = ()
    steps: int = 5


def test_a_config_survives_the_way_there_and_back():
    job = Job(Optimizer("sgd", 0.1, 3), ("DNA", "Mito"), (("kernel$", ("", "tensor")),))
    assert from_dict(Job, to_dict(job)) == job
    assert from_dict(Job, as_config_dict(job).to_dict()) == job


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"stesp": 3}, "config has no key 'stesp': did you mean 'steps'"),
        ({"optimizer": {"learning": 1.0}}, "config.optimizer has no key 'learning'"),
        ({"steps": "many"}, "config.steps must be of type int"),
        ({"steps": True}, "config.steps must be of type int"),
        ({"channels": "DNA"}, "config.channels must be a list"),
        ({"channels": ["DNA", 3]}, r"config.channels\[1\] must be of type str"),
        ({"optimizer": {"name": "loin"}}, "config.optimizer.name must be one of lion, sgd"),
        ({"optimizer": 3}, "config.optimizer must be a table"),
        ({"rules": [["a", ["b"], "c"]]}, r"config.rules\[0\] must have 2 values, not 3"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(values, words):
    with pytest.raises(InputError, match=words):
        from_dict(Job, values)


def test_whole_numbers_serve_as_floats_and_none_where_it_may():
    assert from_dict(Job, {"optimizer": {"lr": 1, "warmup": None}}).optimizer.lr == 1.0


def test_a_config_dict_refuses_unknown_keys_and_lets_empty_ones_be_set():
    values = as_config_dict(Job())
    with pytest.raises(AttributeError, match="steps"):
        values.step = 3
    values.optimizer.warmup = 7
    assert from_dict(Job, values.to_dict()).optimizer.warmup == 7


def test_the_nearest_name_or_all_of_them():
    assert nearest("tain", ["train", "embed"]) == "did you mean 'train'?"
    assert nearest("qqq", ["train", "embed"]) == "known: embed, train."


# ---- ranges


def test_old_names_are_refused_with_the_new_one_and_translated_in_saved_files():
    old = {
        "optimizer": {"spared": ["bias"], "accumulate": 2, "ema": 0.5},
        "data": {"max_broken": 0.5, "sets": [{"name": "A", "index": "a.parquet", "share": 0.5}]},
        "faults": {"memory": 7, "limit": 1, "window": 3, "step_seconds": 5.0},
        "plateau": {"patience": 2, "least": 0.1},
        "log": {"panels": 3, "panel_crops": 2},
        "keep_untrained": True,
    }
    with pytest.raises(InputError, match=r"config\.faults is now called config\.divergence"):
        from_dict(TrainConfig, {"faults": {}})
    with pytest.raises(InputError, match=r"spared is now called config\.optimizer\.no_decay"):
        from_dict(TrainConfig, {"optimizer": {"spared": []}})
    config = from_dict(TrainConfig, upgrade_keys(TrainConfig, old))
    assert config.optimizer.no_decay == ("bias",)
    assert (config.optimizer.grad_accum_steps, config.optimizer.ema_decay) == (2, 0.5)
    assert config.data.datasets[0].weight == 0.5
    assert (config.divergence.stats_window, config.divergence.max_skipped) == (7, 1)
    assert (config.divergence.skip_window, config.divergence.step_timeout_seconds) == (3, 5.0)
    assert (config.early_stopping.patience, config.early_stopping.min_delta) == (2, 0.1)
    assert (config.log.image_every, config.log.num_images) == (3, 2)
    assert config.save_initial_model
    assert config.data.max_unreadable_fraction == 0.5
    current = to_dict(config)
    assert upgrade_keys(TrainConfig, current) == current


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.lr", float("nan")),
        ("optimizer.lr", -0.5),
        ("optimizer.ema_decay", -1.0),
        ("optimizer.warmup", float("nan")),
        ("optimizer.grad_accum_steps", -1),
        ("optimizer.no_decay", ("(",)),
        ("divergence.spike", float("nan")),
        ("model.encoder.layer_scale", float("inf")),
        ("log.scalars", 0),
        ("log.validation", 0),
        ("log.image_every", 0),
        ("mesh.data", 0),
        ("mesh.fsdp", 0),
        ("mesh.tensor", -1),
        ("mesh.rules", (("[", ("fsdp",)),)),
        ("mesh.rules", (("kernel", ("fdsp",)),)),
        ("data.workers", -1),
        ("seed", 10**20),
        ("seed", -1),
    ],
)
def test_values_without_a_meaning_are_refused_by_name(key, value):
    *tables, name = key.split(".")
    values = {name: value}
    for table in reversed(tables):
        values = {table: values}
    with pytest.raises(InputError, match=rf"^config\.{re.escape(key)} must "):
        from_dict(TrainConfig, values)
    if tables == ["optimizer"]:
        with pytest.raises(InputError, match=f"^{name} must "):
            OptimizerConfig(**{name: value})


def all_fields(schema, path=()):
    """(schema, path, field) of every key of a schema and of the tables in it."""
    hints = typing.get_type_hints(schema)
    for f in fields(schema):
        tables = [option for option in alternatives(hints[f.name]) if is_dataclass(option)]
        yield from ((schema, path, f) for _ in range(not tables))
        for table in tables:
            yield from all_fields(table, (*path, f.name))


CONFIGS = (TrainConfig, ScreenConfig, UNetConfig, DenseNetConfig, ViTConfig)
NASTY = [
    float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e-320, -0.0, 0, -1, 1, 2, 3, 0.5,
    10**20, -(10**20), 2**31, 2**63, "", "(", "nan", None, True, (), (0,), (-1, 2), [[]], {}, b"x",
]  # fmt: skip


def test_a_value_is_either_in_its_range_or_refused_by_name():
    """Every key of every schema with every nasty value: over 2,000 pairs."""
    pairs = 0
    for schema in CONFIGS:
        for owner, path, f in all_fields(schema):
            name = ".".join(("config", *path, f.name))
            for value in NASTY:
                pairs += 1
                try:
                    config = from_dict(owner, {f.name: value}, ".".join(("config", *path)))
                except InputError as error:
                    sentence = str(error)
                    assert f.name in sentence or "is incomplete" in sentence, (name, sentence)
                    assert "\n" not in sentence
                    continue
                kept = getattr(config, f.name)
                numbers = kept if isinstance(kept, tuple) else (kept,)
                for number in numbers:
                    assert not isinstance(number, float) or math.isfinite(number), (name, value)
                    for bound, holds in BOUNDS.items():
                        limit = f.metadata.get(bound)
                        special = kept in f.metadata.get("allow", ())
                        if limit is not None and number is not None and not special:
                            assert holds(number, limit), (name, value)
    assert pairs > 2000


BOUNDS = {"gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le}


def test_every_number_of_a_training_has_a_range_and_a_meaning():
    keys = describe(TrainConfig)
    assert {key.name for key in keys if not key.meaning and not key.only_in} == set()
    numeric = [key for key in keys if re.match(r"(int|float)\b", key.type)]
    assert [key.name for key in numeric if not key.range] == []
    rate = next(key for key in keys if key.name == "optimizer.lr")
    assert (rate.type, rate.default, rate.range) == ("float", "0.0001", "above 0")
    assert "optimizer.lr\n    float; default 0.0001; above 0\n" in as_text(keys)
