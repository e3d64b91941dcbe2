"""An estimate as text and as plain numbers."""

import math

from mae_jax.distributed.hardware import GIB
from mae_jax.errors import InputError
from mae_jax.planning.roofline import Estimate


def format_estimate(estimate: Estimate, mfu: float | None = None) -> str:
    """The lines that `mae-jax plan` prints.

    Args:
      mfu: a measured utilization, for a line of the time at it.
    """
    cost, slice_ = estimate.cost, estimate.slice
    accelerator = slice_.accelerator
    sent = cost.traffic.sent()
    collectives = ", ".join(f"{name} {_si(size)}B" for name, size in sorted(sent.items()))
    source = "compiled" if cost.source == "compiled" else "by formula"
    fastest, slowest = estimate.fastest, estimate.slowest
    lines = [
        ("parameters", f"{cost.parameters / 1e6:.2f} million"),
        ("step", f"{cost.batch:,} crops, {_si(cost.model_flops)}FLOP of the model, "
                 f"{_si(cost.executed_flops)}FLOP executed"),
        ("run", f"{cost.crops / 1e6:,.2f} million crops in {cost.crops // cost.batch:,} steps"),
        ("slice", f"{slice_.name}: {slice_.devices} devices ({accelerator.name}) with "
                  f"{accelerator.memory / GIB:.0f} GiB and "
                  f"{accelerator.peak_flops / 1e12:.0f} TFLOP/s each"),
        ("memory", f"{cost.state_bytes / GIB:.2f} GiB of state and batch and "
                   f"{cost.working_bytes / GIB:.2f} GiB of temporaries per device ({source})"),
        ("fits", f"{'yes' if estimate.fits else 'no'}: {cost.device_bytes / GIB:.2f} of "
                 f"{slice_.usable_memory / GIB:.1f} usable GiB"),
        ("traffic", f"{_si(cost.traffic.memory)}B of memory traffic per device and step, "
                    f"{_si(cost.traffic.memory * cost.devices / cost.batch)}B per crop"),
        ("collectives", f"{collectives} sent per device and step" if collectives else "none"),
        ("roofline", f"compute {_si(estimate.compute)}s, memory {_si(estimate.memory)}s, network "
                     f"{_si(estimate.network)}s per step: bound by {estimate.bound}"),
        ("step time", f"{_si(fastest)}s if all three overlap (MFU {_percent(estimate, fastest)}), "
                      f"{_si(slowest)}s if none does (MFU {_percent(estimate, slowest)})"),
        ("run time", f"{estimate.days(fastest):,.2f} to {estimate.days(slowest):,.2f} days, "
                     f"{estimate.device_hours(fastest):,.1f} to "
                     f"{estimate.device_hours(slowest):,.1f} device-hours"),
    ]  # fmt: skip
    if mfu:
        seconds = estimate.step_seconds(mfu)
        lines.append((f"at MFU {100 * mfu:g} %", f"{_si(seconds)}s per step, "
                      f"{estimate.days(seconds):,.1f} days, "
                      f"{estimate.device_hours(seconds):,.0f} device-hours"))  # fmt: skip
    return "\n".join(f"{name:<13}{value}" for name, value in lines)


def format_operations(estimate: Estimate, top: int) -> str:
    """The `top` groups of operations with the largest memory traffic, as a table.

    Raises:
      InputError: the estimate is by formula, which knows no operations.
    """
    cost = estimate.cost
    if not cost.traffic.operations:
        raise InputError(
            f"{estimate.slice.name} is planned by formula, not compiled; leave --top out."
        )
    rows = [("GB/crop", "share", "pass", "operation", "layer")]
    for operation in cost.traffic.operations[:top]:
        per_crop = operation.bytes * cost.devices / cost.batch / 1e9
        share = operation.bytes / cost.traffic.memory
        rows.append((f"{per_crop:.4f}", f"{100 * share:.1f} %", operation.step_pass,
                     operation.operation, operation.layer or "-"))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def to_json(estimate: Estimate) -> dict[str, str | int | float | bool | dict[str, float]]:
    """The estimate as plain numbers: bytes, seconds and FLOPs."""
    cost = estimate.cost
    return {
        "slice": estimate.slice.name,
        "devices": cost.devices,
        "source": cost.source,
        "parameters": cost.parameters,
        "batch": cost.batch,
        "crops": cost.crops,
        "state_bytes": cost.state_bytes,
        "working_bytes": cost.working_bytes,
        "usable_bytes": estimate.slice.usable_memory,
        "fits": estimate.fits,
        "model_flops": cost.model_flops,
        "executed_flops": cost.executed_flops,
        "memory_traffic_bytes": cost.traffic.memory,
        "collective_bytes": cost.traffic.sent(),
        "compute_seconds": estimate.compute,
        "memory_seconds": estimate.memory,
        "network_seconds": estimate.network,
        "fastest_step_seconds": estimate.fastest,
        "slowest_step_seconds": estimate.slowest,
        "fastest_mfu": estimate.mfu(estimate.fastest),
        "slowest_mfu": estimate.mfu(estimate.slowest),
        "fastest_days": estimate.days(estimate.fastest),
        "slowest_days": estimate.days(estimate.slowest),
    }


def _percent(estimate: Estimate, seconds: float) -> str:
    return f"{100 * estimate.mfu(seconds):.0f} %"


def _si(value: float) -> str:
    """Three digits and an SI prefix: 1.23 k, 45.6 µ."""
    if value == 0:
        return "0 "
    power = max(-3, min(6, math.floor(math.log10(abs(value)) / 3)))
    scaled = value / 1000.0**power
    digits = 2 if scaled < 10 else 1 if scaled < 100 else 0
    return f"{scaled:.{digits}f} {('n', 'µ', 'm', '', 'k', 'M', 'G', 'T', 'P', 'E')[power + 3]}"
