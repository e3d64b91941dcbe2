"""What devices can do at most: the denominator of model FLOP utilisation (MFU)."""

# Dense bfloat16 FLOP/s of one JAX device: Google's pages on TPU architectures, NVIDIA's data
# sheets (SXM, without sparsity).
PEAKS = {
    "v4": 275e12,
    "v5e": 197e12,
    "v5p": 459e12,
    "v6e": 918e12,
    "a100": 312e12,
    "h100": 989e12,
    "h200": 989e12,
}
# By what `jax.Device.device_kind` says, in lower case; the first that is found in it counts.
_KINDS = {
    "tpu v6": "v6e",
    "tpu v5 lite": "v5e",
    "tpu v5e": "v5e",
    "tpu v5": "v5p",
    "tpu v4": "v4",
    "h200": "h200",
    "h100": "h100",
    "a100": "a100",
}


def peak_flops(device_kind: str) -> float | None:
    """The peak of a kind of device in FLOP/s, or None where it is not known (CPUs)."""
    for words, chip in _KINDS.items():
        if words in device_kind.lower():
            return PEAKS[chip]
    return None
