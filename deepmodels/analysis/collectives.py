"""What a device of a compiled program reads and writes, and what it gets from the others: read from its text."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+)(?:e\d\w*)?\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_BOUND = re.compile(r" s32\[\]\S* constant\((\d+)\)")
_NAME = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_OPERAND = re.compile(r"%([\w.\-]+)")
_LOOPS = ("while", "conditional", "call", "async-start")  # what they call touches the memory by itself
_SLICES = ("dynamic-slice", "slice", "gather")
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "copy-done", *_LOOPS)


class Traffic(NamedTuple):
    """How often collectives of one kind run in a call of a program, and the bytes of what one device gets from them."""

    count: int
    bytes: int


def collectives(text: str) -> dict[str, Traffic]:
    """Returns the collectives of a compiled program by kind ("all-reduce"), those inside loops once per iteration.

    Args:
      text: of its HLO, `compiled.as_text()`. A loop of which neither the compiler nor a bound that its counter is
        compared with tells the iterations counts as one.
    """
    bodies, entry = _bodies(text)
    counts, sizes = Counter(), Counter()
    for name, times in _repeats(bodies, entry).items():
        for line in bodies[name]:
            if (found := _OPERATION.search(line)) is None:
                continue
            shapes = [_bytes(*shape) for shape in _SHAPE.findall(found[1])]
            # what starts an asynchronous one returns its input too
            counts[found[2]] += times
            sizes[found[2]] += times * (max(shapes) if found[3] else sum(shapes))
    return {kind: Traffic(counts[kind], sizes[kind]) for kind in KINDS if counts[kind]}


def bytes_accessed(text: str) -> int:
    """Returns the bytes that a device's instructions read and write in a call of a program, those in loops each time.

    What is fused counts once, where it comes in and goes out; of an array of which only a slice is read or written,
    the slice counts. XLA's own `cost_analysis` counts in this way, but the body of a loop once.

    Args:
      text: as for `collectives`.
    """
    bodies, entry = _bodies(text)
    programs = {name: _instructions(lines) for name, lines in bodies.items()}
    return sum(
        times * _accessed(instruction, programs[name], programs)
        for name, times in _repeats(bodies, entry, _LOOPS).items()
        for instruction in programs[name].values()
    )


class _Instruction(NamedTuple):
    operation: str
    bytes: int  # of its result
    operands: list[str]
    line: str
    root: bool


def _instructions(lines: list[str]) -> dict[str, _Instruction]:
    """The instructions of a computation by name."""
    found = {}
    for line in lines:
        if (head := _NAME.match(line)) is None:
            continue
        rest = line[head.end() :]
        end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
        shape, rest = rest[:end], rest[end:].lstrip()
        start = rest.index("(")
        operands = _OPERAND.findall(rest[start : _closing(rest, start)])
        size = sum(_bytes(*part) for part in _SHAPE.findall(shape))
        found[head[2]] = _Instruction(rest[:start], size, operands, line, head[1] is not None)
    return found


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` has been closed."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return len(text)


def _accessed(one: _Instruction, own: dict[str, _Instruction], programs: dict[str, dict[str, _Instruction]]) -> int:
    if one.operation in _FREE:
        return 0
    if one.operation in (*_SLICES, "copy-start"):
        return 2 * min(one.bytes, own[one.operands[0]].bytes if one.operands[0] in own else one.bytes)
    sizes = [own[name].bytes if name in own else 0 for name in one.operands]
    if one.operation == "dynamic-update-slice":
        return 2 * sizes[1]
    called = _CALLED.search(one.line) if one.operation == "fusion" else None
    if called is None or called[1] not in programs:
        return one.bytes + sum(sizes)
    inner = programs[called[1]]
    written, updated = one.bytes, set()
    for instruction in inner.values():
        if instruction.operation == "dynamic-update-slice" and instruction.bytes <= written:
            written += inner[instruction.operands[1]].bytes - instruction.bytes
            updated.add(_source(instruction.operands[0], inner))
    read = 0
    for name, parameter in inner.items():
        if parameter.operation != "parameter" or name in updated:
            continue
        number = int(re.search(r"parameter\((\d+)\)", parameter.line)[1])
        slices = [user for user in inner.values() if name in user.operands]
        if slices and all(user.operation in _SLICES and user.operands[0] == name for user in slices):
            read += sum(user.bytes for user in slices)
        else:
            read += sizes[number]
    return written + read


def _source(name: str, inner: dict[str, _Instruction]) -> str:
    """What an instruction is but another form of."""
    while inner[name].operation in ("bitcast", "convert", "copy", "reshape"):
        name = inner[name].operands[0]
    return name


def _bodies(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation of a program, and the name of the one that it begins with."""
    bodies, entry, lines = {}, "", []
    for line in text.splitlines():
        if (head := _COMPUTATION.match(line)) is not None:
            lines = bodies[head[1]] = []
            entry = head[1] if line.startswith("ENTRY") else entry
        else:
            lines.append(line)
    return bodies, entry


def _repeats(bodies: dict[str, list[str]], entry: str, through: Sequence[str] = ()) -> Counter[str]:
    """How often each computation runs, if only those count that are called by certain operations; by default all."""
    repeats: Counter[str] = Counter()

    def visit(name: str, times: int) -> None:
        repeats[name] += times
        for line in bodies[name]:
            if through and not any(f" {operation}(" in line for operation in through):
                continue
            called = _CALLED.findall(line)
            for group in _BRANCHES.findall(line):
                called += [branch.strip().lstrip("%") for branch in group.split(",")]
            trips = _iterations(line, bodies) if " while(" in line else 1
            for inner in called:
                if inner in bodies:
                    visit(inner, times * trips)

    if entry:
        visit(entry, 1)
    return repeats


def _iterations(line: str, bodies: dict[str, list[str]]) -> int:
    """Of a loop: what the compiler knows, or the one number that its condition has."""
    if (known := _TRIPS.search(line)) is not None:
        return int(known[1])
    condition = _CONDITION.search(line)
    bounds = [] if condition is None else _BOUND.findall("\n".join(bodies.get(condition[1], [])))
    return int(bounds[0]) if len(bounds) == 1 else 1


def _bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
    return math.prod(int(size) for size in shape.split(",") if size) * bits // 8
