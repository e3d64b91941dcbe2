"""Means and covariances of features, gathered block by block in float64."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass
class Moments:
    """Count, mean and centered second moment of F features.

    Blocks merge by Chan's update, so that a stream of any length gives what the whole would.

    Attributes:
      count: rows seen.
      mean: (F,).
      second: sum of squared deviations from the mean: (F, F) when `full`, else its diagonal (F,).
    """

    count: int
    mean: Float[np.ndarray, " features"]
    second: Float[np.ndarray, "..."]

    @staticmethod
    def empty(width: int, full: bool) -> "Moments":
        """No rows yet."""
        return Moments(0, np.zeros(width), np.zeros((width, width) if full else width))

    def add(self, rows: Float[np.ndarray, "rows features"]) -> None:
        """Add a block of rows."""
        n = len(rows)
        if not n:
            return
        rows = rows.astype(np.float64)
        mean = rows.mean(axis=0)
        rows -= mean
        full = self.second.ndim == 2
        # The transpose is copied so that BLAS takes GEMM: SYRK has crashed under threads.
        gram = np.ascontiguousarray(rows.T) @ rows if full else np.einsum("ij,ij->j", rows, rows)
        total = self.count + n
        delta = mean - self.mean
        weight = self.count * n / total
        self.second += gram + weight * (np.outer(delta, delta) if full else delta * delta)
        self.mean = self.mean + delta * (n / total)
        self.count = total

    def covariance(self, ddof: int = 0) -> Float[np.ndarray, "features features"]:
        """(F, F)."""
        return self.second / max(self.count - ddof, 1)

    def deviation(self) -> Float[np.ndarray, " features"]:
        """σ (F,): the population standard deviation, 1 where the feature is constant.

        A constant feature's computed variance is rounding, not zero; it is bounded by that of the
        mean, which is what is compared here.
        """
        second = np.diagonal(self.second) if self.second.ndim == 2 else self.second
        variance = second / max(self.count, 1)
        constant = self.constant()
        return np.where(constant, 1.0, np.sqrt(np.where(constant, 1.0, variance)))

    def constant(self) -> Bool[np.ndarray, " features"]:
        """Which features do not vary, see `deviation`."""
        second = np.diagonal(self.second) if self.second.ndim == 2 else self.second
        variance = second / max(self.count, 1)
        # Features come in float32, so a spread below its rounding is none.
        eps = np.finfo(np.float32).eps
        return variance <= (0.5 * eps * np.abs(self.mean)) ** 2


def principal_axes(
    covariance: Float[np.ndarray, "features features"], rows: int
) -> tuple[Float[np.ndarray, "features axes"], Float[np.ndarray, " axes"]]:
    """The principal axes (F, K) of a covariance and the variances (K,) along them, largest first.

    K is the numerical rank: an axis without variance has no direction of its own, and scaling it
    to unit variance would blow rounding up to the size of a phenotype. `rows` bounds the rank
    (n rows span at most n − 1 axes).
    """
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    floor = values[0] * max(covariance.shape[0], rows) * np.finfo(np.float32).eps ** 2
    keep = min(int((values > max(floor, 0)).sum()), max(rows - 1, 0))
    return np.ascontiguousarray(vectors[:, :keep]), values[:keep]


def inverse_root(
    covariance: Float[np.ndarray, "axes axes"],
) -> Float[np.ndarray, "axes axes"]:
    """C^(−1/2) of a symmetric positive definite matrix, by its eigenvectors."""
    values, vectors = np.linalg.eigh(covariance)
    return np.ascontiguousarray((vectors / np.sqrt(values)) @ np.ascontiguousarray(vectors.T))


def inverse_root_of_rows(
    rows: Float[np.ndarray, "rows axes"], ridge: float
) -> Float[np.ndarray, "axes axes"]:
    """(cov(rows) + ridge I)^(−1/2), ddof 1, by the smaller of the two matrices of products.

    With fewer rows than axes the covariance has few directions: with X the centered rows, and U and
    λ the eigenvectors and eigenvalues of X Xᵀ / (n − 1), the root is I / √ridge + Xᵀ U g Uᵀ X,
    g = −1 / ((n − 1) √(λ + ridge) √ridge (√(λ + ridge) + √ridge)).
    """
    count, axes = rows.shape
    centered = rows.astype(np.float64)
    centered -= centered.mean(0)
    if count >= axes:
        gram = np.ascontiguousarray(centered.T) @ centered
        return inverse_root(gram / (count - 1) + ridge * np.eye(axes))
    values, vectors = np.linalg.eigh(centered @ np.ascontiguousarray(centered.T) / (count - 1))
    long, short = np.sqrt(np.maximum(values, 0) + ridge), np.sqrt(ridge)
    spanned = np.ascontiguousarray(centered.T) @ vectors
    weighted = spanned * (-1 / ((count - 1) * long * short * (long + short)))
    return np.eye(axes) / short + weighted @ np.ascontiguousarray(spanned.T)


def root(
    covariance: Float[np.ndarray, "axes axes"],
) -> Float[np.ndarray, "axes axes"]:
    """C^(1/2) of a symmetric positive semidefinite matrix, by its eigenvectors."""
    values, vectors = np.linalg.eigh(covariance)
    scaled = vectors * np.sqrt(np.maximum(values, 0))
    return np.ascontiguousarray(scaled @ np.ascontiguousarray(vectors.T))


def sphering_matrix(
    moments: Moments, method: str, epsilon: float
) -> Float[np.ndarray, "features features"]:
    """The matrix that whitens centered features (standardized ones if `method` ends in "-cor").

    With Z = U S Vᵀ the n centered rows, it is √(n−1) V (S + epsilon)⁻¹, times Vᵀ for "zca"
    (pycytominer's Spherize). With no more rows than features some singular values are zero, and the
    smallest of the others stands for them. That is so too where the rows were centered by batch
    before, which pycytominer refuses.

    Raises:
      ValueError: a constant feature under "-cor", or features that depend on each other though
        there are more rows than features.
    """
    gram, n, d = moments.second, moments.count, len(moments.mean)
    if method.endswith("-cor"):
        if moments.constant().any():
            raise ValueError("a feature of the wells to fit on is constant; put select before it.")
        sigma = moments.deviation()
        gram = gram / np.outer(sigma, sigma)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    floor = max(values[0], 0.0) * max(n, d) * np.finfo(np.float32).eps ** 2
    rank = int((values > floor).sum())
    if rank == 0 or (n > d and rank < d):
        raise ValueError(
            f"the {d} features of the {n} wells to fit on have only {rank} independent directions; "
            "put select or pca before it."
        )
    singular = np.sqrt(np.where(np.arange(d) < rank, np.maximum(values, 0), values[rank - 1]))
    matrix = vectors * (np.sqrt(n - 1) / (singular + epsilon))
    if method.startswith("zca"):
        matrix = matrix @ np.ascontiguousarray(vectors.T)
    return np.ascontiguousarray(matrix)
