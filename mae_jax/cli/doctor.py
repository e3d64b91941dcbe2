"""`mae-jax doctor`: what this machine has, and which command lacks what."""

import argparse
import glob
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from mae_jax.cli.missing_packages import EXTRAS_OF_COMMANDS, missing_of_extra, packages_of_extras
from mae_jax.cli.versions import stack_versions

HELP = (
    "Say what this machine has (devices, memory, backends), which packages are installed, and what "
    "each command lacks."
)
EXAMPLE = """\
  mae-jax doctor
  mae-jax doctor --json > machine.json      # to send along with a question"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options: there are none of its own."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print what was found, and the advice that follows from it."""
    from mae_jax.cli.main import COMMANDS

    found: dict[str, Any] = {"machine": machine(), "versions": stack_versions()}
    _print("machine", found["machine"])
    _print("packages", {name: text or "not installed" for name, text in found["versions"].items()})
    found["jax"] = jax_devices()
    devices = [f"{d['kind']} ({_gib(d['memory_bytes'])})" for d in found["jax"]["devices"]]
    _print("jax", {**found["jax"], "devices": devices})
    found["extras"] = {extra: sorted(missing_of_extra(extra)) for extra in packages_of_extras()}
    _print("extras", {extra: f"missing: {', '.join(packages)}" if packages else "installed"
                      for extra, packages in found["extras"].items()})  # fmt: skip
    found["commands"] = {name: _missing(name) for name in COMMANDS}
    _print("commands", {name: _state(name, missing) for name, missing in found["commands"].items()})
    found["advice"] = advice(found["jax"])
    for sentence in found["advice"]:
        print(f"advice: {sentence}")
    return found


def machine() -> dict[str, Any]:
    """Operating system, CPUs that this process may use, memory that it may use, free disk."""
    total, available = _memory()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": _cpus(),
        "memory": f"{_gib(total)}, {_gib(available)} available",
        "memory_bytes": total,
        "disk": f"{_gib(shutil.disk_usage('.').free)} free in {Path.cwd()}",
    }


def jax_devices() -> dict[str, Any]:
    """What JAX sees: version, platform, devices with their memory, attention of "auto"."""
    try:
        import jax
        import jax.numpy as jnp

        from mae_jax.distributed.hardware import device_memory
        from mae_jax.kernels.attention import choose_backend

        devices = jax.devices()
    except ModuleNotFoundError:
        return {"installed": False, "platform": None, "devices": []}
    except RuntimeError as error:  # a backend that cannot start
        reason = str(error).splitlines()[0]
        return {"installed": True, "platform": None, "devices": [], "error": reason}
    backend = devices[0].platform
    rows = []
    for device in devices:
        statistics = device.memory_stats() if backend != "cpu" else None
        limit = (statistics or {}).get("bytes_limit") or device_memory(device.device_kind)
        memory = _memory()[0] if backend == "cpu" else limit
        rows.append({"kind": device.device_kind, "memory_bytes": memory})
    attention = {
        str(jnp.dtype(dtype)): choose_backend(backend, jnp.dtype(dtype), 257, 2**20)
        for dtype in (jnp.float32, jnp.bfloat16)
    }
    return {"installed": True, "platform": backend, "devices": rows, "attention": attention}


def advice(found: dict[str, Any]) -> list[str]:
    """Sentences on what is there but not used."""
    sentences = []
    if not found["installed"]:
        return ["images need JAX: pip install 'mae_jax[embed]'."]
    if "error" in found:
        sentences.append(f"JAX has no device: {found['error']}")
    if found["platform"] == "cpu":
        forced = os.environ.get("JAX_PLATFORMS", "")
        if glob.glob("/dev/nvidia[0-9]*"):
            sentences.append(
                f"there is an NVIDIA GPU, but JAX_PLATFORMS={forced} keeps JAX from it."
                if forced and "cuda" not in forced
                else "there is an NVIDIA GPU, but JAX does not see it: pip install 'jax[cuda12]'."
            )
        if glob.glob("/dev/accel*"):
            sentences.append("there is a TPU, but JAX does not see it: pip install 'jax[tpu]'.")
    return sentences


def _missing(command: str) -> list[str]:
    extra = EXTRAS_OF_COMMANDS.get(command)
    return sorted(missing_of_extra(extra)) if extra else []


def _state(command: str, missing: list[str]) -> str:
    if not missing:
        return "ready"
    extra = EXTRAS_OF_COMMANDS[command]
    return f"pip install 'mae_jax[{extra}]' (lacks {', '.join(missing)})"


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> tuple[int, int]:
    """Bytes of memory, and those available; the limit of the container where it is lower."""
    path = Path("/proc/meminfo")
    if not path.exists():  # macOS
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total
    lines = (line.split() for line in path.read_text().splitlines())
    sizes = {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if len(words) == 3}
    total, available = sizes["MemTotal"], sizes["MemAvailable"]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return total, min(total, available)


def _gib(size: int | float | None) -> str:
    return "memory unknown" if size is None else f"{size / 2**30:.1f} GiB"


def _print(title: str, values: dict[str, Any]) -> None:
    print(f"{title}:")
    width = max(map(len, values), default=0)
    for name, value in values.items():
        if name.endswith("_bytes"):
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        if isinstance(value, dict):
            text = ", ".join(f"{key}: {inner}" for key, inner in value.items())
        print(f"  {name:<{width}}  {text}")
