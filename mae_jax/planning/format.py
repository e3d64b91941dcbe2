"""An estimate in words and as plain numbers."""

import math
from typing import Any

from mae_jax.distributed.hardware import GIB
from mae_jax.planning.roofline import Estimate


def description(found: Estimate, mfu: float | None = None) -> str:
    """The lines that `mae-jax plan` prints.

    Args:
      mfu: a measured utilisation, for a line of the time at it.
    """
    need, slice_ = found.needs, found.slice
    chip = slice_.chip
    sent = need.moved.sent()
    parts = ", ".join(f"{kind} {_si(size)}B" for kind, size in sorted(sent.items()))
    how = "compiled" if need.source == "compiled" else "by formula"
    lines = [
        ("parameters", f"{need.parameters / 1e6:.2f} million"),
        ("step", f"{need.batch:,} crops, {_si(need.model_flops)}FLOP of the model, "
                 f"{_si(need.executed_flops)}FLOP executed"),
        ("run", f"{need.crops / 1e6:,.2f} million crops in {need.crops // need.batch:,} steps"),
        ("slice", f"{slice_.name}: {slice_.devices} {chip.name} of {chip.memory / GIB:.0f} GiB "
                  f"and {chip.peak / 1e12:.0f} TFLOP/s"),
        ("memory", f"{need.state_bytes / GIB:.2f} GiB of state and batch and "
                   f"{need.working_bytes / GIB:.2f} GiB of temporaries a device ({how})"),
        ("fits", f"{'yes' if found.fits else 'no'}: {need.device_bytes / GIB:.2f} of "
                 f"{slice_.usable / GIB:.1f} usable GiB"),
        ("collectives", f"{parts} sent by a device in a step" if parts else "none"),
        ("roofline", f"compute {_si(found.compute)}s, memory {_si(found.memory)}s, network "
                     f"{_si(found.network)}s a step: bound by {found.bound}"),
        ("step time", f"{_si(found.fastest)}s if all of it overlaps (MFU "
                      f"{100 * found.mfu(found.fastest):.0f} %), {_si(found.slowest)}s if none "
                      f"does (MFU {100 * found.mfu(found.slowest):.0f} %)"),
        ("run time", f"{found.days(found.fastest):,.2f} to {found.days(found.slowest):,.2f} days, "
                     f"{found.device_hours(found.fastest):,.1f} to "
                     f"{found.device_hours(found.slowest):,.1f} device-hours"),
    ]  # fmt: skip
    if mfu:
        seconds = found.step_seconds(mfu)
        lines.append((f"at MFU {100 * mfu:g} %", f"{_si(seconds)}s a step, "
                      f"{found.days(seconds):,.1f} days, "
                      f"{found.device_hours(seconds):,.0f} device-hours"))  # fmt: skip
    return "\n".join(f"{name:<13}{value}" for name, value in lines)


def numbers(found: Estimate) -> dict[str, Any]:
    """The same as plain numbers: bytes, seconds and FLOPs."""
    need = found.needs
    return {
        "slice": found.slice.name,
        "devices": need.devices,
        "source": need.source,
        "parameters": need.parameters,
        "batch": need.batch,
        "crops": need.crops,
        "state_bytes": need.state_bytes,
        "working_bytes": need.working_bytes,
        "usable_bytes": found.slice.usable,
        "fits": found.fits,
        "model_flops": need.model_flops,
        "executed_flops": need.executed_flops,
        "memory_traffic_bytes": need.moved.memory,
        "collective_bytes": need.moved.sent(),
        "compute_seconds": found.compute,
        "memory_seconds": found.memory,
        "network_seconds": found.network,
        "fastest_step_seconds": found.fastest,
        "slowest_step_seconds": found.slowest,
        "fastest_mfu": found.mfu(found.fastest),
        "slowest_mfu": found.mfu(found.slowest),
        "fastest_days": found.days(found.fastest),
        "slowest_days": found.days(found.slowest),
    }


def _si(value: float) -> str:
    """Three digits and a prefix: 1.23 k, 45.6 µ."""
    if value == 0:
        return "0 "
    power = max(-3, min(6, math.floor(math.log10(abs(value)) / 3)))
    scaled = value / 1000.0**power
    digits = 2 if scaled < 10 else 1 if scaled < 100 else 0
    return f"{scaled:.{digits}f} {('n', 'µ', 'm', '', 'k', 'M', 'G', 'T', 'P', 'E')[power + 3]}"
