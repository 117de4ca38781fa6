"""What the guard over a run's numbers costs: seconds of 50 steps and of reading their metrics, on a CPU.

    python benchmarks/guard.py                    # all subjects
    python benchmarks/guard.py lenet5 --rounds 7

Three processes take turns (turns.py), each with one batch that stays the same: without a guard, where the metrics are
read and nothing is done with them; with the policy "stop", whose step is the same and whose host looks at the metrics;
and with "skip", whose step leaves updates out ("rollback" has the same step). A row for each subject goes to
benchmarks/results/guard.csv: medians over the rounds in milliseconds a step, and of the rounds' ratios to the side
without a guard the median, the least and the most, in percent more.
"""

import argparse
import datetime
import itertools
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
import table
import turns

HERE = Path(__file__).parent
READ = 50  # steps
IMAGES = {"name": "fashion_mnist_embedded", "batch_size": 64, "mean": 0.286, "std": 0.353}
SUBJECTS: dict[str, dict[str, Any]] = {
    "lenet5": {
        "model": {"name": "lenet5", "num_classes": 10}, "data": IMAGES,
        "optimizer": {"name": "momentum", "learning_rate": 1e-3},
    },
    "resnet20": {
        "model": {"name": "resnet20_cifar", "num_classes": 10}, "data": IMAGES | {"batch_size": 16},
        "optimizer": {"name": "momentum", "learning_rate": 1e-3, "momentum": 0.9},
    },
    "gpt3_tiny": {
        "model": {
            "name": "gpt3_tiny", "hidden_size": 128, "num_layers": 4, "num_heads": 4, "vocab_size": 256,
            "max_length": 64,
        },
        "objective": {"name": "language_modelling"},
        "data": {"name": "synthetic", "length": 64, "vocab_size": 256, "batch_size": 16},
        "optimizer": {"name": "adamw", "learning_rate": 1e-4},
    },
}  # fmt: skip
SIDES = ("none", "stop", "skip")
COLUMNS = (
    "subject", *(f"{side} ms" for side in SIDES),
    *(f"{side} {what} %" for side in SIDES[1:] for what in ("median", "min", "max")),
    "rounds", "jax", "cpu", "cores", "date",
)  # fmt: skip


def start(told: dict[str, str]):
    """Returns (50 steps and their reading, facts) for a subject and a side, by these names."""
    import jax

    from deepmodels.training import experiment
    from deepmodels.training.compiled import JitStep
    from deepmodels.training.guard import Guard

    subject, side = told["subject"], told["side"]
    every = {"log": READ, "evaluate": READ, "checkpoint": READ}
    policy = "skip" if side == "skip" else "stop"
    x = experiment.make(
        {"steps": 10_000, "every": every, "guard": {"policy": policy}, "mesh": {"data": 1}} | SUBJECTS[subject],
        jax.devices()[:1],
    )
    guard = Guard(x, Path(tempfile.mkdtemp()), (), None, lambda: None)
    train_step = guard.step(JitStep)
    look = (lambda steps: steps) if side == "none" else guard.look
    state = train_step.enter(x.init())
    batch, numbers = train_step.place(next(experiment.train_batches(x, 0))), itertools.count(1)

    def steps() -> None:
        nonlocal state
        pending = []
        for _ in range(READ):
            state, metrics = train_step(state, batch)
            pending.append((next(numbers), metrics))
        look(jax.device_get(pending))

    return steps, {"version": jax.__version__}


def measure(subject: str, rounds: int, seconds: float) -> dict[str, object]:
    """Returns the row of one subject."""
    sides = turns.start([[sys.executable, __file__, json.dumps({"subject": subject, "side": side})] for side in SIDES])
    try:
        turns.take_turns(sides, rounds=rounds, seconds=seconds, joules=lambda *_: ([], None))
    finally:
        turns.end(sides)
    times = [side.times for side in sides]
    row: dict[str, object] = {"subject": subject, "rounds": rounds, "jax": sides[0].facts["version"]}
    for side, values in zip(SIDES, times, strict=True):
        row[f"{side} ms"] = round(1e3 * statistics.median(values) / READ, 3)
        if side != "none":
            more = [100 * (value / plain - 1) for value, plain in zip(values, times[0], strict=True)]
            found = {"median": statistics.median(more), "min": min(more), "max": max(more)}
            row |= {f"{side} {what} %": round(value, 2) for what, value in found.items()}
    return row | {
        "cpu": machine.cpu(), "cores": len(os.sched_getaffinity(0)), "date": datetime.date.today().isoformat()
    }  # fmt: skip


def main() -> None:
    """Measures the subjects of the command line, or all."""
    if sys.argv[1:2] and sys.argv[1].startswith("{"):  # one side
        turns.serve(start)
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn, about")
    options = parser.parse_args()
    for name in options.names or SUBJECTS:
        row = measure(name, options.rounds, options.seconds)
        table.put(HERE / "results" / "guard.csv", row, COLUMNS, ("subject", "cpu"))
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
