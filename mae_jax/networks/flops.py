"""Floating-point operations of any function, counted in its trace.

A multiply and an add count as two; only matrix products and convolutions count, as in all
published figures of model FLOPs. `mae_jax.flops` has the formulas.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from mae_jax.errors import InputError


def traced_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs of `function`, counted in its trace: loops as often as they run, nothing is computed.

    Raises:
      InputError: a loop whose number of rounds is not fixed, or a kernel that cannot be looked
        into.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: core.Jaxpr) -> float:
    return sum((_equation(equation) for equation in jaxpr.eqns), 0.0)


def _equation(equation: Any) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        out = math.prod(equation.outvars[0].aval.shape)
        return 2.0 * out * math.prod(shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        numbers = equation.params["dimension_numbers"]
        outputs = kernel[numbers.rhs_spec[0]]
        # A kernel holds its inputs by group already. Products with the zeros that a transposed
        # convolution puts between its inputs do not count.
        dilation = math.prod(equation.params["lhs_dilation"])
        each = math.prod(kernel) / outputs / dilation
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * each
    if name == "while" and _inner(equation):
        inner = sum(_count(jaxpr) for jaxpr in _inner(equation))
        if inner:
            raise InputError("FLOPs of a loop without a fixed number of rounds cannot be counted.")
        return 0.0
    if name == "pallas_call":
        raise InputError("a Pallas kernel's FLOPs cannot be counted; set attention to 'xla'.")
    counts = [_count(jaxpr) for jaxpr in _inner(equation)]
    if name == "cond":
        return max(counts, default=0.0)
    rounds = equation.params["length"] if name == "scan" else 1
    return float(rounds * sum(counts))


def _inner(equation: Any) -> list[core.Jaxpr]:
    """The programs inside an equation (of a loop, a call, a recomputation)."""
    programs = []
    for name, value in equation.params.items():
        # A custom derivative's rules are not what the forward pass runs.
        if name in ("fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_fun"):
            continue
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if isinstance(jaxpr, core.Jaxpr):
                programs.append(jaxpr)
    return programs
