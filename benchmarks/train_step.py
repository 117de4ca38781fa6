"""Seconds of a training step, ours beside the peer's, in one run: float32 on a CPU, the same batch, SGD with momentum.

    python benchmarks/train_step.py                     # all subjects
    python benchmarks/train_step.py resnet50 --rounds 7
    python benchmarks/train_step.py --plain             # without the settings of deepmodels/tuning.py

The two sides are processes that take turns (turns.py). The peer is torchvision's model under torch in eager mode
(peers/torch_vision.py; install the extra `parity`), ours the step that `deepmodels train` compiles. A row is printed
for each subject and replaces its older one in benchmarks/results/train_step.csv: medians over the rounds, the least and
the most beside them, and the ratio of the medians, above 1 where ours is faster.
"""

import argparse
import csv
import datetime
import os
import platform
import statistics
import sys
from pathlib import Path

import turns

HERE = Path(__file__).parent
SUBJECTS = {"alexnet": 16, "vgg11": 16, "resnet50": 16, "mobilenet_v2": 16, "inception_v3": 16}  # and the batch size
COLUMNS = (
    "model", "batch", "ours ms", "ours min", "ours max", "peer ms", "peer min", "peer max", "ratio",
    "ours first step s", "ours peak GB", "peer peak GB", "ours", "peer", "settings", "cpu", "cores", "date",
)  # fmt: skip


def measure(name: str, batch: int, rounds: int, seconds: float, settings: str) -> dict[str, object]:
    """Returns the row of one subject."""
    ours = [sys.executable, str(HERE / "ours.py"), name, str(batch), settings]
    peer = [sys.executable, str(HERE / "peers" / "torch_vision.py"), name, str(batch)]
    facts, times = turns.take_turns([ours, peer], rounds=rounds, seconds=seconds)
    row = {"model": name, "batch": batch, "settings": settings, "cpu": cpu(), "cores": len(os.sched_getaffinity(0))}
    for side, fact, values in zip(("ours", "peer"), facts, times, strict=True):
        for column, value in (("ms", statistics.median(values)), ("min", min(values)), ("max", max(values))):
            row[f"{side} {column}"] = round(1000 * value)
        row[f"{side} peak GB"] = round(fact["peak bytes"] / 1e9, 2)
    row["ours"], row["peer"] = facts[0]["version"], f"{facts[1]['version']} {facts[1]['layout']}"
    row["ours first step s"] = facts[0]["first step seconds"]
    row["ratio"] = round(statistics.median(times[1]) / statistics.median(times[0]), 2)
    return row | {"date": datetime.date.today().isoformat()}


def cpu() -> str:
    """Returns the processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def write(row: dict[str, object]) -> None:
    """Puts a row into the results, in place of an older one of the same model and settings."""
    path = HERE / "results" / "train_step.csv"
    path.parent.mkdir(exist_ok=True)
    rows = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [
                old
                for old in csv.DictReader(file)
                if (old["model"], old["settings"]) != (row["model"], row["settings"])
            ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])


def main() -> None:
    """Measures the subjects of the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a turn, about")
    parser.add_argument("--plain", action="store_true", help="without the settings of deepmodels/tuning.py")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SUBJECTS):
        parser.error(f"unknown subjects {sorted(unknown)}; there are {', '.join(SUBJECTS)}")
    for name in options.names or SUBJECTS:
        row = measure(name, SUBJECTS[name], options.rounds, options.seconds, "plain" if options.plain else "tuned")
        write(row)
        print(f"{name}: ours {row['ours ms']} ms, peer {row['peer ms']} ms, ratio {row['ratio']}", flush=True)


if __name__ == "__main__":
    main()
