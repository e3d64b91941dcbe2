"""Embeddings laid flat: UMAP where it is installed, t-SNE or principal components where not."""

import warnings

import numpy as np
from jaxtyping import Float

from mae_jax.errors import InputError

METHODS = ("auto", "umap", "tsne", "pca")
_TSNE_ROWS = 5000  # beyond which t-SNE takes minutes


def standardized(
    features: Float[np.ndarray, "wells features"],
) -> Float[np.ndarray, "wells features"]:
    """Every feature with mean 0 and deviation 1 over the wells; constant ones become 0."""
    centred = features - features.mean(axis=0, dtype=np.float64)
    deviation = centred.std(axis=0)
    return (centred / np.where(deviation > 0, deviation, 1)).astype(np.float32)


def components(
    features: Float[np.ndarray, "wells features"], count: int
) -> Float[np.ndarray, "wells components"]:
    """The first principal components of the standardised features (fewer if there are no more)."""
    from sklearn.decomposition import PCA

    scaled = standardized(features)
    count = min(count, *scaled.shape)
    return np.asarray(PCA(count, random_state=0).fit_transform(scaled), np.float32)


def project_2d(
    features: Float[np.ndarray, "wells features"], method: str = "auto", seed: int = 0
) -> tuple[Float[np.ndarray, "wells 2"], str]:
    """Coordinates of every well in a plane, from its first 50 principal components.

    Args:
      features: the embeddings.
      method: "umap", "tsne", "pca", or "auto": the first of these that is installed, suits the
        number of wells and can be had for so few.
      seed: of UMAP and t-SNE; the same wells then stand in the same places.

    Returns:
      The coordinates, and the method's name in words.

    Raises:
      InputError: an unknown method, or UMAP without its package.
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, not '{method}'.")
    reduced = components(features, 50)
    wells = len(reduced)
    if method == "auto":
        method = "pca" if wells < 8 else "umap" if _has_umap() else "tsne"
        if method == "tsne" and wells > _TSNE_ROWS:
            method = "pca"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about threads given up for a fixed seed
        if method == "umap":
            if not _has_umap():
                raise InputError("UMAP needs the package umap-learn; install it or take tsne.")
            import umap

            neighbours = min(15, wells - 1)
            found = umap.UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(reduced)
        elif method == "tsne":
            from sklearn.manifold import TSNE

            perplexity = min(30.0, (wells - 1) / 3)
            found = TSNE(random_state=seed, perplexity=perplexity).fit_transform(reduced)
        else:
            found = np.zeros((wells, 2), np.float32)
            found[:, : min(2, reduced.shape[1])] = reduced[:, :2]
    words = {"umap": "UMAP", "tsne": "t-SNE", "pca": "first two principal components"}
    return np.asarray(found, np.float32), words[method]


def _has_umap() -> bool:
    import importlib.util

    return importlib.util.find_spec("umap") is not None
