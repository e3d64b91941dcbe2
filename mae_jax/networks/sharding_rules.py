"""How parameters are sharded, by their names: the rules that several networks share.

A rule is (regular expression on a parameter's path, mesh axes of its last dimensions). Matrix
products come in pairs: the first is sharded by its outputs (column parallel: a share of the heads
or of the hidden layer on each device), the second by its inputs (row parallel), so that nothing is
exchanged between the two. The other dimension is sharded over fsdp, for storage.
"""

from mae_jax.distributed.config import ShardingRule

COLUMN_PARALLEL, ROW_PARALLEL = ("fsdp", "tensor"), ("tensor", "fsdp")

TRANSFORMER: tuple[ShardingRule, ...] = (
    (r"/in_proj$", COLUMN_PARALLEL),
    (r"/(qkv|q|kv|fc1|w12)/kernel$", COLUMN_PARALLEL),
    (r"/(attn_out_proj|mlp_out_proj|proj|fc2|w3)/kernel$", ROW_PARALLEL),
    (r"/head/kernel$", COLUMN_PARALLEL),
    # XLA's partitioner (jax 0.10.2, CPU) computed wrong losses or gradients on meshes of three axes
    # where tokens were sharded over tensor when they were gathered, as after the patch embedding
    # and the projection to the decoder: both use fsdp alone. The prediction is replicated.
    (r"/encoder_decoder_proj/kernel$", ("fsdp", "")),
    (r"/decoder_pred/kernel$", ("", "")),
)
