"""Shares of the loop's time in which the device waits for the host: `data_stall` and `dispatch_overhead` of real runs.

    python benchmarks/stall.py                          # the configs below
    python benchmarks/stall.py experiments/vae_fashion.py --steps 400

Each is a run of `deepmodels train` in a process of its own, without checkpoints or evaluations before its end; readings
are weighted by their time, the first, which has the first step in it, left out. A row replaces its older one of the
same processor in benchmarks/results/stall.csv.
"""

import argparse
import datetime
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import machine
import table

HERE = Path(__file__).parent
CONFIGS = ("lenet5_fashion.py:full", "resnet20_fashion.py", "gpt_in_context.py", "vae_fashion.py")
COLUMNS = ("config", "steps", "step ms", "data_stall", "dispatch_overhead", "device", "cores", "date")


def measure(config: str, steps: int) -> dict[str, object]:
    """Returns the row of one experiment."""
    given = {"steps": steps, "every.log": max(1, steps // 10), "every.evaluate": steps, "every.checkpoint": steps}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "deepmodels", "train", "--config", config, "--workdir", folder, "--quiet"]
        subprocess.run([*command, *(f"--config.{name}={value}" for name, value in given.items())], check=True)
        lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
        size = json.loads(Path(folder, "config.json").read_text())["data"]["batch_size"]
    readings = [line for line in lines if "data_stall" in line]
    seconds = [
        size * (line["step"] - before["step"]) / line["examples_per_second"]
        for before, line in itertools.pairwise(readings)
    ]

    def share(name: str) -> float:
        return sum(s * line[name] for s, line in zip(seconds, readings[1:], strict=True)) / sum(seconds)

    return {
        "config": Path(config).name,
        "steps": steps,
        "step ms": round(1e3 * sum(seconds) / (steps - readings[0]["step"]), 2),
        "data_stall": round(share("data_stall"), 4),
        "dispatch_overhead": round(share("dispatch_overhead"), 4),
        "device": machine.cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    """Measures the experiments of the command line, or those of the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = [str(HERE.parent / "experiments" / name) for name in CONFIGS]
    parser.add_argument("configs", nargs="*", default=default, metavar="FILE[:SIZE]")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    for config in options.configs:
        row = measure(config, options.steps)
        table.put(HERE / "results" / "stall.csv", row, COLUMNS, ("config", "device"))
        print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
