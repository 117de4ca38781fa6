"""What the devices of a compiled program say to each other: read from its text."""

import math
import re
from collections import Counter
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+)(?:e\d\w*)?\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Traffic(NamedTuple):
    """How often collectives of one kind run in a call of a program, and the bytes of what one device gets from them."""

    count: int
    bytes: int


def collectives(text: str) -> dict[str, Traffic]:
    """Returns the collectives of a compiled program by kind ("all-reduce"), those inside loops once per iteration.

    Args:
      text: of its HLO, `compiled.as_text()`. A loop whose iterations the compiler doesn't know counts as one.
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


def _repeats(bodies: dict[str, list[str]], entry: str) -> Counter[str]:
    """How often each computation runs."""
    repeats: Counter[str] = Counter()

    def visit(name: str, times: int) -> None:
        repeats[name] += times
        for line in bodies[name]:
            called = _CALLED.findall(line)
            for group in _BRANCHES.findall(line):
                called += [branch.strip().lstrip("%") for branch in group.split(",")]
            trips = _TRIPS.search(line)
            for inner in called:
                if inner in bodies:
                    visit(inner, times * (int(trips[1]) if trips is not None and " while(" in line else 1))

    if entry:
        visit(entry, 1)
    return repeats


def _bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
    return math.prod(int(size) for size in shape.split(",") if size) * bits // 8
