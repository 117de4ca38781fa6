"""What config.deterministic costs: a training step with and without it, in turns, in one process.

    python benchmarks/deterministic.py lenet5_fashion resnet20_fashion decoder_state_of_the_union

Prints the median seconds of a step of each and their ratio with the quartiles of the turns' ratios, as a table of
Markdown. The experiments are the full ones, on this machine's devices.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import jax

from deepmodels import config as configs
from deepmodels import tuning
from deepmodels.training import experiment
from deepmodels.training.compiled import JitStep

ROOT = Path(__file__).parents[1]


def stepper(name: str, deterministic: bool):
    """Returns a function that makes a step of an experiment and waits for it."""
    config = configs.load(str(ROOT / "experiments" / f"{name}.py"), {"deterministic": str(deterministic)})
    x = experiment.make(config)
    places = jax.tree.map(lambda leaf: leaf.sharding, x.abstract)
    step = JitStep(experiment.make_step(x, None), x.mesh, places, deterministic)
    state, batch = x.init(), step.place(next(experiment.train_batches(x, 0)))

    def make() -> float:
        nonlocal state
        begun = time.perf_counter()
        state, _ = step(state, batch)
        jax.block_until_ready(state)
        return time.perf_counter() - begun

    return make


def main() -> None:
    """Times and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", metavar="EXPERIMENT")
    parser.add_argument("--turns", type=int, default=15, metavar="N", help="default: 15")
    options = parser.parse_args()
    tuning.keep_memory()
    print("| step of | seconds | deterministic | ratio |")
    print("|---|---|---|---|")
    for name in options.names:
        sides = [stepper(name, deterministic) for deterministic in (False, True)]
        for side in sides:
            side()  # compiles
            side()
        pairs = [[side() for side in sides] for _ in range(options.turns)]
        ratios = [other / one for one, other in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        one, other = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        print(f"| {name} | {one:.4f} | {other:.4f} | {middle:.2f} ({low:.2f} to {high:.2f}) |", flush=True)
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} processors, jax {jax.__version__}")


if __name__ == "__main__":
    main()
