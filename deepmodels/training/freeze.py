"""Fine-tuning: take over a trained trunk, and train some of the parameters only, or some slower or later than others.

    model = create("mobilenet_v2", num_classes=10)
    variables = transfer(pretrained, model.init(key, images))  # all but the head
    optimizer = freeze(optax.adamw(1e-3), "stage.*")  # or optimizer=dict(..., freeze="stage.*") in a config

A module whose parameters are all frozen runs as in evaluation while the others train: its batch norms normalise by
their running statistics and keep them, bit by bit (timm's `freeze` does the same), and nothing in it is dropped. It is
`make_train_step` that sees to this, given the pattern too, as a run does with its config's; an optimizer can't.
"""

import contextlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from rich import box
from rich.table import Table

from deepmodels import trees
from deepmodels.errors import ConfigError, WeightsError
from deepmodels.trees import PyTree

_SHOWN = 5  # leaves in an error


def freeze(optimizer: optax.GradientTransformation, pattern: str) -> optax.GradientTransformationExtraArgs:
    """Returns `optimizer` for the other parameters only: those whose path matches stay as they are, bit by bit.

    A frozen leaf has no place in the optimizer's state, its gradient counts in no norm, and it gets no weight decay.

    Args:
      optimizer: any optax transformation; its state keeps its form, frozen leaves are `optax.MaskedNode` in it.
      pattern: a regular expression for whole paths of parameters, such as "stage[0-2].*".

    Raises:
      ConfigError: `pattern` isn't a regular expression; when the optimizer is initialised, also if it matches no
        parameter, or all.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    _compiled(pattern)

    def trained(tree: PyTree) -> PyTree:
        frozen = trees.mask(tree, pattern)
        return jax.tree.map(lambda frozen, leaf: optax.MaskedNode() if frozen else leaf, frozen, tree)

    def init(params):
        _frozen(params, pattern)
        return optimizer.init(trained(params))

    def update(updates, state, params=None, **extra):
        others = None if params is None else trained(params)
        moved, state = optimizer.update(trained(updates), state, others, **extra)
        return jax.tree.map(_moved_or_still, updates, moved), state

    return optax.GradientTransformationExtraArgs(init, update)


ByLayer = Sequence[tuple[str, float | Sequence[float]]]  # pattern of parameters -> a number, or one for each layer


def layer_rates(rates: ByLayer) -> optax.GradientTransformation:
    """Returns a transformation that multiplies updates by a factor that depends on the layer.

    Behind an optimizer, learning rates that shrink towards the input: Howard & Ruder (2018), arXiv:1801.06146, section
    3.2, and with one factor of decay per layer Clark et al. (2020), arXiv:2003.10555.

        layer_rates([("layers/.*", [0.8 ** (6 - i) for i in range(6)]), (".*embed/.*", 0.8 ** 7)])

    Args:
      rates: pairs of a regular expression for whole paths of parameters and a factor, or as many factors as the leaves
        it matches have entries on their leading axis: one for each of the layers that are stacked there. The first
        pair that matches a leaf counts; a leaf that none matches keeps its updates.

    Raises:
      ConfigError: these aren't pairs, a pattern isn't a regular expression, or a number isn't finite or is negative;
        when the optimizer is initialised, also if a pattern matches no parameter or the numbers aren't as many as the
        layers.
    """
    return _by_layer("layer_rates", rates, lambda rate, step, update: rate.astype(update.dtype) * update)


def unfreeze(starts: ByLayer) -> optax.GradientTransformation:
    """Returns a transformation that keeps parameters as they are until a step that depends on the layer.

    Behind an optimizer, gradual unfreezing: Howard & Ruder (2018), arXiv:1801.06146, section 3.3. Unlike `freeze`, it
    saves no time: gradients are computed from the first step on, and the optimizer's averages see them.

        unfreeze([("layers/.*", [500, 400, 300, 200, 100, 0]), (".*embed/.*", 600)])

    Args:
      starts: as for `layer_rates`, but the numbers are the steps, counted from 0, at which training begins.

    Raises:
      ConfigError: as for `layer_rates`.
    """

    def change(start: jax.Array, step: jax.Array, update: jax.Array) -> jax.Array:
        return jnp.where(step.astype(start.dtype) < start, -0.0, update)  # -0.0 as in `_moved_or_still`

    return _by_layer("unfreeze", starts, change)


class ByLayerState(NamedTuple):
    """The state of `layer_rates` and of `unfreeze`: the number of updates so far."""

    step: jax.Array  # int32


def _by_layer(name: str, pairs: ByLayer, change: Callable) -> optax.GradientTransformation:
    """Updates changed by `change(number of the layer, step, update)` where a pattern matches."""
    compiled = []
    for pair in pairs:
        try:
            pattern, value = pair
            numbers = np.asarray(value, np.float32)  # which holds all steps up to 2 ** 24
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}: expected pairs of a pattern and a number or numbers, got {pair!r}") from error
        if numbers.ndim > 1 or not np.all((numbers >= 0) & np.isfinite(numbers)):
            raise ConfigError(f"{name}: {pattern!r} needs a number of at least 0, or one for each layer, got {value!r}")
        compiled.append((_compiled(pattern), numbers))

    def number_of(leaf_name: str) -> np.ndarray | None:
        return next((numbers for pattern, numbers in compiled if pattern.fullmatch(leaf_name)), None)

    def init(params: PyTree) -> ByLayerState:
        leaves = trees.flatten(params)
        for pattern, _ in compiled:
            if not any(map(pattern.fullmatch, leaves)):
                raise ConfigError(f"{name}: {pattern.pattern!r} matches no parameter that trains: {_shown(leaves)}")
        for leaf_name, leaf in leaves.items():
            numbers = number_of(leaf_name)
            if numbers is not None and numbers.ndim and numbers.shape != leaf.shape[:1]:
                layers = leaf.shape[0] if leaf.shape else 0
                raise ConfigError(f"{name}: {len(numbers)} numbers for the {layers} layers in {leaf_name}")
        return ByLayerState(jnp.zeros((), jnp.int32))

    def changed(step: jax.Array, leaf_name: str, update: jax.Array) -> jax.Array:
        numbers = number_of(leaf_name)
        if numbers is None:
            return update
        shape = numbers.shape + (1,) * (update.ndim - 1) if numbers.ndim else ()
        return change(jnp.asarray(numbers.reshape(shape)), step, update)

    def update(updates: PyTree, state: ByLayerState, params: PyTree = None) -> tuple[PyTree, ByLayerState]:
        step = state.step
        moved = trees.map_named(lambda leaf_name, leaf: changed(step, leaf_name, leaf), updates)
        return moved, ByLayerState(optax.safe_increment(step))

    return optax.GradientTransformation(init, update)


def without_gradient(params: PyTree, pattern: str | None) -> PyTree:
    """Returns `params`, with the leaves whose path matches taken for constants: what only they need isn't computed.

    Args:
      params: parameters.
      pattern: a regular expression for whole paths, as for `freeze`; None matches none.
    """
    if pattern is None:
        return params
    return jax.tree.map(lambda f, p: jax.lax.stop_gradient(p) if f else p, trees.mask(params, pattern), params)


def resting(params: PyTree, pattern: str | None) -> contextlib.AbstractContextManager:
    """Returns a context in which modules whose parameters are all frozen are called with `train=False`.

    Args:
      params: parameters of the model that is called inside.
      pattern: a regular expression for whole paths, as for `freeze`; None matches none.
    """
    if pattern is None:
        return contextlib.nullcontext()
    frozen = _frozen_modules(params, pattern)

    def call(function: Callable, arguments: tuple, named: dict, context: nn.module.InterceptorContext) -> Any:
        signature = inspect.signature(context.orig_method)
        if context.module.path in frozen and "train" in signature.parameters:
            bound = signature.bind(*arguments, **named)
            bound.arguments["train"] = False
            arguments, named = bound.args, bound.kwargs
        return function(*arguments, **named)

    return nn.intercept_methods(call)


def trainable_table(params: PyTree, pattern: str) -> Table:
    """Returns a table of how many parameters `freeze` leaves to train and how many it freezes, module by module.

    Args:
      params: parameters, or their shapes.
      pattern: a regular expression for whole paths, as for `freeze`.

    Raises:
      ConfigError: the pattern matches no parameter, or all, or isn't a regular expression.
    """
    frozen = _frozen(params, pattern)
    counts: dict[str, list[int]] = {}
    for name, leaf in trees.flatten(params).items():
        counts.setdefault(name.partition("/")[0], [0, 0])[name in frozen] += leaf.size
    table = Table(box=box.SIMPLE_HEAD, show_footer=True)
    sums = [sum(column) for column in zip(*counts.values(), strict=True)]
    table.add_column("Module", footer="total")
    for header, total in zip(("Trains", "Frozen"), sums, strict=True):
        table.add_column(header, footer=f"{total:,}", justify="right")
    for module, row in counts.items():
        table.add_row(module, *(f"{count:,}" if count else "" for count in row))
    return table


def transfer(
    pretrained: Mapping[str, Any], fresh: Mapping[str, Any], except_pattern: str = "(.*/)?head/.*"
) -> dict[str, Any]:
    """Returns `fresh` variables with every leaf replaced by the pretrained one, except those that match.

    Args:
      pretrained: variables of a model with the same trunk, {"params": ..., "batch_stats": ...}.
      fresh: variables of the model to train, as `model.init` gives them.
      except_pattern: a regular expression for whole paths, collection included, of what stays fresh; the classifier's
        last layer by default. Pretrained leaves that match are left behind.

    Raises:
      ConfigError: `except_pattern` matches nothing in `fresh`, or isn't a regular expression.
      WeightsError: any other leaf is in one of the two only, or differs in shape or dtype; the message lists them.
    """
    stays = _compiled(except_pattern).fullmatch
    want, have = trees.flatten(fresh), trees.flatten(pretrained)
    if not any(map(stays, want)):
        raise ConfigError(f"except_pattern {except_pattern!r} matches no variable: {_shown(want)}")
    lines = []
    for name in sorted(name for name in want.keys() | have.keys() if not stays(name)):
        if name not in have:
            lines.append(f"{name} isn't among the pretrained ones")
        elif name not in want:
            lines.append(f"{name} isn't in the model")
        elif (want[name].shape, want[name].dtype) != (have[name].shape, have[name].dtype):
            was, needs = (f"{leaf.dtype}{list(leaf.shape)}" for leaf in (have[name], want[name]))
            lines.append(f"{name} is {was}, the model has {needs}")
    if lines:
        raise WeightsError(f"the pretrained variables don't fit the model. {_shown(lines, '; ')}")
    return dict(trees.map_named(lambda name, leaf: leaf if stays(name) else have[name], fresh))


def _moved_or_still(update: Any, moved: Any) -> Any:
    # -0.0 and not 0.0, which would turn a parameter of -0.0 into 0.0
    return jnp.full_like(update, -0.0) if isinstance(moved, optax.MaskedNode) else moved


def _frozen(params: PyTree, pattern: str) -> set[str]:
    compiled, names = _compiled(pattern), list(trees.flatten(params))
    frozen = {name for name in names if compiled.fullmatch(name)}
    if not frozen:
        raise ConfigError(f"freeze: {pattern!r} matches no parameter; it is matched with whole paths: {_shown(names)}")
    if len(frozen) == len(names):
        raise ConfigError(f"freeze: {pattern!r} matches every parameter, nothing is left to train")
    return frozen


def _frozen_modules(params: PyTree, pattern: str) -> set[tuple[str, ...]]:
    """The paths of the modules that have parameters, and only frozen ones."""
    modules: dict[tuple[str, ...], bool] = {}
    for name, frozen in trees.flatten(trees.mask(params, pattern)).items():
        path = tuple(name.split("/"))
        for depth in range(len(path)):
            modules[path[:depth]] = frozen and modules.get(path[:depth], True)
    return {path for path, frozen in modules.items() if frozen}


def _compiled(pattern: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{pattern!r} isn't a regular expression: {error}") from error


def _shown(names: Any, separator: str = ", ") -> str:
    names = list(names)
    more = f"{separator}and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return separator.join(names[:_SHOWN]) + more
