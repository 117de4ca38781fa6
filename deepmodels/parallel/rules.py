"""Where each leaf of a state lives: one ordered table (path pattern -> placement), then an automatic rule.

Models know nothing of this. A placement names a mesh axis, or None, for each of the last dimensions of a leaf. The
first pattern that matches a whole path wins; whatever the table leaves free, the automatic FSDP rule shards along the
largest dimension that the fsdp axis divides.
"""

import math
import re

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from deepmodels import trees
from deepmodels.errors import ConfigError
from deepmodels.parallel.mesh import written
from deepmodels.trees import PyTree

Placement = tuple[str | None, ...]

RULES: tuple[tuple[str, Placement], ...] = (
    (r"(.*/)?head/kernel", ("tensor", None)),  # the number of classes rarely divides: split what comes in
    (r"(.*/)?head/bias", (None,)),
    (r"(.*/)?token_embed/embedding", ("tensor",)),  # nor does the number of words
    (r"(.*/)?experts/(gate|up)/kernel", ("expert", None, "tensor")),
    (r"(.*/)?experts/down/kernel", ("expert", "tensor", None)),
    (r"(.*/)?experts/(gate|up|down)/bias", ("expert", None)),
    # the second of two products takes what its device has of the first: Shoeybi et al. (2019), arXiv:1909.08053
    (r"(.*/)?(out|down|dense2|wo)/kernel", ("tensor", None)),
    (r"(.*/)?kernel", ("tensor",)),  # output features, the last dimension of dense and convolution kernels
)

STACKED = re.compile(r"(.*/)?(\w+_)?layers/.*")  # their leading axis is that of the layers, see layers/stack.py
SMALL = 2**14  # elements; a leaf below isn't worth a collective and stays whole on every device
LARGE = 2**20  # elements; a leaf above that nothing shards is an error


def shardings(tree: PyTree, mesh: Mesh | AbstractMesh, rules: tuple[tuple[str, Placement], ...] = RULES) -> PyTree:
    """Returns a NamedSharding for each leaf of a tree of parameters.

    Args:
      tree: arrays or their shapes.
      mesh: of `make_mesh` or `describe_mesh`.
      rules: (pattern, placement) pairs, in order.

    Raises:
      ConfigError: a placement doesn't divide a dimension, or a large leaf stays whole although the mesh shards.
    """
    return trees.map_named(lambda name, leaf: NamedSharding(mesh, _spec(name, leaf.shape, mesh, rules)), tree)


def shardings_like(tree: PyTree, params: PyTree, placed: PyTree, mesh: Mesh) -> PyTree:
    """Returns a NamedSharding for each leaf of a tree that goes with parameters, such as an optimizer's state.

    A leaf whose path ends in a parameter's path and which has its shape lies where the parameter lies; any other leaf
    gets the automatic rule alone.

    Args:
      tree: arrays or their shapes.
      params: the parameters, or their shapes.
      placed: their shardings.
      mesh: the mesh of those shardings.
    """
    shapes = {name: leaf.shape for name, leaf in trees.flatten(params).items()}
    where = trees.flatten(placed)

    def sharding(name: str, leaf) -> NamedSharding:
        parts = name.split("/")
        for start in range(len(parts)):
            suffix = "/".join(parts[start:])
            if shapes.get(suffix) == leaf.shape:
                return where[suffix]
        return NamedSharding(mesh, _spec(name, leaf.shape, mesh, ()))

    return trees.map_named(sharding, tree)


def check_axes(tree: PyTree, mesh: Mesh | AbstractMesh) -> None:
    """Raises ConfigError if an axis of the mesh is for what a model doesn't have, so that its devices would all do the
    same.

    Args:
      tree: the model's parameters, or their shapes.
      mesh: of `make_mesh` or `describe_mesh`.
    """
    if mesh.shape["expert"] > 1 and not any(re.search(r"(^|/)experts/", name) for name in trees.flatten(tree)):
        raise ConfigError(
            f"config.mesh expert={mesh.shape['expert']}: the model has no experts; it is for those that have, such as "
            "mixtral_8x7b and deepseek_v3, and fsdp divides the parameters of any model"
        )
    if mesh.shape["sequence"] > 1:
        raise ConfigError(f"config.mesh sequence={mesh.shape['sequence']}: the model has not a sequence to divide")
    if mesh.shape["pipeline"] > 1 and not any(STACKED.fullmatch(name) for name in trees.flatten(tree)):
        raise ConfigError(
            f"config.mesh pipeline={mesh.shape['pipeline']}: the model has no stack of layers of one shape; it is for "
            "transformers, and fsdp divides the parameters of any model"
        )


def part_bytes(leaf: jax.Array | jax.ShapeDtypeStruct, place: NamedSharding) -> int:
    """Returns the bytes of one device's part of an array."""
    return math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _spec(
    name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, rules: tuple[tuple[str, Placement], ...]
) -> PartitionSpec:
    spec: list[str | None] = [None] * len(shape)
    size, stages = math.prod(shape), mesh.shape["pipeline"]
    stacked = stages > 1 and STACKED.fullmatch(name) is not None and len(shape) > 0
    if stacked and rules and shape[0] % stages:
        divisors = [n for n in range(1, shape[0] + 1) if shape[0] % n == 0]
        raise ConfigError(
            f"{name} {shape}: {shape[0]} layers can't be divided by the mesh axis pipeline={stages}; the nearest size "
            f"that divides them is {min(divisors, key=lambda n: abs(n - stages))}"
        )
    if size < SMALL:
        return PartitionSpec()
    placement = next((placement for pattern, placement in rules if re.fullmatch(pattern, name)), ())
    for dimension, axis in zip(range(len(shape) - len(placement), len(shape)), placement, strict=True):
        if axis is None or mesh.shape[axis] == 1:
            continue
        if shape[dimension] % mesh.shape[axis]:
            divisors = [n for n in range(1, shape[dimension] + 1) if shape[dimension] % n == 0]
            raise ConfigError(
                f"{name} {shape}: dimension {dimension} can't be divided by the mesh axis {axis}={mesh.shape[axis]}; "
                f"the nearest size that divides it is {min(divisors, key=lambda n: abs(n - mesh.shape[axis]))}"
            )
        spec[dimension] = axis
    if stacked and spec[0] is None and shape[0] % stages == 0:
        spec[0] = "pipeline"
    fsdp = mesh.shape["fsdp"]
    if fsdp > 1:
        free = [(n, -d) for d, n in enumerate(shape) if spec[d] is None and n % fsdp == 0]
        if free:
            spec[-max(free)[1]] = "fsdp"
    if size >= LARGE and not any(spec) and max(fsdp, mesh.shape["tensor"], mesh.shape["expert"]) > 1:
        raise ConfigError(
            f"{name} {shape} has {size:,} elements and nothing in the mesh {written(mesh.shape)} shards it, so every "
            f"device would hold it whole: choose an fsdp size that divides one of its dimensions, or add a rule for it"
        )
    return PartitionSpec(*spec)
