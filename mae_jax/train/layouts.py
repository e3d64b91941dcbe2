"""Which way the parameters of each network are divided, by their names.

A rule is (regular expression on a parameter's path, mesh axes of its last dimensions). Matrix
products come in pairs: the first is divided by its outputs ("columns", a part of the heads or of
the hidden layer on each device), the second by its inputs ("rows"), so that between the two
nothing is exchanged. The dimension that is left is divided over fsdp, for storing.
"""

Rule = tuple[str, tuple[str, ...]]

COLUMNS, ROWS = ("fsdp", "tensor"), ("tensor", "fsdp")

_BLOCKS: tuple[Rule, ...] = (
    (r"/in_proj$", COLUMNS),
    (r"/(qkv|q|kv|fc1)/kernel$", COLUMNS),
    (r"/(attn_out_proj|mlp_out_proj|proj|fc2)/kernel$", ROWS),
    (r"/head/kernel$", COLUMNS),
    (r"/encoder_decoder_proj/kernel$", COLUMNS),
    # XLA's partitioner (jax 0.10.2, CPU) computed wrong gradients where the patches' embedding was
    # divided over tensor before the kept ones are gathered, and a wrong loss where the prediction
    # was: the first is left to fsdp, the second whole.
    (r"/decoder_pred/kernel$", ("", "")),
)

LAYOUTS: dict[str, tuple[Rule, ...]] = {
    "mae": _BLOCKS,
    "vit": _BLOCKS,
    # Convolutions (height, width, in, out) one after the other, each divided by its outputs.
    "mu-net": ((r"/(conv\d+|upsample\d+|head)/kernel$", COLUMNS),),
    # A dense layer is a pair: a bottleneck and what it adds to the features.
    "densenet": (
        (r"/\w*_conv1/kernel$", COLUMNS),
        (r"/\w*_conv2/kernel$", ROWS),
        (r"/(conv0|transition\d+_conv|classifier|neck1)/kernel$", COLUMNS),
        (r"/neck2/kernel$", ROWS),
    ),
}
