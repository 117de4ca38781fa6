"""The device mesh: making one from a config, and placing a host's batches on it."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from deepmodels.errors import ConfigError, ShapeError, nearest
from deepmodels.trees import PyTree

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(axes: Mapping[str, int], devices: list[jax.Device] | None = None) -> Mesh:
    """Returns the mesh whose axes have the given sizes.

    Args:
      axes: sizes by axis name (data, fsdp, tensor); -1 for one of them takes what the others leave; absent means 1.
      devices: all of the process group's by default.

    Raises:
      ConfigError: an unknown axis, or sizes that don't multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    for name in axes:
        if name not in AXES:
            raise ConfigError(f"config.mesh has no axis {name!r}: {nearest(name, AXES)}")
    sizes = [int(axes.get(name, 1)) for name in AXES]
    given = " x ".join(f"{name}={size}" for name, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ConfigError(f"config.mesh {given}: sizes are positive, and at most one is -1")
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


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises ConfigError unless each device gets the same number of examples in each accumulated part of a batch."""
    shares = int(np.prod([mesh.shape[name] for name in BATCH_AXES])) * accumulate
    if batch_size % shares:
        fits = max(shares, batch_size // shares * shares)
        raise ConfigError(
            f"config.data.batch_size={batch_size} can't be divided by {shares} (data x fsdp devices x accumulate): "
            f"{fits} can"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over the data and fsdp axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def place(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns this process's rows of a batch as arrays of the whole batch, sharded over the mesh.

    Raises:
      ShapeError: an array's rows can't be divided among the devices.
    """
    sharding = batch_sharding(mesh)
    try:
        return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
    except ValueError as error:
        shapes = {name: array.shape for name, array in batch.items()}
        raise ShapeError(f"batch: {shapes} can't be placed on the mesh {dict(mesh.shape)}: {error}") from error


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
