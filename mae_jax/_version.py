"""The version, where modules below the package's top can read it."""

__version__ = "0.2.0"
