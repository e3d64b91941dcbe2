"""Embeddings in two dimensions: UMAP if it is installed, else t-SNE or principal components."""

import importlib.util
import warnings

import numpy as np
from jaxtyping import Float

from mae_jax.errors import InputError

METHODS = ("auto", "umap", "tsne", "pca")
_MAX_TSNE_WELLS = 5000  # beyond which t-SNE takes minutes


def standardize_features(
    features: Float[np.ndarray, "wells features"],
) -> Float[np.ndarray, "wells features"]:
    """Every feature with mean 0 and standard deviation 1 over the wells; constant ones become 0."""
    centered = features - features.mean(axis=0, dtype=np.float64)
    deviation = centered.std(axis=0)
    return (centered / np.where(deviation > 0, deviation, 1)).astype(np.float32)


def principal_components(
    features: Float[np.ndarray, "wells features"], count: int
) -> Float[np.ndarray, "wells components"]:
    """The first principal components of the standardized features (fewer if there are no more)."""
    from sklearn.decomposition import PCA

    scaled = standardize_features(features)
    count = min(count, *scaled.shape)
    return np.asarray(PCA(count, random_state=0).fit_transform(scaled), np.float32)


def project_2d(
    features: Float[np.ndarray, "wells features"], method: str = "auto", seed: int = 0
) -> tuple[Float[np.ndarray, "wells 2"], str]:
    """Project every well to two dimensions, from its first 50 principal components.

    Args:
      features: the embeddings.
      method: "umap", "tsne", "pca", or "auto": the first of these that is installed and suits the
        number of wells.
      seed: of UMAP and t-SNE; the same wells then get the same coordinates.

    Returns:
      The coordinates, and the method's name in words.

    Raises:
      InputError: an unknown method, or UMAP without its package.
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, not '{method}'.")
    reduced = principal_components(features, 50)
    wells = len(reduced)
    if method == "auto":
        method = "pca" if wells < 8 else "umap" if _has_umap() else "tsne"
        if method == "tsne" and wells > _MAX_TSNE_WELLS:
            method = "pca"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about threads that a fixed seed switches off
        if method == "umap":
            if not _has_umap():
                raise InputError("UMAP needs the package umap-learn; install it or use tsne.")
            import umap

            num_neighbors = min(15, wells - 1)
            mapper = umap.UMAP(n_neighbors=num_neighbors, random_state=seed)
            coordinates = mapper.fit_transform(reduced)
        elif method == "tsne":
            from sklearn.manifold import TSNE

            perplexity = min(30.0, (wells - 1) / 3)
            coordinates = TSNE(random_state=seed, perplexity=perplexity).fit_transform(reduced)
        else:
            coordinates = np.zeros((wells, 2), np.float32)
            coordinates[:, : min(2, reduced.shape[1])] = reduced[:, :2]
    words = {"umap": "UMAP", "tsne": "t-SNE", "pca": "first two principal components"}
    return np.asarray(coordinates, np.float32), words[method]


def _has_umap() -> bool:
    return importlib.util.find_spec("umap") is not None
