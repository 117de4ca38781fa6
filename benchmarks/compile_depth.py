"""Seconds to compile GPT-2's training step, and its lines of HLO, against its depth: layers scanned, and unrolled.

    python benchmarks/compile_depth.py                  # writes benchmarks/results/compile_depth.csv

The step is the gradient of the loss and a step of SGD, at GPT-2's width, one text of 64 tokens. Nothing is cached and
nothing is run. Lines are those of StableHLO that XLA is given.
"""

import csv
import datetime
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from deepmodels import models, objectives
from deepmodels.training.optimizer import make_optimizer
from deepmodels.training.step import TrainState, make_train_step

DEPTHS = (3, 6, 12, 24)
COLUMNS = ("layers", "form", "hlo lines", "trace s", "compile s", "jax", "date")


def measure(depth: int, unroll: bool) -> dict[str, object]:
    """Returns the row of one depth and form."""
    model = models.create("gpt2", num_layers=depth, unroll=depth if unroll else 1, dropout_rate=0.0)
    tokens = jax.ShapeDtypeStruct((1, 64), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    optimizer, _ = make_optimizer(dict(name="momentum", momentum=0.9, learning_rate=1e-3), 1_000)
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, {}, jax.eval_shape(optimizer.init, params))
    step = make_train_step(model, objectives.create("language_modelling"), optimizer, seed=0)
    began = time.perf_counter()
    lowered = jax.jit(step).lower(state, {"tokens": tokens})
    traced = time.perf_counter()
    lowered.compile()
    compiled = time.perf_counter()
    return {
        "layers": depth,
        "form": "unrolled" if unroll else "scanned",
        "hlo lines": len(lowered.as_text().splitlines()),
        "trace s": round(traced - began, 1),
        "compile s": round(compiled - traced, 1),
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    """Measures all depths and writes the table."""
    jax.config.update("jax_enable_compilation_cache", False)
    measure(1, False)  # what the first compilation alone does
    rows = []
    for depth in DEPTHS:
        for unroll in (False, True):
            rows.append(measure(depth, unroll))
            print(*rows[-1].values(), flush=True)
    with (Path(__file__).parent / "results" / "compile_depth.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
