"""Slices by name, as the vendors count them, and devices by the kind that JAX reports."""

import subprocess
import sys

import pytest

from mae_jax.distributed.hardware import ACCELERATORS, device_peak_flops, parse_slice
from mae_jax.errors import InputError


@pytest.mark.parametrize(
    ("name", "chips", "devices", "topology"),
    [
        ("v5p-256", 128, 128, "4x4x8"),
        ("v5p-8", 4, 4, "2x2x1"),
        ("v4-64", 32, 32, "2x4x4"),
        ("v5e-256", 256, 256, "16x16"),
        ("v5litepod-8", 8, 8, "2x4"),
        ("v6e-128", 128, 128, "8x16"),
        ("tpu7x-8", 4, 8, "2x2x1"),
        ("tpu7x-16", 8, 16, "2x2x2"),
    ],
)
def test_tpu_slices(name: str, chips: int, devices: int, topology: str) -> None:
    slice_ = parse_slice(name)
    assert (slice_.chips, slice_.devices, slice_.topology) == (chips, devices, topology)


@pytest.mark.parametrize(
    ("name", "hosts", "chips_per_host"),
    [("v4-8", 1, 4), ("v5e-4", 1, 4), ("v5e-8", 1, 8), ("v5e-16", 4, 4), ("v5p-256", 32, 4),
     ("v6e-256", 64, 4), ("tpu7x-16", 2, 4), ("h100-8", 1, 8), ("h100-12", 2, 8),
     ("gb200-72", 18, 4)],
)  # fmt: skip
def test_hosts(name: str, hosts: int, chips_per_host: int) -> None:
    """The figures are those of Google's pages on each generation's configurations."""
    slice_ = parse_slice(name)
    assert (slice_.hosts, slice_.chips_per_host) == (hosts, chips_per_host)


def test_gpu_clusters_count_gpus() -> None:
    assert parse_slice("H100-24").devices == 24
    assert parse_slice("h200-8").usable_memory == pytest.approx(0.95 * 141e9)


@pytest.mark.parametrize(
    ("name", "message"),
    [("v9-8", "'v9' is no accelerator: did you mean"), ("tpu", "no name of a slice"),
     ("v5p-3", "whole chips"), ("tpu7x-7", "whole chips"), ("v5e-48", "power of two"),
     ("v5e-0", "whole chips"), ("h100-0", "no GPU")],
)  # fmt: skip
def test_wrong_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_slice(name)


@pytest.mark.parametrize(
    ("device_kind", "peak"),
    [("TPU v4", 275e12), ("TPU v5 lite", 197e12), ("TPU v5e", 197e12), ("TPU v5", 459e12),
     ("TPU v5p", 459e12), ("TPU v6 lite", 918e12), ("TPU7x", 1153.5e12),
     ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H200", 989e12),
     ("NVIDIA B200", 2250e12), ("NVIDIA GB200", 2500e12), ("cpu", None)],
)  # fmt: skip
def test_peaks_by_device_kind(device_kind: str, peak: float | None) -> None:
    assert device_peak_flops(device_kind) == peak


def test_a_tpu7x_chip_is_two_devices() -> None:
    """Google's figures of a chip: 2,307 TFLOP/s, 192 GiB, 7.4 TB/s."""
    half = ACCELERATORS["tpu7x"]
    assert half.devices_per_chip * half.peak_flops == 2307e12
    assert half.devices_per_chip * half.memory == 192 * 2**30


def test_needs_no_jax() -> None:
    code = "import sys, mae_jax.distributed.hardware; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
