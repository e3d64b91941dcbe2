"""FLOPs of masked autoencoders and their encoders, by formula (`mae_jax.flops`)."""

from mae_jax import flops
from mae_jax.networks.mae.config import MAEConfig, ParallelViTConfig


def mae_forward_flops(config: MAEConfig) -> float:
    """FLOPs of one crop's forward pass in training."""
    return flops.mae_forward_flops(mae_shape(config))


def embedding_flops(config: ParallelViTConfig, *, channels: int | None = None) -> float:
    """FLOPs of embedding one crop: the encoder on all tokens, nothing masked.

    Args:
      channels: of the image, where they differ from the config's (channel-agnostic encoders).
    """
    return flops.embedding_flops(encoder_shape(config, channels=channels))


def encoder_shape(config: ParallelViTConfig, *, channels: int | None = None) -> flops.ViTShape:
    """The numbers of an encoder config that determine its FLOPs."""
    return flops.ViTShape(
        width=config.width,
        depth=config.depth,
        hidden=config.hidden,
        patch=config.patch,
        crop=config.crop,
        channels=len(config.channels) if channels is None else channels,
        channel_agnostic=config.channel_agnostic,
    )


def mae_shape(config: MAEConfig) -> flops.MAEShape:
    """The numbers of an MAE config that determine its FLOPs."""
    return flops.MAEShape(
        encoder=encoder_shape(config.encoder),
        mask_ratio=config.mask_ratio,
        decoder_width=config.decoder.width,
        decoder_depth=config.decoder.depth,
        decoder_hidden=round(config.decoder.width * config.decoder.mlp_ratio),
    )
