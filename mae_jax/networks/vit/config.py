"""Configs of ordinary vision transformers, and those of published sizes."""

from typing import Any

from mae_jax.config import distinct, nearest, schema, setting
from mae_jax.errors import InputError
from mae_jax.networks.channels import CELL_PAINTING
from mae_jax.networks.compute_options import Attention, Dtype, Remat


@schema
class ViTConfig:
    """An ordinary ViT.

    Attributes:
      grid: side of the learned table of positions, in patches; other grids interpolate it.
      channels: names of the channels that it takes, in order.
      classes: outputs of the classifier; 0 for none.
      norm_eps: epsilon of all LayerNorms.
      fc_norm: pool by the mean of the patch tokens and then LayerNorm, in place of LayerNorm on
        every token and the class token (timm's global_pool="avg").
      The others as in `ParallelViTConfig`.
    """

    patch: int = setting(16, ge=1)
    width: int = setting(768, ge=1)
    depth: int = setting(12, ge=1)
    heads: int = setting(12, ge=1)
    mlp_ratio: float = setting(4.0, gt=0)
    grid: int = setting(16, ge=1)
    channels: tuple[str, ...] = setting(CELL_PAINTING, check=distinct)
    classes: int = setting(0, ge=0)
    norm_eps: float = setting(1e-6, gt=0)
    fc_norm: bool = False
    attention: Attention = "auto"
    dtype: Dtype = "float32"
    remat: Remat = "none"
    scan: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"width {self.width} must be a multiple of heads {self.heads}.")


VIT_SIZES: dict[str, dict[str, int]] = {
    "vit_s16": {"patch": 16, "width": 384, "depth": 12, "heads": 6},
    "vit_b16": {"patch": 16, "width": 768, "depth": 12, "heads": 12},
    "vit_b8": {"patch": 8, "width": 768, "depth": 12, "heads": 12},
    "vit_l16": {"patch": 16, "width": 1024, "depth": 24, "heads": 16},
}


def vit_config(name: str, **changes: Any) -> ViTConfig:
    """An ordinary ViT of a published size: "vit_s16", "vit_b16", "vit_b8" or "vit_l16".

    Raises:
      InputError: an unknown name.
    """
    if name not in VIT_SIZES:
        raise InputError(f"no ViT is called '{name}': {nearest(name, list(VIT_SIZES))}")
    size = VIT_SIZES[name]
    return ViTConfig(**({**size, "grid": 256 // size["patch"]} | changes))
