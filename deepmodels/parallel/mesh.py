"""The device mesh: making one from a config, and placing a host's batches on it."""

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from deepmodels.errors import ConfigError, ShapeError, nearest
from deepmodels.parallel.watchdog import alive
from deepmodels.trees import PyTree

# In the order of the devices, so that those which talk most are neighbours.
AXES = ("data", "pipeline", "fsdp", "expert", "sequence", "tensor")
BATCH_AXES = ("data", "fsdp", "expert")


def make_mesh(axes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh whose axes have the given sizes.

    Args:
      axes: sizes by name of `AXES`; -1 for one of them takes what the others leave; absent means 1.
      devices: all of the process group's by default.

    Raises:
      ConfigError: an unknown axis, or sizes that don't multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = _sizes(axes)
    given = written(dict(zip(AXES, sizes, strict=True)))
    if -1 in sizes:
        rest = -int(np.prod(sizes))
        if len(devices) % rest:
            raise ConfigError(f"config.mesh {given}: {len(devices)} devices can't be divided by {rest}")
        sizes[sizes.index(-1)] = len(devices) // rest
    if np.prod(sizes) != len(devices):
        raise ConfigError(
            f"config.mesh {given} asks for {np.prod(sizes)} devices, there are {len(devices)}; "
            f"write -1 for the axis that should take what is left"
        )
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def describe_mesh(axes: Mapping[str, int]) -> AbstractMesh:
    """Returns a mesh without devices, for where leaves would live on it: all of its sizes have to be given.

    Args:
      axes: sizes by name of `AXES`; absent means 1.

    Raises:
      ConfigError: an unknown axis, or a size that isn't positive.
    """
    sizes = _sizes(axes)
    if -1 in sizes:
        raise ConfigError(f"mesh {written(axes)}: without devices there is nothing for -1 to take")
    return AbstractMesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _sizes(axes: Mapping[str, int]) -> list[int]:
    for name in axes:
        if name not in AXES:
            raise ConfigError(f"config.mesh has no axis {name!r}: {nearest(name, AXES)}")
    sizes = [int(axes.get(name, 1)) for name in AXES]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ConfigError(f"config.mesh {written(axes)}: sizes are positive, and at most one is -1")
    return sizes


def sizes(mesh: Mesh | AbstractMesh) -> dict[str, int]:
    """Returns the sizes of a mesh's axes that divide anything; of one device {"data": 1}."""
    return {name: size for name, size in mesh.shape.items() if size > 1} or {"data": 1}


def written(axes: Mapping[str, int]) -> str:
    """Returns sizes by axis as "data=2 x fsdp=4", without those of 1."""
    return " x ".join(f"{name}={size}" for name, size in axes.items() if size != 1) or "data=1"


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1, microbatches: int = 1) -> None:
    """Raises ConfigError unless each device gets as many examples in each microbatch of each accumulated part."""
    count = shares(mesh) * accumulate * microbatches
    if batch_size % count:
        fits = max(count, batch_size // count * count)
        raise ConfigError(
            f"config.data.batch_size={batch_size} can't be divided by {count} (data x fsdp x expert devices x "
            f"accumulate{' x microbatches' * (microbatches > 1)}): {fits} can"
        )


def shares(mesh: Mesh | AbstractMesh) -> int:
    """Returns into how many parts a mesh divides a batch."""
    return math.prod(mesh.shape[name] for name in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over the data, fsdp and expert axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def keep_batch_divided(objective: Callable, mesh: Mesh, microbatches: int = 1) -> Callable:
    """Returns an objective under which all that the model's modules return stays divided along the batch, as it came.

    Parameters are divided over the same devices, and where both meet the compiler has to gather one of them. Left to
    itself it may choose the batch, by what a small addition suggests, and then each device computes all of it.

    Args:
      objective: `(forward, batch, key) -> ...`.
      mesh: where it runs. Without parameters that are divided the objective is returned as it is.
      microbatches: parts of the batch that go through the model one by one.
    """
    if mesh.size == mesh.shape["data"]:
        return objective

    def divided(forward, batch, key, **named):
        (rows,) = {len(leaf) // microbatches for leaf in jax.tree.leaves(batch)}

        def constrain(leaf):
            if getattr(leaf, "ndim", 0) == 0 or leaf.shape[0] != rows or rows % shares(mesh):
                return leaf
            free = (PartitionSpec.UNCONSTRAINED,) * (leaf.ndim - 1)
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec(BATCH_AXES, *free)))

        def call(function, arguments, named, context):
            return jax.tree.map(constrain, function(*arguments, **named))

        with nn.intercept_methods(call):
            return objective(forward, batch, key, **named)

    return divided


def place(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns this process's rows of a batch as arrays of the whole batch, sharded over the mesh.

    Raises:
      ShapeError: an array's rows can't be divided among the devices.
    """
    alive()
    sharding = batch_sharding(mesh)
    try:
        return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
    except ValueError as error:
        shapes = {name: array.shape for name, array in batch.items()}
        raise ShapeError(f"batch: {shapes} can't be placed on the mesh {written(mesh.shape)}: {error}") from error


def fetch(tree: PyTree) -> PyTree:
    """Returns arrays of the devices as numpy arrays, whole in each process; where there are several, all call it.

    Args:
      tree: arrays, those among processes as well.
    """

    def whole(leaf):
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return multihost_utils.process_allgather(leaf, tiled=True)
        return jax.device_get(leaf)

    fetched = jax.device_get(tree) if jax.process_count() == 1 else jax.tree.map(whole, tree)
    alive()
    return fetched


def prefetch(batches: Iterable[PyTree], place: Callable[[PyTree], PyTree], depth: int = 2) -> Iterator[PyTree]:
    """Yields placed batches, with the transfer of the next `depth` under way while one is in use.

    Args:
      batches: host batches.
      place: starts a batch's transfer to the devices and returns it.
      depth: batches held on the devices ahead of use.
    """
    ready: collections.deque = collections.deque()
    for batch in batches:
        ready.append(place(batch))
        if len(ready) > depth:
            yield ready.popleft()
    yield from ready
