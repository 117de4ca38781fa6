"""Our side of a benchmark: the training step that `deepmodels train` compiles, on one batch that stays the same."""

import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import turns
from flax import linen as nn

from deepmodels import models, objectives, tuning
from deepmodels.training.optimizer import make_optimizer
from deepmodels.training.step import TrainState, make_adversarial_step, make_train_step


def start(arguments: list[str]):
    """Returns (step, facts) for the arguments [a row of train_step.py's SUBJECTS as JSON, "tuned" or "plain"]."""
    subject, tuned = json.loads(arguments[0]), arguments[1] == "tuned"
    if tuned:
        tuning.keep_memory()
    train_step, init, batch = make_step(subject)
    state, batch = jax.jit(init)(), jax.device_put(batch)
    train_step = train_step.lower(state, batch).compile(tuning.compiler_options() if tuned else None)

    def step() -> None:
        nonlocal state
        state, metrics = train_step(state, batch)
        jax.block_until_ready((state, metrics))

    return step, {"version": f"jax {jax.__version__}", "python": sys.version.split()[0]}


def make_step(subject: dict[str, Any]) -> tuple[Any, Callable[[], TrainState], dict[str, np.ndarray]]:
    """Returns a subject's step, to be lowered, a function that makes its first state, and its batch."""
    model = models.create(subject["model"], **subject["arguments"])
    inputs, batch = make_batch(model, subject)
    optimizer, _ = make_optimizer(dict(name="momentum", momentum=0.9, learning_rate=1e-3), 1_000)
    players = getattr(model, "players", ())

    def init() -> TrainState:
        variables = dict(model.init(jax.random.key(0), *(x[:1] for x in inputs)))
        params = variables.pop("params")
        opt_state = {name: optimizer.init({name: params[name]}) for name in players} or optimizer.init(params)
        return TrainState(jax.numpy.zeros((), jax.numpy.int32), params, variables, opt_state)

    make = make_adversarial_step if players else make_train_step
    step = make(model, objectives.create(**subject["objective"]), optimizer, seed=0)
    return jax.jit(step, donate_argnums=0), init, batch


def make_batch(model: nn.Module, subject: dict[str, Any]) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Returns what the model takes, and a batch as the objective takes it, random."""
    rng, size, lengths = np.random.default_rng(0), subject["batch"], subject["lengths"]
    if not lengths:
        shape = (size, *models.MODELS[subject["model"]].inputs["images"].shape)
        if not model.num_classes:  # it makes pictures, of values in [0, 1]
            image = rng.random(shape).astype(np.float32)
            times = "timesteps" in models.MODELS[subject["model"]].inputs
            return [image, *([np.zeros(size, np.float32)] if times else [])], {"image": image}
        image = rng.normal(size=shape).astype(np.float32)
        return [image], {"image": image, "label": rng.integers(0, model.num_classes, size).astype(np.int32)}
    tokens = [rng.integers(0, model.vocab_size, (size, length)).astype(np.int32) for length in lengths]
    batch = {"tokens": tokens[0]}
    if len(lengths) == 2:  # the decoder reads all but the last and answers all but the first
        batch["targets"] = rng.integers(0, model.vocab_size, (size, lengths[1] + 1)).astype(np.int32)
    return tokens, batch


if __name__ == "__main__":
    turns.serve(start)
