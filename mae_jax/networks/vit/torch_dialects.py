"""The names that other implementations give the tensors of a vision transformer, in timm's.

Published files of one architecture differ in names, in what they store joined or apart, and in
what they hold besides the encoder. `to_timm` brings all of them to one set of names:
`cls_token`, `register_tokens`, `pos_embed` (row 0 the class token's), `patch_embed.proj.*`,
`blocks.{i}.{norm1,attn.qkv,attn.proj,ls1.gamma,norm2,mlp.fc1,mlp.fc2,ls2.gamma}.*` (SwiGLU:
`mlp.w12`, `mlp.w3`), `norm.*`, and SubCell's pooler as `pooler.{v,u,w}.*`. No weights are needed
to tell the dialects apart: their names do.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Tensors = Mapping[str, np.ndarray]

# Parts of training checkpoints that no encoder needs, and buffers that are computed anew.
_DROPPED = re.compile(
    r"(.*\.)?(mask_token|bias_mask|periods|k_bias|num_batches_tracked|freqs)$|"
    r"(.*\.)?(dino_head|ibot_head|local_cls_norm|projectors|decoder\w*)\.|"
    r"decoder_\w+|head\.(mlp|last_layer)|classifier\.|(pooler\.dense\.)"
)


@dataclass(frozen=True)
class Dialect:
    """What the names of a file tell of its architecture beyond the shapes.

    Attributes:
      norm_eps: epsilon of its LayerNorms.
      position_resize: how its table of positions is interpolated (`ViTConfig`).
    """

    norm_eps: float = 1e-6
    position_resize: str = "antialias"


def matches(tensors: Tensors) -> bool:
    """Whether these are the tensors of an ordinary vision transformer in a known dialect."""
    names = to_timm(tensors)[0]
    has_place = "pos_embed" in names or "register_tokens" in names
    return "blocks.0.attn.qkv.weight" in names and "cls_token" in names and has_place


def to_timm(tensors: Tensors) -> tuple[dict[str, np.ndarray], Dialect]:
    """The tensors under timm's names, and what their own names told."""
    own = _encoder_part(tensors)
    dino_training = any(name.endswith("mask_token") for name in own)
    own = {name: value for name, value in own.items() if not _DROPPED.match(name)}
    if "embeddings.cls_token" in own:
        named = _from_transformers(own)
    else:
        named = {_unchunked(name): value for name, value in own.items()}
        _rename_dinov3(named)
        _rename_timm(named)
    _join(named)
    _add_class_row(named)
    registers = "register_tokens" in named
    if "pos_embed" not in named and registers:
        return named, Dialect(norm_eps=1e-5)
    if "embeddings.cls_token" in own and "encoder.layer.0.layernorm_before.weight" in own:
        return named, Dialect(1e-12, "bicubic")
    # timm's own releases of DINOv2 lack the mask token, and resize as all of timm does.
    if dino_training and "blocks.0.ls1.gamma" in named and not registers:
        return named, Dialect(position_resize="bicubic_offset")
    return named, Dialect()


def _encoder_part(tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors of the encoder without its prefix, and SubCell's pooler.

    The encoder is where the class token is; of a student and a teacher, the teacher counts.
    """
    ends = [re.fullmatch(r"(.*?)(?:embeddings\.)?cls_token", name) for name in tensors]
    prefixes = [match[1] for match in ends if match and (not match[1] or match[1][-1] == ".")]
    if not prefixes:
        return dict(tensors)
    prefix = min(prefixes, key=lambda p: ("teacher" not in p, len(p)))
    inner = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
    return inner | {n: v for n, v in tensors.items() if n.startswith("pool_model.")}


def _unchunked(name: str) -> str:
    """FSDP's chunks of blocks: `blocks.1.7.norm1` is block 7 of all."""
    return re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)


_BLOCK = r"(?:encoder\.|model\.)?layer\.(\d+)\."
# "@" stands for a block: encoder.layer.7. or layer.7.
_TRANSFORMERS = (
    (r"embeddings\.(cls_token|register_tokens)", r"\1"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.(?:projection\.)?(weight|bias)", r"patch_embed.proj.\1"),
    (r"@attention\.attention\.(query|key|value)\.(\w+)",
     r"blocks.\1.attn.\2.\3"),
    (r"@attention\.([qkv])_proj\.(\w+)",
     r"blocks.\1.attn.\2.\3"),
    (r"@attention\.(?:output\.dense|o_proj)\.(\w+)",
     r"blocks.\1.attn.proj.\2"),
    (r"@layernorm_before\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"@layernorm_after\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"@intermediate\.dense\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"@output\.dense\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"@layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"@mlp\.weights_in\.(\w+)", r"blocks.\1.mlp.w12.\2"),
    (r"@mlp\.weights_out\.(\w+)", r"blocks.\1.mlp.w3.\2"),
    (r"@mlp\.gate_proj\.(\w+)", r"blocks.\1.mlp.gate_proj.\2"),
    (r"@mlp\.up_proj\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"@mlp\.down_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"@(norm[12]|mlp\.fc[12])\.(\w+)", r"blocks.\1.\2.\3"),
    (r"(?:layernorm|norm)\.(\w+)", r"norm.\1"),
    (r"pool_model\.attention_v\.\d\.(\w+)", r"pooler.v.\1"),
    (r"pool_model\.attention_u\.\d\.(\w+)", r"pooler.u.\1"),
    (r"pool_model\.attention\.(\w+)", r"pooler.w.\1"),
)  # fmt: skip


def _from_transformers(tensors: Tensors) -> dict[str, np.ndarray]:
    """Names of transformers: Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel, ViTModel."""
    named = {}
    for name, value in tensors.items():
        for pattern, replacement in _TRANSFORMERS:
            new, count = re.subn(f"^{pattern.replace('@', _BLOCK)}$", replacement, name)
            if count:
                name = new
                break
        named[name] = value
    return named


def _rename_dinov3(named: dict[str, np.ndarray]) -> None:
    """DINOv3's `storage_tokens`, and its biases, of which the mask leaves queries and values."""
    if "storage_tokens" not in named:
        return
    named["register_tokens"] = named.pop("storage_tokens")
    for name in [n for n in named if n.endswith("attn.qkv.bias")]:
        bias = np.array(named[name], np.float32)
        third = len(bias) // 3
        bias[third : 2 * third] = 0
        named[name] = bias


def _rename_timm(named: dict[str, np.ndarray]) -> None:
    """timm's `reg_token`, and of its Eva (DINOv3) `gamma_1` and biases apart."""
    if "reg_token" in named:
        named["register_tokens"] = named.pop("reg_token")
    for name in list(named):
        if match := re.fullmatch(r"(blocks\.\d+)\.gamma_([12])", name):
            named[f"{match[1]}.ls{match[2]}.gamma"] = named.pop(name)
        if match := re.fullmatch(r"(blocks\.\d+\.attn)\.q_bias", name):
            named[f"{match[1]}.q.bias"] = named.pop(name)
            named[f"{match[1]}.v.bias"] = named.pop(f"{match[1]}.v_bias")


_ROLES = (("q", "query"), ("k", "key"), ("v", "value"))


def _join(named: dict[str, np.ndarray]) -> None:
    """Queries, keys and values as one matrix, with zeros for biases that are not stored.

    Gates apart from what they gate (`w1`, `w2`) become `w12`, and timm's packed `fc1` too.
    """
    for i in range(_depth(named)):
        attn, mlp = f"blocks.{i}.attn", f"blocks.{i}.mlp"
        _join_attention(named, attn)
        for kind in ("weight", "bias"):
            fc1, fc2 = named.get(f"{mlp}.fc1.{kind}"), named.get(f"{mlp}.fc2.weight")
            gate = named.pop(f"{mlp}.gate_proj.{kind}", None)
            if gate is not None and fc1 is not None:
                named[f"{mlp}.w12.{kind}"] = np.concatenate([gate, named.pop(f"{mlp}.fc1.{kind}")])
            elif fc1 is not None and fc2 is not None and len(fc1) != fc2.shape[1]:
                named[f"{mlp}.w12.{kind}"] = named.pop(f"{mlp}.fc1.{kind}")
            if f"{mlp}.w1.{kind}" in named:
                pair = [named.pop(f"{mlp}.{n}.{kind}") for n in ("w1", "w2")]
                named[f"{mlp}.w12.{kind}"] = np.concatenate(pair)
        if f"{mlp}.w12.weight" in named and f"{mlp}.fc2.weight" in named:
            for kind in ("weight", "bias"):
                named[f"{mlp}.w3.{kind}"] = named.pop(f"{mlp}.fc2.{kind}")


def _join_attention(named: dict[str, np.ndarray], attn: str) -> None:
    parts: dict[str, list[np.ndarray | None]] = {
        kind: [
            next((named.pop(n) for r in roles if (n := f"{attn}.{r}.{kind}") in named), None)
            for roles in _ROLES
        ]
        for kind in ("weight", "bias")
    }
    weights = [weight for weight in parts["weight"] if weight is not None]
    if len(weights) == len(_ROLES):
        named[f"{attn}.qkv.weight"] = np.concatenate(weights)
    weight = named.get(f"{attn}.qkv.weight")
    if weight is not None and f"{attn}.qkv.bias" not in named:
        zeros = np.zeros(len(weight) // 3, np.float32)
        biases = [zeros if bias is None else bias for bias in parts["bias"]]
        named[f"{attn}.qkv.bias"] = np.concatenate(biases)


def _depth(named: Tensors) -> int:
    blocks = (re.match(r"blocks\.(\d+)\.", name) for name in named)
    return 1 + max((int(match[1]) for match in blocks if match), default=-1)


def _add_class_row(named: dict[str, np.ndarray]) -> None:
    """timm's table without a row for the class token, whose position its token includes."""
    table = named.get("pos_embed")
    if table is not None and table.ndim == 3:
        rows = table.shape[1]
        if round(rows**0.5) ** 2 == rows and "register_tokens" in named:
            row = np.zeros_like(np.asarray(table[:, :1]))
            named["pos_embed"] = np.concatenate([row, table], axis=1)
