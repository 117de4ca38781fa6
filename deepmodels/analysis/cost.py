"""Floating-point operations of a function, read from its jaxpr: nothing is compiled, run or allocated.

The convention: a multiply-add is two operations; matrix products and convolutions count, attention as the matrix
products it is, and elementwise work (activations, norms, softmax) doesn't. A custom kernel counts as nothing.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import jax

Scope = tuple[str, ...]


def flops(function: Callable, *abstract_args: Any) -> int:
    """Returns the floating-point operations of one call `function(*abstract_args)`.

    Arguments are pytrees of arrays or `jax.ShapeDtypeStruct`. Matrix products and convolutions count two per
    multiply-add. A convolution's padding counts, as published figures have it; a transposed one's counts only where a
    tap meets an input. A scan counts its body once per iteration, a conditional its costliest branch (of branches by
    back end the default, which is the operation as the model means it), and a while loop its condition and body once,
    as the trip count isn't known.
    """
    return sum(count for _, count in costs(jax.make_jaxpr(function)(*abstract_args)))


def flops_by_scope(function: Callable, *abstract_args: Any) -> dict[str, int]:
    """Returns the operations that `flops` counts by the named scope they occur in ("ResNet/stage0_block1/conv1").

    Flax opens a scope per module call, so this says what each module costs by itself, without its submodules; a
    gradient counts where its forward computation does. The values sum to `flops(function, *abstract_args)`.
    """
    totals: Counter[str] = Counter()
    for scope, count in costs(jax.make_jaxpr(function)(*abstract_args)):
        totals["/".join(scope)] += count
    return dict(totals)


def costs(closed: Any, outer: Scope = ()) -> Iterator[tuple[Scope, int]]:
    """Yields the scope and the operations of each matrix product and convolution in a jaxpr, open or closed."""
    jaxpr = getattr(closed, "jaxpr", closed)
    for equation in jaxpr.eqns:
        scope = outer + _scope(equation)
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            yield scope, _dot_general(equation)
        elif name == "conv_general_dilated":
            yield scope, _conv_general_dilated(equation)
        elif name == "cond":
            branches = [list(costs(branch, scope)) for branch in params["branches"]]
            platforms = params.get("branches_platforms")
            if platforms is not None and None in platforms:  # one back end's words for what the default says
                branches = [branches[platforms.index(None)]]
            yield from max(branches, key=lambda branch: sum(count for _, count in branch))
        elif name != "pallas_call":
            times = _repeats(name, params)
            for inner in _inner_jaxprs(params):
                for inner_scope, count in costs(inner, scope):
                    yield inner_scope, times * count


def _scope(equation: Any) -> Scope:
    """The names on an equation's stack; the transformations among them (vmap, jvp, transpose) left out."""
    stack = equation.source_info.name_stack.stack
    return tuple(entry.name for entry in stack if type(entry).__name__ == "Scope")


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(getattr(item, "jaxpr", item), "eqns"):
                yield item


def _repeats(name: str, params: dict[str, Any]) -> int:
    if name == "scan":
        return params["length"]
    if name == "shard_map":  # the body's shapes are one device's
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return 1


def _dot_general(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _conv_general_dilated(equation: Any) -> int:
    params = equation.params
    dimensions = params["dimension_numbers"]
    images, kernel = (operand.aval.shape for operand in equation.invars)
    output = equation.outvars[0].aval.shape
    taps = 1
    for axis in range(len(output) - 2):
        inputs, outputs = images[dimensions.lhs_spec[2 + axis]], output[dimensions.out_spec[2 + axis]]
        window, dilation = kernel[dimensions.rhs_spec[2 + axis]], params["lhs_dilation"][axis]
        if dilation == 1:
            taps *= outputs * window
        else:
            met = (
                o * params["window_strides"][axis] + k * params["rhs_dilation"][axis] - params["padding"][axis][0]
                for o, k in product(range(outputs), range(window))
            )
            taps *= sum(place % dilation == 0 and 0 <= place < dilation * inputs for place in met)
    batch, features = (output[axis] for axis in dimensions.out_spec[:2])
    per_group = kernel[dimensions.rhs_spec[1]]  # already divided by feature_group_count
    return 2 * batch * features * per_group * taps
