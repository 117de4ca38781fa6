"""Where a model's parameters live on a mesh, before there are any devices."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

from deepmodels import models, parallel, trees
from deepmodels.analysis.summary import example
from deepmodels.errors import unknown


class Place(NamedTuple):
    """One leaf: its shape, the mesh axis that divides each of its dimensions, and the bytes of one device's part."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    bytes: int


def placement(name: str, mesh: Mapping[str, int]) -> list[Place]:
    """Returns a line for each parameter of a model, in float32, in the order of their names.

    Args:
      name: of the table of models.
      mesh: sizes by axis, see `deepmodels.parallel.describe_mesh`.

    Raises:
      ConfigError: no such model or axis, or the mesh doesn't divide a leaf that it has to; the message names it.
    """
    if name not in models.MODELS:
        raise unknown("model", name, models.MODELS)
    described = parallel.describe_mesh(mesh)
    model = models.create(name)
    variables = jax.eval_shape(model.init, jax.random.key(0), *example(models.MODELS[name]))
    params = variables.get("params", {})
    parallel.check_axes(params, described)
    leaves, places = trees.flatten(params), trees.flatten(parallel.shardings(params, described))
    return [
        Place(
            leaf,
            tuple(array.shape),
            (*map(_written, places[leaf].spec), *[None] * (array.ndim - len(places[leaf].spec))),
            parallel.part_bytes(array, places[leaf]),
        )
        for leaf, array in sorted(leaves.items())
    ]


def _written(entry: str | tuple[str, ...] | None) -> str | None:
    return " x ".join(entry) if isinstance(entry, tuple) else entry
