"""Tries the promises of docs/trust.md, one after another, and writes its table.

python tests/chaos/run.py                # all of them: hours
python tests/chaos/run.py P1 P12         # these
python tests/chaos/run.py --table        # none: the table, of what was found last
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import promises

ROOT = Path(__file__).parents[2]


def tried(name: str) -> int:
    """Tries one promise; returns 1 if it was broken."""
    command = [sys.executable, *shlex.split(promises.PROMISES[name].command)]
    begun = time.monotonic()
    if command[1:3] != ["-m", "pytest"]:
        code = subprocess.run(command, cwd=ROOT).returncode
    else:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "report.xml")
            environment = {"FUZZ_CASES": "2000"} | os.environ
            code = subprocess.run(
                [*command, f"--junitxml={report}", "--override-ini=junit_family=xunit1"],  # with what tests record
                cwd=ROOT,
                env=environment,
            ).returncode
            promises.record(counted(name, report))
    print(f"{name}: exit code {code}, {time.monotonic() - begun:.0f} s")
    return int(code != 0)


def counted(name: str, report: Path) -> promises.Outcome:
    """Returns what pytest's report says of a promise: a skipped test is no trial, and is said."""
    trials, counts, failures = 0, Counter(), []
    for case in ElementTree.parse(report).iter("testcase"):
        found = {item.get("name"): int(item.get("value")) for item in case.iter("property")}
        if case.find("skipped") is not None:
            counts["skipped"] += 1
            continue
        trials += found.pop("trials", 1)
        counts.update(found)
        for failure in [*case.iter("failure"), *case.iter("error")]:
            failures.append(f"{case.get('name')}: {' '.join(failure.get('message', '').split())[:300]}")
    return promises.Outcome(name, trials, counts, failures)


def main() -> int:
    """Tries what was asked for and writes the table; returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    known = [name for name, promise in promises.PROMISES.items() if promise.command is not None]
    parser.add_argument("names", nargs="*", metavar="PROMISE", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--table", action="store_true", help="try nothing, only write the table")
    options = parser.parse_args()
    if wrong := set(options.names) - set(known):
        parser.error(f"no trials of {', '.join(sorted(wrong))}; there are of {', '.join(known)}")
    broken = [] if options.table else [name for name in options.names or known if tried(name)]
    promises.write_docs()
    print(f"broken: {', '.join(broken) or 'none'}")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
