"""Defaults of an embedding job, apart from it so that its help needs no JAX."""

BATCH_SIZE = 64  # crops per device
WELLS_PER_SHARD = 64
MEMORY = 2 * 10**9  # bytes of decoded pixels that may wait
