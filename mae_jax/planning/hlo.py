"""A parser of compiled HLO text: computations, their instructions, and how often each one runs.

The compiler's own cost analysis counts the body of a loop once, so a network whose layers are
looped over, or a step in micro-batches, looks many times cheaper than it is.
"""

import math
import re
from dataclasses import dataclass, field

_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0, "opaque": 0}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\((.*)$")
# An array's dtype, dimensions and layout, which names its memory space: S(1) is a TPU's on-chip
# memory.
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
# The instructions of a computation called by these run as operations of their own; those of a
# computation called by any other operation are parts of that one (fusions, reducers).
_CONTROL_FLOW = {"while", "conditional", "call", "async-start"}


@dataclass
class Instruction:
    """One line of HLO: `%name = shape operation(rest`."""

    name: str
    shape: str
    operation: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return re.findall(r"%([\w.\-]+)", self.rest.split(")", 1)[0])

    @property
    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        branches = ",".join(_BRANCHES.findall(self.rest))
        return [*_CALLED.findall(self.rest), *re.findall(r"[\w.\-]+", branches)]

    @property
    def custom_call_target(self) -> str:
        """The target of a custom call, or ""."""
        match = re.search(r'custom_call_target="([^"]+)"', self.rest)
        return match[1] if match else ""

    @property
    def op_name(self) -> str:
        """The path of the JAX primitive that it was compiled from, or ""."""
        match = re.search(r'op_name="([^"]*)"', self.rest)
        return match[1] if match else ""

    @property
    def parameter_index(self) -> int:
        """Number of a "parameter" instruction."""
        return int(self.rest.split(")", 1)[0])


@dataclass
class Computation:
    """A computation.

    Attributes:
      fused: its instructions are parts of one operation.
      times: how often it runs in one execution of the program.
    """

    instructions: list[Instruction] = field(default_factory=list)
    fused: bool = False
    times: int = 0


def parse_hlo(text: str) -> dict[str, Computation]:
    """The computations in `compiled.as_text()` by name, with their counts."""
    computations: dict[str, Computation] = {}
    entry, current = "", Computation()
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = computations[header[2]] = Computation()
            entry = header[2] if header[1] else entry
            continue
        match = _INSTRUCTION.match(line)
        if match:
            current.instructions.append(Instruction(*match.groups()))

    def visit(name: str, times: int, fused: bool) -> None:
        computation = computations[name]
        computation.times += times
        computation.fused |= fused
        for instruction in computation.instructions:
            inside = fused or instruction.operation not in _CONTROL_FLOW
            trips = _trip_count(instruction, computations)
            for called in instruction.called:
                if called in computations:
                    visit(called, times * trips, inside)

    visit(entry, 1, False)
    return computations


def shape_bytes(shape: str, *, main_memory: bool = False) -> float:
    """Bytes of a shape or a tuple of shapes; with `main_memory`, only of arrays in main memory."""
    total = 0.0
    for dtype, dimensions, layout in _ARRAY.findall(shape):
        if main_memory and re.search(r"S\([1-9]", layout):
            continue
        digits = re.search(r"\d+", dtype)
        bits = _BITS.get(dtype, int(digits[0]) if digits else 32)
        total += math.prod(int(d) for d in dimensions.split(",") if d) * bits / 8
    return total


def split_shapes(shape: str) -> list[str]:
    """The arrays of a tuple shape."""
    return [f"{dtype}[{sizes}]{{{layout}}}" for dtype, sizes, layout in _ARRAY.findall(shape)]


def replica_group_size(text: str, devices: int) -> int:
    """Devices per group of a collective, in any of the three notations of `replica_groups`."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*?\{([^}]*)\}", text)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    tiled = re.search(r"replica_groups=\[(\d+),(\d+)\]", text)
    if tiled:
        return int(tiled[2])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    return len(listed[1].split(",")) if listed else devices


def _trip_count(instruction: Instruction, computations: dict[str, Computation]) -> int:
    """How often a loop runs: as the compiler notes, or the bound in its condition; else 1."""
    if instruction.operation != "while":
        return 1
    known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', instruction.rest)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", instruction.rest)
    inside = computations[condition[1]].instructions if condition else []
    bounds = [int(number[1]) for i in inside if i.operation == "constant"
              and (number := re.match(r"(\d+)\)", i.rest))]  # fmt: skip
    return max(bounds, default=1)
