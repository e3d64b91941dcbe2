"""Memory traffic and collectives of a compiled program, every loop counted as often as it runs."""

import re
from collections import defaultdict
from dataclasses import dataclass

from mae_jax.planning.hlo import (
    Computation,
    Instruction,
    parse_hlo,
    replica_group_size,
    shape_bytes,
    split_shapes,
)
from mae_jax.planning.op_names import Pass, layer_of, pass_of, primitive_of

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

# These name or rename values and move nothing.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
         "call", "after-all", "partition-id", "replica-id"}  # fmt: skip


@dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
      name: one of `COLLECTIVES`.
      size: bytes of the whole array on one device: the result of an all-gather, the operand of a
        reduce-scatter, either of the others.
      group: devices that take part together.
      times: how often it runs per step.
    """

    name: str
    size: int
    group: int
    times: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends per step, by the ring algorithm (a lower bound)."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.name, share)
        return factor * self.size * self.times


@dataclass(frozen=True)
class OperationTraffic:
    """Memory traffic of all operations of one kind in one layer and pass.

    Attributes:
      layer: path of modules, with the numbers of blocks as `*`; "" where none is named.
      step_pass: "forward", "backward", "recompute" or "other" (optimizer, data, copies).
      operation: the JAX primitive, or the HLO operation where the compiler names none.
      bytes: read from and written to main memory per step.
    """

    layer: str
    step_pass: Pass
    operation: str
    bytes: float


@dataclass(frozen=True)
class Traffic:
    """Bytes that one device moves per step.

    Attributes:
      memory: bytes read from and written to its main memory.
      collectives: those between devices.
      operations: the memory traffic by layer, pass and operation, largest first; () by formula.
    """

    memory: float
    collectives: tuple[Collective, ...]
    operations: tuple[OperationTraffic, ...] = ()

    def sent(self) -> dict[str, float]:
        """Bytes that each device sends per step, by the name of the collective."""
        totals: dict[str, float] = defaultdict(float)
        for collective in self.collectives:
            totals[collective.name] += collective.sent
        return dict(totals)


def read_traffic(text: str, devices: int) -> Traffic:
    """The traffic of a program: `compiled.as_text()` for `devices` devices."""
    computations = parse_hlo(text)
    by_operation: dict[tuple[str, Pass, str], float] = defaultdict(float)
    # A collective that overlaps with other work appears in several instructions of one channel.
    by_channel: dict[tuple[str, str], Collective] = {}
    for computation in computations.values():
        if not computation.times:
            continue
        shapes = {i.name: i.shape for i in computation.instructions}
        for number, instruction in enumerate(computation.instructions):
            name = instruction.operation.removesuffix("-start")
            if name in COLLECTIVES:
                collective = _collective(name, instruction, shapes, devices, computation.times)
                channel = re.search(r"channel_id=(\d+)", instruction.rest)
                key = name, channel[1] if channel else f"{id(computation)}-{number}"
                previous = by_channel.get(key)
                if previous is None or previous.times < collective.times:
                    by_channel[key] = collective
            if not computation.fused and _moves(instruction):
                size = computation.times * _bytes_moved(instruction, shapes, computations)
                by_operation[_source(instruction)] += size
    operations = [OperationTraffic(*source, size) for source, size in by_operation.items()]
    operations.sort(key=lambda operation: -operation.bytes)
    return Traffic(sum(by_operation.values()), tuple(by_channel.values()), tuple(operations))


def _source(instruction: Instruction) -> tuple[str, Pass, str]:
    name = instruction.op_name
    return layer_of(name), pass_of(name), primitive_of(name) or instruction.operation


def _moves(instruction: Instruction) -> bool:
    if instruction.custom_call_target == "AllocateBuffer":
        return False  # reserves memory; the operations that write into it are counted
    return instruction.operation not in _FREE and not instruction.operation.endswith("-done")


def _collective(
    name: str, instruction: Instruction, shapes: dict[str, str], devices: int, times: int
) -> Collective:
    operands = sum(shape_bytes(shapes.get(operand, "")) for operand in instruction.operands)
    result = shape_bytes(instruction.shape)
    if instruction.operation.endswith("-start"):
        result = max(result - operands, operands)  # the result of a start holds its operands too
    size = operands if name == "reduce-scatter" else result
    return Collective(name, int(size), replica_group_size(instruction.rest, devices), times)


def _bytes_moved(
    instruction: Instruction, shapes: dict[str, str], computations: dict[str, Computation]
) -> float:
    """Bytes between main memory and the device: operands read and results written.

    Of an array that is only sliced, or only written in part, that part alone moves: a layer's
    weights out of those of all layers, a layer's activations into theirs.
    """
    operands = [shapes.get(name, "") for name in instruction.operands]
    if instruction.operation in ("copy-start", "slice-start"):
        return _bytes_copied(instruction.shape)
    body = computations.get(next(iter(instruction.called), ""))
    if instruction.operation != "fusion" or body is None:
        body = _as_fusion(instruction, operands)
    total = 0.0
    for inner in body.instructions:
        if inner.operation == "parameter":
            whole = shape_bytes(operands[inner.parameter_index], main_memory=True)
            total += min(_bytes_read(inner.name, inner.shape, body, computations), whole)
    return total + _bytes_written(instruction, body)


def _bytes_copied(shape: str) -> float:
    """Bytes of an asynchronous copy, whose type names source and destination."""
    ends = split_shapes(shape)[:2]
    size = min(map(shape_bytes, ends))
    return size * sum(bool(shape_bytes(end, main_memory=True)) for end in ends)


def _as_fusion(instruction: Instruction, operands: list[str]) -> Computation:
    """An operation that is not fused, as a fusion of itself alone."""
    parameters = [Instruction(f"p{i}", shape, "parameter", f"{i})")
                  for i, shape in enumerate(operands)]  # fmt: skip
    names = ", ".join(f"%{parameter.name}" for parameter in parameters)
    root = Instruction("root", instruction.shape, instruction.operation, f"{names})")
    return Computation([*parameters, root])


def _bytes_read(
    name: str, shape: str, body: Computation, computations: dict[str, Computation]
) -> float:
    """Bytes of a value of `body` that its users read."""
    total = 0.0
    for user in body.instructions:
        operands = user.operands
        if name not in operands:
            continue
        if user.operation in ("bitcast", "get-tuple-element"):
            total += _bytes_read(user.name, user.shape, body, computations)
        elif user.operation in ("dynamic-slice", "slice", "gather"):
            total += shape_bytes(user.shape)
        elif user.operation == "dynamic-update-slice" and operands[0] == name:
            continue  # overwritten in place
        elif user.operation == "fusion":
            inner = computations[user.called[0]]
            index = operands.index(name)
            for parameter in inner.instructions:
                if parameter.operation == "parameter" and parameter.parameter_index == index:
                    total += _bytes_read(parameter.name, parameter.shape, inner, computations)
        elif user.operation != "tuple":
            return shape_bytes(shape)
    return total


def _bytes_written(instruction: Instruction, body: Computation) -> float:
    """Bytes of an operation's result that it writes."""
    whole = shape_bytes(instruction.shape, main_memory=True)
    root = body.instructions[-1]
    by_name = {inner.name: inner for inner in body.instructions}
    results = [by_name[name] for name in root.operands] if root.operation == "tuple" else [root]
    total = 0.0
    for result in results:
        if result.operation == "dynamic-update-slice":
            total += shape_bytes(by_name[result.operands[1]].shape)
        else:
            total += shape_bytes(result.shape)
    return min(total, whole)
