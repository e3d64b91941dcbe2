"""Masked autoencoders for microscopy, in JAX: from plates of images to maps of biology."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mae_jax.encoders import load_encoder
    from mae_jax.encoders.pretrained import from_pretrained

__all__ = ["__version__", "from_pretrained", "load_encoder"]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `import mae_jax` and the command line's --help need no JAX.
    if name == "load_encoder":
        from mae_jax.encoders import load_encoder

        return load_encoder
    if name == "from_pretrained":
        from mae_jax.encoders.pretrained import from_pretrained

        return from_pretrained
    raise AttributeError(f"module 'mae_jax' has no attribute '{name}'")
