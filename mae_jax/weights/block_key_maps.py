"""Key maps of the layers that several networks share, in PyTorch's and timm's names."""

from mae_jax.weights.key_map import KeyMapEntry


def norm_entries(source: str, target: str, index: int | None = None) -> list[KeyMapEntry]:
    """Return the entries of a LayerNorm."""
    return [
        KeyMapEntry(f"{source}.weight", f"{target}.scale", index=index),
        KeyMapEntry(f"{source}.bias", f"{target}.bias", index=index),
    ]


def linear_entries(
    source: str, target: str, index: int | None = None, *, bias: bool = True
) -> list[KeyMapEntry]:
    """Return the entries of a linear layer."""
    entries = [KeyMapEntry(f"{source}.weight", f"{target}.kernel", "linear", index)]
    if bias:
        entries.append(KeyMapEntry(f"{source}.bias", f"{target}.bias", index=index))
    return entries


def prenorm_block_entries(
    source: str,
    target: str,
    index: int | None = None,
    *,
    layer_scale: bool = False,
    mlp: tuple[str, str] = ("fc1", "fc2"),
) -> list[KeyMapEntry]:
    """Return the entries of an ordinary pre-norm transformer block, as timm names it.

    Args:
      layer_scale: whether its residuals have factors.
      mlp: the names of the two layers of its MLP.
    """
    entries = [
        *norm_entries(f"{source}.norm1", f"{target}.norm1", index),
        *linear_entries(f"{source}.attn.qkv", f"{target}.qkv", index),
        *linear_entries(f"{source}.attn.proj", f"{target}.proj", index),
        *norm_entries(f"{source}.norm2", f"{target}.norm2", index),
    ]
    for layer in mlp:
        entries += linear_entries(f"{source}.mlp.{layer}", f"{target}.mlp.{layer}", index)
    if layer_scale:
        for number in (1, 2):
            gamma = f"{source}.ls{number}.gamma"
            entries.append(KeyMapEntry(gamma, f"{target}.layer_scale{number}", index=index))
    return entries
