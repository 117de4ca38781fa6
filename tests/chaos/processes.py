"""Faults on purpose while several processes train together: what becomes of the run.

    python tests/chaos/processes.py                         # 48 faults
    python tests/chaos/processes.py --trials=8 --no-record

A run of two or of four processes on four devices is started again and again. At a random moment, from before the
processes have met until after the last step, a random one of them gets SIGKILL or SIGTERM, or the script that has
started them gets SIGTERM. All must be gone in time, and with the right code; and after five faults the run is left to
its end, where its state must be that of a run that nothing has disturbed, to the bit.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import promises

ROOT = Path(__file__).parents[2]
FAULTS = 5  # of a run
SECONDS = 60  # in which all must be gone, after a save
STEPS = 400
CONFIG = f"""
def get_config():
    return {{
        "steps": {STEPS},
        "model": {{"name": "lenet5", "num_classes": 10}},
        "data": {{"name": "fashion_mnist_embedded", "batch_size": 16, "mean": 0.286, "std": 0.353}},
        "augment": {{"random_crop": {{"padding": 2}}}},
        "optimizer": {{"name": "adamw", "learning_rate": 1e-3, "schedule": {{"name": "cosine"}}, "ema": 0.99}},
        "mesh": {{"data": 2, "fsdp": 2}},
        "every": {{"log": 5, "evaluate": {STEPS}, "checkpoint": 10}},
    }}
"""


class Run:
    """One run in a folder, which may be started several times."""

    def __init__(self, folder: Path, name: str, layout: str):
        """Starts nothing yet; the layout is PROCESSESxDEVICES."""
        self.workdir, self.layout, self.log, self._begun = folder / name, layout, folder / f"{name}.log", 0
        self._config = folder / "config.py"
        self._config.write_text(CONFIG)

    def start(self) -> subprocess.Popen:
        """Starts the processes."""
        command = [ROOT / "launch" / "local.sh", self.layout, f"--config={self._config}", f"--workdir={self.workdir}"]
        command += ["--heartbeat-seconds=600"]  # the script ends them all; what a heartbeat does test_hosts.py measures
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with open(self.log, "a") as log:
            self._begun = log.tell()
            return subprocess.Popen(command, env=os.environ | {"PATH": path}, stdout=log, stderr=log)

    def finish(self) -> str:
        """Trains to the end, undisturbed; returns the SHA-256 of the last state, or what went wrong."""
        if code := self.start().wait(timeout=900):
            return f"exit code {code}: {self.said()}"
        command = [sys.executable, "-m", "deepmodels", "doctor", f"--workdir={self.workdir}"]
        said = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}).stdout
        found = re.search(rf"ok  checkpoints/{STEPS}: .*sha256 (\w+)", said)
        return found[1] if found else said

    def said(self) -> str:
        """Returns how what the processes said since the last start begins and ends."""
        text = self.log.read_bytes()[self._begun :].decode(errors="replace")
        return text if len(text) < 6000 else f"{text[:3000]}\n...\n{text[-3000:]}"

    def lines(self) -> int:
        """Returns how many lines of metrics there are."""
        path = self.workdir / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0


def processes(parent: int) -> list[int]:
    """Returns the children of a process."""
    said = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True).stdout
    return [int(line) for line in said.split()]


def disturb(run: Run, rng: random.Random) -> tuple[str, float, str]:
    """Starts a run and disturbs it; returns the fault, the seconds until all were gone, and what was wrong, or ""."""
    asked, of_script, early = rng.random() < 0.5, rng.random() < 0.2, rng.random() < 0.2
    started, lines, count = run.start(), run.lines(), int(run.layout.partition("x")[0])
    while not early and started.poll() is None and run.lines() <= lines + 1:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 12 if early else 3))
    ranks = processes(started.pid)
    met = run.lines() > lines + 1
    if started.poll() is not None or len(ranks) < count:
        code = started.wait(timeout=SECONDS)
        return "none: it was over", 0.0, "" if code == 0 else f"exit code {code} by itself"
    rank = rng.randrange(count)
    fault = "SIGTERM to the script" if asked and of_script else f"{'SIGTERM' if asked else 'SIGKILL'} to a process"
    os.kill(started.pid if asked and of_script else ranks[rank], signal.SIGTERM if asked else signal.SIGKILL)
    before = time.monotonic()
    try:
        code = started.wait(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        for pid in [started.pid, *ranks]:
            os.kill(pid, signal.SIGKILL)
        return fault, SECONDS, f"not gone after {SECONDS} s"
    seconds = time.monotonic() - before
    # the last step may have been made already, before they meet a signal is the end of a process, and the script may be
    # told first of another that has seen it go, which Gloo may abort
    right = code in (0, 75) if asked and met else code in (0, 75, 76, 134, 137, 143)
    wrong = "" if right else f"exit code {code}"
    if left := [pid for pid in ranks if Path(f"/proc/{pid}").exists()]:
        wrong += f" processes {left} are left"
    return f"{fault}{'' if met else ', early'}", seconds, wrong


def processes_disturbed(trials: int, seed: int) -> promises.Outcome:
    """Returns what a number of faults came to; each line of what happens is printed."""
    rng, counts, failures, done, longest, number = random.Random(seed), Counter(), [], 0, 0.0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = Run(folder, "whole", "1x4").finish()
        print(f"undisturbed, 1x4: {whole}", flush=True)
        if len(whole) != 64:
            return promises.Outcome("P3", 0, counts, [f"undisturbed: {whole}"])
        while done < trials:
            number += 1
            run = Run(folder, f"run{number}", ("2x2", "4x1")[number % 2])
            for _ in range(min(FAULTS, trials - done)):
                fault, seconds, wrong = disturb(run, rng)
                print(f"run {number}, {run.layout}: {fault}, {seconds:.1f} s{wrong and ', WRONG: '}{wrong}", flush=True)
                if wrong:
                    failures.append(f"run {number}, {run.layout}, {fault}: {wrong}\n{run.said()}")
                if fault.startswith("none"):
                    break
                done, longest = done + 1, max(longest, seconds)
                counts[fault] += 1
            found = run.finish()
            counts["runs that ended with the undisturbed one's SHA-256"] += found == whole
            print(f"run {number}, {run.layout}: {found}", flush=True)
            if found != whole:
                failures.append(f"run {number}, {run.layout}: {found} instead of {whole}")
    counts["seconds until all were gone, at most"] = round(longest)
    return promises.Outcome("P3", done, counts, failures)


def main() -> int:
    """Makes the trials, prints and records their outcome; returns 1 if the promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=48, metavar="N", help="faults (default: 48)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments and ranks (default: 0)")
    parser.add_argument("--no-record", action="store_true", help="leave tests/chaos/results as it is")
    options = parser.parse_args()
    return promises.told(processes_disturbed(options.trials, options.seed), keep=not options.no_record)


if __name__ == "__main__":
    sys.exit(main())
