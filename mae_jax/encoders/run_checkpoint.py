"""Models from the checkpoints of a training run: `runs/x@12000`, `runs/x@best`, `runs/x@latest`.

Only the weights are read of a checkpoint, not the optimizer's state: the exponential moving
average where the run keeps one, else the parameters, as at the end of training.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mae_jax.config import nearest
from mae_jax.errors import InputError
from mae_jax.files import read_json
from mae_jax.networks.registry import from_json, make_task
from mae_jax.networks.saved_model import CONFIG, PretrainedModel
from mae_jax.networks.task import Task
from mae_jax.nn.standardize import DEFAULT_EPS
from mae_jax.weights.checksum import mismatches, stacked_checksums
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pytree_paths import check_finite, flatten
from mae_jax.weights.safetensors_file import first_line

CHECKPOINTS = "checkpoints"
_NAMED = ("best", "latest")
Shapes = dict[str, Any]


def split_reference(name: str | os.PathLike[str]) -> tuple[Path, str] | None:
    """Split "runs/x@12000" into run folder and step; None for any other path.

    Raises:
      InputError: the folder is a run, but what follows "@" is neither a step nor a known name.
    """
    folder, at, step = str(name).rpartition("@")
    if not at or Path(name).exists() or not (Path(folder) / CHECKPOINTS).is_dir():
        return None
    if not re.fullmatch(r"\d+", step) and step not in _NAMED:
        raise InputError(f"{name}: '{step}' is not a step: {nearest(step, _NAMED)}")
    return Path(folder), step


def load_checkpoint(folder: str | os.PathLike[str], step: str | int) -> PretrainedModel:
    """Read the model of one checkpoint of a run.

    Args:
      folder: the run's work folder.
      step: a step, "latest", or "best" (the lowest validation loss of those that are kept).

    Raises:
      InputError: no run, no such checkpoint, or one that is damaged.
    """
    folder = Path(folder)
    task, preprocessing = _task_of_run(folder)
    path = folder / CHECKPOINTS / str(_resolve(folder, str(step)))
    try:
        weights, model_state = _read_weights(path, task)
    except InputError:
        raise
    except Exception as problem:  # a damaged checkpoint may raise anything
        raise InputError(
            f"{path} cannot be read ({first_line(problem)}); choose another step."
        ) from None
    params = task.to_saved(weights, model_state)
    check_finite(flatten(params), str(path))
    return PretrainedModel(task.model, params, preprocessing)


def _task_of_run(folder: Path) -> tuple[Task, Preprocessing]:
    path = folder / CONFIG
    values = read_json(path)
    if not isinstance(values, dict) or not {"network", "model"} <= values.keys():
        raise InputError(f"{path} is not the config of a training run; check the path.")
    record = {"kind": values["network"], "architecture": values["model"]}
    config = from_json(record, str(path))
    data = values.get("data", {})
    scale, eps = data.get("scale"), data.get("eps", DEFAULT_EPS)  # not in version 0.1
    task = make_task(config, data.get("crop", 256), scale=scale, eps=eps)
    return task, task.preprocessing()


def _resolve(folder: Path, step: str) -> int:
    checkpoints = folder / CHECKPOINTS
    steps = sorted(int(path.name) for path in checkpoints.glob("*") if path.name.isdigit())
    if not steps:
        raise InputError(f"{checkpoints} holds no checkpoints; check the path.")
    if step == "latest":
        return steps[-1]
    if step == "best":
        losses = {s: _validation_loss(checkpoints / str(s)) for s in steps}
        best = min(steps, key=losses.__getitem__)
        if losses[best] == math.inf:
            raise InputError(
                f"{checkpoints}: no checkpoint has a validation loss; give one of the steps "
                f"{', '.join(map(str, steps))}."
            )
        return best
    if int(step) not in steps:
        raise InputError(
            f"{checkpoints} has no checkpoint of step {step}; it has the steps "
            f"{', '.join(map(str, steps))}."
        )
    return int(step)


def _validation_loss(path: Path) -> float:
    """Return the validation loss of a checkpoint, infinity where none was measured."""
    try:
        loss = json.loads((path / "metrics" / "metrics").read_text())["validation_loss"]
        return float(loss) if math.isfinite(loss) else math.inf
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def _read_weights(path: Path, task: Task) -> tuple[Any, Any]:
    """Return (weights, model state) of a checkpoint."""
    params, model_state = jax.eval_shape(task.init, jax.random.key(0))
    if (path / "encoder").is_dir():
        return _read_v0_1(path, params, model_state)
    item = path / "state"
    saved = _names(item)
    weights = "ema" if "ema" in saved else "params"
    target = {weights: params} | ({"model_state": model_state} if model_state else {})
    tree = _restore(item, target)
    meta = read_json(path / "meta" / "metadata")
    damaged = mismatches(tree, np.asarray(stacked_checksums(tree)), meta["checksums"])
    if damaged:
        raise InputError(
            f"{path} is damaged: {len(damaged)} arrays differ from their checksums, "
            f"'{damaged[0]}' first; choose another step."
        )
    return tree[weights], tree.get("model_state", {})


def _read_v0_1(path: Path, params: Shapes, model_state: Shapes) -> tuple[Any, Any]:
    """Read a checkpoint of version 0.1: the encoder, and lists of leaves of all the rest."""
    has_encoder = "encoder" in params
    others = {k: v for k, v in params.items() if k != "encoder"} if has_encoder else {}
    has_ema = "ema" in _names(path / "rest")
    target: dict[str, Any] = {"params": others} if others else {}
    if has_ema:
        target["ema"] = jax.tree.leaves(params)
    if model_state:
        target["model_state"] = jax.tree.leaves(model_state)
    rest = _restore(path / "rest", target) if target else {}
    state = jax.tree.unflatten(jax.tree.structure(model_state), rest.get("model_state", []))
    if has_ema:
        return jax.tree.unflatten(jax.tree.structure(params), rest["ema"]), state
    encoder = _restore(path / "encoder", params["encoder"] if has_encoder else params)
    return ({**rest["params"], "encoder": encoder} if has_encoder else encoder), state


def _names(item: Path) -> set[str]:
    """Return the top-level names of a saved tree that have arrays."""
    entries = read_json(item / "_METADATA")["tree_metadata"].values()
    return {
        entry["key_metadata"][0]["key"]
        for entry in entries
        if not entry["value_metadata"]["skip_deserialize"]
    }


def _restore(item: Path, target: Mapping[str, Any]) -> Any:
    """Restore the part of a saved tree that `target` has, as numpy arrays of its shapes."""
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    args = ocp.args.PyTreeRestore(item=target, restore_args=restore_args, partial_restore=True)
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(item.absolute(), args=args)
    expected, actual = jax.tree.leaves(target), jax.tree.leaves(tree)
    shapes = zip(expected, actual, strict=True)
    if any(tuple(e.shape) != np.shape(a) for e, a in shapes):
        raise InputError(f"{item} does not have the shapes of the run's {CONFIG}.")
    return tree
