"""Two processes that take turns on one machine, so that a drift of its speed meets both alike."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

_REST = 0.5  # seconds before a turn, in which the other side's threads fall asleep


def serve(start: Callable[[list[str]], tuple[Callable[[], Any], dict[str, Any]]]) -> None:
    """Runs one side: warms up, then does as many steps as each line of the standard input says.

    The first line of its output is a JSON object of facts, each further one the seconds that a turn took.

    Args:
      start: `start(command line arguments) -> (step, facts)`; a call of `step` returns when its work is done.
    """
    output, sys.stdout = sys.stdout, sys.stderr  # what libraries print isn't an answer
    began = time.perf_counter()
    step, facts = start(sys.argv[1:])
    step()
    facts["first step seconds"] = round(time.perf_counter() - began, 1)
    step()
    print(json.dumps(facts), file=output, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            step()
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak bytes": peak}), file=output, flush=True)


def take_turns(
    commands: list[list[str]], *, rounds: int, seconds: float
) -> tuple[list[dict[str, Any]], list[list[float]]]:
    """Returns the facts of each side and its seconds per step in each round; sides A B A B, one at a time.

    Args:
      commands: the command line of each side, a process that calls `serve`.
      rounds: turns of each side.
      seconds: about how long a turn takes; a side does at least one step.
    """
    sides = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for command in commands
    ]
    facts = [_answer(side) for side in sides]
    steps, times = [1] * len(sides), [[] for _ in sides]
    for number in range(rounds + 1):  # the first round finds out how many steps fill a turn
        for i, side in enumerate(sides):
            time.sleep(_REST)
            side.stdin.write(f"{steps[i]}\n")
            side.stdin.flush()
            answer = _answer(side)
            facts[i]["peak bytes"] = answer["peak bytes"]
            if number:
                times[i].append(answer["seconds"] / steps[i])
            else:
                steps[i] = max(1, round(seconds / answer["seconds"]))
    for side in sides:
        side.stdin.close()
        side.wait()
    return facts, times


def _answer(side: subprocess.Popen) -> dict[str, Any]:
    line = side.stdout.readline()
    if not line:
        sys.exit(f"{' '.join(side.args)} ended with exit code {side.wait()} before it answered")
    return json.loads(line)
