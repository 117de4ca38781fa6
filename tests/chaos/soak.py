"""Trains every experiment's smoke under random faults, again and again, and compares each end with a run left alone.

    python tests/chaos/soak.py --minutes=30 --workdir=/tmp/soak
    python tests/chaos/soak.py --minutes=5 --only=lenet5_fashion --no-record

A run is started by `deepmodels train` in a process of its own, and started again until it is done. Meanwhile, at random
moments, it is killed, stopped and continued, or asked to leave; its disk is full for a while (a small file system in
memory, which takes root to mount); a second run is started in its folder; and after a kill a file of its newest
checkpoint is damaged. The run is lost if its last state isn't that of the run left alone, to the bit; if it can't go
on; or if it ends with anything but its documented exit codes and an error of its own.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import promises
from checkpoints import DAMAGES

ROOT = Path(__file__).parents[2]
STEPS, FAULTS = 6, 3  # of a run
# compiling is most of a start's time, and LLVM's optimisations are two thirds of compiling
ENVIRONMENT = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"}
PROGRAM = """
import sys
from deepmodels import cli
cli.main(["train", "--config", sys.argv[1], "--workdir", sys.argv[2], "--quiet"])
from deepmodels import integrity
from deepmodels.training import check_run, experiment
from deepmodels.training.checkpoint import look
from deepmodels.training.workdir import read_config
bad = [line for line in check_run(sys.argv[2]) if not line.ok and not line.name.startswith("damaged/")]
state = look(sys.argv[2], experiment.make(read_config(sys.argv[2])).abstract).state
print("\\nend", int(state.step), "damaged" if bad else integrity.sha256(state))
"""
CONFIG = """
from deepmodels import config

def get_config():
    c = config.load({spec!r})
    with c.unlocked():
        c.steps = {steps}
        c.every = {{"log": 1, "evaluate": {half}, "checkpoint": 1}}
        c.keep = {{"last": 3, "best": None}}
        c.early_stopping = c.decode = None
        c.sinks = ()
    return c
"""


class Run:
    """A run in a folder, and what was said by the processes that trained it."""

    def __init__(self, config: Path, folder: Path, log: Path):
        self.config, self.folder, self._log, self.process = config, folder, log, None

    def start(self) -> None:
        """Starts a process, or the next."""
        with open(self._log, "w") as file:
            command = [sys.executable, "-c", PROGRAM, self.config, self.folder]
            self.process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=ENVIRONMENT)

    def said(self) -> str:
        """Returns what the last process said."""
        return self._log.read_text(errors="replace")

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint."""
        return sorted(int(path.name) for path in (self.folder / "checkpoints").glob("*") if path.name.isdigit())

    def wait(self, seconds: float) -> bool:
        """Returns whether the process has ended after so many seconds at most."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is not None

    def until_it_saves(self, seconds: float) -> None:
        """Waits for something new among the checkpoints, but no longer than so many seconds."""
        before, end = self._there(), time.monotonic() + seconds
        while self.process.poll() is None and self._there() == before and time.monotonic() < end:
            time.sleep(0.002)

    def _there(self) -> set[str]:
        return {path.name for path in (self.folder / "checkpoints").glob("*")}

    def problem(self) -> str | None:
        """Returns what is wrong with how the last process ended; None if it is as documented."""
        code, said = self.process.returncode, self.said()
        if code in (0, 75, -signal.SIGKILL, -signal.SIGTERM):  # the last before Python takes signals
            return None
        if code == 1 and "Traceback" not in said and "error: " in said:
            return None
        return f"exit code {code}: {said.strip()[-500:]}"


class Disk:
    """A folder for runs; a small file system in memory where that can be mounted, which can be full."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.folder = folder
        self.small = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", folder], capture_output=True
        ).returncode

    def _resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Has nothing free within: the file system is made as small as what it holds."""
        for _ in range(9):  # what is written meanwhile may be in the way
            used = shutil.disk_usage(self.folder).used
            with contextlib.suppress(subprocess.CalledProcessError):
                self._resize(str(used + 4096))
                break
        yield
        self._resize("4g")

    def close(self) -> None:
        """Gives the memory back."""
        if self.small:
            subprocess.run(["umount", "-l", self.folder], check=True)


def disturbed(run: Run, disk: Disk, rng: np.random.Generator, usual: float, counts: Counter) -> str | None:
    """Trains under faults until it is done; returns what went wrong, None if nothing."""
    kinds = ["kill", "stop and continue", "SIGTERM", "second run", "damage", *(["disk full"] if disk.small else [])]
    faults = [str(kind) for kind in rng.choice(kinds, FAULTS)]
    soon = usual / 3  # as what was compiled by the run left alone isn't compiled again
    run.start()
    starts = 1
    while True:
        kind = faults.pop() if faults else None
        if kind is not None:
            if rng.random() < 0.5:
                run.wait(rng.uniform(0, soon))
            else:
                run.until_it_saves(soon)
                run.wait(rng.uniform(0, 0.3))
            if run.process.poll() is None:
                counts[kind] += _inflicted(kind, run, disk, rng)
        if kind is None and not run.wait(20 * usual + 120):
            run.process.kill()
            run.process.wait()
            return f"it hangs: {run.said().strip()[-300:]}"
        if run.process.poll() is None:
            continue
        counts["starts"] += 1
        if problem := run.problem():
            return problem
        if run.process.returncode == 0:
            return None
        starts += 1
        if starts > 3 * FAULTS + 2:
            return f"it doesn't go on: {run.said().strip()[-300:]}"
        run.start()


def _inflicted(kind: str, run: Run, disk: Disk, rng: np.random.Generator) -> bool:
    """Whether the fault came to be."""
    if kind == "stop and continue":
        run.process.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0, 3))
        run.process.send_signal(signal.SIGCONT)
    elif kind == "SIGTERM":
        run.process.terminate()
    elif kind == "disk full":
        with disk.full():
            run.wait(rng.uniform(1, 6))
    elif kind == "second run":
        second = Run(run.config, run.folder, run.folder.with_suffix(".second.log"))
        second.start()
        second.process.wait()
        # or, if the first was through or hadn't begun, it is one start among others
        return second.process.returncode == 1 and "is in use" in second.said()
    else:
        run.process.kill()
        run.process.wait()
        if kind == "damage":
            steps = run.steps()
            if len(steps) < 2:
                return False  # without one before it the run has to stop
            newest = run.folder / "checkpoints" / str(steps[-1])
            files = sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size)
            path = files[rng.integers(len(files))]
            raw = DAMAGES[str(rng.choice(list(DAMAGES)))](path.read_bytes(), rng)
            path.unlink() if raw is None else path.write_bytes(raw)
    return True


def end_of(run: Run) -> str | None:
    """Returns the digest of a finished run's last state."""
    lines = [line.split() for line in run.said().splitlines() if line.startswith("end ")]
    return lines[-1][2] if lines and lines[-1][1] == str(STEPS) else None


def soak(minutes: float, workdir: Path, names: list[str], seed: int) -> tuple[dict, list[str]]:
    """Returns what was tried and found, and a line for each run that was lost."""
    rng, counts, failures = np.random.default_rng(seed), Counter(), []
    alone: dict[str, tuple[str, float]] = {}
    skipped: dict[str, str] = {}
    disk = Disk(workdir / "disk")
    if not disk.small:
        print("no small file system can be mounted: the disk is never full")
    end = time.monotonic() + 60 * minutes
    trial = 0
    try:
        while time.monotonic() < end:
            name = names[trial % len(names)]
            trial += 1
            if name in skipped:
                if len(skipped) == len(names):
                    break
                continue
            config = workdir / f"{name}.py"
            spec = str(ROOT / "experiments" / f"{name}.py:smoke")
            config.write_text(CONFIG.format(spec=spec, steps=STEPS, half=STEPS // 2))
            if name not in alone:
                run = Run(config, disk.folder / "alone", workdir / "alone.log")
                begun = time.monotonic()
                run.start()
                run.process.wait()
                digest = end_of(run)
                shutil.rmtree(run.folder, ignore_errors=True)
                if digest is None:
                    skipped[name] = run.said().strip()[-300:]
                    print(f"{name} doesn't train here: {skipped[name]}", flush=True)
                    continue
                alone[name] = digest, time.monotonic() - begun
            run = Run(config, disk.folder / "run", workdir / "run.log")
            problem = disturbed(run, disk, rng, alone[name][1], counts)
            if problem is None and end_of(run) != alone[name][0]:
                problem = f"SILENTLY WRONG: {end_of(run)} instead of {alone[name][0]}"
            counts["runs"] += 1
            if problem is not None:
                failures.append(f"{name}, run {counts['runs']}: {problem}")
                kept = workdir / f"lost-{len(failures)}"
                shutil.copytree(run.folder, kept, dirs_exist_ok=True)
            shutil.rmtree(run.folder, ignore_errors=True)
            print(f"{name}: {problem or 'the same bits'}; {dict(counts)}", flush=True)
    finally:
        disk.close()
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "minutes": minutes,
        "experiments": len(alone),
        "not here": sorted(skipped),
        "runs": counts.pop("runs", 0),
        "starts": counts.pop("starts", 0),
        "faults": dict(sorted(counts.items())),
        "lost": len(failures),
    }
    return found, failures


def main() -> int:
    """Soaks, records what was found, writes the table; returns 1 if a run was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30, metavar="N", help="default: 30")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="for runs and what they said; default: temporary")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="experiments; default: all")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)), metavar="N", help="default: random")
    parser.add_argument("--no-record", action="store_true", help="only print what was found")
    options = parser.parse_args()
    names = options.only or sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
    rng = np.random.default_rng(options.seed)
    rng.shuffle(names)
    with contextlib.ExitStack() as stack:
        workdir = options.workdir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workdir.mkdir(parents=True, exist_ok=True)
        print(f"seed {options.seed}, in {workdir}", flush=True)
        found, failures = soak(options.minutes, workdir, names, options.seed)
    print(json.dumps(found, indent=2))
    print(*failures, sep="\n", file=sys.stderr)
    if not options.no_record:
        (promises.RESULTS / "soak.json").write_text(json.dumps(found, indent=2) + "\n")
        promises.write_docs()
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
