"""Training compute (Fig. 5 and 8, A.3, A.5): the paper's figure and a true count, side by side."""

from dataclasses import dataclass

from mae_jax.errors import InputError

# GFLOPs (multiply-adds) of one 224 × 224 × 3 image, patch 16: Table 1 of Touvron et al. (2022),
# "Three things everyone should know about vision transformers", which the paper builds on.
TOUVRON = {"S": 4.6, "B": 17.5, "L": 61.6}
# (16·16/(14·14))²: tokens of a 256 px crop over those of a 224 px one, squared, as the paper says.
CROP_FACTOR = 1.69
# 4 times the tokens, squared, for patch 8.
PATCH_FACTOR = {16: 1, 8: 16}

WIDTHS = {"S": (384, 12), "B": (768, 12), "L": (1024, 24)}


@dataclass(frozen=True)
class Shape:
    """What determines an MAE's FLOPs.

    Attributes:
      size: "S", "B" or "L".
      patch: side in pixels.
      crop: side in pixels.
      channels: of the image.
      channel_agnostic: every channel has tokens of its own (CA-MAE).
      mask_ratio: the share of tokens that the encoder does not see in training.
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
    def tokens(self) -> int:
        """Patch tokens of a whole crop."""
        per_channel = (self.crop // self.patch) ** 2
        return per_channel * (self.channels if self.channel_agnostic else 1)


def paper_flops(shape: Shape, crops: float) -> float:
    """Training FLOPs as the paper counts them: Touvron's count × 1.69 (× 16 for patch 8) × crops.

    It leaves out masking, the decoder, the backward pass, the number of channels, and takes all
    cost as quadratic in tokens.

    Raises:
      InputError: a size or patch that the paper has no figure for.
    """
    if shape.size not in TOUVRON or shape.patch not in PATCH_FACTOR:
        raise InputError(
            f"The paper counts FLOPs for ViT-{'/'.join(TOUVRON)} with patch 16 or 8, not "
            f"ViT-{shape.size}/{shape.patch}."
        )
    return TOUVRON[shape.size] * 1e9 * CROP_FACTOR * PATCH_FACTOR[shape.patch] * crops


def transformer_flops(tokens: int, width: int, depth: int) -> float:
    """FLOPs (2 per multiply-add) of a forward pass through `depth` blocks.

    Per block: 2·12·n·D² for q, k, v, the projection and the MLP of 4D; 2·2·n²·D for attention.
    """
    return depth * (24.0 * tokens * width**2 + 4.0 * tokens**2 * width)


def training_flops(shape: Shape, crops: float) -> float:
    """A true count of an MAE's training FLOPs: 2 per multiply-add, matrix products alone.

    The encoder sees the kept tokens and the class token, the decoder all of them; backward costs
    twice the forward pass. A channel-agnostic decoder works on each channel by itself (after one
    cross-attention to all tokens), the joint one on all tokens at once.

    Raises:
      InputError: an unknown size.
    """
    if shape.size not in WIDTHS:
        raise InputError(f"There is no ViT-{shape.size}; sizes are {', '.join(WIDTHS)}.")
    width, depth = WIDTHS[shape.size]
    kept = int(shape.tokens * (1 - shape.mask_ratio)) + 1
    total = shape.tokens + 1
    inputs = shape.patch**2 * (1 if shape.channel_agnostic else shape.channels)
    forward = 2.0 * shape.tokens * inputs * width  # patch embedding
    forward += transformer_flops(kept, width, depth)
    inner, layers = shape.decoder
    forward += 2.0 * kept * width * inner
    if shape.channel_agnostic:
        own = shape.tokens // shape.channels
        cross = 8.0 * shape.tokens * inner**2  # q, k, v, projection, over all channels together
        cross += shape.channels * 2.0 * shape.tokens * inner**2  # k, v again for every channel …
        cross += 4.0 * shape.tokens * total * inner + 16.0 * shape.tokens * inner**2
        forward += cross + shape.channels * transformer_flops(own, inner, layers)
    else:
        forward += transformer_flops(total, inner, layers)
    forward += 2.0 * shape.tokens * inner * inputs  # prediction
    return 3.0 * forward * crops


def embedding_flops(shape: Shape) -> float:
    """FLOPs of embedding one crop: the encoder on all tokens, no mask, no decoder."""
    width, depth = WIDTHS[shape.size]
    inputs = shape.patch**2 * (1 if shape.channel_agnostic else shape.channels)
    patches = 2.0 * shape.tokens * inputs * width
    return patches + transformer_flops(shape.tokens + 1, width, depth)
