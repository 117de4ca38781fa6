"""Layers of one shape as a scan: one program for any depth, the parameters stacked on a leading axis."""

import contextlib
import contextvars
import re
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.custom_batching
import jax.extend
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from deepmodels.errors import ConfigError, unknown

_ELEMENTWISE = frozenset(
    (
        *("abs", "add", "broadcast_in_dim", "concatenate", "convert_element_type", "copy", "cos", "div", "erf", "erfc"),
        *("exp", "exp2", "expand_dims", "expm1", "integer_pow", "log", "log1p", "logistic", "max", "min", "mul", "neg"),
        *("pow", "reshape", "rsqrt", "select_n", "sign", "sin", "slice", "sqrt", "square", "squeeze", "sub", "tanh"),
        *("stop_gradient", "transpose"),
    )
)  # names of primitives, and of those that only move elements


def _is_costly(primitive: jax.extend.core.Primitive, *_: Any, **__: Any) -> bool:
    return primitive.name not in _ELEMENTWISE


REMAT: dict[str, Callable] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "elementwise": _is_costly,
    "save_all": jax.checkpoint_policies.everything_saveable,
}
"""What the backward pass finds of a layer, beside what came in; it computes the rest once more.

Chen, Xu, Zhang & Guestrin (2016), arXiv:1604.06174. "full" keeps nothing, and takes the least memory; "dots" the result
of each product; "dots_no_batch" those of products with parameters, so not the attention's, which grow with the square
of the length; "elementwise" what is more than a function of each element: products, sums, masks of dropout, so that
activation functions and normalisations are applied once more, which is faster than to write and read what they gave;
"save_all" all.
"""


class Pipeline(NamedTuple):
    """How `scan_layers` divides its layers while `pipelined` is open."""

    stages: int  # parts of neighbouring layers, as many in each
    place: Callable[[jax.Array], jax.Array]  # puts the entries of an array's leading axis on the stages' devices


_PIPELINE: contextvars.ContextVar[Pipeline | None] = contextvars.ContextVar("pipeline", default=None)


@contextlib.contextmanager
def pipelined(stages: int, place: Callable[[jax.Array], jax.Array]) -> Iterator[None]:
    """A context in which a model under `jax.vmap`, over microbatches, runs each of its stacks of layers as a pipeline.

    Huang et al. (2019), arXiv:1811.06965. While a stage has one microbatch, the stage before it has the next: of m
    microbatches in s stages each stage waits for s - 1 of m + s - 1 turns, as in the schedule by the name of 1F1B. Xu
    et al. (2021), arXiv:2105.04663, section 3.3: all stages are one vectorised computation, and what they hand on is a
    shift of an array.

    Args:
      stages: a divisor of each stack's length.
      place: puts an array of which each stage has an entry on the stages' devices.
    """
    token = _PIPELINE.set(Pipeline(stages, place))
    try:
        yield
    finally:
        _PIPELINE.reset(token)


def scan_layers(
    layer: nn.Module,
    call: Callable,
    carry: Any,
    xs: Any = None,
    *,
    length: int,
    unroll: int = 1,
    axis: int = 0,
    remat: str | None = None,
) -> tuple[Any, Any]:
    """Applies a module `length` times, each time with parameters of its own.

    Args:
      layer: the module; its parameters, intermediates, "losses", "balance" and "four_bits" get a leading axis of
        `length`.
      call: (layer, carry, one entry of xs) -> (carry, one entry of the second result).
      carry: what goes from layer to layer.
      xs: arrays with an entry for each layer, or None.
      length: number of layers.
      unroll: layers per step of the scan; changes neither result nor parameters, but compile time and speed.
      axis: of the layers' entries in `xs` and in the second result.
      remat: a key of `REMAT`: what the backward pass finds of each layer; changes neither result nor gradients. By
        default "elementwise" in a scan; of layers that are unrolled whole the compiler sees both passes and decides.

    Returns:
      What the last layer carries on, and the entries of all layers.

    Of parameters that `unstack` has taken apart the layers are a loop of the program's text, without intermediates.

    Raises:
      ConfigError: there is no layer, or less than one in a step, or `remat` isn't the name of a policy.
    """
    if length < 1:
        raise ConfigError(f"num_layers: expected at least 1, got {length}")
    if unroll < 1:
        raise ConfigError(f"unroll: expected at least 1, got {unroll}")
    if layer.scope is not None and "0" in layer.variables.get("params", {}):
        return _apart(layer, call, carry, xs, length, axis)
    if remat is None and unroll < length:
        remat = "elementwise"
    if remat is not None and remat not in REMAT:
        raise unknown("remat policy", remat, REMAT)
    if (pipeline := _PIPELINE.get()) is not None:
        return _staged(layer, call, carry, xs, length, axis, unroll, remat, pipeline)
    if remat is not None:
        # a scan keeps both passes apart by itself; of one that is unrolled whole, the compiler would join them again
        call = nn.remat(call, policy=REMAT[remat], prevent_cse=unroll >= length)
    scan = nn.scan(
        call,
        variable_axes={"params": 0, "intermediates": 0, "losses": 0, "balance": 0, "four_bits": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=axis,
        out_axes=axis,
        length=length,
        unroll=min(unroll, length),
    )
    return scan(layer, carry, xs)


def unstack(variables: dict[str, Any], name: str = "(.*_)?layers") -> dict[str, Any]:
    """Returns parameters with those of scanned layers taken apart: {"layers": {"0": ..., "1": ...}}.

    `scan_layers` takes either form. In a loop over tokens, XLA's CPU back end copies each layer's parameters out of the
    stacked ones for each token; of these it reads them where they are. The kernels of dense layers are (out, in) here.
    They are for applying a model only.

    Args:
      variables: {"params": ...}, or what is inside; what is apart already stays as it is.
      name: a regular expression of the names that scanned layers have.
    """

    def split(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        return {
            key: _split(value) if re.fullmatch(name, key) and isinstance(value, dict) else split(value)
            for key, value in tree.items()
        }

    return split(variables)


def _split(stacked: dict[str, Any]) -> dict[str, Any]:
    if "0" in stacked:
        return stacked
    length = jax.tree.leaves(stacked)[0].shape[0]
    layers = (jax.tree.map(itemgetter(i), stacked) for i in range(length))
    return {str(i): _transposed(layer) for i, layer in enumerate(layers)}


_TRANSPOSED = "transposed"


def _transposed(layer: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a layer with the kernels of its dense layers the other way round, under another name."""
    params = {key: _transposed(value) if isinstance(value, dict) else value for key, value in layer.items()}
    kernel = params.get("kernel")
    return params if getattr(kernel, "ndim", 0) != 2 else _without(params, "kernel") | {_TRANSPOSED: kernel.T}


def _restored(layer: dict[str, Any]) -> dict[str, Any]:
    """What `_transposed` took, and beside it what that made of it."""
    params = {key: _restored(value) if isinstance(value, dict) else value for key, value in layer.items()}
    return params | {"kernel": params[_TRANSPOSED].T} if _TRANSPOSED in params else params


def _without(tree: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key != name}


def _dense(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    """Multiplies by a kernel the other way round where there is one: XLA would turn the kernel first."""
    module = context.module
    if not isinstance(module, nn.Dense) or context.method_name != "__call__":
        return call(*args, **kwargs)
    params = module.variables["params"]
    if _TRANSPOSED not in params:
        return call(*args, **kwargs)
    x, kernel, bias = promote_dtype(*args, params[_TRANSPOSED], params.get("bias"), dtype=module.dtype)
    y = jnp.einsum("...i,oi->...o", x, kernel)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + bias.shape)


def _apart(layer: nn.Module, call: Callable, carry: Any, xs: Any, length: int, axis: int) -> tuple[Any, Any]:
    """What `scan_layers` does, of parameters taken apart."""
    ys = []
    for i in range(length):
        x = jax.tree.map(lambda leaf: jax.lax.index_in_dim(leaf, i, axis, keepdims=False), xs)  # noqa: B023
        own = {collection: tree[str(i)] for collection, tree in layer.variables.items()}
        with nn.intercept_methods(_dense):
            carry, y = call(layer.clone(parent=None).bind(own | {"params": _restored(own["params"])}), carry, x)
        ys.append(y)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *ys)


def _staged(
    layer: nn.Module,
    call: Callable,
    carry: Any,
    xs: Any,
    length: int,
    axis: int,
    unroll: int,
    remat: str | None,
    pipeline: Pipeline,
) -> tuple[Any, Any]:
    """What `scan_layers` does of one microbatch, for `jax.vmap` to make a pipeline of."""
    stages, place = pipeline
    if length % stages:
        raise ConfigError(f"{length} layers can't be divided among the {stages} stages of a pipeline")
    if others := set(layer.variables) - {"params"}:
        raise ConfigError(f"layers of a pipeline have parameters and nothing else, not {', '.join(sorted(others))}")
    params = layer.variables["params"]
    key = layer.make_rng("dropout") if layer.has_rng("dropout") else None

    def single(params: Any, number: jax.Array, x: Any, key: jax.Array | None, carry: Any) -> tuple[Any, Any]:
        rngs = {} if key is None else {"dropout": jax.random.fold_in(key, number)}
        return call(layer.clone(parent=None).bind({"params": params}, rngs=rngs), carry, x)

    entries = jax.tree.map(lambda leaf: jnp.moveaxis(jnp.asarray(leaf), axis, 0), xs)
    stack = params, jnp.arange(length, dtype=jnp.int32), entries
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stack)
    # what the call has from outside, such as masks, differs from microbatch to microbatch: here it becomes an argument
    traced, shapes = jax.make_jaxpr(single, return_shape=True)(*one, key, carry)

    def apply(one: Any, given: list[jax.Array], key: jax.Array | None, carry: Any) -> tuple[Any, Any]:
        function = jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(traced.jaxpr, given))
        return jax.tree.unflatten(jax.tree.structure(shapes), function(*jax.tree.leaves((one, key, carry))))

    if remat is not None:
        apply = jax.checkpoint(apply, policy=REMAT[remat], prevent_cse=False)

    def through(stack: Any, given: list[jax.Array], key: jax.Array | None, carry: Any) -> tuple[Any, Any]:
        def step(carry: Any, one: Any) -> tuple[Any, Any]:
            return apply(one, given, key, carry)

        return jax.lax.scan(step, carry, stack, unroll=min(unroll, len(stack[1])))

    run = jax.custom_batching.custom_vmap(through)

    @run.def_vmap
    def schedule(count: int, batched: tuple, stack: Any, given: list, key: jax.Array | None, carry: Any) -> tuple:
        if any(jax.tree.leaves(batched[0])):
            raise ConfigError("xs: what the layers of a pipeline are given one by one is the same for all examples")
        stack = jax.tree.map(lambda leaf: place(leaf.reshape(stages, -1, *leaf.shape[1:])), stack)
        inputs = jax.tree.map(
            lambda leaf, own: leaf if own else jnp.broadcast_to(leaf[None], (count, *leaf.shape)), carry, batched[3]
        )
        owned = batched[1], batched[2]
        stage = jax.vmap(through, (0, *jax.tree.map(lambda own: 0 if own else None, owned), 0))
        if remat == "full":  # of a stage, too, nothing is kept but what came in
            stage = jax.checkpoint(stage, prevent_cse=False)
        place_in_line = jnp.arange(stages)

        def turn(state: Any, number: jax.Array) -> tuple[Any, tuple[Any, Any]]:
            # before its first and after its last microbatch a stage works on one of which nobody takes the result
            which = jnp.clip(number - place_in_line, 0, count - 1)

            def enter(state: jax.Array, inputs: jax.Array) -> jax.Array:
                first = (place_in_line == 0).reshape(stages, *[1] * (state.ndim - 1))
                return place(jnp.where(first, inputs[which[0]][None], state))

            held = jax.tree.map(lambda leaf, own: leaf[which] if own else leaf, (given, key), owned)
            state, made = stage(stack, *held, jax.tree.map(enter, state, inputs))
            state = jax.tree.map(place, state)
            last = jax.tree.map(lambda leaf: leaf[-1], state)
            return jax.tree.map(lambda leaf: place(jnp.roll(leaf, 1, 0)), state), (last, made)

        state = jax.tree.map(lambda leaf: place(jnp.broadcast_to(leaf[:1], (stages, *leaf.shape[1:]))), inputs)
        _, (last, made) = jax.lax.scan(turn, state, jnp.arange(count + stages - 1))
        turns = jnp.arange(count)[:, None] + place_in_line[None]
        results = (
            jax.tree.map(lambda leaf: leaf[stages - 1 :], last),
            jax.tree.map(lambda leaf: leaf[turns, place_in_line[None]].reshape(count, length, *leaf.shape[3:]), made),
        )
        return results, jax.tree.map(lambda _: True, results)

    carry, ys = run(stack, traced.consts, key, carry)
    return carry, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, axis), ys)
