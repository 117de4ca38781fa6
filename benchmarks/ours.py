"""Our side of a benchmark: what `deepmodels train`, a model's call, `generate` and `denoise` compile, on one batch."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import turns
from flax import linen as nn

from deepmodels import analysis, generation, loading, memory, models, objectives, trees, tuning
from deepmodels.layers.stack import unstack
from deepmodels.sampling import denoising
from deepmodels.training.optimizer import make_optimizer
from deepmodels.training.step import TrainState, cast_floats, make_adversarial_step, make_train_step

PROMPT = [*range(100, 1700, 100)]
STEPS = 5  # of the sampler


def start(side: dict[str, Any]):
    """Returns (step, facts) for a subject's fields, "task", "batch", "device", and whether it has the "profile"."""
    finish = tuning.compile if side["profile"] else jax.stages.Lowered.compile
    step, facts = {"train": _train, "infer": _infer, "decode": _decode, "denoise": _denoise}[side["task"]](side, finish)
    if side["device"] != "cpu":
        facts["peak bytes"] = lambda: jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    return step, {"version": f"jax {jax.__version__}", "profile": tuning.profile() if side["profile"] else ""} | facts


def _train(side, finish):
    train_step, init, batch = make_step(side)
    state, batch = jax.jit(init)(), jax.device_put(batch)
    compiled, seconds = _compiled(train_step, finish, state, batch)
    facts = {"compile seconds": seconds, "parameters": trees.count(state.params)}
    facts["operations"] = analysis.flops(train_step, *jax.eval_shape(lambda *x: x, state, batch))
    facts |= {"products": _forward_products(side)}

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))

    return step, facts


def _infer(side, finish):
    model = models.create(side["model"], **side["arguments"])
    inputs, _ = make_batch(model, side)
    variables = jax.jit(model.init)(jax.random.key(0), *(x[:1] for x in inputs))
    variables, inputs = jax.device_put(cast_floats((variables, inputs), _dtype(side)))
    run, inputs = _call(model, inputs)
    compiled, seconds = _compiled(jax.jit(run), finish, variables, *inputs)
    facts = {"compile seconds": seconds, "parameters": trees.count(variables["params"])}
    products = _forward_products(side)
    return lambda: jax.block_until_ready(compiled(variables, *inputs)), facts | {
        "operations": 2 * products * side["batch"],
        "products": products,
    }


def _call(model: nn.Module, inputs: list[Any]) -> tuple[Callable, list[Any]]:
    """What inference is: the model's call, and of two players the pictures that one makes."""
    if getattr(model, "players", ()):
        count = len(inputs[0])
        return (lambda variables: model.apply(variables, jax.random.key(0), count, method="sample")), []
    return (lambda variables, *inputs: model.apply(variables, *inputs)), inputs


def _forward_products(side) -> int:
    """Multiply-adds of an example's forward pass."""
    model = models.create(side["model"], **side["arguments"])
    inputs, _ = make_batch(model, side)
    variables = jax.eval_shape(model.init, jax.random.key(0), *(x[:1] for x in inputs))
    run, inputs = _call(model, inputs) if side["task"] == "infer" else (model.apply, inputs)
    return analysis.flops(run, variables, *inputs) // 2 // side["batch"]


def _decode(side, finish):
    count = side["lengths"][0]
    model, variables = loading.load_folder(side["folder"], cast=True)
    size, parameters = trees.size_bytes(variables), trees.count(variables["params"])
    variables = jax.jit(unstack)(variables)

    def step() -> list[int]:
        return generation.generate(model, variables, [PROMPT], max_new_tokens=count)[0].tokens

    began = time.perf_counter()
    tokens = step()
    first = time.perf_counter() - began
    began = time.perf_counter()
    step()
    facts = {"compile seconds": first - (time.perf_counter() - began), "parameters": parameters}
    return step, facts | {"bytes": size, "tokens": tokens, "units": count}


def make_folder(side: dict[str, Any]) -> None:
    """Writes a subject that decodes as a folder, for both sides to read."""
    if Path(side["model"]).exists():
        model, variables = loading.load_folder(side["model"], cast=True)
    else:
        model = models.create(side["model"], **side["arguments"])
        variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 1), np.int32))
    loading.save_folder(side["folder"], model, variables)


def _denoise(side, finish):
    model = models.create(side["model"], **side["arguments"])
    shape = (side["batch"], model.image_size, model.image_size, model.in_channels)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros(shape, np.float32), np.zeros(shape[:1], np.float32))
    noise = jax.random.normal(jax.random.key(1), shape)
    variables, noise = cast_floats((variables, noise), _dtype(side))
    sampler = denoising.ddim(denoising.signal_powers(), STEPS)

    def run(variables, noise):
        return denoising.denoise(lambda x, timestep: model.apply(variables, x, timestep), noise, sampler)

    compiled, seconds = _compiled(jax.jit(run), finish, variables, noise)
    facts = {"compile seconds": seconds, "parameters": trees.count(variables["params"]), "units": STEPS}
    products = _forward_products(side)
    return lambda: compiled(variables, noise).block_until_ready(), facts | {
        "operations": 2 * products * side["batch"],
        "products": products,
    }


def _dtype(side) -> Any:
    return jax.numpy.float32 if side["device"] == "cpu" else jax.numpy.bfloat16


def _compiled(function, finish, *arguments):
    """A function compiled ahead, and the seconds that lowering and compiling took."""
    began = time.perf_counter()
    compiled = finish(function.lower(*arguments))
    return compiled, time.perf_counter() - began


def make_step(subject: dict[str, Any]) -> tuple[Any, Callable[[], TrainState], dict[str, np.ndarray]]:
    """Returns a subject's step, to be lowered, a function that makes its first state, and its batch.

    Args:
      subject: the fields of one, and optionally "device" and "batch", which is that of its training otherwise.
    """
    subject = {"batch": subject["tasks"].get("train"), "device": "cpu"} | subject
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
    precision = "float32" if subject["device"] == "cpu" else "bfloat16"
    step = make(model, objectives.create(**subject["objective"]), optimizer, seed=0, precision=precision)
    return jax.jit(step, donate_argnums=0), init, batch


def make_batch(model: nn.Module, subject: dict[str, Any]) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Returns what the model takes, and a batch as the objective takes it, random."""
    rng, size, lengths = np.random.default_rng(0), subject["batch"], subject["lengths"]
    if lengths:
        tokens = [rng.integers(0, model.vocab_size, (size, length)).astype(np.int32) for length in lengths]
        batch = {"tokens": tokens[0]}
        if len(lengths) == 2:  # the decoder reads all but the last and answers all but the first
            batch["targets"] = rng.integers(0, model.vocab_size, (size, lengths[1] + 1)).astype(np.int32)
        return tokens, batch
    inputs = models.MODELS[subject["model"]].inputs
    shape = (size, *inputs["images"].shape)
    if not model.num_classes:  # it makes pictures, of values in [0, 1]
        image = rng.random(shape).astype(np.float32)
        return [image, *([np.zeros(size, np.float32)] if "timesteps" in inputs else [])], {"image": image}
    image = rng.normal(size=shape).astype(np.float32)
    labelled = shape[:3] if subject["objective"]["name"] == "segmentation" else size
    return [image], {"image": image, "label": rng.integers(0, model.num_classes, labelled).astype(np.int32)}


if __name__ == "__main__":
    if json.loads(sys.argv[1])["profile"]:
        memory.restart_with_huge_pages()  # as the command `deepmodels` does
    turns.serve(start)
