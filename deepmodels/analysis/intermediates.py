"""What happens inside a model: the outputs of its modules, by the pattern of their paths."""

import difflib
from fnmatch import fnmatchcase
from typing import Any

import jax
from flax import linen as nn
from jax import Array

from deepmodels import trees
from deepmodels.errors import ConfigError
from deepmodels.trees import PyTree

_SHOWN = 5  # paths in an error


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
    found = _captured(model, variables, *inputs, pattern=pattern)
    if not found:
        paths = list(jax.eval_shape(lambda *a: _captured(model, *a, pattern="*"), variables, *inputs))
        close = difflib.get_close_matches(pattern, paths, n=_SHOWN, cutoff=0.3) or paths[:_SHOWN]
        raise ConfigError(f"pattern {pattern!r} matches no module, the nearest are {', '.join(close) or 'none'}")
    return found


def _captured(model: nn.Module, variables: PyTree, *inputs: Any, pattern: str) -> dict[str, Array]:
    def wanted(module: nn.Module, method: str) -> bool:
        return method == "__call__" and bool(module.path) and fnmatchcase("/".join(module.path), pattern)

    _, state = model.apply(variables, *inputs, capture_intermediates=wanted, mutable=["intermediates"])
    found = {}
    for name, output in trees.flatten(state.get("intermediates", {})).items():
        path, _, rest = name.rpartition("__call__/")
        call, _, part = rest.partition("/")
        path = path.rstrip("/") + (f"#{int(call) + 1}" if int(call) else "")
        found[f"{path}/{part}" if part else path] = output
    return found
