"""Packages of an extra that is not installed: which extra brings them."""

import re
from importlib import metadata

# Import name -> distribution, where they differ by more than a dash.
_DISTRIBUTIONS = {"PIL": "pillow", "orbax": "orbax-checkpoint", "sklearn": "scikit-learn",
                  "umap": "umap-learn"}  # fmt: skip

# The extra that a command needs as a whole; the others need none.
EXTRAS_OF_COMMANDS = {
    "synth": "embed",
    "fetch": "embed",
    "index": "embed",
    "pack": "embed",
    "embed": "embed",
    "reconstruct": "embed",
    "convert": "embed",
    "models": "embed",
    "run": "embed",
    "train": "train",
    "finetune": "train",
    "demo": "train",
    "plan": "plan",
}


def missing_package(error: ModuleNotFoundError, command: str = "") -> str | None:
    """One sentence that names the missing package and the extra to install.

    Args:
      error: of the import.
      command: of mae-jax; its own extra is named where that brings the package.

    Returns:
      None for a module that no extra of mae_jax brings: that is a defect, not a choice.
    """
    module = (error.name or "").split(".")[0]
    package = _normalize(_DISTRIBUTIONS.get(module, module))
    packages = packages_of_extras()
    extras = [extra for extra in packages if package in packages[extra]]
    if not extras:
        return None
    # The smallest extra that brings the package.
    extra = min(extras, key=lambda name: (len(packages[name]), name))
    if EXTRAS_OF_COMMANDS.get(command) in extras:
        extra = EXTRAS_OF_COMMANDS[command]
    return (
        f"the package {package} is not installed; install it with: pip install 'mae_jax[{extra}]'"
    )


def packages_of_extras() -> dict[str, set[str]]:
    """The distributions that each extra for users brings, those of the extras in it included."""
    packages: dict[str, set[str]] = {}
    inner: dict[str, set[str]] = {}
    for requirement in metadata.requires("mae_jax") or ():
        match = re.match(r"([\w.-]+)(?:\[([\w,]+)\])?", requirement)
        condition = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if match is None or condition is None or condition[1] in ("test", "lint"):
            continue
        name, extras = _normalize(match[1]), (match[2] or "").split(",")
        packages.setdefault(condition[1], set()).add(name)
        if match[2] and name == "mae-jax":
            inner.setdefault(condition[1], set()).update(extras)
        elif match[2]:  # such as jax[cuda12]
            packages[condition[1]].update(_packages_of_foreign_extras(name, extras))
    for _ in packages:  # as often as extras can be nested
        for extra, names in inner.items():
            packages[extra].update(*(packages.get(name, set()) for name in names))
    return packages


def _packages_of_foreign_extras(package: str, extras: list[str]) -> set[str]:
    """The distributions that extras of another package bring; none where it is not installed."""
    try:
        requirements = metadata.requires(package) or ()
    except metadata.PackageNotFoundError:
        return set()
    names: set[str] = set()
    for requirement in requirements:
        match = re.match(r"[\w.-]+", requirement)
        condition = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if match and condition and condition[1] in extras:
            names.add(_normalize(match[0]))
    return names


def missing_of_extra(extra: str) -> set[str]:
    """The distributions of an extra that are not installed."""
    return {name for name in packages_of_extras().get(extra, ()) if not _is_installed(name)}


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _normalize(name: str) -> str:
    return name.lower().replace("_", "-")
