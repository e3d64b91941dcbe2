"""Random generators by name, so that no draw depends on what was drawn before it or where."""

import zlib

import numpy as np


def generator(seed: int, *names: str) -> np.random.Generator:
    """The random generator of a name such as ("well", "EXP-1-P2", "A01", "mito")."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])
