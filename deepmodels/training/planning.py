"""A run before it runs: the training step is compiled for a mesh, on described devices, and what it needs is read."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from deepmodels import config as configs
from deepmodels import models, parallel, trees
from deepmodels.analysis.collectives import Traffic, bytes_accessed, collectives
from deepmodels.analysis.cost import flops
from deepmodels.analysis.hardware import HARDWARE
from deepmodels.analysis.summary import in_figures
from deepmodels.errors import ConfigError, TooLarge, nearest
from deepmodels.training import experiment, pipeline
from deepmodels.training.compiled import JitStep
from deepmodels.trees import PyTree

DAY = 86_400  # seconds
PETAFLOPS_DAY = 1e15 * DAY


class Plan(NamedTuple):
    """What a step means on some hardware, and a budget of tokens; None is what isn't known."""

    hardware: str | None
    memory_share: float | None  # of a device's memory, at the step's peak
    step_seconds: float | None
    tokens: float | None
    operations: float | None  # 6 x parameters x tokens
    petaflops_days: float | None
    compiled_petaflops_days: float | None  # of what is compiled, recomputation and a pipeline's waiting included
    days: float | None
    megawatt_hours: float | None  # at the boards' limit
    cost: float | None

    def lines(self) -> dict[str, str]:
        """Returns it as text, by name."""

        def known(value: float | None, form: str) -> str:
            return "unknown" if value is None else form.format(value)

        fits = "" if self.memory_share is None else "fits: " if self.memory_share <= 1 else "doesn't fit: "
        found = {
            "hardware": self.hardware or "unknown",
            "memory": fits + known(self.memory_share, "{:.0%} of a device's"),
            "time of a step": known(self.step_seconds, "{:.3g} s"),
        }
        if self.tokens is None:
            return found
        return found | {
            "6 x N x tokens": f"{self.operations:.3e} operations, {self.petaflops_days:,.0f} petaflop/s-days",
            "as compiled": f"{self.compiled_petaflops_days:,.0f} petaflop/s-days",
            "time in all": known(self.days, "{:,.1f} days"),
            "energy": known(self.megawatt_hours, "{:,.1f} MWh at the boards' limit"),
            "cost": known(self.cost, "{:,.0f}"),
        }


@dataclass(frozen=True)
class Estimate:
    """What a training step takes; it prints as lines in a terminal, and `to_dict` gives plain data.

    Bytes are of one device. `argument_bytes` is the state and the batch, exactly; `temporary_bytes` the compiler's own
    figure for everything else at the worst moment, of the back end it compiled for; `peak_bytes` both. Of the temporary
    bytes, `gradient_bytes` are the gradients, as large as the parameters, and `activation_bytes` all the rest: what the
    forward pass leaves for the backward pass, and what a layer works with. `step_flops` are of the step on all devices,
    matrix products and convolutions, a multiply-add as two, recomputation included, and with a pipeline the turns in
    which a stage waits; `compiled_flops` XLA's own figure for the program of one device, which counts elementwise work
    too, and the body of a loop once; `intensity` is how many of `step_flops` a device makes for each byte that it reads
    or writes; `step_tokens` None where it reads no texts.
    """

    model: str
    mesh: dict[str, int]
    parameters: int
    parameter_bytes: int
    optimizer_bytes: int
    other_bytes: int  # untrained variables, the step's number, and the batch
    argument_bytes: int
    temporary_bytes: int
    gradient_bytes: int
    activation_bytes: int
    peak_bytes: int
    step_flops: int
    step_tokens: int | None
    bubble: float  # share of a step in which a stage of the pipeline waits
    compiled_flops: float | None
    accessed_bytes: int
    intensity: float
    collectives: dict[str, Traffic]
    lower_seconds: float
    compile_seconds: float
    plan: Plan  # on named hardware, and of a budget of tokens

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        traffic = {kind: traffic._asdict() for kind, traffic in self.collectives.items()}
        return vars(self) | {"collectives": traffic, "plan": self.plan._asdict()}

    def __str__(self) -> str:
        lines = [
            f"{self.model}: {self.parameters:,} parameters on {math.prod(self.mesh.values())} devices, "
            + parallel.written(self.mesh),
            f"  a device holds   {_size(self.parameter_bytes)} of parameters, {_size(self.optimizer_bytes)} of the "
            f"optimizer's state, {_size(self.other_bytes)} else",
            f"  a step makes     {_size(self.gradient_bytes)} of gradients, {_size(self.activation_bytes)} of "
            "activations and what a layer works with",
            f"  at its peak      {_size(self.peak_bytes)} of a device",
            f"  a step           {self.step_flops:.3e} operations"
            + ("" if self.step_tokens is None else f", {self.step_tokens:,} tokens"),
            *([f"  a stage waits    {self.bubble:.0%} of the time"] if self.bubble else []),
            f"  intensity        {self.intensity:.3g} operations of a device for each byte it reads or writes, "
            f"{_size(self.accessed_bytes)}",
            *(
                f"  {kind:<16} {traffic.count:,} times, {_size(traffic.bytes)} to each device"
                for kind, traffic in self.collectives.items()
            ),
            f"  compiled in      {self.lower_seconds + self.compile_seconds:.1f} s",
            *(f"  {name:<16} {value}" for name, value in self.plan.lines().items()),
        ]
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
      hardware: a name of deepmodels.analysis.hardware; the plan then has times, and the share of the memory.
      tokens: how many will be trained on; the plan then has operations, and on named hardware days and energy.
      utilisation: share of the hardware's peak that the plan counts on.
      price: of one device for an hour, for the cost in the same currency.

    Raises:
      ConfigError: the config or the mesh can't be used.
      TooLarge: the compiler of the devices says that their memory isn't enough.
    """
    by_name = isinstance(config, str)
    if by_name:
        config = of_model(config)
    config = configs.complete(config).copy_and_resolve_references()
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
    try:
        facts = compiled.compile(state, batch)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLarge(
            f"{config.model.name} on {x.mesh.size} devices, {parallel.written(x.mesh.shape)}: {_excess(str(error))}"
        ) from error
    program = compiled.program(state, batch)
    memory = program.memory_analysis()
    text = program.as_text()
    count = trees.count(state.params)
    step_tokens = batch["tokens"].size if "tokens" in batch else None
    parameter_bytes, optimizer_bytes = (_bytes_per_device(tree) for tree in (state.params, state.opt_state))
    gradient_bytes = min(parameter_bytes, memory.temp_size_in_bytes)
    peak_bytes, step_flops, accessed = int(facts["step_memory_bytes"]), flops(step, state, batch), bytes_accessed(text)
    told = plan(
        x.mesh.size, step_flops, step_tokens, count, peak_bytes, hardware, tokens=tokens, utilisation=utilisation,
        price=price,
    )  # fmt: skip
    return Estimate(
        model=config.model.name,
        mesh=parallel.sizes(x.mesh),
        parameters=count,
        parameter_bytes=parameter_bytes,
        optimizer_bytes=optimizer_bytes,
        other_bytes=_bytes_per_device((state.step, state.variables, batch)),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        gradient_bytes=gradient_bytes,
        activation_bytes=memory.temp_size_in_bytes - gradient_bytes,
        peak_bytes=peak_bytes,
        step_flops=step_flops,
        step_tokens=step_tokens,
        bubble=pipeline.bubble(x.mesh.shape["pipeline"], pipeline.microbatches(config.microbatches, x.mesh)),
        compiled_flops=(program.cost_analysis() or {}).get("flops"),
        accessed_bytes=accessed,
        intensity=step_flops / x.mesh.size / accessed,
        collectives=collectives(text),
        lower_seconds=facts["lower_seconds"],
        compile_seconds=facts["compile_seconds"],
        plan=told,
    )


def plan(
    devices: int,
    step_flops: float,
    step_tokens: int | None,
    parameters: int,
    peak_bytes: int,
    hardware: str | None,
    *,
    tokens: float | None,
    utilisation: float,
    price: float | None,
) -> Plan:
    """Returns what a step and a budget of tokens mean on some hardware; of hardware that has no entry in the table of
    published peaks, and of what that doesn't say, nothing is known.

    Args:
      devices: how many.
      step_flops: operations of a step on all of them.
      step_tokens: tokens of a step, if it is of texts.
      parameters: of the model.
      peak_bytes: that a device needs.
      hardware: a name of deepmodels.analysis.hardware.HARDWARE.
      tokens: the budget.
      utilisation: share of the peak that is counted on.
      price: of one device for an hour.

    Raises:
      ConfigError: a budget for what doesn't read tokens, or a share that is none.
    """
    if not 0 < utilisation <= 1:
        raise ConfigError(f"utilisation: expected a share of the peak above 0 and up to 1, got {utilisation}")
    if tokens is not None and step_tokens is None:
        raise ConfigError("tokens: the model doesn't read tokens, so there is no budget of them")
    machine = HARDWARE.get(hardware)
    name = (
        None if hardware is None else hardware if machine else f"unknown: {hardware!r}, {nearest(hardware, HARDWARE)}"
    )
    share = seconds = operations = petaflops_days = compiled = days = energy = cost = None
    if machine is not None:
        share, seconds = peak_bytes / machine.memory, step_flops / (devices * machine.flops * utilisation)
    if tokens is not None:
        operations = 6 * parameters * tokens
        petaflops_days, compiled = operations / PETAFLOPS_DAY, step_flops * tokens / step_tokens / PETAFLOPS_DAY
        if seconds is not None:
            days = seconds * tokens / step_tokens / DAY
            energy = None if machine.watts is None else days * 24 * devices * machine.watts / 1e6
            cost = None if price is None else days * 24 * devices * price
    return Plan(name, share, seconds, tokens, operations, petaflops_days, compiled, days, energy, cost)


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


_EXCESS = (r"[Uu]sed ([\d.]+\w*) of ([\d.]+\w*)", r"\(([\d.]+\w*)\) exceeds available \w+ \(([\d.]+\w*)\)")


def _excess(said: str) -> str:
    """What a compiler says of too little memory."""
    found = [match for pattern in _EXCESS if (match := re.search(pattern, said)) is not None]
    if not found:
        return f"does not fit: {' '.join(said.split())[:300]}"
    return f"does not fit: needs {found[0][1]} of {found[0][2]} of a device's memory, says its compiler"


def _size(count: float) -> str:
    return f"{in_figures(count)}B"
