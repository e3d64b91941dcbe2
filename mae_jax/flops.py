"""FLOPs of vision transformers and masked autoencoders from plain numbers, without JAX.

A multiply-add counts as two FLOPs, and only matrix products and convolutions count, as in all
published figures of model FLOPs. Training takes three times the forward pass; what
rematerialization repeats is not counted, since it is not the model's work.
"""

from dataclasses import dataclass

from mae_jax.errors import InputError

# width, depth, heads and MLP ratio of the published sizes. S to L: Section 4.2; H, g and G: Zhai et
# al. (2022), "Scaling vision transformers", with the MLP widths of g and G as published.
VIT_SIZES: dict[str, tuple[int, int, int, float]] = {
    "ti": (192, 12, 3, 4.0),
    "s": (384, 12, 6, 4.0),
    "b": (768, 12, 12, 4.0),
    "l": (1024, 24, 16, 4.0),
    "h": (1280, 32, 16, 4.0),
    "g": (1408, 40, 16, 6144 / 1408),
    "gg": (1664, 48, 16, 8192 / 1664),
}
# Forward and backward pass: the backward pass takes twice the products of the forward pass.
TRAINING_FACTOR = 3


@dataclass(frozen=True)
class ViTShape:
    """Numbers that determine the FLOPs of a ViT encoder.

    Attributes:
      width: length of a token.
      depth: number of blocks.
      hidden: width of the hidden layer of each MLP.
      patch: side of a patch in pixels.
      crop: side of a crop in pixels.
      channels: image channels.
      channel_agnostic: each channel has tokens of its own (CA-MAE).
    """

    width: int
    depth: int
    hidden: int
    patch: int = 16
    crop: int = 256
    channels: int = 6
    channel_agnostic: bool = False

    @property
    def tokens(self) -> int:
        """Patch tokens of a whole crop, without the class token."""
        patches = (self.crop // self.patch) ** 2
        return patches * self.channels if self.channel_agnostic else patches

    @property
    def patch_size(self) -> int:
        """Pixel values of one token."""
        return self.patch**2 * (1 if self.channel_agnostic else self.channels)


@dataclass(frozen=True)
class MAEShape:
    """Numbers that determine the FLOPs of a masked autoencoder.

    Attributes:
      encoder: its encoder.
      mask_ratio: share of the tokens that the encoder does not see in training.
      decoder_width: length of a decoder token.
      decoder_depth: decoder blocks (per channel, where the encoder is channel-agnostic).
      decoder_hidden: width of the hidden layer of each decoder MLP.
    """

    encoder: ViTShape
    mask_ratio: float = 0.75
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_hidden: int = 2048

    @property
    def num_keep(self) -> int:
        """Patch tokens that the encoder sees in training."""
        return int(self.encoder.tokens * (1 - self.mask_ratio))


@dataclass(frozen=True)
class PublishedMAE:
    """An MAE of a published size, as users name it on the command line and in JSON files.

    Attributes:
      size: "S", "B", "L" or another of `VIT_SIZES`, in either case.
      patch: side of a patch in pixels.
      crop: side of a crop in pixels.
      channels: image channels.
      channel_agnostic: each channel has tokens of its own (CA-MAE).
      mask_ratio: share of the tokens that the encoder does not see in training.
      decoder: (width, depth) of the decoder.
    """

    size: str
    patch: int = 16
    crop: int = 256
    channels: int = 6
    channel_agnostic: bool = False
    mask_ratio: float = 0.75
    decoder: tuple[int, int] = (512, 8)

    @property
    def shape(self) -> MAEShape:
        """Its numbers.

        Raises:
          InputError: an unknown size.
        """
        encoder = vit_shape(self.size, patch=self.patch, crop=self.crop, channels=self.channels,
                            channel_agnostic=self.channel_agnostic)  # fmt: skip
        width, depth = self.decoder
        return MAEShape(encoder, self.mask_ratio, width, depth, decoder_hidden=4 * width)


def vit_shape(size: str, *, patch: int = 16, crop: int = 256, channels: int = 6,
              channel_agnostic: bool = False) -> ViTShape:  # fmt: skip
    """The encoder of a published size: "ti", "s", "b", "l", "h", "g" (ViT-g) or "gg" (ViT-G).

    Raises:
      InputError: an unknown size.
    """
    if size.lower() not in VIT_SIZES:
        raise InputError(f"'{size}' is no ViT size; write one of {', '.join(VIT_SIZES)}.")
    width, depth, _, mlp_ratio = VIT_SIZES[size.lower()]
    return ViTShape(width, depth, round(width * mlp_ratio), patch, crop, channels, channel_agnostic)


def block_flops(tokens: int, width: int, hidden: int) -> float:
    """One transformer block over n tokens of width D: 2 n (4 D² + 2 D h) + 4 n² D.

    Four products of D², an MLP of hidden width h, and attention of all tokens to all tokens.
    """
    return 2.0 * tokens * (4 * width**2 + 2 * width * hidden) + 4.0 * tokens**2 * width


def transformer_flops(tokens: int, width: int, depth: int, hidden: int | None = None) -> float:
    """Forward pass through `depth` blocks; `hidden` is 4 × `width` by default."""
    return depth * block_flops(tokens, width, 4 * width if hidden is None else hidden)


def embedding_flops(encoder: ViTShape) -> float:
    """FLOPs of embedding one crop: the encoder on all tokens, no mask, no decoder."""
    return _encoder_flops(encoder, encoder.tokens)


def mae_forward_flops(shape: MAEShape) -> float:
    """FLOPs of one crop's forward pass in training.

    The encoder sees the kept tokens and the class token. A joint decoder runs over all tokens and
    predicts the masked ones; a channel-agnostic decoder runs one cross-attention over the tokens
    of all channels, then blocks over the tokens of each channel, and predicts all tokens.
    """
    encoder, width, hidden = shape.encoder, shape.decoder_width, shape.decoder_hidden
    tokens, kept = encoder.tokens, shape.num_keep
    flops = _encoder_flops(encoder, kept)
    if encoder.channel_agnostic:
        flops += 2.0 * kept * encoder.width * width
        flops += block_flops(tokens, width, hidden)
        per_channel = tokens // encoder.channels
        blocks = transformer_flops(per_channel, width, shape.decoder_depth, hidden)
        return flops + encoder.channels * blocks + 2.0 * tokens * width * encoder.patch_size
    flops += 2.0 * (kept + 1) * encoder.width * width
    flops += transformer_flops(tokens + 1, width, shape.decoder_depth, hidden)
    return flops + 2.0 * (tokens - kept) * width * encoder.patch_size


def mae_training_flops(shape: MAEShape, crops: float = 1.0) -> float:
    """FLOPs of training on `crops` crops, forward and backward."""
    return TRAINING_FACTOR * mae_forward_flops(shape) * crops


# The paper's count (Fig. 5, A.3). Touvron et al. (2022), "Three things everyone should know about
# vision transformers", Table 1: GFLOPs (multiply-adds) of one 224 × 224 × 3 image, patch 16.
_TOUVRON_GFLOPS = {"s": 4.6, "b": 17.5, "l": 61.6}
# (16·16 / (14·14))²: tokens of a 256 px crop over those of a 224 px crop, squared, rounded as in
# the paper.
_CROP_FACTOR = 1.69
# 4 times the tokens, squared, for patch 8.
_PATCH_FACTORS = {16: 1, 8: 16}


def paper_training_flops(encoder: ViTShape, crops: float) -> float:
    """Training FLOPs as the paper counts them: Touvron's count × 1.69 (× 16 for patch 8) × crops.

    The paper leaves out the mask, the decoder, the backward pass and the number of channels, and
    takes all cost as quadratic in the number of tokens.

    Raises:
      InputError: a width, depth or patch for which the paper has no figure.
    """
    for size, gflops in _TOUVRON_GFLOPS.items():
        if VIT_SIZES[size][:2] == (encoder.width, encoder.depth):
            if encoder.patch not in _PATCH_FACTORS:
                break
            return gflops * 1e9 * _CROP_FACTOR * _PATCH_FACTORS[encoder.patch] * crops
    raise InputError(
        f"width {encoder.width}, depth {encoder.depth}, patch {encoder.patch}: the paper counts "
        "FLOPs for ViT-S, ViT-B and ViT-L with patch 16 or 8 alone."
    )


def _encoder_flops(encoder: ViTShape, tokens: int) -> float:
    """The encoder over so many patch tokens and the class token."""
    patches = 2.0 * tokens * encoder.patch_size * encoder.width
    return patches + transformer_flops(tokens + 1, encoder.width, encoder.depth, encoder.hidden)
