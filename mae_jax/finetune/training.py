"""The loop of fine-tuning: steps, looks at the validation wells, early stopping, resume."""

import dataclasses
import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree
from tqdm import tqdm

from mae_jax.errors import InputError
from mae_jax.files import replacing
from mae_jax.finetune.methods import Method

# From a step: endless (inputs, values) from there on.
Batches = Callable[[int], Generator[tuple[Any, np.ndarray], None, None]]
# Parameters: the loss of the validation wells, and their score.
Validate = Callable[[PyTree], tuple[float, float]]


@dataclasses.dataclass
class Progress:
    """All that a training changes, as it is saved.

    Attributes:
      params, opt_state: of the last step.
      best: the parameters with the highest validation score.
      step: steps done.
      history: one row per look at the validation wells.
      done: whether the training has ended.
    """

    params: PyTree
    opt_state: PyTree
    best: PyTree
    step: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    done: bool = False

    @property
    def waited(self) -> int:
        """Looks since the best: the highest validation score, among equals the lowest loss."""
        ranks = [
            (np.nan_to_num(row["validation_score"], nan=-np.inf), -row["validation_loss"])
            for row in self.history
        ]
        return len(ranks) - 1 - ranks.index(max(ranks)) if ranks else 0

    def look(
        self, params: PyTree, opt_state: PyTree, train_loss: float, loss: float, score: float
    ) -> None:
        """Add a look at the validation wells to the history, and keep the best parameters."""
        row = {"step": self.step, "train_loss": train_loss, "validation_loss": loss,
               "validation_score": score}  # fmt: skip
        self.history.append(row)
        self.params, self.opt_state = params, opt_state
        if self.waited == 0:
            self.best = params

    def save(self, path: Path) -> None:
        """Write everything to one file, whole or not at all."""
        trees = {"params": self.params, "opt_state": self.opt_state, "best": self.best}
        arrays: dict[str, Any] = {
            f"{name}.{number}": np.asarray(leaf)
            for name, tree in trees.items()
            for number, leaf in enumerate(jax.tree.leaves(tree))
        }
        record = json.dumps({"step": self.step, "history": self.history, "done": self.done})
        with replacing(path) as tmp_path:
            np.savez(tmp_path, record=np.array(record), **arrays)

    def restore(self, path: Path) -> "Progress":
        """What `save` wrote, with the structure of this one.

        Raises:
          InputError: the file is damaged or of another training.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                record = json.loads(str(file["record"]))
                trees = {}
                for name in ("params", "opt_state", "best"):
                    leaves, structure = jax.tree.flatten(getattr(self, name))
                    saved = [file[f"{name}.{number}"] for number in range(len(leaves))]
                    if any(np.shape(a) != np.shape(b) for a, b in zip(leaves, saved, strict=True)):
                        raise ValueError("another shape")
                    trees[name] = jax.tree.unflatten(structure, map(jnp.asarray, saved))
            return Progress(**trees, **record)
        except Exception as problem:  # a damaged archive raises errors of many types
            reason = " ".join(str(problem).split())[:100]
            raise InputError(
                f"{path} cannot be resumed ({reason}); remove it to start this training anew."
            ) from None


def train(
    method: Method,
    optimizer: optax.GradientTransformation,
    loss: Callable[..., jax.Array],
    batches: Batches,
    validate: Validate,
    *,
    steps: int,
    every: int,
    patience: int,
    state: Path | None = None,
    title: str = "",
    show: bool = False,
    devices: int = 1,
) -> Progress:
    """Train until the validation score no longer rises, or for `steps` steps.

    The first look is before the first step, so the best parameters are never worse on the
    validation wells than those that the training started from.

    Args:
      loss: (outputs, values) -> the loss of each row.
      state: where everything is saved at each look; a training that finds it continues.
      title, show: of the progress bar.
      devices: local devices that share a batch; 1 where it does not divide.

    Raises:
      InputError: the loss is not finite.
    """
    place = _placement(devices)

    @jax.jit
    def step(params: PyTree, opt_state: PyTree, frozen: PyTree, inputs: Any, values: Any) -> Any:
        def total(params: PyTree) -> jax.Array:
            return loss(method.outputs(params, frozen, inputs), values).mean()

        value, gradients = jax.value_and_grad(total)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    progress = Progress(method.params, optimizer.init(method.params), method.params)
    if state is not None and state.exists():
        progress = progress.restore(state)
    if progress.done:
        return progress
    frozen = place(method.frozen, batch=False)
    params = place(progress.params, batch=False)
    opt_state = place(progress.opt_state, batch=False)
    recent: list[jax.Array] = []

    def look() -> None:
        validation_loss, score = validate(params)
        train_loss = float(np.mean([float(value) for value in recent])) if recent else float("nan")
        if not np.isfinite(validation_loss) or (recent and not np.isfinite(train_loss)):
            raise InputError(
                f"the loss is not finite after step {progress.step}; give a lower --lr."
            )
        progress.look(params, opt_state, train_loss, validation_loss, score)
        progress.done = progress.step >= steps or 0 < patience <= progress.waited
        if state is not None:
            progress.save(state)
        recent.clear()

    if not progress.history:
        look()
    source = batches(progress.step)
    bar = tqdm(total=steps, initial=progress.step, desc=title, unit="step", disable=not show)
    try:
        while not progress.done:
            inputs, values = next(source)
            placed = place((inputs, values.astype(np.float32)), batch=True)
            params, opt_state, value = step(params, opt_state, frozen, *placed)
            recent.append(value)
            progress.step += 1
            bar.update()
            if progress.step % every == 0 or progress.step == steps:
                look()
                bar.set_postfix(validation=f"{progress.history[-1]['validation_loss']:.4g}")
    finally:
        source.close()
        bar.close()
    return progress


def _placement(devices: int) -> Callable[..., Any]:
    """(tree, batch=whether its first axis is divided) -> the tree on the devices."""
    if devices == 1:
        return lambda tree, batch: jax.tree.map(jnp.asarray, tree)
    mesh = jax.make_mesh((devices,), ("batch",), devices=jax.local_devices()[:devices])

    def place(tree: PyTree, batch: bool) -> PyTree:
        axes = jax.sharding.PartitionSpec("batch" if batch else None)
        if not batch:
            axes = jax.sharding.PartitionSpec()
        return jax.device_put(tree, jax.sharding.NamedSharding(mesh, axes))

    return place
