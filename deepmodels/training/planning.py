"""A run before it runs: the training step is compiled for a mesh, on described devices, and what it needs is read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from deepmodels import config as configs
from deepmodels import models, parallel, trees
from deepmodels.analysis.collectives import Traffic, collectives
from deepmodels.analysis.cost import flops
from deepmodels.analysis.hardware import Hardware
from deepmodels.analysis.hardware import hardware as find_hardware
from deepmodels.analysis.summary import in_figures
from deepmodels.errors import ConfigError
from deepmodels.training import experiment
from deepmodels.training.compiled import JitStep
from deepmodels.trees import PyTree

DAY = 86_400  # seconds
PETAFLOPS_DAY = 1e15 * DAY


@dataclass(frozen=True)
class Estimate:
    """What a training step takes; it prints as lines in a terminal, and `to_dict` gives plain data.

    Bytes are of one device. `argument_bytes` is the state and the batch, exactly; `temporary_bytes` the compiler's own
    figure for everything else at the worst moment, activations above all, of the back end it compiled for;
    `peak_bytes` both. `step_flops` are of the step on all devices, matrix products and convolutions, a multiply-add as
    two, recomputation included; `step_tokens` None where it reads no texts.
    """

    model: str
    mesh: dict[str, int]
    parameters: int
    parameter_bytes: int
    optimizer_bytes: int
    other_bytes: int  # untrained variables, the step's number, and the batch
    argument_bytes: int
    temporary_bytes: int
    peak_bytes: int
    step_flops: int
    step_tokens: int | None
    collectives: dict[str, Traffic]
    lower_seconds: float
    compile_seconds: float
    plan: dict[str, Any] | None  # of a budget of tokens on named hardware, see `plan`

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return vars(self) | {"collectives": {kind: traffic._asdict() for kind, traffic in self.collectives.items()}}

    def __str__(self) -> str:
        mesh = parallel.written(self.mesh)
        lines = [
            f"{self.model}: {self.parameters:,} parameters on {math.prod(self.mesh.values())} devices, {mesh}",
            f"  a device holds   {_size(self.parameter_bytes)} of parameters, {_size(self.optimizer_bytes)} of the "
            f"optimizer's state, {_size(self.other_bytes)} else",
            f"  at its peak      {_size(self.peak_bytes)}, with {_size(self.temporary_bytes)} that the step makes",
            f"  a step           {self.step_flops:.3e} operations"
            + ("" if self.step_tokens is None else f", {self.step_tokens:,} tokens"),
            *(
                f"  {kind:<16} {traffic.count:,} times, {_size(traffic.bytes)} to each device"
                for kind, traffic in self.collectives.items()
            ),
            f"  compiled in      {self.lower_seconds + self.compile_seconds:.1f} s",
        ]
        if self.plan is not None:
            lines += [f"  {name:<16} {value}" for name, value in self.plan.items()]
        return "\n".join(lines)


def estimate(
    config: str | Mapping[str, Any],
    *,
    mesh: Mapping[str, int] | None = None,
    batch_size: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    hardware: str | None = None,
    tokens: float | None = None,
    utilisation: float = 0.4,
    price: float | None = None,
) -> Estimate:
    """Returns what training takes per device, by compiling its step for a mesh; no array is made.

    Args:
      config: of an experiment, or the name of a model, which then trains by AdamW on records like its inputs.
      mesh: sizes by axis, in place of the config's.
      batch_size: in place of the config's; of a model by its name one for each share of the mesh.
      devices: all of this process by default; they may be virtual.
      hardware: a name of deepmodels.analysis.hardware; the plan then has times, and whether the memory is enough.
      tokens: how many will be trained on; the plan then has operations, days and energy.
      utilisation: share of the hardware's peak that the plan counts on.
      price: of one device for an hour, for the cost in the same currency.

    Raises:
      ConfigError: the config, the mesh or the hardware can't be used.
    """
    by_name = isinstance(config, str)
    if by_name:
        config = of_model(config)
    config = configs.complete(config).copy_and_resolve_references()
    machine = None if hardware is None else find_hardware(hardware)
    with config.unlocked():
        if mesh is not None:
            config.mesh = dict(mesh)
        made = parallel.make_mesh(config.mesh, devices)
        if batch_size is not None or by_name:
            config.data.batch_size = batch_size or parallel.shares(made)
    x = experiment.make(config, devices)
    batch = _batch(x)
    state, places = x.abstract, jax.tree.map(lambda leaf: leaf.sharding, x.abstract)
    step = experiment.make_step(x, None)
    compiled = JitStep(step, x.mesh, places, config.deterministic)
    facts = compiled.compile(state, batch)
    program = compiled.program(state, batch)
    memory = program.memory_analysis()
    count = trees.count(state.params)
    step_tokens = batch["tokens"].size if "tokens" in batch else None
    parts = [_bytes_per_device(tree) for tree in (state.params, state.opt_state)]
    found = dict(
        model=config.model.name,
        mesh=parallel.sizes(x.mesh),
        parameters=count,
        parameter_bytes=parts[0],
        optimizer_bytes=parts[1],
        other_bytes=_bytes_per_device((state.step, state.variables, batch)),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=int(facts["step_memory_bytes"]),
        step_flops=flops(step, state, batch),
        step_tokens=step_tokens,
        collectives=collectives(program.as_text()),
        lower_seconds=facts["lower_seconds"],
        compile_seconds=facts["compile_seconds"],
    )
    told = plan(
        x.mesh.size, found["step_flops"], step_tokens, count, found["peak_bytes"], machine, tokens=tokens,
        utilisation=utilisation, price=price,
    )  # fmt: skip
    return Estimate(**found, plan=told or None)


def plan(
    devices: int,
    step_flops: float,
    step_tokens: int | None,
    parameters: int,
    peak_bytes: int,
    machine: Hardware | None,
    *,
    tokens: float | None,
    utilisation: float,
    price: float | None,
) -> dict[str, str]:
    """Returns what a budget of tokens means on some hardware, as lines by name; what isn't known isn't there.

    Args:
      devices: how many.
      step_flops: operations of a step on all of them.
      step_tokens: tokens of a step, if it is of texts.
      parameters: of the model.
      peak_bytes: that a device needs.
      machine: each of them, if it is known.
      tokens: the budget.
      utilisation: share of the peak.
      price: of one device for an hour.

    Raises:
      ConfigError: a budget for what doesn't read tokens, or a share that is none.
    """
    if not 0 < utilisation <= 1:
        raise ConfigError(f"utilisation: expected a share of the peak above 0 and up to 1, got {utilisation}")
    lines = {}
    if machine is not None:
        fits = "fits" if peak_bytes <= machine.memory else "doesn't fit"
        lines["memory"] = f"{fits}: {peak_bytes / machine.memory:.0%} of {_size(machine.memory)}"
        seconds = step_flops / (devices * machine.flops * utilisation)
        lines["time of a step"] = f"{seconds:.3g} s at {utilisation:.0%} of {machine.flops / 1e12:.0f} Tflop/s"
    if tokens is None:
        return lines
    if step_tokens is None:
        raise ConfigError("tokens: the model doesn't read tokens, so there is no budget of them")
    total = 6 * parameters * tokens
    lines["6 x N x tokens"] = f"{total:.3e} operations, {total / PETAFLOPS_DAY:,.0f} petaflop/s-days"
    counted = step_flops * tokens / step_tokens
    lines["as compiled"] = f"{counted:.3e} operations, {counted / PETAFLOPS_DAY:,.0f} petaflop/s-days"
    if machine is not None:
        days = seconds * tokens / step_tokens / DAY
        lines["time in all"] = f"{days:,.1f} days"
        watts = machine.watts
        lines["energy"] = (
            "unknown: no limit of the board is published"
            if watts is None
            else f"{days * 24 * devices * watts / 1e6:,.1f} MWh at the boards' limit of {watts:.0f} W"
        )
        if price is not None:
            lines["cost"] = f"{days * 24 * devices * price:,.0f}"
    return lines


def of_model(name: str) -> ConfigDict:
    """Returns a config that trains a model of the table by AdamW, on records drawn at random that are like its inputs.

    Raises:
      ConfigError: there is no such model, or its inputs don't say what it trains on.
    """
    model = models.create(name)
    inputs = models.MODELS[name].inputs
    vocabulary = {} if not hasattr(model, "vocab_size") else {"vocab_size": model.vocab_size}
    if set(inputs) == {"images"} and getattr(model, "num_classes", 0):
        objective = "classification"
        data = dict(image_shape=inputs["images"].shape, num_classes=model.num_classes)
    elif set(inputs) == {"tokens"} and hasattr(model, "extend"):
        objective, data = "language_modelling", dict(length=inputs["tokens"].shape[0], **vocabulary)
    elif set(inputs) == {"tokens", "targets"}:
        lengths = dict(length=inputs["tokens"].shape[0], target_length=inputs["targets"].shape[0])
        objective, data = "sequence_to_sequence", lengths | vocabulary
    else:
        raise ConfigError(f"what {name!r} trains on doesn't follow from its inputs: give an experiment's config")
    return configs.complete(
        dict(
            steps=1,
            model=dict(name=name),
            objective=dict(name=objective),
            data=dict(name="synthetic", batch_size=1, **data),
            optimizer=dict(name="adamw", learning_rate=1e-4),
            precision="bfloat16",
        )
    )


def _batch(x: experiment.Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    size, place = x.config.data.batch_size, parallel.batch_sharding(x.mesh)
    return {
        name: jax.ShapeDtypeStruct((size, *jnp.shape(array)), array.dtype, sharding=place)
        for name, array in x.sources["train"][0].items()
    }


def _bytes_per_device(tree: PyTree) -> int:
    return sum(parallel.part_bytes(leaf, leaf.sharding) for leaf in jax.tree.leaves(tree))


def _size(count: float) -> str:
    return f"{in_figures(count)}B"
