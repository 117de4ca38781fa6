"""Fine-tuning: take over a trained trunk, and train some of the parameters only.

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
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
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
