"""Reads a compiled program's text: what it moves, with every loop counted as often as it runs.

The compiler's own cost analysis counts the body of a loop once, so a network whose layers are
looped over, or a step in micro-batches, looks many times cheaper than it is.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0, "opaque": 0}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\((.*)$")
# One array's type, its dimensions and its layout, which names the memory it lies in: S(1) is
# a TPU's on-chip memory.
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
# These name places and rename values; they move nothing.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
         "call", "after-all", "partition-id", "replica-id"}  # fmt: skip


# What these call are operations by themselves; what all others call are parts of one.
_CALLS = {"while", "conditional", "call", "async-start"}


@dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
      kind: of `COLLECTIVES`.
      size: bytes of the whole array on one device: the result of an all-gather, the operand of a
        reduce-scatter, either of the others.
      group: devices that take part together.
      times: how often it runs in a step.
    """

    kind: str
    size: int
    group: int
    times: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step, by the ring algorithm (a bound from below)."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return factor * self.size * self.times


@dataclass(frozen=True)
class Moved:
    """What one device moves in a step.

    Attributes:
      memory: bytes read from and written to its main memory.
      collectives: all that go between devices.
    """

    memory: float
    collectives: tuple[Collective, ...]

    def sent(self) -> dict[str, float]:
        """Bytes that each device sends in a step, by kind of collective."""
        found: dict[str, float] = defaultdict(float)
        for one in self.collectives:
            found[one.kind] += one.sent
        return dict(found)


@dataclass
class _Instruction:
    name: str
    shape: str
    operation: str
    rest: str


@dataclass
class _Computation:
    instructions: list[_Instruction] = field(default_factory=list)
    fused: bool = False
    times: int = 0


def moved(text: str, devices: int) -> Moved:
    """Reads `compiled.as_text()` of a program for `devices` devices."""
    computations, entry = _parse(text)
    _count(computations, entry)
    memory = 0.0
    # A collective that overlaps with other work stands in several pieces of one channel.
    seen: dict[tuple[str, str], Collective] = {}
    for computation in computations.values():
        shapes = {i.name: i.shape for i in computation.instructions}
        for number, instruction in enumerate(computation.instructions):
            kind = instruction.operation.removesuffix("-start")
            if kind in COLLECTIVES and computation.times:
                found = _collective(kind, instruction, shapes, devices, computation.times)
                channel = re.search(r"channel_id=(\d+)", instruction.rest)
                piece = channel[1] if channel else f"{id(computation)}-{number}"
                before = seen.get((kind, piece))
                if before is None or before.times < found.times:
                    seen[kind, piece] = found
            operation = instruction.operation
            if computation.fused or operation in _FREE or operation.endswith("-done"):
                continue
            if computation.times:
                memory += computation.times * _traffic(instruction, shapes, computations)
    return Moved(memory, tuple(seen.values()))


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    entry, current = "", _Computation()
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            current = computations[head[2]] = _Computation()
            entry = head[2] if head[1] else entry
            continue
        found = _INSTRUCTION.match(line)
        if found:
            current.instructions.append(_Instruction(*found.groups()))
    return computations, entry


def _count(computations: dict[str, _Computation], entry: str) -> None:
    """Sets how often each computation runs, and which are parts of a fused operation."""

    def visit(name: str, times: int, fused: bool) -> None:
        computation = computations[name]
        computation.times += times
        computation.fused |= fused
        for instruction in computation.instructions:
            inside = fused or instruction.operation not in _CALLS
            rounds = 1
            if instruction.operation == "while":
                rounds = _rounds(instruction, computations)
            for called in _called(instruction):
                if called in computations:
                    visit(called, times * rounds, inside)

    visit(entry, 1, False)


def _called(instruction: _Instruction) -> list[str]:
    branches = ",".join(_BRANCHES.findall(instruction.rest))
    return [*_CALLED.findall(instruction.rest), *re.findall(r"[\w.\-]+", branches)]


def _rounds(instruction: _Instruction, computations: dict[str, _Computation]) -> int:
    """How often a loop runs: as the compiler notes, or the bound its condition compares with."""
    known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', instruction.rest)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", instruction.rest)
    inside = computations[condition[1]].instructions if condition else []
    bounds = [int(number[1]) for i in inside if i.operation == "constant"
              and (number := re.match(r"(\d+)\)", i.rest))]  # fmt: skip
    return max(bounds, default=1)


def _collective(
    kind: str, instruction: _Instruction, shapes: dict[str, str], devices: int, times: int
) -> Collective:
    given = sum(_bytes(shapes.get(name, "")) for name in _operands(instruction))
    result = _bytes(instruction.shape)
    if instruction.operation.endswith("-start"):
        result = max(result - given, given)  # a start's result holds its operands too
    size = given if kind == "reduce-scatter" else result
    return Collective(kind, int(size), _group(instruction.rest, devices), times)


def _group(text: str, devices: int) -> int:
    """Devices in one group of a collective: the three ways in which they are written."""
    named = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*?\{([^}]*)\}", text)
    if named:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    tiled = re.search(r"replica_groups=\[(\d+),(\d+)\]", text)
    if tiled:
        return int(tiled[2])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    return len(listed[1].split(",")) if listed else devices


def _operands(instruction: _Instruction) -> list[str]:
    return re.findall(r"%([\w.\-]+)", instruction.rest.split(")", 1)[0])


def _traffic(
    instruction: _Instruction, shapes: dict[str, str], computations: dict[str, _Computation]
) -> float:
    """Bytes between main memory and the device: operands read and the result written.

    Of an array that is only sliced, or only written in part, the part alone moves: a layer's
    weights out of those of all layers, a layer's activations into theirs.
    """
    operands = [shapes.get(name, "") for name in _operands(instruction)]
    if instruction.operation in ("copy-start", "slice-start"):
        return _copied(instruction.shape)
    called = computations.get(next(iter(_called(instruction)), ""))
    if instruction.operation != "fusion" or called is None:
        called = _alone(instruction, operands)
    total = 0.0
    for one in called.instructions:
        if one.operation == "parameter":
            whole = _bytes(operands[int(one.rest.split(")", 1)[0])], main=True)
            total += min(_read(one.name, one.shape, called, computations), whole)
    return total + _written(instruction, called)


def _copied(shape: str) -> float:
    """Bytes of a copy that runs beside other work; its type names source and destination."""
    ends = [f"{kind}[{sizes}]{{{layout}}}" for kind, sizes, layout in _ARRAY.findall(shape)[:2]]
    part = min(map(_bytes, ends))
    return part * sum(bool(_bytes(end, main=True)) for end in ends)


def _alone(instruction: _Instruction, operands: list[str]) -> _Computation:
    """An operation that is not fused, as if it were a fused one of nothing else."""
    parameters = [_Instruction(f"p{i}", shape, "parameter", f"{i})")
                  for i, shape in enumerate(operands)]  # fmt: skip
    names = ", ".join(f"%{one.name}" for one in parameters)
    root = _Instruction("root", instruction.shape, instruction.operation, f"{names})")
    return _Computation([*parameters, root])


def _read(
    name: str, shape: str, inside: _Computation, computations: dict[str, _Computation]
) -> float:
    """Bytes of a value of `inside` that its users look at."""
    total = 0.0
    for user in inside.instructions:
        operands = _operands(user)
        if name not in operands:
            continue
        if user.operation in ("bitcast", "get-tuple-element"):
            total += _read(user.name, user.shape, inside, computations)
        elif user.operation in ("dynamic-slice", "slice", "gather"):
            total += _bytes(user.shape)
        elif user.operation == "dynamic-update-slice" and operands[0] == name:
            continue  # overwritten in place
        elif user.operation == "fusion":
            deeper = computations[_called(user)[0]]
            number = f"{operands.index(name)})"
            for one in deeper.instructions:
                if one.operation == "parameter" and one.rest.startswith(number):
                    total += _read(one.name, one.shape, deeper, computations)
        elif user.operation != "tuple":
            return _bytes(shape)
    return total


def _written(instruction: _Instruction, inside: _Computation) -> float:
    """Bytes of an operation's result that it writes anew."""
    whole = _bytes(instruction.shape, main=True)
    root = inside.instructions[-1]
    inner = {one.name: one for one in inside.instructions}
    parts = [inner[name] for name in _operands(root)] if root.operation == "tuple" else [root]
    total = 0.0
    for part in parts:
        if part.operation == "dynamic-update-slice":
            total += _bytes(inner[_operands(part)[1]].shape)
        else:
            total += _bytes(part.shape)
    return min(total, whole)


def _bytes(shape: str, *, main: bool = False) -> float:
    """Bytes of a shape or a tuple of them; with `main`, of what lies in main memory alone."""
    total = 0.0
    for kind, dimensions, layout in _ARRAY.findall(shape):
        if main and re.search(r"S\([1-9]", layout):
            continue
        digits = re.search(r"\d+", kind)
        bits = _BITS.get(kind, int(digits[0]) if digits else 32)
        total += math.prod(int(d) for d in dimensions.split(",") if d) * bits / 8
    return total
