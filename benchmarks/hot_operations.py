"""Where a training step of ours spends its time: seconds of each kind of HLO instruction, and the longest instructions.

    python benchmarks/hot_operations.py mobilenet_v2
    python benchmarks/hot_operations.py mobilenet_v2 --plain --longest 40

The step is that of `deepmodels bench`, compiled anew with a profile of its run; seconds are of all threads together, so
of two cores that are busy all the time they are twice the step's.
"""

import argparse
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import jax
import ours
import subjects

STEPS = 3


def profile(name: str, task: str, tuned: bool) -> Counter[str]:
    """Returns seconds a step by instruction, as XLA calls it."""
    subject = subjects.SUBJECTS[name]
    side = {"task": task, "batch": subject.tasks[task], "device": "cpu", "profile": tuned}
    step, _ = ours.start(subject._asdict() | side)
    step()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                step()
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    seconds = Counter()
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    seconds[stats["hlo_op"]] += event.duration_ns / 1e9 / STEPS
    return seconds


def main() -> None:
    """Prints the tables of one subject."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=subjects.SUBJECTS)
    parser.add_argument("--task", choices=("train", "infer", "denoise"), default="train")
    parser.add_argument("--longest", type=int, default=20, metavar="N", help="instructions to print one by one")
    parser.add_argument("--plain", action="store_true", help="without the settings of deepmodels/tuning.py")
    options = parser.parse_args()
    seconds = profile(options.name, options.task, not options.plain)
    kinds = Counter()
    for name, value in seconds.items():
        kinds[re.sub(r"[.\d]+(clone)?$", "", name)] += value
    total = sum(seconds.values())
    for title, table in (("kind", kinds), ("instruction", seconds)):
        print(f"{title:60} {'ms':>8} {'share':>6}")
        for name, value in table.most_common(options.longest):
            print(f"{name:60} {1000 * value:8.1f} {value / total:6.1%}")
        print()


if __name__ == "__main__":
    sys.exit(main())
