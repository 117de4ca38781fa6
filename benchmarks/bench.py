"""The speed of models, ours beside the same ones of other libraries: the table that `deepmodels bench` makes.

The command line is deepmodels/cli.py's, which gives its options in JSON.

A subject is a row of subjects.py, or a folder or file of llama.cpp with a model that writes texts. Each side is a
process, and they take turns (turns.py) on the same batch: float32 on a CPU, bfloat16 on a GPU. `train` is a step of SGD
with momentum, `infer` a forward pass, `decode` one text's likeliest next tokens, one by one, `denoise` a step of DDIM
from noise. Sides are `deepmodels`, `plain`, which is ours without huge pages and the profile of deepmodels/tuning.py,
and the peers in peers/, torch in eager mode (install the extra `bench`). Each side has a row, which replaces its older
one of the day in benchmarks/results/DEVICE-DATE.csv.
"""

import argparse
import datetime
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
import report
import subjects
import table
import turns

from deepmodels import errors

HERE = Path(__file__).parent
OURS, PLAIN = "deepmodels", "plain"
PACKAGES = {  # that a peer needs
    "torch": ("torch", "torchvision"),
    "timm": ("torch", "torchvision", "timm"),
    "transformers": ("torch", "transformers"),
    "diffusers": ("torch", "diffusers"),
    "keras": ("keras",),
}
COLUMNS = (
    "model", "task", "by", "batch_size", "samples_per_sec", "step_time", "step_time_min", "step_time_max", "ratio",
    "compile_s", "first_step_s", "peak_gb", "param_count", "gmacs", "mfu", "hfu", "mbu", "joules", "same_tokens",
    "matrix_gflops", "copy_gbs", "peak_gflops", "rounds", "dtype", "profile", "version", "device", "cores", "date",
)  # fmt: skip
KEY = ("model", "task", "by", "batch_size", "device")


def measure(subject: subjects.Subject, task: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the rows of a subject's task, one for each side, ours first."""
    os.environ["JAX_PLATFORMS"] = "cpu" if options.device == "cpu" else "cuda"
    with tempfile.TemporaryDirectory() as folder:
        scripts = commands(subject, task, options, folder)
        limits, sides = [limits_of_machine()], turns.start([*scripts.values()])
        try:
            joules = machine.Energy(options.device).since
            turns.take_turns(sides, rounds=options.rounds, seconds=options.seconds, joules=joules)
        finally:
            turns.end(sides)
        limits.append(limits_of_machine())
    return rows(subject, task, options, dict(zip(scripts, sides, strict=True)), limits)


def commands(subject: subjects.Subject, task: str, options: argparse.Namespace, folder: str) -> dict[str, list[str]]:
    """Returns the command line of each side, ours first; a model that decodes is written into the folder before."""
    scripts = {OURS: "ours", **{by: f"peers/{name}" for by, name in subject.peers.items() if by in options.against}}
    if PLAIN in options.against and task != "decode":  # whose programs have no profile
        scripts[PLAIN] = "ours"
    fields = subject._asdict() | {"task": task, "batch": subject.tasks[task], "device": options.device}
    if task == "decode":
        fields["folder"] = folder
        make = "import json, sys, ours; ours.make_folder(json.loads(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", make, json.dumps(fields)], cwd=HERE, check=True)
    return {
        by: [sys.executable, str(HERE / f"{script}.py"), json.dumps(fields | {"by": by, "profile": by == OURS})]
        for by, script in scripts.items()
    }


def rows(
    subject: subjects.Subject,
    task: str,
    options: argparse.Namespace,
    sides: dict[str, turns.Side],
    limits: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Returns the rows of sides that have taken their turns, on a machine that can do what `limits` say."""
    matrix, copy = (statistics.mean(limit[name] for limit in limits) for name in ("matrix rate", "copy bandwidth"))
    shared = {
        "model": subject.name or subject.model,
        "task": task,
        "batch_size": subject.tasks[task],
        "matrix_gflops": round(matrix / 1e9),
        "copy_gbs": round(copy / 1e9, 1),
        "peak_gflops": _published(limits[0]["device"]),
        "rounds": len(sides[OURS].times),
        "dtype": "float32" if options.device == "cpu" else "bfloat16",
        "device": limits[0]["device"],
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.date.today().isoformat(),
    }
    return [shared | _row(by, side, sides[OURS], task, shared, matrix, copy) for by, side in sides.items()]


def _row(by: str, side: turns.Side, ours: turns.Side, task: str, shared: dict, matrix: float, copy: float) -> dict:
    """What one side adds to the columns that all have."""
    units, facts = ours.facts.get("units", 1), side.facts
    times = [seconds / units for seconds in side.times]
    seconds, batch = statistics.median(times), shared["batch_size"]
    row = {
        "by": by,
        "samples_per_sec": _figures(batch / seconds),
        "step_time": _figures(1e3 * seconds),
        "step_time_min": _figures(1e3 * min(times)),
        "step_time_max": _figures(1e3 * max(times)),
        "first_step_s": round(facts["first step seconds"], 1),
        "peak_gb": round(facts["peak bytes"] / 1e9, 2),
        "param_count": ours.facts["parameters"],
        "version": facts["version"],
        "profile": facts.get("profile", ""),
        "joules": _figures(statistics.median(side.joules) / units) if side.joules else "not measured",
    }
    if by in (OURS, PLAIN):
        row["compile_s"] = round(facts["compile seconds"], 1)
    if by != OURS:
        row["ratio"] = round(statistics.median(side.times) / statistics.median(ours.times), 2)
    if task == "decode":
        row["mbu"] = round(ours.facts["bytes"] / seconds / copy, 2)
        row["same_tokens"] = sum(a == b for a, b in zip(facts["tokens"], ours.facts["tokens"], strict=True))
    else:
        passes = 3 if task == "train" else 1
        row["gmacs"] = _figures(ours.facts["products"] / 1e9)
        row["mfu"] = round(2 * passes * ours.facts["products"] * batch / seconds / matrix, 3)
        if by in (OURS, PLAIN):
            row["hfu"] = round(facts["operations"] / seconds / matrix, 3)
    return row


def _figures(value: float) -> float:
    return float(f"{value:.4g}")


def limits_of_machine() -> dict[str, Any]:
    """What the machine can do, measured by a process of its own, whose memory is then free again."""
    done = subprocess.run([sys.executable, str(HERE / "machine.py")], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def _published(device: str) -> float | str:
    """The dense peak of the data sheet in bfloat16, in GFLOP/s, where the table has the device."""
    from deepmodels.analysis.hardware import HARDWARE

    words = re.split(r"[^a-z0-9]+", device.lower())
    return next((chip.flops / 1e9 for name, chip in HARDWARE.items() if name in words), "unknown")


def path_of(row: dict[str, Any]) -> Path:
    """Returns the file that a row belongs to."""
    device = re.sub(r"\((r|tm)\)|processor", "", row["device"].lower())
    slug = "-".join(re.findall(r"[a-z0-9]+", device))
    return HERE / "results" / f"{slug}-{row['date']}.csv"


def check(options: argparse.Namespace) -> None:
    """Raises ConfigError unless all that is asked for is known, and installed."""
    for name in options.names:
        if subjects.subject(name) is None:
            raise errors.unknown("subject or file", name, subjects.SUBJECTS)
    for by in options.against:
        if by not in (*subjects.PEERS, PLAIN):
            raise errors.unknown("peer", by, (*subjects.PEERS, PLAIN))
    for task in options.tasks:
        if task not in subjects.TASKS:
            raise errors.unknown("task", task, subjects.TASKS)
    peers = {by for name in options.names for by in subjects.subject(name).peers if by in options.against}
    packages = {package for by in peers for package in PACKAGES[by]}
    if missing := sorted(package for package in packages if importlib.util.find_spec(package) is None):
        raise errors.ConfigError(f"{', '.join(missing)} missing: pip install -e '.[bench]' in {HERE.parent}")


def main(options: argparse.Namespace) -> None:
    """Measures some subjects, or all, and writes the page of all rows."""
    options.names = options.names or [*subjects.SUBJECTS]
    check(options)
    for name in [] if options.report else options.names:
        subject = subjects.subject(name)
        for task in subject.tasks:
            if task not in options.tasks:
                continue
            for row in measure(subject, task, options):
                table.put(path_of(row), row, COLUMNS, KEY)
                ratio = f", ratio {row['ratio']}" if "ratio" in row else f"; XLA's options: {row['profile'] or 'none'}"
                print(f"{row['model']} {task} {row['by']}: {row['step_time']} ms{ratio}", flush=True)
    report.write()


if __name__ == "__main__":
    try:
        main(argparse.Namespace(**json.loads(sys.argv[1])))
    except errors.DeepModelsError as error:
        sys.exit(f"error: {error}")
