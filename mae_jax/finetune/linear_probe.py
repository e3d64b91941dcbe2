"""The linear probe: fitted by L-BFGS on all crops, its weight decay chosen on validation wells."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import optimize
from tqdm import tqdm

from mae_jax.finetune.methods import Head, linear_outputs
from mae_jax.finetune.training import Progress

# From strong to weak: each fit starts from the one before it.
WEIGHT_DECAYS = tuple(float(decay) for decay in np.logspace(1, -5, 13))
PATIENCE = 4  # weight decays in a row that are no better, after which weaker ones are not tried
RELATIVE_SPREAD = 1e-4  # features that vary less than this share of their mean are rounding


def linear_head(features: Float[np.ndarray, "rows dim"], outputs: int) -> Head:
    """The linear layer before it is fitted: standardized features, and weights of zero."""
    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    rounding = spread <= RELATIVE_SPREAD * np.abs(mean)
    return {
        "kernel": jnp.zeros((features.shape[1], outputs)),
        "bias": jnp.zeros(outputs),
        "mean": jnp.asarray(mean, jnp.float32),
        # Infinity would be exact, but no number that a file of weights should hold.
        "scale": jnp.asarray(np.where(rounding, 1e6 * (np.abs(mean) + 1), spread), jnp.float32),
    }


def fit_linear_probe(
    features: Float[np.ndarray, "rows dim"],
    values: Float[np.ndarray, "rows outputs"],
    weights: Float[np.ndarray, " rows"],
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    validate: Callable[[Head], tuple[float, float]],
    *,
    decays: Sequence[float] = WEIGHT_DECAYS,
    iterations: int = 2000,
    state: Path | None = None,
    show: bool = False,
) -> Progress:
    """Minimize Σᵢ wᵢ lossᵢ / Σᵢ wᵢ + λ/2 ‖W‖² for each weight decay λ, and keep the best.

    W acts on features with mean 0 and standard deviation 1 over the rows. The best weight decay is
    the one whose score on the validation wells is highest; among equals, whose loss is lowest.

    Args:
      loss: (outputs, values) -> the loss of each row.
      validate: head -> loss and score of the validation wells.
      decays: weight decays, from strong to weak.
      iterations: the most of each fit.
      state: where each fit is saved; a search that finds it continues.
      show: a progress bar.
    """
    head = linear_head(features, values.shape[1])
    fixed = {"mean": head["mean"], "scale": head["scale"]}
    standardized = (jnp.asarray(features, jnp.float32) - fixed["mean"]) / fixed["scale"]
    targets = jnp.asarray(values, jnp.float32)
    shares = jnp.asarray(weights / weights.sum(), jnp.float32)
    shape = head["kernel"].shape

    def unpacked(vector: Any) -> tuple[Any, Any]:
        return vector[: shape[0] * shape[1]].reshape(shape), vector[shape[0] * shape[1] :]

    @jax.jit
    def objective(
        vector: jax.Array, decay: jax.Array, rows: jax.Array, targets: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        def total(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
            kernel, bias = unpacked(vector)
            fitted = shares @ loss(rows @ kernel + bias, targets)
            return fitted + decay / 2 * jnp.square(kernel).sum(), fitted

        return jax.value_and_grad(total, has_aux=True)(vector)

    progress = Progress({"head": head}, {}, {"head": head})
    if state is not None and state.exists():
        progress = progress.restore(state)
    bar = tqdm(decays, desc="probe", unit="fit", disable=not show, initial=len(progress.history))
    with bar:
        while not progress.done:
            decay = decays[len(progress.history)]
            start = progress.params["head"]
            found = optimize.minimize(
                lambda vector, decay=decay: _in_doubles(
                    objective(jnp.asarray(vector, jnp.float32), decay, standardized, targets)
                ),
                np.concatenate([np.ravel(start["kernel"]), start["bias"]]).astype(np.float64),
                jac=True, method="L-BFGS-B",
                options={"maxiter": iterations, "maxcor": 20, "ftol": 1e-8, "gtol": 1e-6},
            )  # fmt: skip
            kernel, bias = unpacked(jnp.asarray(found.x, jnp.float32))
            head = {"kernel": kernel, "bias": bias, **fixed}
            (_, train_loss), _ = objective(
                jnp.asarray(found.x, jnp.float32), decay, standardized, targets
            )
            progress.step += int(found.nit)
            progress.look({"head": head}, {}, float(train_loss), *validate(head))
            progress.history[-1]["weight_decay"] = decay
            progress.done = len(progress.history) == len(decays) or progress.waited >= PATIENCE
            if state is not None:
                progress.save(state)
            bar.update()
    return progress


def predict_linear(
    head: Head, features: Float[np.ndarray, "rows dim"]
) -> Float[np.ndarray, "rows outputs"]:
    """The outputs of the probe."""
    return np.asarray(linear_outputs(head, jnp.asarray(features)), np.float64)


def _in_doubles(found: Any) -> tuple[float, np.ndarray]:
    """Objective and gradient as SciPy takes them."""
    (value, _), gradient = found
    return float(value), np.asarray(gradient, np.float64)
