"""Seconds to lower and to compile each subject's step, its lines of HLO and the most bytes that it needs.

    python benchmarks/compile.py                        # all subjects
    python benchmarks/compile.py resnet50 gpt2

The step is that of `deepmodels bench`, or of a decoder that writes a token, of abstract arrays: nothing is cached, made
or run. Lowering is the work of one thread, and its seconds are those that a processor gave that thread, whatever else
the machine does; to compile, those that passed. Lines are those of StableHLO that XLA is given; bytes are those of
arguments, results and what is between, donated ones once. A row is printed for each subject and replaces its older one
of the same processor and JAX in benchmarks/results/compile.csv.
"""

import argparse
import datetime
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import machine
import ours
import subjects
import table

from deepmodels import models, tuning

COLUMNS = ("model", "batch", "hlo lines", "lower s", "compile s", "peak bytes", "jax", "cpu", "date")


_WRITING = subjects.Subject("smollm2_135m", {"decode": 1}, {}, (1024,), name="smollm2_135m writing")
SUBJECTS = subjects.TRAINED | {_WRITING.name: _WRITING}


def step_of(subject: subjects.Subject) -> tuple[Any, tuple]:
    """Returns the step of a subject, to be lowered, and its abstract arguments."""
    if "train" in subject.tasks:
        step, init, batch = ours.make_step(subject._asdict())
        return step, (jax.eval_shape(init), batch)
    model, batch = models.create(subject.model), subject.tasks["decode"]
    tokens = jax.ShapeDtypeStruct((batch,), "int32")
    cache = jax.eval_shape(lambda: model.start(batch, *subject.lengths))
    variables = jax.eval_shape(lambda tokens: model.init(jax.random.key(0), tokens[:, None]), tokens)
    return jax.jit(partial(model.apply, method="step"), donate_argnums=2), (variables, tokens, cache)


def lower(subject: subjects.Subject) -> jax.stages.Lowered:
    """Returns the lowered step of a subject."""
    step, arguments = step_of(subject)
    return step.lower(*arguments)


def needed_bytes(memory) -> int:
    """Returns the bytes of arguments, results and what is between, donated ones counted once."""
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return total - memory.alias_size_in_bytes


def measure(name: str) -> dict[str, object]:
    """Returns the row of one subject."""
    subject = SUBJECTS[name]
    step, arguments = step_of(subject)
    began = time.thread_time()
    lowered = step.lower(*arguments)
    seconds = time.thread_time() - began
    middle = time.perf_counter()
    memory = tuning.compile(lowered).memory_analysis()
    compiled = time.perf_counter()
    return {
        "model": name,
        "batch": subject.tasks.get("train") or subject.tasks["decode"],
        "hlo lines": len(lowered.as_text().splitlines()),
        "lower s": round(seconds, 1),
        "compile s": round(compiled - middle, 1),
        "peak bytes": needed_bytes(memory),
        "jax": jax.__version__,
        "cpu": machine.cpu(),
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    """Measures the subjects of the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUBJECTS)}")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SUBJECTS):
        parser.error(f"unknown subjects {sorted(unknown)}; there are {', '.join(SUBJECTS)}")
    jax.config.update("jax_enable_compilation_cache", False)
    for name in options.names or SUBJECTS:
        row = measure(name)
        table.put(Path(__file__).parent / "results" / "compile.csv", row, COLUMNS, ("model", "jax", "cpu"))
        print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
