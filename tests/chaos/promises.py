"""The promises of docs/trust.md, and what trials of each came to: one file a promise in `results`, one table of all.

A promise is tried by a script or by tests. A script makes its faults, calls `told(Outcome(...))`, and exits with 1 if
the promise was broken. Tests are run by `run.py`, which counts them: each is a trial, or as many as it says by
`record_property("trials", number)`; other numbers that it records are what happened.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[2] / "docs" / "trust.md"
END = "<!-- until here -->"


class Promise(NamedTuple):
    """What is promised, and the arguments of `python` that try it; those of pytest begin with "-m pytest"."""

    text: str
    command: str | None


PROMISES: dict[str, Promise] = {
    "P1": Promise(
        "killed at any moment of a save, nothing saved is lost", "tests/chaos/checkpoints.py --only=kills --trials=200"
    ),
    "P2": Promise(
        "a damaged checkpoint is noticed, named and set aside, and the one before it is used",
        "tests/chaos/checkpoints.py --only=damages --trials=200",
    ),
    "P3": Promise(
        "killed and started again, a run of several processes ends with the same bits",
        "tests/chaos/processes.py --trials=48",
    ),
    "P4": Promise(
        "the number of processes changes no bit, on one mesh",
        "-m pytest -m slow -k any_number tests/training/test_hosts.py",
    ),
    "P5": Promise(
        "a process that dies or hangs ends the whole run, in a time that is said",
        "-m pytest -m slow -k one_of_them_fails tests/training/test_hosts.py",
    ),
    "P6": Promise(
        "SIGTERM to any process: all save the same step, exit code 75",
        "-m pytest -m slow -k asked_to_leave tests/training/test_hosts.py",
    ),
    "P7": Promise(
        "under Slurm: requeued, preempted, out of time or killed, it ends with the same bits", "tests/slurm/run.py"
    ),
    "P8": Promise(
        "a checkpoint comes back on any mesh; another tree, shape or dtype is refused by name",
        '-m pytest -m "not parity" -k "every_mesh or refused_by_name" tests/training/test_checkpoint.py',
    ),
    "P9": Promise(
        "every record once an epoch, for any number of processes and workers; a bad one is named",
        "tests/chaos/bad_records.py --trials=200",
    ),
    "P10": Promise(
        "a batch that isn't finite, or explodes, changes no weight", "tests/chaos/bad_numbers.py --trials=200"
    ),
    "P11": Promise(
        "a full or unwritable disk and a second run are said at once, and cost nothing saved",
        '-m pytest -m "not parity" tests/training/test_disk.py',
    ),
    "P12": Promise(
        "no file runs code, is written elsewhere, or takes memory that it only claims",
        "-m pytest tests/weights/test_fuzz.py tests/weights/test_hostile.py tests/weights/test_hub.py"
        " tests/test_chat.py tests/test_nothing_is_executed.py",
    ),
    "P13": Promise(
        "a giant's config compiles for its mesh, at the bytes that its sizes say",
        '-m pytest -m "not parity" tests/training/test_planning.py',
    ),
    "P14": Promise("what launches runs: Slurm for real, Kubernetes by its schema only", "-m pytest tests/launch"),
}


class Outcome(NamedTuple):
    """What trials of one promise came to."""

    promise: str  # "P1"
    trials: int
    counts: Counter  # what happened, and how often
    failures: list[str]  # a line for each trial that broke the promise


def record(outcome: Outcome) -> None:
    """Keeps an outcome as this promise's last one."""
    RESULTS.mkdir(exist_ok=True)
    found = outcome._asdict() | {"date": time.strftime("%Y-%m-%d"), "jax": jax.__version__}
    (RESULTS / f"{outcome.promise}.json").write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


def table(outcomes: Iterable[Outcome]) -> str:
    """Returns outcomes as a table of Markdown."""
    lines = ["| promise | trials | what happened | broken |", "|---|---|---|---|"]
    for outcome in outcomes:
        text = f"{outcome.promise}: {PROMISES[outcome.promise].text}"
        happened = "; ".join(f"{what}: {count}" for what, count in sorted(outcome.counts.items()))
        lines.append(f"| {text} | {outcome.trials} | {happened} | {len(outcome.failures)} |")
    return "\n".join(lines)


def told(*outcomes: Outcome, keep: bool) -> int:
    """Prints outcomes and records them if they are to be kept; returns 1 if a promise was broken."""
    print(table(outcomes))
    for outcome in outcomes:
        print(*outcome.failures, sep="\n", file=sys.stderr)
        if keep:
            record(outcome)
    return int(any(outcome.failures for outcome in outcomes))


def kept() -> list[Outcome]:
    """Returns the last outcome of every promise that has one."""
    found = [json.loads(path.read_text()) for name in PROMISES if (path := RESULTS / f"{name}.json").exists()]
    return [Outcome(**{key: outcome[key] for key in Outcome._fields}) for outcome in found]


def write_docs() -> None:
    """Writes the tables of what is kept into docs/trust.md."""
    outcomes = kept()
    missing = [name for name in PROMISES if name not in {outcome.promise for outcome in outcomes}]
    lines = "".join(f"\n- {name}: {PROMISES[name].text}" for name in missing)
    untried = f"\n\nOf these no outcome is recorded yet:\n{lines}\n" if missing else ""
    between(DOCS, "<!-- made by tests/chaos/run.py -->", table(outcomes) + untried)
    if (RESULTS / "soak.json").exists():
        found = json.loads((RESULTS / "soak.json").read_text())
        faults = "; ".join(f"{kind}: {count}" for kind, count in found["faults"].items())
        lines = ["| date | minutes | experiments | runs | starts | faults | lost |", "|---|---|---|---|---|---|---|"]
        values = [found[name] for name in ("date", "minutes", "experiments", "runs", "starts")]
        row = f"| {' | '.join(map(str, values))} | {faults} | {found['lost']} |"
        between(DOCS, "<!-- made by tests/chaos/soak.py -->", "\n".join([*lines, row]))


def between(page: Path, begin: str, text: str) -> None:
    """Replaces what a page has between a comment and the next `END`."""
    before, rest = page.read_text().split(begin)
    _, after = rest.split(END, 1)
    page.write_text(f"{before}{begin}\n{text}\n{END}{after}")
