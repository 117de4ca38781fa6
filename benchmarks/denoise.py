"""Milliseconds of a step of sampling, ours beside diffusers': DDIM from noise to pictures, float32, random weights.

    python benchmarks/denoise.py                        # ddpm_cifar10, one picture and sixteen
    python benchmarks/denoise.py ddpm_cifar10 --batch 4 --steps 20 --rounds 7

The two sides are processes that take turns (turns.py). Ours is one program, however many steps there are; theirs the
loop of their pipelines, under torch in eager mode. A row is printed for each subject and replaces its older one in
benchmarks/results/denoise.csv: medians over the rounds with the least and the most beside them, and the ratio of the
medians, above 1 where ours is faster.
"""

import argparse
import datetime
import os
import statistics
import sys
from pathlib import Path

import table
import turns
from train_step import cpu

HERE = Path(__file__).parent
COLUMNS = (
    "model", "batch", "steps", "ours ms", "ours min", "ours max", "peer ms", "peer min", "peer max", "ratio",
    "ours first step s", "ours", "peer", "cpu", "cores", "date",
)  # fmt: skip


def measure(name: str, batch: int, steps: int, rounds: int, seconds: float) -> dict[str, object]:
    """Returns the row of one model and batch."""
    given = [name, str(batch), str(steps)]
    scripts = ("ours_denoise.py", "peers/torch_diffusion.py")
    commands = [[sys.executable, str(HERE / script), *given] for script in scripts]
    facts, times = turns.take_turns(commands, rounds=rounds, seconds=seconds)
    row = {"model": name, "batch": batch, "steps": steps, "cpu": cpu(), "cores": len(os.sched_getaffinity(0))}
    for side, fact, values in zip(("ours", "peer"), facts, times, strict=True):
        each = [1000 * value / steps for value in values]
        for column, value in (("ms", statistics.median(each)), ("min", min(each)), ("max", max(each))):
            row[f"{side} {column}"] = round(value, 1)
        row[side] = fact["version"]
    row["ours first step s"] = facts[0]["first step seconds"]
    row["ratio"] = round(statistics.median(times[1]) / statistics.median(times[0]), 2)
    return row | {"date": datetime.date.today().isoformat()}


def main() -> None:
    """Measures the subjects of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=["ddpm_cifar10"], metavar="NAME", help="that make pictures")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16], help="pictures at a time")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a turn, about")
    options = parser.parse_args()
    for name in options.models:
        for batch in options.batch:
            row = measure(name, batch, options.steps, options.rounds, options.seconds)
            table.put(HERE / "results" / "denoise.csv", row, COLUMNS, ("model", "batch", "steps", "cpu"))
            print(
                f"{name}, {batch}: ours {row['ours ms']} ms, peer {row['peer ms']} ms, ratio {row['ratio']}", flush=True
            )


if __name__ == "__main__":
    main()
