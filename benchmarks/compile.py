"""Seconds to lower and to compile each subject's training step, its lines of HLO and the most bytes that it needs.

    python benchmarks/compile.py                        # all subjects of subjects.py that train
    python benchmarks/compile.py resnet50 gpt2

Nothing is cached, made or run: the step is that of `deepmodels bench`, of abstract arrays. Lines are those of StableHLO
that XLA is given; bytes are those of arguments, results and what is between, donated ones once. A row is printed for
each subject and replaces its older one of the same processor and JAX in benchmarks/results/compile.csv.
"""

import argparse
import datetime
import time
from pathlib import Path

import jax
import machine
import ours
import subjects
import table

from deepmodels import tuning

COLUMNS = ("model", "batch", "hlo lines", "lower s", "compile s", "peak bytes", "jax", "cpu", "date")


def lower(subject: subjects.Subject) -> jax.stages.Lowered:
    """Returns the lowered training step of a subject."""
    step, init, batch = ours.make_step(subject._asdict())
    return step.lower(jax.eval_shape(init), batch)


def needed_bytes(memory) -> int:
    """Returns the bytes of arguments, results and what is between, donated ones counted once."""
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return total - memory.alias_size_in_bytes


def measure(name: str) -> dict[str, object]:
    """Returns the row of one subject."""
    subject = subjects.TRAINED[name]
    began = time.perf_counter()
    lowered = lower(subject)
    middle = time.perf_counter()
    memory = lowered.compile(tuning.compiler_options()).memory_analysis()
    compiled = time.perf_counter()
    return {
        "model": name,
        "batch": subject.tasks["train"],
        "hlo lines": len(lowered.as_text().splitlines()),
        "lower s": round(middle - began, 1),
        "compile s": round(compiled - middle, 1),
        "peak bytes": needed_bytes(memory),
        "jax": jax.__version__,
        "cpu": machine.cpu(),
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    """Measures the subjects of the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(subjects.TRAINED)}")
    options = parser.parse_args()
    if unknown := set(options.names) - set(subjects.TRAINED):
        parser.error(f"unknown subjects {sorted(unknown)}; there are {', '.join(subjects.TRAINED)}")
    jax.config.update("jax_enable_compilation_cache", False)
    for name in options.names or subjects.TRAINED:
        row = measure(name)
        table.put(Path(__file__).parent / "results" / "compile.csv", row, COLUMNS, ("model", "jax", "cpu"))
        print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
