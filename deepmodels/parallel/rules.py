"""Where each leaf of a state lives: one ordered table (path pattern -> placement), then an automatic rule.

Models know nothing of this. A placement names a mesh axis, or None, for each of the last dimensions of a leaf. The
first pattern that matches a whole path wins; whatever the table leaves free, the automatic FSDP rule shards along the
largest dimension that the fsdp axis divides.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from deepmodels import trees
from deepmodels.errors import ConfigError, nearest
from deepmodels.parallel.mesh import AXES, SEQUENCES, written
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

OF_EXAMPLES = r"(.*/)?(\w+_)?modulation/kernel"  # it takes a vector of each example, also where layers are a loop
EXPERTS = r"(.*/)?experts/(gate|up|down)/kernel"
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
      ConfigError: a placement doesn't divide a dimension, names an axis that there isn't or one twice, or is of more
        dimensions than the leaf has; or a large leaf stays whole although the mesh shards.
    """
    return trees.map_named(lambda name, leaf: NamedSharding(mesh, _spec(name, leaf.shape, mesh, rules)), tree)


def shardings_like(tree: PyTree, params: PyTree, placed: PyTree, mesh: Mesh, over_data: bool = False) -> PyTree:
    """Returns a NamedSharding for each leaf of a tree that goes with parameters, such as an optimizer's state.

    A leaf whose path ends in a parameter's path and which has its shape lies where the parameter lies; any other leaf
    gets the automatic rule alone.

    Args:
      tree: arrays or their shapes.
      params: the parameters, or their shapes.
      placed: their shardings.
      mesh: the mesh of those shardings.
      over_data: whether leaves are divided by the data axis as well, where it divides one of their dimensions, so that
        no two devices keep the same: ZeRO's first stage, Rajbhandari et al. (2019), arXiv:1910.02054.
    """
    shapes = {name: leaf.shape for name, leaf in trees.flatten(params).items()}
    where = trees.flatten(placed)

    def sharding(name: str, leaf) -> NamedSharding:
        place = beside(name, leaf)
        return _over_data(place, leaf.shape) if over_data else place

    def beside(name: str, leaf) -> NamedSharding:
        parts = name.split("/")
        for start in range(len(parts)):
            suffix = "/".join(parts[start:])
            if shapes.get(suffix) == leaf.shape:
                return where[suffix]
        return NamedSharding(mesh, _spec(name, leaf.shape, mesh, ()))

    return trees.map_named(sharding, tree)


def _over_data(place: NamedSharding, shape: tuple[int, ...]) -> NamedSharding:
    """A placement that is divided along the largest part of a dimension that the data axis divides too."""
    data = place.mesh.shape["data"]
    spec = [*place.spec, *[None] * (len(shape) - len(place.spec))]
    fits = [(n, -d) for d, n in enumerate(place.shard_shape(shape)) if n % data == 0]
    if data == 1 or not fits or math.prod(shape) < SMALL:
        return place
    dimension = -max(fits)[1]
    spec[dimension] = "data" if spec[dimension] is None else (*_as_tuple(spec[dimension]), "data")
    return NamedSharding(place.mesh, PartitionSpec(*spec))


def on_host(place: NamedSharding, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
    """Returns a placement in the memory of the host, of a leaf that isn't small."""
    return place if leaf.size < SMALL else place.with_memory_kind("pinned_host")


def check_axes(tree: PyTree, mesh: Mesh | AbstractMesh, record: Mapping[str, Any] | None = None) -> None:
    """Raises ConfigError if an axis of the mesh is for what a model doesn't have, so that its devices would all do the
    same, or doesn't divide what it is for.

    Args:
      tree: the model's parameters, or their shapes.
      mesh: of `make_mesh` or `describe_mesh`.
      record: arrays by name, of an example or of a batch, whose last dimension of `SEQUENCES` is positions; None if
        that isn't known.
    """
    leaves, sizes = trees.flatten(tree), mesh.shape
    experts = {name: leaf.shape[-3] for name, leaf in leaves.items() if re.fullmatch(EXPERTS, name)}
    if sizes["expert"] > 1 and not experts:
        raise ConfigError(
            f"config.mesh expert={sizes['expert']}: the model has no experts; it is for those that have, such as "
            "mixtral_8x7b and deepseek_v3, and fsdp divides the parameters of any model"
        )
    for name, count in experts.items():
        if count % sizes["expert"]:
            raise ConfigError(
                f"config.mesh expert={sizes['expert']}: {name} has {count} experts, which can't be divided by it; the "
                f"nearest size that divides them is {_nearest_divisor(count, sizes['expert'])}"
            )
    lengths = {name: np.shape(leaf)[-1] for name, leaf in (record or {}).items() if name in SEQUENCES}
    if sizes["sequence"] > 1 and record is not None and not lengths:
        raise ConfigError(
            f"config.mesh sequence={sizes['sequence']}: there is no sequence to divide; it is for models of tokens, "
            f"and data with {' or '.join(SEQUENCES)}"
        )
    for name, length in lengths.items():
        if length % sizes["sequence"]:
            raise ConfigError(
                f"config.mesh sequence={sizes['sequence']}: a row of {name} has {length} positions, which can't be "
                f"divided by it; the nearest size that divides them is {_nearest_divisor(length, sizes['sequence'])}"
            )
    recurrent = any(name.endswith("recurrent_kernel") for name in leaves)
    if record is not None and recurrent and min(sizes["data"], sizes["fsdp"], sizes["tensor"]) > 1:
        raise ConfigError(
            f"config.mesh {written(sizes)}: of recurrent models, Bahdanau's has wrong gradients where data, fsdp and "
            "tensor are all more than 1, see docs/meshes.md; leave one of them at 1"
        )
    if sizes["pipeline"] > 1 and not any(STACKED.fullmatch(name) for name in leaves):
        raise ConfigError(
            f"config.mesh pipeline={sizes['pipeline']}: the model has no stack of layers of one shape; it is for "
            "transformers, and fsdp divides the parameters of any model"
        )
    if sizes["pipeline"] > 1 and sizes["sequence"] * sizes["expert"] > 1:
        raise ConfigError(
            f"config.mesh {written(sizes)}: a pipeline goes with data, fsdp and tensor, not with sequence and expert"
        )
    spare = sizes["tensor"] > 1 and not any(
        "tensor" in axes_of(place) for place in trees.flatten(shardings(tree, mesh)).values()
    )
    if spare:
        raise ConfigError(
            f"config.mesh tensor={sizes['tensor']}: nothing of the model is divided by it, as each of its kernels has "
            f"less than {SMALL:,} elements; data and fsdp divide the batch of any model"
        )


def axes_of(place: NamedSharding) -> set[str]:
    """Returns the axes of the mesh that divide an array."""
    return {axis for entry in place.spec if entry is not None for axis in _as_tuple(entry)}


def _as_tuple(entry: str | tuple[str, ...]) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry


def part_bytes(leaf: jax.Array | jax.ShapeDtypeStruct, place: NamedSharding) -> int:
    """Returns the bytes of one device's part of an array."""
    return math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _spec(
    name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, rules: tuple[tuple[str, Placement], ...]
) -> PartitionSpec:
    spec: list[str | tuple[str, ...] | None] = [None] * len(shape)
    size, stages = math.prod(shape), mesh.shape["pipeline"]
    placement = next((placement for pattern, placement in rules if re.fullmatch(pattern, name)), ())
    _check_placement(name, shape, placement)
    stacked = stages > 1 and STACKED.fullmatch(name) is not None and len(shape) > 0
    if stacked and rules and shape[0] % stages:
        raise ConfigError(
            f"{name} {shape}: {shape[0]} layers can't be divided by the mesh axis pipeline={stages}; the nearest size "
            f"that divides them is {_nearest_divisor(shape[0], stages)}"
        )
    if size < SMALL:
        return PartitionSpec()
    for dimension, axis in zip(range(len(shape) - len(placement), len(shape)), placement, strict=True):
        if axis is None or mesh.shape[axis] == 1:
            continue
        if shape[dimension] % mesh.shape[axis]:
            raise ConfigError(
                f"{name} {shape}: dimension {dimension} can't be divided by the mesh axis {axis}={mesh.shape[axis]}; "
                f"the nearest size that divides it is {_nearest_divisor(shape[dimension], mesh.shape[axis])}"
            )
        spec[dimension] = axis
    if stacked and spec[0] is None and shape[0] % stages == 0:
        spec[0] = "pipeline"
    fsdp = mesh.shape["fsdp"]
    if fsdp > 1 and "fsdp" not in spec:
        free = [(n, -d) for d, n in enumerate(shape) if spec[d] is None and n % fsdp == 0]
        if free:
            spec[-max(free)[1]] = "fsdp"
    if {"fsdp", "tensor"} <= set(spec) and name.endswith("kernel") and not _is_looped(name):
        _put_together(spec, shape, mesh)
    if size >= LARGE and not any(spec) and max(fsdp, mesh.shape["tensor"], mesh.shape["expert"]) > 1:
        raise ConfigError(
            f"{name} {shape} has {size:,} elements and nothing in the mesh {written(mesh.shape)} shards it, so every "
            f"device would hold it whole: choose an fsdp size that divides one of its dimensions, or add a rule for it"
        )
    return PartitionSpec(*spec)


def _is_looped(name: str) -> bool:
    """Whether a loop over layers or experts takes its part of a leaf before that meets positions or tokens."""
    return any(re.fullmatch(pattern, name) for pattern in (STACKED, EXPERTS)) and not re.fullmatch(OF_EXAMPLES, name)


def _put_together(spec: list, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> None:
    """Has fsdp divide the dimension that tensor divides, or nothing where it can't.

    With a batch over data and fsdp, and kernels over fsdp along one dimension and tensor along another, XLA's
    partitioner makes programs with wrong gradients, of two dense layers of 16, 4 and 16 units already (jaxlib 0.10.2
    and 0.12.0). In a loop over layers so does DiT's kernel that takes a vector of each example; kernels there that take
    a position of each don't. With both along one dimension they were right for every family, see
    tests/parallel/test_matrix.py.
    """
    dimension = spec.index("tensor")
    spec[spec.index("fsdp")] = None
    if shape[dimension] % (mesh.shape["tensor"] * mesh.shape["fsdp"]) == 0:
        spec[dimension] = ("tensor", "fsdp")


def _nearest_divisor(count: int, size: int) -> int:
    return min((n for n in range(1, count + 1) if count % n == 0), key=lambda n: abs(n - size))


def _check_placement(name: str, shape: tuple[int, ...], placement: Placement) -> None:
    axes = [axis for axis in placement if axis is not None]
    for axis in axes:
        if axis not in AXES:
            raise ConfigError(f"{name} {shape}: its placement {placement} has no axis of a mesh: {nearest(axis, AXES)}")
        if axes.count(axis) > 1:
            raise ConfigError(
                f"{name} {shape}: its placement {placement} names the axis {axis} twice; an axis divides one dimension"
            )
    if len(placement) > len(shape):
        raise ConfigError(
            f"{name} {shape}: its placement {placement} is of the last {len(placement)} dimensions, the leaf has "
            f"{len(shape)}; give it {len(shape)}, or a pattern that doesn't match the leaf"
        )
