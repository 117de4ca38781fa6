"""Seconds of a step of contrastive divergence, on the CPU and, where there is one, on the accelerator.

    python benchmarks/boltzmann.py [--batch 100] [--rounds 5]

Raina, Madhavan & Ng (2009), doi:10.1145/1553374.1553486, found a deep belief network's learning 70 times faster on a
GPU than on two cores. A row is printed for the Boltzmann machine and for the widest layer of the network of 2006, and
replaces its older one of the same devices in benchmarks/results/boltzmann.csv: medians of rounds of 20 steps, in which
the devices take turns, and their ratio, above 1 where the accelerator is faster.
"""

import argparse
import datetime
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import table
from machine import cpu

from deepmodels import models, objectives
from deepmodels.training.optimizer import make_optimizer
from deepmodels.training.step import TrainState, make_train_step

STEPS = 20
SUBJECTS = {
    "rbm": dict(name="contrastive_divergence"),
    "dbn_2006": dict(name="contrastive_divergence", layer=2, conditional=True),
}
COLUMNS = ("model", "batch", "cpu ms", "accelerator ms", "ratio", "cpu", "accelerator", "jax", "date")


def make_round(name: str, batch_size: int, device: jax.Device) -> Callable[[], float]:
    """Returns a function that takes some steps on a device and returns the seconds of one."""
    model = models.create(name)
    optimizer, _ = make_optimizer(dict(name="momentum", learning_rate=0.05, weight_decay=2e-4), 1_000)
    rng = np.random.default_rng(0)
    batch = {"image": rng.random((batch_size, 28, 28, 1)).astype(np.float32)}
    batch["label"] = rng.integers(0, 10, batch_size).astype(np.int32)
    with jax.default_device(device):
        params = jax.jit(model.init)(jax.random.key(0), batch["image"][:1])["params"]
        state = TrainState(jnp.zeros((), jnp.int32), params, {}, optimizer.init(params))
        state, batch = jax.device_put((state, batch), device)
        objective = objectives.create(**SUBJECTS[name])
        step = jax.jit(make_train_step(model, objective, optimizer, seed=0), donate_argnums=0)
        step = step.lower(state, batch).compile()

    def measure() -> float:
        nonlocal state
        began = time.perf_counter()
        for _ in range(STEPS):
            state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        return (time.perf_counter() - began) / STEPS

    measure()
    return measure


def main() -> None:
    """Measures each model on each device, and prints a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    devices = {"cpu": jax.devices("cpu")[0]}
    if jax.default_backend() != "cpu":
        devices["accelerator"] = jax.devices()[0]
    for name in SUBJECTS:
        rounds = {place: make_round(name, options.batch, device) for place, device in devices.items()}
        times = {place: [] for place in rounds}
        for _ in range(options.rounds):
            for place, measure in rounds.items():
                times[place].append(1e3 * measure())
        medians = {place: statistics.median(values) for place, values in times.items()}
        row = {"model": name, "batch": options.batch, "jax": jax.__version__, "cpu": cpu(), "accelerator": ""}
        row |= {"accelerator ms": "", "ratio": "", "date": datetime.date.today().isoformat()}
        row |= {f"{place} ms": round(value, 3) for place, value in medians.items()}
        text = f"{name}: CPU {medians['cpu']:.2f} ms"
        if "accelerator" in devices:
            row["accelerator"] = devices["accelerator"].device_kind
            row["ratio"] = round(medians["cpu"] / medians["accelerator"], 1)
            text += f", {row['accelerator']} {medians['accelerator']:.3f} ms, ratio {row['ratio']}"
        table.put(Path(__file__).parent / "results" / "boltzmann.csv", row, COLUMNS, ("model", "cpu", "accelerator"))
        print(text, flush=True)


if __name__ == "__main__":
    main()
