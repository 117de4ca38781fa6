"""Seconds from the start of the process to the end of the first training step, in a first and in later starts.

    python benchmarks/second_start.py experiments/lenet5_fashion.py

The first start compiles, into an empty cache; the second finds its programs there. Each start is a process of its own,
timed from outside by the line that its first step leaves in metrics.jsonl.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def first_step_seconds(config: str, workdir: Path, cache: Path) -> float:
    """Returns the seconds until metrics.jsonl has the line of the first step; the process is ended then."""
    command = [sys.executable, "-m", "deepmodels", "train", f"--config={config}", f"--workdir={workdir}", "--quiet"]
    started = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | {"DEEPMODELS_CACHE": str(cache)})
    metrics = workdir / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"loss"' in metrics.read_text()):
        time.sleep(0.01)
    seconds = time.monotonic() - started
    process.kill()
    process.wait()
    return seconds


def main() -> None:
    """Prints one line for each start."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(1, 5):
            seconds = first_step_seconds(sys.argv[1], root / f"run{number}", root / "cache")
            print(f"start {number}: first step after {seconds:.2f} s")


if __name__ == "__main__":
    main()
