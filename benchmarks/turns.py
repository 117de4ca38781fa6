"""Processes that take turns on one machine, so that a drift of its speed meets all of them alike."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

_REST = 0.5  # seconds before a turn, in which the other sides' threads fall asleep


class Side(NamedTuple):
    """A process, and what it has answered."""

    process: subprocess.Popen
    facts: dict[str, Any]  # what it says of itself, "first step seconds" and "peak bytes"
    times: list[float]  # seconds per step, of each round
    joules: list[float]  # per step, of each round; empty where no counter is read


def serve(start: Callable[[dict[str, Any]], tuple[Callable[[], Any], dict[str, Any]]]) -> None:
    """Runs one side: warms up, then does as many steps as each line of the standard input says, and one before them.

    The first line of its output is a JSON object of facts, each further one the seconds that a turn took.

    Args:
      start: `start(what the command line says in JSON) -> (step, facts)`; a call of `step` returns when its work is
        done. "peak bytes" among the facts is a function, of a device with memory of its own.
    """
    output, sys.stdout = sys.stdout, sys.stderr  # what libraries print isn't an answer
    began = time.perf_counter()
    step, facts = start(json.loads(sys.argv[1]))
    peak = facts.pop("peak bytes", lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    step()
    facts["first step seconds"] = time.perf_counter() - began
    began = time.perf_counter()
    step()
    facts["step seconds"] = time.perf_counter() - began
    print(json.dumps(facts), file=output, flush=True)
    for line in sys.stdin:
        step()  # not timed: while others had their turn, memory that was freed has gone back to the system
        began = time.perf_counter()
        for _ in range(int(line)):
            step()
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "peak bytes": peak()}), file=output, flush=True)


def start(commands: list[list[str]]) -> list[Side]:
    """Returns a side for each command line, of a process that calls `serve`; they start one after another."""
    sides = []
    for command in commands:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        sides.append(Side(process, {}, [], []))
        try:
            sides[-1].facts.update(_answer(process))
        except RuntimeError:
            end(sides)
            raise
    return sides


def take_turns(sides: list[Side], *, rounds: int, seconds: float, joules: Callable) -> None:
    """Has sides take turns, A B A B, one at a time, and fills in their times.

    Args:
      sides: that have started.
      rounds: turns of each side.
      seconds: about how long a turn takes; a side does at least one step.
      joules: `Energy.since`.
    """
    for _ in range(rounds):
        for side in sides:
            steps = max(1, round(seconds / (side.times[-1] if side.times else side.facts["step seconds"])))
            time.sleep(_REST)
            before, _ = joules()
            side.process.stdin.write(f"{steps}\n")
            side.process.stdin.flush()
            answer = _answer(side.process)
            _, used = joules(before)
            side.facts["peak bytes"] = answer["peak bytes"]
            side.times.append(answer["seconds"] / steps)
            if used is not None:
                side.joules.append(used / (steps + 1))  # the one that isn't timed among them


def end(sides: list[Side]) -> None:
    """Ends the processes of sides."""
    for side in sides:
        side.process.communicate()


def _answer(process: subprocess.Popen) -> dict[str, Any]:
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{' '.join(process.args)} ended with exit code {process.wait()} before it answered")
    return json.loads(line)
