"""The layer and the pass of a compiled operation, from the JAX name stack in its metadata."""

import re
from typing import Literal

Pass = Literal["forward", "backward", "recompute", "other"]

# Parts of a name stack that are transformations or control flow, not layers.
_CONTROL_FLOW = {"while", "body", "cond", "closed_call", "checkpoint", "rematted_computation",
                 "remat", "scan", "branch"}  # fmt: skip


def pass_of(op_name: str) -> Pass:
    """The pass that an operation belongs to: "other" is the optimizer and all else."""
    if "rematted_computation" in op_name:
        return "recompute"
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name else "other"


def layer_of(op_name: str) -> str:
    """The path of modules, with the numbers of blocks as `*`; "" where no module is named."""
    layers: list[str] = []
    for part in _split(op_name)[:-1]:
        module = re.search(r"(?:jvp|transpose)\(+(?:jvp\()?(\w+)\)", part)
        if "(" in part and not module:
            continue
        # A module's method is named "module.method".
        name = module[1] if module else part.split(".")[0]
        name = re.sub(r"_\d+$", "_*", name)
        if name and name not in _CONTROL_FLOW and name not in layers[-1:]:
            layers.append(name)
    return "/".join(layers)


def primitive_of(op_name: str) -> str:
    """The JAX primitive, without the jit that wraps it, or ""."""
    return re.sub(r"^(?:\w+\()+|\)+$", "", _split(op_name)[-1]) if op_name else ""


def _split(op_name: str) -> list[str]:
    """The parts between slashes that are in no parentheses."""
    parts, depth = [""], 0
    for character in op_name:
        depth += (character == "(") - (character == ")")
        if character == "/" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
