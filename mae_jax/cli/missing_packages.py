"""Packages of an extra that is not installed: which extra brings them."""

import re
from importlib import metadata

# Import name -> distribution, where they differ by more than a dash.
_DISTRIBUTIONS = {"PIL": "pillow", "orbax": "orbax-checkpoint", "sklearn": "scikit-learn",
                  "umap": "umap-learn"}  # fmt: skip


def missing_package(error: ModuleNotFoundError) -> str | None:
    """One sentence that names the missing package and the extra to install.

    Returns None for a module that no extra of mae_jax brings: that is a defect, not a choice.
    """
    module = (error.name or "").split(".")[0]
    package = _normalize(_DISTRIBUTIONS.get(module, module))
    extras = sorted(extra for name, extra in _requirements() if name == package)
    if not extras:
        return None
    command = f"pip install 'mae_jax[{extras[0]}]'"
    return f"the package {package} is not installed; install it with: {command}"


def _requirements() -> list[tuple[str, str]]:
    """(distribution, extra) of every optional requirement of mae_jax."""
    pairs = []
    for requirement in metadata.requires("mae_jax") or ():
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if name and extra and extra[1] not in ("test", "lint"):
            pairs.append((_normalize(name[0]), extra[1]))
    return pairs


def _normalize(name: str) -> str:
    return name.lower().replace("_", "-")
