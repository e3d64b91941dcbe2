"""Configs of ordinary vision transformers, and those of published sizes."""

from typing import Any, Literal

from mae_jax.config import distinct, nearest, schema, setting
from mae_jax.errors import InputError
from mae_jax.networks.channels import CELL_PAINTING
from mae_jax.networks.compute_options import Attention, Dtype, Remat


@schema
class ViTConfig:
    """An ordinary ViT; its switches cover the published ones (DINO, DINOv2, DINOv3, SubCell, …).

    Attributes:
      grid: side of the learned table of positions, in patches; other grids interpolate it. With
        rotary positions, the grid of training alone.
      channels: names of the channels that it takes, in order.
      classes: outputs of the classifier; 0 for none.
      norm_eps: epsilon of all LayerNorms.
      fc_norm: pool by the mean of the patch tokens and then LayerNorm, in place of LayerNorm on
        every token and the class token (timm's global_pool="avg").
      final_norm: LayerNorm after the last block; False for an encoder that ends with a block.
      registers: tokens without content that stand between the class token and the patches (Darcet
        et al., 2024); no pooling includes them.
      layer_scale: first value of the factors of each residual; None for none.
      mlp: "gelu", two layers around it; or "swiglu", silu(gate) * up before the last layer. The
        hidden layer has width * mlp_ratio units, of each of gate and up.
      positions: "learned", a table added to the tokens; or "rotary", a rotation of queries and keys
        of the patches (DINOv3).
      position_resize: how the table is interpolated: "antialias" (timm, DINOv2 with registers),
        "bicubic" (transformers' ViT) or "bicubic_offset" (DINO, DINOv2; `nn.resize_positions`).
      pooler_heads: heads of a gated attention pooling of all tokens ("attention"; SubCell); 0 for
        none.
      pooler_hidden: its hidden units.
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
    final_norm: bool = True
    registers: int = setting(0, ge=0)
    layer_scale: float | None = setting(None, ge=0)
    mlp: Literal["gelu", "swiglu"] = "gelu"
    positions: Literal["learned", "rotary"] = "learned"
    position_resize: Literal["antialias", "bicubic", "bicubic_offset"] = "antialias"
    pooler_heads: int = setting(0, ge=0)
    pooler_hidden: int = setting(512, ge=1)
    attention: Attention = "auto"
    dtype: Dtype = "float32"
    remat: Remat = "none"
    scan: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"width {self.width} must be a multiple of heads {self.heads}.")
        if self.positions == "rotary" and self.width // self.heads % 4:
            raise InputError(
                f"rotary positions need heads of a multiple of 4 units, not {self.width} / "
                f"{self.heads}."
            )
        if self.fc_norm and not self.final_norm:
            raise InputError("fc_norm is a final norm: set final_norm, or neither.")


_S: dict[str, Any] = {"width": 384, "depth": 12, "heads": 6}
_B: dict[str, Any] = {"width": 768, "depth": 12, "heads": 12}
_L: dict[str, Any] = {"width": 1024, "depth": 24, "heads": 16}
_G: dict[str, Any] = {
    "width": 1536, "depth": 40, "heads": 24, "mlp": "swiglu", "mlp_ratio": 4096 / 1536
}  # fmt: skip
VIT_SIZES: dict[str, dict[str, Any]] = {
    "vit_s16": {"patch": 16, **_S},
    "vit_b16": {"patch": 16, **_B},
    "vit_b8": {"patch": 8, **_B},
    "vit_l16": {"patch": 16, **_L},
}
_RGB = ("red", "green", "blue")
_DINOV2 = {
    "patch": 14, "grid": 37, "layer_scale": 1e-5, "position_resize": "bicubic_offset",
    "channels": _RGB,
}  # fmt: skip
_REGISTERS = {"registers": 4, "position_resize": "antialias"}
_DINOV3 = {
    "patch": 16, "grid": 14, "layer_scale": 1e-5, "registers": 4, "positions": "rotary",
    "norm_eps": 1e-5, "channels": _RGB,
}  # fmt: skip
_CELL_DINO = {"layer_scale": 1.0, "position_resize": "bicubic_offset"}
_HPA = ("Microtubules", "Protein", "DNA", "ER")
_TIMM = {"patch": 16, "grid": 14, "channels": _RGB}
# Architectures of published encoders, by the names that `mae-jax models` lists them under.
VIT_SIZES |= {
    "morphem": {
        "patch": 16, "grid": 14, "channels": ("any",), "position_resize": "bicubic_offset", **_S
    },
    **{f"dinov2-{k}": _DINOV2 | size for k, size in zip("sblg", (_S, _B, _L, _G), strict=True)},
    **{
        f"dinov2-reg-{k}": _DINOV2 | _REGISTERS | size
        for k, size in zip("sblg", (_S, _B, _L, _G), strict=True)
    },
    **{f"dinov3-{k}": _DINOV3 | size for k, size in zip("sbl", (_S, _B, _L), strict=True)},
    "cell-dino-cp-s": {"patch": 8, "grid": 16, **_CELL_DINO, **_S},
    "cell-dino-hpa-l16": {"patch": 16, "grid": 14, "channels": _HPA, **_CELL_DINO, **_L},
    "cell-dino-hpa-l14": {"patch": 14, "grid": 37, "channels": _HPA, **_CELL_DINO, **_L},
    "channel-adaptive-dino-l": {
        "patch": 16, "grid": 14, "channels": ("any",), **_CELL_DINO, **_L
    },
    "timm-s16": _TIMM | _S,
    "timm-b16": _TIMM | _B,
    "subcell": {
        "patch": 16, "grid": 28, "channels": ("Microtubules", "ER", "DNA", "Protein"),
        "norm_eps": 1e-12, "position_resize": "bicubic", "pooler_heads": 2, **_B,
    },
}  # fmt: skip


def vit_config(name: str, **changes: Any) -> ViTConfig:
    """An ordinary ViT of a published size, such as "vit_b16", "dinov2-s" or "subcell".

    Raises:
      InputError: an unknown name.
    """
    if name not in VIT_SIZES:
        raise InputError(f"no ViT is called '{name}': {nearest(name, list(VIT_SIZES))}")
    size = VIT_SIZES[name]
    return ViTConfig(**({"grid": 256 // size["patch"]} | size | changes))
