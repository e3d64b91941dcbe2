"""The contents of a checkpoint: the train state as one tree of plain dicts, and its metadata.

A checkpoint of today has two items:

- "state": `{"step", "params", "model_state", "ema", "opt_state", "divergence"}`; empty parts are
  left out, and the optimizer's state is the list of its leaves. So params and statistics can be
  read by themselves, without knowledge of the optimizer (`mae_jax.weights.run_checkpoint`).
- "meta": JSON with the checksum of every leaf of "state" and the states of the callbacks, and a
  checksum of its own.

Checkpoints of version 0.1 have "encoder" (the encoder's parameters) and "rest", without checksums.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax

from mae_jax.errors import InputError
from mae_jax.train.divergence import DivergenceState
from mae_jax.train.step import TrainState

STATE, META = "state", "meta"
ITEMS = (STATE, META)
V0_1_ITEMS = ("encoder", "rest")


def to_tree(state: TrainState) -> dict[str, Any]:
    """The tree that is saved of a train state (of arrays, shapes or shardings)."""
    divergence = state.divergence
    tree = {
        "step": state.step,
        "params": state.params,
        "model_state": state.model_state,
        "ema": state.ema,
        "opt_state": jax.tree.leaves(state.opt_state),
        "divergence": {
            field.name: getattr(divergence, field.name) for field in dataclasses.fields(divergence)
        },
    }
    return {name: part for name, part in tree.items() if jax.tree.leaves(part)}


def from_tree(tree: Mapping[str, Any], like: TrainState) -> TrainState:
    """The inverse of `to_tree`, for a state of the structure of `like`."""
    return like.replace(
        step=tree["step"],
        params=tree["params"],
        model_state=tree.get("model_state", like.model_state),
        ema=tree.get("ema"),
        opt_state=jax.tree.unflatten(jax.tree.structure(like.opt_state), tree.get("opt_state", [])),
        divergence=DivergenceState(**tree["divergence"]),
    )


def to_v0_1_trees(state: TrainState) -> tuple[Any, dict[str, Any]]:
    """The trees "encoder" and "rest" that version 0.1 saved of a train state."""
    params = state.params
    others = {name: value for name, value in params.items() if name != "encoder"}
    encoder, others = (params["encoder"], others) if "encoder" in params else (params, {})
    parts = {
        "step": state.step,
        "opt_state": state.opt_state,
        "model_state": state.model_state,
        "ema": state.ema,
        "faults": state.divergence,
    }
    lists = {name: jax.tree.leaves(part) for name, part in parts.items()}
    return encoder, {"params": others, **lists}


def from_v0_1_trees(encoder: Any, rest: Mapping[str, Any], like: TrainState) -> TrainState:
    """The inverse of `to_v0_1_trees`, for a state of the structure of `like`."""

    def part(name: str, example: Any) -> Any:
        return jax.tree.unflatten(jax.tree.structure(example), rest[name])

    params = {**rest["params"], "encoder": encoder} if "encoder" in like.params else encoder
    return like.replace(
        params=params,
        step=part("step", like.step),
        opt_state=part("opt_state", like.opt_state),
        model_state=part("model_state", like.model_state),
        ema=part("ema", like.ema),
        divergence=part("faults", like.divergence),
    )


def to_meta(checksums: Mapping[str, str], callbacks: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of "meta"."""
    contents = {"checksums": dict(checksums), "callbacks": dict(callbacks)}
    return {**contents, "blake2b": _digest(contents)}


def from_meta(meta: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """(checksums by leaf, states of the callbacks).

    Raises:
      InputError: the contents do not match their checksum.
    """
    contents = {name: meta.get(name) for name in ("checksums", "callbacks")}
    if meta.get("blake2b") != _digest(contents):
        raise InputError("its metadata do not match their checksum.")
    return contents["checksums"], contents["callbacks"]  # type: ignore[return-value]


def _digest(contents: Mapping[str, Any]) -> str:
    text = json.dumps(contents, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
