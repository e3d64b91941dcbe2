"""Starting from weights that exist, such as ImageNet's, instead of from random ones."""

from typing import Any

import jax
import numpy as np

from mae_jax.encoders.pretrained import from_pretrained
from mae_jax.errors import InputError
from mae_jax.networks.tasks import Task
from mae_jax.train.step import TrainState
from mae_jax.weights.pytree_paths import flatten


def warm_start(where: str, task: Task, state: TrainState) -> TrainState:
    """`state` with the weights of another model, in the places of its own.

    The heads that belong to a task's own classes (`task.reinit`) stay as they are. A learned table
    of positions of another grid is resized. RGB networks are adapted to the task's channels.

    Args:
      where: whatever `mae_jax.weights.from_pretrained` reads.

    Raises:
      InputError: a parameter is missing there or has another shape (all are listed).
    """
    _, found, _ = from_pretrained(where, channels=task.channels)
    theirs = flatten(found)
    wrong: list[str] = []

    def taken(name: str, ours: Any) -> Any:
        top = name.removeprefix("params.").split(".")[0]
        if top in task.reinit:
            return ours
        value = theirs.get(name)
        if value is not None and top == "pos_embed" and value.shape != ours.shape:
            value = resized(value, ours.shape[1])
        if value is None or value.shape != ours.shape:
            wrong.append(f"{name} {tuple(ours.shape)}")
            return ours
        value = np.asarray(value, ours.dtype)
        return jax.make_array_from_callback(ours.shape, ours.sharding, lambda index: value[index])

    def walk(tree: Any, prefix: str = "") -> Any:
        if isinstance(tree, dict):
            return {name: walk(value, f"{prefix}{name}.") for name, value in tree.items()}
        return taken(prefix[:-1], tree)

    saved = walk(task.to_saved(state.params, state.model_state))
    if wrong:
        raise InputError(
            f"init_from: {where} does not fit the network; missing or of another shape: "
            f"{', '.join(wrong)}."
        )
    params, model_state = task.from_saved(saved)
    ema = None if state.ema is None else jax.tree.map(lambda a: a.copy(), params)
    return state.replace(params=params, model_state=model_state, ema=ema)


def resized(table: np.ndarray, rows: int) -> np.ndarray:
    """A table of positions (1, 1 + grid², width) for another square grid, class token first."""
    old, new, width = round((table.shape[1] - 1) ** 0.5), round((rows - 1) ** 0.5), table.shape[2]
    image = table[0, 1:].reshape(old, old, width)
    image = np.asarray(jax.image.resize(image, (new, new, width), "bicubic"))
    return np.concatenate([table[:, :1], image.reshape(1, new * new, width)], axis=1)
