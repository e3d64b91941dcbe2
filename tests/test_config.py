"""Configs are complete: every key is known, every value has its type."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from mae_jax.config import as_config_dict, from_dict, nearest, to_dict
from mae_jax.errors import InputError


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
