"""Synthetic Cell Painting screens with known biology, in the formats of the field."""

from mae_jax.synth.biology import PARAMETERS, gene_effects, known_relationships
from mae_jax.synth.config import JUMP_CHANNELS, RXRX_CHANNELS, ScreenConfig, complex_sizes_for
from mae_jax.synth.plate_layout import design
from mae_jax.synth.screen import make_screen
from mae_jax.synth.wells import draw_well

__all__ = [
    "JUMP_CHANNELS",
    "PARAMETERS",
    "RXRX_CHANNELS",
    "ScreenConfig",
    "complex_sizes_for",
    "design",
    "draw_well",
    "gene_effects",
    "known_relationships",
    "make_screen",
]
