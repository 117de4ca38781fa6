"""What happens inside a model: the outputs of its modules, by the pattern of their paths."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
from flax import linen as nn
from jax import Array

from deepmodels import trees
from deepmodels.errors import ConfigError
from deepmodels.trees import PyTree

_SHOWN = 5  # paths in an error
_FEATURES = "features/0/"  # under which what the model's method returned is captured


def intermediates(model: nn.Module, variables: PyTree, *inputs: Any, pattern: str = "*") -> dict[str, Array]:
    """Returns the outputs of the modules inside a model whose path matches a shell pattern, in evaluation mode.

    `intermediates(model, variables, images, pattern="stage*/conv1")`. It is a pure function of `variables` and
    `inputs`: compile it by `jax.jit(partial(intermediates, model, pattern=...))`, which also leaves out what the
    outputs don't need.

    Args:
      model: called as `model(*inputs)`.
      variables: its parameters and statistics.
      inputs: arrays, or their shapes under `jax.eval_shape`.
      pattern: of paths such as "stage0_block1/conv1"; "*" matches slashes too.

    Returns:
      Arrays by path. A module of a scanned stack gives those of all layers, on a leading axis. A module that is called
      more than once has further ones under "path#2" and so on; one that returns several arrays has each under the
      path and the array's name or number.

    Raises:
      ConfigError: no path matches; the message names the nearest.
    """
    found = _captured(model, variables, *inputs, wanted=lambda path: fnmatchcase(path, pattern))
    if not found:
        paths = jax.eval_shape(lambda *a: _captured(model, *a, wanted=lambda _: True), variables, *inputs)
        raise ConfigError(f"pattern {pattern!r} matches no module, the nearest are {_nearest(pattern, paths)}")
    return found


def hidden(model: nn.Module, variables: PyTree, *inputs: Any, layers: Sequence[str]) -> dict[str, Array]:
    """Returns what the layers of a model make of its inputs, by their names and in their order, in evaluation mode.

    Like `intermediates` it is pure, and compiled it computes no more than the layers need.

    Args:
      model: called as `model(*inputs)`.
      variables: its parameters and statistics.
      inputs: arrays.
      layers: each the name of a map that the model's `features` returns, "stage1", or else the path of a module,
        "stage0_block1/conv1".

    Raises:
      ConfigError: there is no such layer; the message names the nearest.
    """

    def named(*arguments: Any, wanted: Callable[[str], bool]) -> dict[str, Array]:
        found = _captured(model, *arguments, wanted=wanted, features=True)
        maps = {name.removeprefix(_FEATURES): array for name, array in found.items() if name.startswith(_FEATURES)}
        return found | maps

    found = named(variables, *inputs, wanted=lambda path: path in layers)
    for layer in layers:
        if layer not in found:
            names = jax.eval_shape(lambda *a: named(*a, wanted=lambda _: True), variables, *inputs)
            names = [name for name in names if not name.startswith(_FEATURES)]
            raise ConfigError(f"no layer {layer!r}, the nearest are {_nearest(layer, names)}")
    return {layer: found[layer] for layer in layers}


def before_head(model: nn.Module, variables: PyTree, *inputs: Any) -> tuple[Array, PyTree]:
    """Returns what the last layer of a classifier sees, and what the classifier returns, in evaluation mode.

    Args:
      model: called as `model(*inputs)`. Its last layer is the module "head"; without one, both are what it returns.
      variables: its parameters and statistics.
      inputs: arrays.
    """
    seen = []

    def listen(call: Callable, arguments: tuple, named: dict, context: nn.module.InterceptorContext) -> Any:
        if context.module.path == ("head",) and context.method_name == "__call__":
            seen.append(arguments[0])
        return call(*arguments, **named)

    with nn.intercept_methods(listen):
        outputs = model.apply(variables, *inputs)
    return seen[-1] if seen else outputs, outputs


def _nearest(name: str, names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(difflib.get_close_matches(name, names, n=_SHOWN, cutoff=0.3) or names[:_SHOWN]) or "none"


def _captured(
    model: nn.Module, variables: PyTree, *inputs: Any, wanted: Callable[[str], bool], features: bool = False
) -> dict[str, Array]:
    """The outputs of modules, and if asked for those of the model's own `features`."""

    def chosen(module: nn.Module, method: str) -> bool:
        if not module.path:
            return features and method == "features"
        return method == "__call__" and wanted("/".join(module.path))

    _, state = model.apply(variables, *inputs, capture_intermediates=chosen, mutable=["intermediates"])
    found = {}
    for name, output in trees.flatten(state.get("intermediates", {})).items():
        if name.startswith(_FEATURES):
            found[name] = output
            continue
        path, _, rest = name.rpartition("__call__/")
        call, _, part = rest.partition("/")
        path = path.rstrip("/") + (f"#{int(call) + 1}" if int(call) else "")
        found[f"{path}/{part}" if part else path] = output
    return found
