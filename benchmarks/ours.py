"""Our side of a benchmark: the training step that `deepmodels train` compiles, on one batch that stays the same."""

import sys

import jax
import numpy as np
import turns

from deepmodels import models, objectives, tuning
from deepmodels.training.optimizer import make_optimizer
from deepmodels.training.step import TrainState, make_train_step


def start(arguments: list[str]):
    """Returns (step, facts) for the arguments [model, batch size, "tuned" or "plain"]."""
    tuned = arguments[2] == "tuned"
    if tuned:
        tuning.keep_memory()
    name, batch_size = arguments[0], int(arguments[1])
    model = models.create(name)
    shape = models.MODELS[name].inputs["images"].shape
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(batch_size, *shape)).astype(np.float32),
        "label": rng.integers(0, model.num_classes, batch_size).astype(np.int32),
    }
    optimizer, _ = make_optimizer(dict(name="momentum", momentum=0.9, learning_rate=1e-3), 1_000)
    objective = objectives.create("classification")
    variables = dict(jax.jit(model.init)(jax.random.key(0), batch["image"][:1]))
    params = variables.pop("params")
    state = TrainState(jax.numpy.zeros((), jax.numpy.int32), params, variables, optimizer.init(params))
    batch = jax.device_put(batch)
    train_step = jax.jit(make_train_step(model, objective, optimizer, seed=0), donate_argnums=0)
    train_step = train_step.lower(state, batch).compile(tuning.compiler_options() if tuned else None)

    def step() -> None:
        nonlocal state
        state, metrics = train_step(state, batch)
        jax.block_until_ready((state, metrics))

    return step, {"version": f"jax {jax.__version__}", "python": sys.version.split()[0]}


if __name__ == "__main__":
    turns.serve(start)
