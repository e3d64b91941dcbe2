"""The versions of the stack, read from the installed packages without importing them."""

import platform
from importlib import metadata

from mae_jax._version import __version__

# What results depend on, in the order of the layers.
STACK = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scipy", "pandas",
         "pyarrow", "scikit-learn", "tifffile", "zarr", "tensorstore")  # fmt: skip


def stack_versions() -> dict[str, str | None]:
    """Version by package; None for a package that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in STACK:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def version_text() -> str:
    """`mae-jax VERSION` on the first line, then one line per package."""
    lines = [f"{name} {version or 'not installed'}" for name, version in stack_versions().items()]
    return "\n".join([f"mae-jax {__version__}", *lines])
