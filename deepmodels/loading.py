"""Models with weights from a file: of this library, of another one, or of the hub."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from deepmodels import models, trees
from deepmodels.trees import PyTree
from deepmodels.weights import OURS, detect, files, hub, table
from deepmodels.weights.convert import Rules, from_ours, is_fresh, same_names, to_ours


def load(
    name: str,
    weights: str | os.PathLike,
    *,
    source: str | None = None,
    revision: str | None = None,
    cast: bool = False,
    fresh: str | None = None,
    **overrides: Any,
) -> tuple[nn.Module, PyTree]:
    """Returns a model and its variables, read from a file or folder or from the hub.

        model, variables = deepmodels.load("resnet50", weights="timm/resnet50.a1_in1k")
        model, variables = deepmodels.load("resnet50", "resnet50.pth", num_classes=10, fresh="head/.*")
        logits = model.apply(variables, images)

    Args:
      name: as `create` takes it.
      weights: a path (`deepmodels.weights.files.read` says of what), or "owner/name" on the hub; a path wins.
      source: the library that named the arrays, a key of `deepmodels.weights.TABLES`, or "deepmodels" for our own
        names; if not given, the one that knows the most of the names.
      revision: a branch, tag or commit on the hub.
      cast: whether floats of another precision are converted to the model's; otherwise they are an error.
      fresh: a regular expression of parameters that are initialised instead of loaded: "head/.*".
      overrides: arguments of the model, as `create` takes them.

    Raises:
      WeightsError: the weights aren't there, can't be read, or don't fit the model; everything wrong is listed.
      ConfigError: the model, one of its arguments or the source is unknown.
    """
    model = models.create(name, **overrides)
    variables = _abstract(name, model)
    if fresh is not None:
        variables = _initialise(name, model, variables, fresh)
    arrays = files.read(hub.find(os.fspath(weights), revision))
    source = source or detect(arrays, name, models.MODELS[name].family)
    variables = to_ours(arrays, _rules(source, name, variables), variables, cast=cast, fresh=fresh)
    return model, jax.tree.map(jnp.asarray, variables)


class Converted(NamedTuple):
    """What `convert` wrote: numbers of tensors and of their elements, and the SHA-256 of the file or folder."""

    tensors: int
    elements: int
    sha256: str


def convert(
    name: str,
    weights: str | os.PathLike,
    path: str | os.PathLike,
    *,
    source: str = "torchvision",
    cast: bool = False,
    **overrides: Any,
) -> Converted:
    """Writes a model's weights in another format, after checking that they fit the model.

    Args:
      name: as `create` takes it.
      weights: as `load` takes it.
      path: where to. A `.safetensors` file has the names of `source`, for its library to load; a `.npz` file and a
        path without suffix, a folder of orbax, have ours.
      source: the library whose names a `.safetensors` file gets, a key of `deepmodels.weights.TABLES`, or "deepmodels".
      cast: as in `load`.
      overrides: arguments of the model, as `create` takes them.

    Raises:
      WeightsError: the weights can't be read, don't fit the model, or can't be written.
      ConfigError: the model, one of its arguments or the source is unknown.
    """
    path = Path(path)
    theirs = path.suffix == ".safetensors"
    model = models.create(name, **overrides)
    rules = _rules(source if theirs else OURS, name, _abstract(name, model))  # before anything slow
    _, variables = load(name, weights, cast=cast, **overrides)
    arrays = from_ours(variables, rules)
    files.write(path, arrays, {"format": "pt"})  # without which the libraries of torch refuse a file
    return Converted(len(arrays), trees.count(variables), files.sha256(path))


def _rules(source: str, name: str, variables: PyTree) -> Rules:
    return same_names(variables) if source == OURS else table(source, name, models.MODELS[name].family)


def _abstract(name: str, model: nn.Module) -> PyTree:
    return jax.eval_shape(model.init, jax.random.key(0), *_zeros(name))


def _initialise(name: str, model: nn.Module, variables: PyTree, fresh: str) -> PyTree:
    """`variables` with initial values for the leaves that are fresh; nothing else of the model is compiled."""

    @jax.jit
    def initial(key):
        leaves = trees.flatten(model.init(key, *_zeros(name)))
        return {leaf: value for leaf, value in leaves.items() if is_fresh(leaf, fresh)}

    values = initial(jax.random.key(0))
    return trees.map_named(lambda leaf, shape: values.get(leaf, shape), variables)


def _zeros(name: str) -> list[jax.Array]:
    """Inputs of the model, of a batch of one."""
    return [jnp.zeros((1, *spec.shape), spec.dtype) for spec in models.MODELS[name].inputs.values()]
