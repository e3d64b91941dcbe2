"""Floating-point operations of a masked autoencoder, counted from its config."""

from mae_jax.models import MAEConfig
from mae_jax.models.masking import kept_count


def crop_flops(config: MAEConfig, *, train: bool = True) -> float:
    """FLOPs of one crop of `encoder.crop`² pixels, a multiply and an add counting as two.

    Matrix products alone: a block of width D with hidden width h over n tokens takes
    2 n (4 D² + 2 D h) + 4 n² D, where the second part is attention. The backward pass takes twice
    the forward one, so `train` is three times; recomputation (`remat`) is not counted.
    """
    encoder, decoder = config.encoder, config.decoder
    channels = len(encoder.channels)
    patches = (encoder.crop // encoder.patch) ** 2
    tokens = patches * (channels if encoder.channel_agnostic else 1)
    pixels = encoder.patch**2 * (1 if encoder.channel_agnostic else channels)
    kept = kept_count(tokens, config.mask_ratio)

    flops = 2.0 * kept * pixels * encoder.width
    flops += encoder.depth * block_flops(kept + 1, encoder.width, encoder.hidden)
    flops += 2.0 * (kept + 1) * encoder.width * decoder.width
    hidden = round(decoder.width * decoder.mlp_ratio)
    if encoder.channel_agnostic:
        # Cross-attention of every channel's tokens to all tokens, the shared MLP, own blocks.
        flops += block_flops(tokens, decoder.width, hidden)
        flops += decoder.depth * channels * block_flops(patches, decoder.width, hidden)
        predicted = tokens
    else:
        flops += decoder.depth * block_flops(tokens + 1, decoder.width, hidden)
        predicted = tokens - kept
    flops += 2.0 * predicted * decoder.width * pixels
    return flops * (3 if train else 1)


def block_flops(tokens: int, width: int, hidden: int) -> float:
    """One transformer block: four products of width², the MLP, and attention over all tokens."""
    return 2.0 * tokens * (4 * width**2 + 2 * width * hidden) + 4.0 * tokens**2 * width
