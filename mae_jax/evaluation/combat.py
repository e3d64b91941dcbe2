"""ComBat's estimates for each batch, from counts, means and sums of squares alone.

Johnson, Li and Rabinovic (2007), parametric priors, no covariates; as in R's sva. With x the
features standardized by the grand mean α and the pooled σ, batch b has the offset γ_b and variance
δ_b. Over the features of a batch γ has a normal prior and δ an inverse gamma prior, whose
parameters are fitted by moments; the posterior estimates replace γ_b and δ_b in
x ↦ σ (x − γ_b)/√δ_b + α. Given the estimates that is an affine map, so it applies to new wells of
the same batches.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from mae_jax.evaluation.moments import Moments

_TOLERANCE, _MAX_ITERATIONS = 1e-8, 1000

Map = tuple[
    Float32[np.ndarray, " features"],
    Float32[np.ndarray, " features"],
    None,
    Float32[np.ndarray, " features"],
]


def combat_batches(batches: Sequence[Moments]) -> list[Map]:
    """The map of each batch as (shift, scale, None, offset): x ↦ (x − shift)/scale + offset.

    Features that are constant within some batch are left as they are, as in sva.
    """
    counts = np.array([m.count for m in batches], np.float64)
    means = np.stack([m.mean for m in batches])
    squares = np.stack([np.asarray(m.second, np.float64) for m in batches])
    usable = ~np.stack([m.constant() for m in batches]).any(axis=0)
    total = counts.sum()
    alpha = (counts / total) @ means
    sigma = np.sqrt(np.where(usable, squares.sum(axis=0) / total, 1.0))
    gamma = (means - alpha) / sigma
    sums = squares / sigma**2
    maps: list[Map] = []
    for count, g, s in zip(counts, gamma, sums, strict=True):
        shift, scale, offset = np.zeros_like(alpha), np.ones_like(alpha), np.zeros_like(alpha)
        if usable.sum() > 1:
            post_g, post_d = _posterior(count, g[usable], s[usable])
            shift[usable] = alpha[usable] + sigma[usable] * post_g
            scale[usable] = np.sqrt(post_d)
            offset[usable] = alpha[usable]
        maps.append(
            (shift.astype(np.float32), scale.astype(np.float32), None, offset.astype(np.float32))
        )
    return maps


def _posterior(
    count: float, gamma: Float[np.ndarray, " features"], sums: Float[np.ndarray, " features"]
) -> tuple[Float[np.ndarray, " features"], Float[np.ndarray, " features"]]:
    """Posterior γ and δ of one batch; `sums` are Σ(x − mean)² of the standardized features."""
    delta = sums / (count - 1)
    prior_mean, prior_variance = gamma.mean(), gamma.var(ddof=1)
    m, s2 = delta.mean(), delta.var(ddof=1)
    if s2 == 0 or prior_variance == 0:  # all features alike: nothing to shrink towards
        return gamma, delta
    a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    g, d = gamma, delta
    for _ in range(_MAX_ITERATIONS):
        new_g = (prior_variance * count * gamma + d * prior_mean) / (prior_variance * count + d)
        squares = sums + count * (gamma - new_g) ** 2
        new_d = (0.5 * squares + b) / (count / 2 + a - 1)
        change = max(np.abs(new_g - g).max(), (np.abs(new_d - d) / d).max())
        g, d = new_g, new_d
        if change < _TOLERANCE:
            break
    return g, d
