"""P10: batches of NaN, of infinity and a hundred times too large, at random steps, leave no trace in the state.

    python tests/chaos/bad_numbers.py --trials=200 --clean=3000

Pictures are multiplied by NaN or infinity, or the loss by a hundred. A trial makes eight steps from a state that has
seen 80, one to three of them bad; all of its state must be, to the bit, that of the unguarded step on the other batches
alone (of the guarded one where XLA rounds these two otherwise: batch norm's averages). Before that come clean steps, in
which nothing may be noticed. The kinds of training take turns: a classifier with batch norm, gradients accumulated over
a mesh, pmap, two players, contrastive divergence.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import numpy as np
import promises

from deepmodels import trees
from deepmodels.training import experiment
from deepmodels.training.compiled import JitStep, PmapStep
from deepmodels.training.guard import Guarded, GuardedStep, Watch

WARM, STEPS, BATCHES = 80, 8, 64
FAULTS = {"NaN": ("factor", np.nan), "infinity": ("factor", np.inf), "100 times": ("scale", 100.0)}
CLEAN = {name: np.ones(16, np.float32) for name in ("factor", "scale")}
DATA = {"name": "fashion_mnist_embedded", "batch_size": 16}
LABELLED = DATA | {"mean": 0.286, "std": 0.353}
SGD = {"name": "momentum", "learning_rate": 0.01}
MLP = {"name": "mlp_tiny", "num_classes": 10}
ROUNDED = "classifier"  # XLA rounds the averages of its batch norm otherwise where a choice follows them
KINDS: dict[str, dict[str, Any]] = {
    "classifier": {"model": {"name": "resnet_tiny", "num_classes": 10}, "data": LABELLED, "mesh": {"data": 1}},
    "accumulated over a mesh": {"model": MLP, "data": LABELLED, "accumulate": 2, "mesh": {"data": 2, "fsdp": 2}},
    "pmap": {"model": MLP, "data": LABELLED, "compile": "pmap"},
    "two players": {
        "model": {"name": "gan_tiny", "image_shape": (28, 28, 1)}, "objective": {"name": "adversarial"}, "data": DATA,
        "critic_steps": 2, "mesh": {"data": 1}, "optimizer": {"name": "adam", "learning_rate": 2e-4, "b1": 0.5},
    },
    "contrastive divergence": {
        "model": {"name": "rbm", "hidden_size": 16}, "objective": {"name": "contrastive_divergence"}, "data": DATA,
        "mesh": {"data": 1},
    },
}  # fmt: skip


class Training(NamedTuple):
    """One kind of training, ready to be tried."""

    guarded: GuardedStep
    plain: JitStep | PmapStep | None  # None: where it rounds otherwise
    batches: list[dict[str, np.ndarray]]
    state: Guarded  # after the clean steps, on the host
    places: Any
    noticed: int  # in the clean steps


def _config(kind: str) -> dict[str, Any]:
    every = {"log": 1, "evaluate": 1, "checkpoint": 1}
    return {"steps": 100, "optimizer": SGD, "every": every, "guard": {"policy": "skip"}} | KINDS[kind]


def _breakable(x: experiment.Experiment) -> experiment.Experiment:
    """An experiment whose batches say by what pictures, "factor", and the loss, "scale", are multiplied."""

    def prepare(batch, key):
        given = x.prepare({name: value for name, value in batch.items() if name not in CLEAN}, key)
        image = given["image"] * batch["factor"][:, None, None, None].astype(given["image"].dtype)
        return given | {"image": image, "scale": batch["scale"]}

    def objective(forward, batch, key, **named):
        given = {name: value for name, value in batch.items() if name != "scale"}
        loss, (metrics, variables) = x.objective(forward, given, key, **named)
        loss = loss * batch["scale"].astype(loss.dtype).mean()
        return loss, (metrics | {"loss": loss}, variables)

    return x._replace(prepare=prepare, objective=objective)


def prepared(kind: str, clean: int) -> Training:
    """Returns a kind of training after its warm-up and a number of clean steps after that, 80 in all at least."""
    config = _config(kind)
    count = int(np.prod(list(config.get("mesh", {"data": 8}).values())))
    x = _breakable(experiment.make(config, jax.devices()[:count]))
    compiled = {"jit": JitStep, "pmap": PmapStep}[x.config.compile]
    guarded = GuardedStep(compiled, x, Watch())
    plain = compiled(
        experiment.make_step(x, compiled.axis_name), x.mesh, jax.tree.map(lambda v: v.sharding, x.abstract)
    )
    stream = experiment.train_batches(x, 0)
    batches = [next(stream) | CLEAN for _ in range(max(BATCHES, WARM))]
    stream.close()
    both = guarded.enter(x.init())
    noticed = 0
    for step in range(max(WARM, x.config.guard.warmup + clean)):
        both, metrics = guarded(both, guarded.place(batches[step % len(batches)]))
        noticed += int(np.ravel(metrics["trigger"])[0]) > 0
    places = jax.tree.map(lambda leaf: leaf.sharding, both)
    return Training(guarded, None if kind == ROUNDED else plain, batches, jax.device_get(both), places, noticed)


def tried(training: Training, rng: np.random.Generator) -> Iterator[str]:
    """Makes one trial; yields what happened, and at last "exact" or what differs."""
    order = rng.permutation(len(training.batches))[:STEPS]
    bad = {int(step): str(rng.choice(list(FAULTS))) for step in rng.permutation(STEPS)[: rng.integers(1, 4)]}
    both, left_out = jax.device_put(training.state, training.places), set()
    for step, number in enumerate(order):
        batch = training.batches[number]
        if step in bad:
            name, times = FAULTS[bad[step]]
            batch = batch | {name: np.full(16, times, np.float32)}
        both, metrics = training.guarded(both, training.guarded.place(batch))
        if np.ravel(metrics["trigger"])[0]:
            left_out.add(step)
    yield from (f"{bad[step]}: left out" if step in left_out else f"{bad[step]}: MISSED" for step in bad)
    yield from ("clean step left out" for _ in left_out - bad.keys())

    state, places = training.state.state, training.places.state
    state = jax.device_put(state, places)
    for step, number in enumerate(order):
        if step in bad or step in left_out:  # the step's number alone goes on
            state = state._replace(step=jax.device_put(jax.device_get(state.step) + 1, places.step))
        else:
            state = _made(training, state, training.batches[number])
    one, other = (trees.flatten(jax.device_get(tree)) for tree in (both.state, state))
    differing = [name for name in one if np.asarray(one[name]).tobytes() != np.asarray(other[name]).tobytes()]
    yield f"differs in {', '.join(differing[:3])}" if differing else "exact"


def _made(training: Training, state: Any, batch: dict[str, np.ndarray]) -> Any:
    """The state after a clean step."""
    if training.plain is not None:
        return training.plain(state, training.plain.place(batch))[0]
    both = Guarded(state, jax.device_put(training.state.watch, training.places.watch))
    return training.guarded(both, training.guarded.place(batch))[0].state


def numbers(trials: int, clean: int, seed: int, kinds: list[str]) -> promises.Outcome:
    """Returns what a number of trials came to, the kinds of training in turn."""
    counts, failures = Counter(), []
    for place, kind in enumerate(kinds):
        training = prepared(kind, -(-clean // len(kinds)))
        counts["clean steps"] += -(-clean // len(kinds))
        counts[f"clean steps noticed, {kind}"] += training.noticed
        for trial in range(place, trials, len(kinds)):
            happened = list(tried(training, np.random.default_rng((seed, trial))))
            counts.update(line for line in happened[:-1])
            if happened[-1] != "exact" or any("MISSED" in line for line in happened):
                failures.append(f"trial {trial}, {kind}: {'; '.join(happened)}")
    return promises.Outcome("P10", trials, counts, failures)


def main() -> int:
    """Makes the trials, prints and records their outcome; returns 1 if the promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=200, metavar="N")
    parser.add_argument("--clean", type=int, default=3_000, metavar="N", help="steps without a fault (default: 3000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--no-record", action="store_true", help="leave tests/chaos/results as it is")
    options = parser.parse_args()
    return promises.told(
        numbers(options.trials, options.clean, options.seed, options.kinds), keep=not options.no_record
    )


if __name__ == "__main__":
    sys.exit(main())
