"""A program of JAX said anew in primitives that jax2onnx writes in ONNX as onnxruntime reads it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

_LAYERS = 200  # steps of a loop that are written one by one


def said_anew(function: Callable[..., Sequence[Array]], inputs: Sequence[jax.ShapeDtypeStruct]) -> Callable:
    """Returns a function that does the same, in other words where a rule below has them.

    All of it is traced here: while jax2onnx traces, functions of jax.numpy and jax.lax are others, which flax's scan
    doesn't take.

    Args:
      function: of arrays, which returns arrays.
      inputs: what it is for; sizes may be symbolic.
    """
    closed = jax.make_jaxpr(function)(*inputs)
    return jaxpr_as_fun(jax.make_jaxpr(lambda *arrays: _evaluated(closed.jaxpr, closed.consts, arrays))(*inputs))


def _evaluated(jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def value(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        given = [value(variable) for variable in equation.invars]
        values |= zip(equation.outvars, _results(equation, given), strict=True)
    return [value(variable) for variable in jaxpr.outvars]


def _results(equation: JaxprEqn, given: list[Any]) -> Sequence[Any]:
    primitive, settings = equation.primitive, equation.params
    if primitive.name in _RULES:
        return _RULES[primitive.name](given, **settings)
    if primitive.name in _CALLS:
        inner = settings[_CALLS[primitive.name]]
        return _evaluated(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given)
    found = primitive.bind(*given, **primitive.get_bind_params(settings))
    return found if primitive.multiple_results else [found]


def _select(given: list[Array], **_: Any) -> list[Array]:
    """onnxruntime doesn't choose between arrays of bools."""
    which, *cases = given
    if len(cases) == 2 and cases[0].dtype == bool:
        return [(which & cases[1]) | (~which & cases[0])]
    return [lax.select_n(which, *cases)]


def _scan(given: list[Array], **settings: Any) -> list[Array]:
    """Layers one after another; over time, a loop that goes one way, as ONNX's does."""
    body, length, back = settings["jaxpr"], settings["length"], settings["reverse"]
    if "ft_in" in settings:  # since JAX 0.12
        constant, carry, along = map(list, settings["ft_in"].update(given).unpack())
    else:
        constants, carried = settings["num_consts"], settings["num_carry"]
        constant, carry, along = given[:constants], given[constants:][:carried], given[constants + carried :]

    def step(carry: Sequence[Array], along: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        found = _evaluated(body.jaxpr, body.consts, [*constant, *carry, *along])
        return found[: len(carry)], found[len(carry) :]

    def turned(arrays: list[Array]) -> list[Array]:
        return [array[length - 1 - jnp.arange(length)] for array in arrays] if back else arrays

    if not isinstance(length, int) or not 0 < length <= _LAYERS:
        carry, out = lax.scan(step, carry, turned(along), length if isinstance(length, int) else None)
        return [*carry, *turned(out)]
    out = []
    for place in reversed(range(length)) if back else range(length):
        carry, found = step(carry, [array[place] for array in along])
        out.append(found)
    return [*carry, *map(jnp.stack, zip(*(out[::-1] if back else out), strict=True))]


def _window(kind: str) -> Callable[..., list[Array]]:
    """ONNX has windows over three axes at most: those that are one wide go before, as one axis."""
    primitive = getattr(lax, f"reduce_window_{kind}_p")

    def rule(given: list[Array], **settings: Any) -> list[Array]:
        (x,) = given
        sides, pads = settings["window_dimensions"], settings["padding"]
        wide = [axis for axis, side in enumerate(sides) if side != 1 or pads[axis] != (0, 0)]
        rest = [axis for axis in range(x.ndim) if axis not in wide]
        if x.ndim <= 3 or len(wide) > 2 or any(settings["window_strides"][axis] != 1 for axis in rest):
            return [primitive.bind(x, **settings)]
        order = [*rest, *wide]
        moved = x.transpose(order)
        settings = {name: (values[rest[0]], *(values[axis] for axis in wide)) for name, values in settings.items()}
        found = primitive.bind(moved.reshape(-1, *moved.shape[len(rest) :]), **settings)
        found = found.reshape(*moved.shape[: len(rest)], *found.shape[1:])
        return [found.transpose([order.index(axis) for axis in range(x.ndim)])]

    return rule


def _rem(given: list[Array], **_: Any) -> list[Array]:
    """jax2onnx 0.17.1 fails at those of free sizes."""
    x, y = given
    return [x - lax.div(x, y) * y if jnp.issubdtype(x.dtype, jnp.integer) else lax.rem(x, y)]


def _pad(given: list[Array], padding_config: Sequence[tuple[int, int, int]]) -> list[Array]:
    """As `_rem`: what is added is an array of its own."""
    x, value = given
    if all(isinstance(size, int) for size in x.shape) or any(min(pads) < 0 or pads[2] for pads in padding_config):
        return [lax.pad(x, value, padding_config)]
    for axis, (before, after, _) in enumerate(padding_config):
        ends = [jnp.broadcast_to(value, (*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in (before, after)]
        x = jnp.concatenate([end for end in (ends[0], x, ends[1]) if end.shape[axis] != 0], axis)
    return [x]


def _ragged_dot(given: list[Array], ragged_dot_dimension_numbers: Any, **_: Any) -> list[Array]:
    """Every expert computes all rows, and its own are kept: ONNX has no product of groups."""
    rows, kernels, sizes = given
    (products, batch), groups = ragged_dot_dimension_numbers.dot_dimension_numbers, kernels.shape[0]
    if products != ((1,), (1,)) or batch != ((), ()) or ragged_dot_dimension_numbers.lhs_ragged_dimensions != (0,):
        raise NotImplementedError(f"ragged_dot_general of {ragged_dot_dimension_numbers}")
    place, end = jnp.arange(rows.shape[0])[:, None], jnp.zeros((), sizes.dtype)
    total = jnp.zeros((rows.shape[0], kernels.shape[2]), rows.dtype)
    for group in range(groups):
        begin, end = end, end + sizes[group]
        total += jnp.where((place >= begin) & (place < end), rows, 0) @ kernels[group]
    return [total]


_RULES: dict[str, Callable[..., Sequence[Any]]] = {
    "select_n": _select,
    "scan": _scan,
    "rem": _rem,
    "pad": _pad,
    "ragged_dot_general": _ragged_dot,
    "reduce_window_max": _window("max"),
    "reduce_window_sum": _window("sum"),
}
_CALLS = {  # primitives that only call a program, and the name under which they have it
    "jit": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
