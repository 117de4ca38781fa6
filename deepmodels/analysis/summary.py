"""What a model is made of: its modules with their shapes, parameters and operations, found abstractly."""

import inspect
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from rich import box
from rich.console import Console
from rich.table import Table

from deepmodels import models, trees
from deepmodels.analysis.cost import costs
from deepmodels.errors import ConfigError, ShapeError, unknown
from deepmodels.models.variant import Variant

Shape = tuple[int, ...]
_MODULE = "module "  # begins the scopes that `summary` adds; a module's own name holds no space
_HEADER = ("Module", "Class", "Input", "Output", "Parameters", "FLOPs")


@dataclass
class Layer:
    """One module of a model: the shapes of its first call, and what it owns and computes without its submodules."""

    path: str
    cls: str
    inputs: list[Shape] = field(default_factory=list)
    outputs: list[Shape] = field(default_factory=list)
    parameters: int = 0
    flops: int = 0


@dataclass(frozen=True)
class Summary:
    """A model's modules and totals; it prints as a table in terminals, log files and notebooks.

    `parameters` counts trained leaves, `variables` untrained ones (such as BatchNorm's statistics) and `bytes` holds
    both; `flops` is one forward pass over the whole batch, `flops_per_example` that divided by the batch. Modules
    deeper than `depth` are folded into their ancestor when the table is shown, so that its columns always add up.
    """

    name: str
    layers: list[Layer]
    parameters: int
    variables: int
    bytes: int
    flops: int
    flops_per_example: int
    depth: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the whole summary, every depth of it, as plain data for JSON."""
        values = asdict(self)
        del values["depth"]
        return values

    def __rich__(self) -> Table:
        shown = Table(box=box.SIMPLE_HEAD, title=self.name, title_justify="left", caption=self._totals())
        shown.caption_justify = "left"
        for name in _HEADER:
            shown.add_column(name, justify="right" if name in ("Parameters", "FLOPs") else "left", overflow="fold")
        for row in self._rows():
            shown.add_row(*row)
        return shown

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=140, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    def _repr_html_(self) -> str:
        def cells(tag: str, row: Sequence[str]) -> str:
            align = ["left"] * 4 + ["right"] * 2
            style = "text-align:{};white-space:pre"
            return "".join(
                f'<{tag} style="{style.format(a)}">{escape(c)}</{tag}>' for a, c in zip(align, row, strict=True)
            )

        body = "".join(f"<tr>{cells('td', row)}</tr>" for row in self._rows())
        return (
            f"<table><caption>{escape(self.name)}: {escape(self._totals())}</caption>"
            f"<thead><tr>{cells('th', _HEADER)}</tr></thead><tbody>{body}</tbody></table>"
        )

    def _totals(self) -> str:
        text = f"{self.parameters:,} parameters, "
        if self.variables:
            text += f"{self.variables:,} untrained variables, "
        return text + f"{_bytes(self.bytes)}, {in_figures(self.flops_per_example)}FLOPs per example"

    def _rows(self) -> list[tuple[str, ...]]:
        """The cells of the table: one row per module no deeper than `depth`, with what lies deeper added to it."""
        parameters, operations = Counter(), Counter()
        kept = [layer for layer in self.layers if self.depth is None or _depth(layer.path) <= self.depth]
        paths = {layer.path for layer in kept}
        for layer in self.layers:
            owner = _owner(layer.path, paths)
            parameters[owner] += layer.parameters
            operations[owner] += layer.flops
        return [
            (
                "  " * _depth(layer.path) + (layer.path.rpartition("/")[2] or self.name),
                layer.cls,
                " ".join(map(_shape, layer.inputs)),
                " ".join(map(_shape, layer.outputs)),
                f"{parameters[layer.path]:,}" if parameters[layer.path] else "",
                in_figures(operations[layer.path]).strip() if operations[layer.path] else "",
            )
            for layer in kept
        ]


def summary(model: nn.Module, *inputs: Any, train: bool = False, depth: int | None = None) -> Summary:
    """Returns what `model` is made of and costs when called on `inputs`, by tracing alone: nothing is allocated.

    Each input is a shape (float32 is meant), a `jax.ShapeDtypeStruct` or an array, batch axis included:
    `summary(LeNet(), (1, 28, 28, 1))`. A module called more than once shows its first call's shapes and the operations
    of all; a scanned module shows once, with the parameters and operations of the whole stack. `depth` limits how deep
    the printed table goes. Raises ShapeError if an input is none of these, or lacks the batch axis.
    """
    if depth is not None and depth < 0:
        raise ConfigError(f"depth: expected a number of levels of at least 0, or None for all, got {depth}")
    abstract = [_abstract(index, value) for index, value in enumerate(inputs)]
    if not abstract:
        raise ShapeError("inputs: expected at least one, such as a shape with the batch axis: (1, 28, 28, 1)")
    mode = {"train": train} if "train" in inspect.signature(type(model).__call__).parameters else {}
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda key, *inputs: model.init(key, *inputs, **mode), key, *abstract)

    layers: dict[str, Layer] = {"": Layer("", type(model).__name__)}

    def record(call, args, kwargs, context):
        path = "/".join(context.module.path)
        with jax.named_scope(_MODULE + path):
            if context.method_name in ("<lambda>", "setup"):  # a lifted transformation's wrapper, not a call
                return call(*args, **kwargs)
            layer = layers.setdefault(path, Layer(path, type(context.module).__name__))
            first = context.method_name == "__call__" and not layer.outputs
            result = call(*args, **kwargs)
            if first:
                layer.inputs, layer.outputs = _shapes((args, kwargs)), _shapes(result)
            return result

    def forward(variables, key, *inputs):
        return model.apply(variables, *inputs, rngs={"params": key}, mutable=train, **mode)

    with nn.intercept_methods(record):
        jaxpr = jax.make_jaxpr(forward)(variables, key, *abstract)
    for scope, count in costs(jaxpr):
        marked = [name.removeprefix(_MODULE) for name in scope if name.startswith(_MODULE)]
        layers[_owner(marked[-1] if marked else "", layers)].flops += count
    parameters = variables.get("params", {})
    for name, leaf in trees.flatten(parameters).items():
        layers[_owner(name, layers)].parameters += leaf.size

    total, flops = trees.count(parameters), sum(layer.flops for layer in layers.values())
    return Summary(
        name=type(model).__name__,
        layers=list(layers.values()),
        parameters=total,
        variables=trees.count(variables) - total,
        bytes=trees.size_bytes(variables),
        flops=flops,
        flops_per_example=flops // abstract[0].shape[0],
        depth=depth,
    )


def example(variant: Variant) -> list[jax.ShapeDtypeStruct]:
    """Returns the abstract inputs of a model of the table, in the order of its call, with a batch axis of one."""
    return [jax.ShapeDtypeStruct((1, *array.shape), array.dtype) for array in variant.inputs.values()]


def info(name: str) -> dict[str, Any]:
    """Returns what is known of the model `name`, as plain data for JSON; counts are taken from the module, abstractly.

    `parameters` should equal `published_parameters`; `flops` is one example's forward pass; `input` gives the shape
    and dtype of each argument without the batch axis; `layers` has one entry per module, and `players` the parameters
    of each of a model's two players, if it has them. Raises ConfigError if no model has that name.
    """
    if name not in models.MODELS:
        raise unknown("model", name, models.MODELS)
    variant = models.MODELS[name]
    found = summary(models.create(name), *example(variant)).to_dict()
    players = {
        player: sum(layer["parameters"] for layer in found["layers"] if f"{layer['path']}/".startswith(f"{player}/"))
        for player in getattr(variant.cls, "players", ())
    }
    return (
        _row(name)
        | ({"players": players} if players else {})
        | {
            "parameters": found["parameters"],
            "published_parameters": variant.parameters,
            "variables": found["variables"],
            "flops": found["flops"],
            "layers": found["layers"],
        }
    )


def table(pattern: str = "*") -> list[dict[str, Any]]:
    """Returns name, family, year, paper, published parameters and input of the models whose name matches `pattern`.

    The pattern is a shell's (`resnet*`); nothing is traced, and the order is the table's.
    """
    return [_row(name) for name in models.list_models(pattern)]


def _row(name: str) -> dict[str, Any]:
    variant = models.MODELS[name]
    return {
        "name": name,
        "family": variant.family,
        "year": variant.year,
        "paper": variant.paper,
        "parameters": variant.parameters,
        "input": {
            argument: {"shape": list(array.shape), "dtype": np.dtype(array.dtype).name}
            for argument, array in variant.inputs.items()
        },
    }


def _abstract(index: int, value: Any) -> jax.ShapeDtypeStruct:
    if isinstance(value, tuple | list) and all(isinstance(size, int) for size in value):
        value = jax.ShapeDtypeStruct(tuple(value), np.float32)
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise ShapeError(
            f"inputs[{index}]: expected a shape such as (1, 28, 28, 1), a jax.ShapeDtypeStruct or an array, "
            f"got {value!r}"
        )
    if not value.shape or value.shape[0] < 1:
        raise ShapeError(f"inputs[{index}]: expected the batch axis first, of at least 1, got shape {value.shape}")
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


def _shapes(tree: Any) -> list[Shape]:
    return [tuple(leaf.shape) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape")]


def _owner(path: str, paths: Any) -> str:
    """The longest of `paths` that is `path` or an ancestor of it; the root is always one."""
    while path not in paths:
        path = path.rpartition("/")[0]
    return path


def _depth(path: str) -> int:
    return path.count("/") + 1 if path else 0


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def in_figures(number: float) -> str:
    """Returns a number to three figures with its SI prefix, which a unit follows: "8.18 G"."""
    for prefix, size in (("P", 10**15), ("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number} "


def _bytes(number: int) -> str:
    for prefix, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {prefix}"
    return f"{number} B"
