"""PyTorch networks to compare with: timm's own blocks, and a plain transcription of the decoders.

Nothing here is shared with the package: it says the same mathematics a second time, loop by loop.
"""

import importlib.util

import pytest


def import_timm():
    """timm, or a skip with the reason where torch or timm are absent."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision", reason="timm needs torchvision") if _ops_match() else None
    if not _ops_match():
        _declare_missing_operators(torch)
    return pytest.importorskip("timm")


def import_torchvision():
    """torchvision, or a skip with the reason."""
    torch = pytest.importorskip("torch")
    if not _ops_match():
        _declare_missing_operators(torch)
    return pytest.importorskip("torchvision")


def _ops_match() -> bool:
    if importlib.util.find_spec("torchvision") is None:
        return True
    try:
        import torchvision  # noqa: F401
    except RuntimeError as problem:
        if "torchvision::" in str(problem):
            return False
        raise
    return True


_libraries = []


def _declare_missing_operators(torch) -> None:
    """A torchvision whose compiled operators do not load imports once their names exist."""
    if _libraries:
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)


def transcribe_joint_decoder(p, tokens, rank, positions, *, depth, heads, eps):
    """He et al.: append mask tokens, unshuffle, add the table, blocks, norm, predict.

    `p` maps the reference's names to tensors; `tokens` (B, 1 + kept, D) come from the encoder;
    `rank` (B, L) says where in the shuffled order each position stands.
    """
    import torch

    x = linear(p, "encoder_decoder_proj", tokens)
    batch, length = rank.shape
    fill = p["decoder.mask_token"].expand(batch, length + 1 - x.shape[1], -1)
    patches = torch.cat([x[:, 1:], fill], dim=1)
    patches = torch.stack([patches[b, rank[b]] for b in range(batch)])
    x = torch.cat([x[:, :1], patches], dim=1) + positions
    for i in range(depth):
        x = prenorm_block(p, f"decoder.blocks.{i}", x, heads, eps)
    x = norm(p, "decoder.norm", x, eps)
    return linear(p, "decoder_pred", x)[:, 1:]


def transcribe_channel_decoder(p, tokens, rank, positions, *, channels, depth, heads, eps):
    """Per channel: cross-attention to all patches, MLP with residual, blocks of its own."""
    import torch

    x = linear(p, "encoder_decoder_proj", tokens)[:, 1:]
    batch, length = rank.shape
    grid = length // channels
    fill = p["decoder.mask_token"].expand(batch, length - x.shape[1], -1)
    x = torch.cat([x, fill], dim=1)
    x = torch.stack([x[b, rank[b]] for b in range(batch)]) + positions
    of_channel = [p[f"decoder.modality_tokens.{m}"].expand(1, grid, -1) for m in range(channels)]
    x = x + torch.cat(of_channel, dim=1)
    decoded = []
    for m in range(channels):
        query = norm(p, "decoder.query_norm", x[:, m * grid : (m + 1) * grid], eps)
        context = norm(p, "decoder.context_norm", x, eps)
        k, v = linear(p, "decoder.cross_attention.kv", context).chunk(2, dim=-1)
        q = linear(p, "decoder.cross_attention.q", query)
        u = linear(p, "decoder.cross_attention.proj", attend(q, k, v, 8))
        u = u + mlp(p, "decoder.mlp", norm(p, "decoder.out_norm", u, eps))
        for i in range(depth):
            u = prenorm_block(p, f"decoder.decoders.{m}.{i}", u, heads, eps)
        decoded.append(u)
    return linear(p, "decoder_pred", torch.cat(decoded, dim=1))


def prenorm_block(p, name, x, heads, eps):
    q, k, v = linear(p, f"{name}.attn.qkv", norm(p, f"{name}.norm1", x, eps)).chunk(3, dim=-1)
    x = x + linear(p, f"{name}.attn.proj", attend(q, k, v, heads))
    return x + mlp(p, f"{name}.mlp", norm(p, f"{name}.norm2", x, eps))


def attend(q, k, v, heads):
    import torch

    size = q.shape[-1] // heads
    outs = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / size**0.5, dim=-1)
        outs.append(weights @ v[..., part])
    return torch.cat(outs, dim=-1)


def mlp(p, name, x):
    import torch

    return linear(p, f"{name}.fc2", torch.nn.functional.gelu(linear(p, f"{name}.fc1", x)))


def linear(p, name, x):
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def norm(p, name, x, eps):
    import torch

    return torch.nn.functional.layer_norm(
        x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], eps
    )
