"""Configs of masked autoencoders, their encoders and decoders, and those of published sizes."""

import dataclasses
from typing import Any, Literal

from mae_jax.config import distinct, nearest, schema, setting
from mae_jax.errors import InputError
from mae_jax.flops import VIT_SIZES
from mae_jax.networks.channels import CELL_PAINTING
from mae_jax.networks.compute_options import Attention, Dtype, Remat


@schema
class ParallelViTConfig:
    """A vision transformer of parallel scaling blocks, over joint or single channels.

    Attributes:
      patch: side of a square patch, in pixels.
      width: length of a token (D).
      depth: number of blocks.
      heads: attention heads; `width` must be a multiple.
      mlp_ratio: hidden width of the MLP over `width`.
      channel_agnostic: True tokenises every channel by one shared projection (Section 4.2.2);
        False mixes all channels in one projection and then needs exactly `channels`.
      channels: names of the channels seen in training, in training order; "*" in the config of a
        training run stands for all channels of its index.
      crop: side of the training crops, in pixels; the network itself takes any multiple of `patch`.
      drop_path: stochastic depth of the last block; linear from 0 at the first.
      layer_scale: first value of the residual scale, or None for no LayerScale.
      qk_norm: LayerNorm on queries and keys, per head.
      bias_layout: "fixed" adds the MLP bias where it belongs; "legacy" where timm <= 1.0.24
        put it, which the released weights were trained with.
      norm_eps: epsilon of all LayerNorms.
      final_norm: LayerNorm on the tokens after the last block; the released weights have none.
      attention: backend by name, or "auto" for the platform's best.
      dtype: compute type of matrix products; parameters, residual stream, softmax and norms
        stay float32.
      remat: what the backward pass recomputes: "none", "full" blocks, or all but the outputs
        of matrix products ("dots").
      scan: compile one block and loop over it; the parameters are laid out the same.
    """

    patch: int = setting(16, ge=1)
    width: int = setting(384, ge=1)
    depth: int = setting(12, ge=1)
    heads: int = setting(6, ge=1)
    mlp_ratio: float = setting(4.0, gt=0)
    channel_agnostic: bool = True
    channels: tuple[str, ...] = setting(CELL_PAINTING, check=distinct)
    crop: int = setting(256, ge=1)
    drop_path: float = setting(0.1, ge=0, lt=1)
    layer_scale: float | None = setting(1e-4, ge=0)
    qk_norm: bool = True
    bias_layout: Literal["fixed", "legacy"] = "fixed"
    norm_eps: float = setting(1e-6, gt=0)
    final_norm: bool = False
    attention: Attention = "auto"
    dtype: Dtype = "float32"
    remat: Remat = "none"
    scan: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"width {self.width} must be a multiple of heads {self.heads}.")
        if self.width % 4:
            raise InputError(f"width {self.width} must be a multiple of 4 (the position table).")
        if self.crop % self.patch:
            raise InputError(f"crop {self.crop} must be a multiple of patch {self.patch}.")
        if self.bias_layout == "legacy" and self.hidden < 3 * self.width:
            raise InputError("bias_layout 'legacy' needs an mlp_ratio of at least 3.")

    @property
    def hidden(self) -> int:
        """Width of the MLP's hidden layer."""
        return round(self.width * self.mlp_ratio)


@schema
class DecoderConfig:
    """The decoder of a masked autoencoder; joint or per channel as the encoder is.

    Attributes:
      width: length of a decoder token.
      depth: number of blocks (per channel, where the encoder is channel-agnostic).
      heads: attention heads of the blocks.
      cross_heads: heads of the cross-attention that the channels share (channel-agnostic only).
      mlp_ratio: hidden width of the MLPs over `width`.
      norm_eps: epsilon of all LayerNorms (1e-6 joint; the released channel-agnostic one 1e-5).
    """

    width: int = setting(512, ge=1)
    depth: int = setting(8, ge=1)
    heads: int = setting(16, ge=1)
    cross_heads: int = setting(8, ge=1)
    mlp_ratio: float = setting(4.0, gt=0)
    norm_eps: float = setting(1e-6, ge=0)

    def __post_init__(self) -> None:
        for name in ("heads", "cross_heads"):
            if self.width % getattr(self, name):
                raise InputError(
                    f"decoder width {self.width} must be a multiple of {name} "
                    f"{getattr(self, name)}."
                )


@schema
class MAEConfig:
    """A masked autoencoder: encoder, decoder, mask and loss (Equations 1 to 3).

    Attributes:
      mask_ratio: share of the tokens that the encoder does not see.
      norm_pix: standardize every target patch by its own mean and variance.
      fourier_weight: alpha of Equation 3; 0 leaves the Fourier loss out.
      fourier_scale: "equation_2" compares spectra of patches; "released" multiplies that loss by
        crop / patch², for those who continue models that the released code trained. Its Fourier
        transform goes over squares of as many values as the crop has patches, not over patches:
        with patches of 8 at 256 pixels its spectra are 4 times as large (3.9 measured), with
        patches of 16 they are equal.
    """

    encoder: ParallelViTConfig = ParallelViTConfig()
    decoder: DecoderConfig = DecoderConfig()
    mask_ratio: float = setting(0.75, ge=0, lt=1)
    norm_pix: bool = False
    fourier_weight: float = setting(0.01, ge=0, le=1)
    fourier_scale: Literal["equation_2", "released"] = "equation_2"


# Stochastic depth by size. S to L: Section 4.2; larger sizes as L.
_DROP_PATH = {"ti": 0.1, "s": 0.1, "b": 0.1, "l": 0.3, "h": 0.3, "g": 0.3, "gg": 0.3}
_PATCHES = {"ti": (16, 8), "s": (16, 8), "b": (16, 8), "l": (16, 8), "h": (16, 14, 8)}
ENCODERS = {
    f"vit_{size}{patch}": (size, patch)
    for size in VIT_SIZES
    for patch in _PATCHES.get(size, (16, 14, 8))
}


def parallel_vit_config(name: str, **changes: Any) -> ParallelViTConfig:
    """The encoder of a published size: "vit_s16", "vit_b8", "vit_l16", "vit_h14", "vit_gg14" …

    Args:
      name: one of `ENCODERS` ("g" is ViT-g, "gg" is ViT-G).
      **changes: fields of `ParallelViTConfig` to replace. A patch that does not divide 256 gets the
        largest crop below 256 that it does divide, unless `crop` is given.

    Raises:
      InputError: an unknown name or a field that does not fit.
    """
    if name not in ENCODERS:
        raise InputError(f"no encoder is called '{name}': {nearest(name, list(ENCODERS))}")
    size, patch = ENCODERS[name]
    width, depth, heads, mlp_ratio = VIT_SIZES[size]
    values: dict[str, Any] = {
        "patch": patch,
        "width": width,
        "depth": depth,
        "heads": heads,
        "mlp_ratio": mlp_ratio,
        "drop_path": _DROP_PATH[size],
        "crop": 256 // patch * patch,
    }
    known = [field.name for field in dataclasses.fields(ParallelViTConfig)]
    for key in changes:
        if key not in known:
            raise InputError(f"an encoder has no field '{key}': {nearest(key, known)}")
    return ParallelViTConfig(**(values | changes))


def mae_config(name: str, **changes: Any) -> MAEConfig:
    """A masked autoencoder with the decoder and mask ratio that the paper uses for its encoder.

    Channel-agnostic encoders get the released decoder (width 512, depth 8 per channel, epsilon
    1e-5); joint ones the 25-million-parameter decoder of He et al. Channel-agnostic ViT-L and
    above mask 85 %, all others 75 % (Section 4.2.2).

    Args:
      name: one of `ENCODERS`.
      **changes: fields of `ParallelViTConfig` to replace.
    """
    encoder = parallel_vit_config(name, **changes)
    decoder = DecoderConfig(norm_eps=1e-5 if encoder.channel_agnostic else 1e-6)
    large = encoder.channel_agnostic and encoder.width >= 1024
    return MAEConfig(encoder=encoder, decoder=decoder, mask_ratio=0.85 if large else 0.75)
