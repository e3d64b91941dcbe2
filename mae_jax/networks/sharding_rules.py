"""Which way the parameters of each network are divided, by their names.

A rule is (regular expression on a parameter's path, mesh axes of its last dimensions). Matrix
products come in pairs: the first is divided by its outputs ("columns", a part of the heads or of
the hidden layer on each device), the second by its inputs ("rows"), so that between the two
nothing is exchanged. The dimension that is left is divided over fsdp, for storing.
"""

from mae_jax.distributed.config import ShardingRule

COLUMN_PARALLEL, ROW_PARALLEL = ("fsdp", "tensor"), ("tensor", "fsdp")

_BLOCKS: tuple[ShardingRule, ...] = (
    (r"/in_proj$", COLUMN_PARALLEL),
    (r"/(qkv|q|kv|fc1)/kernel$", COLUMN_PARALLEL),
    (r"/(attn_out_proj|mlp_out_proj|proj|fc2)/kernel$", ROW_PARALLEL),
    (r"/head/kernel$", COLUMN_PARALLEL),
    # XLA's partitioner (jax 0.10.2, CPU) computed wrong losses or gradients on meshes of three axes
    # where tokens were divided over tensor when they were gathered, as after the patches' embedding
    # and the projection to the decoder: both are left to fsdp. The prediction is left whole.
    (r"/encoder_decoder_proj/kernel$", ("fsdp", "")),
    (r"/decoder_pred/kernel$", ("", "")),
)

RULES: dict[str, tuple[ShardingRule, ...]] = {
    "mae": _BLOCKS,
    "vit": _BLOCKS,
    # Convolutions (height, width, in, out) are stored in parts, but not computed in parts: divided
    # over tensor, their gradients were wrong on meshes of three axes. Networks of their size fit
    # every device.
    "unet": ((r"/(conv\d+|upsample\d+|head)/kernel$", ("", "fsdp")),),
    "densenet": (
        (r"/(\w*conv\d?)/kernel$", ("", "fsdp")),
        (r"/(classifier|neck1)/kernel$", COLUMN_PARALLEL),
        (r"/neck2/kernel$", ROW_PARALLEL),
    ),
}
