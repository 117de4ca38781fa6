"""The device mesh: making one from a config, and placing a host's batches on it."""

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from deepmodels.errors import ConfigError, ShapeError, nearest
from deepmodels.parallel.watchdog import alive
from deepmodels.trees import PyTree

# In the order of the devices, so that those which talk most are neighbours.
AXES = ("data", "pipeline", "fsdp", "expert", "sequence", "tensor")
BATCH_AXES = ("data", "fsdp", "expert")
SEQUENCES = ("tokens", "targets")  # of a batch: what the sequence axis divides, along its positions
DCN = "dcn"  # the network among data centres' slices, as TPU's makers call it


def make_mesh(axes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh whose axes have the given sizes.

    Args:
      axes: sizes by name of `AXES`; -1 for one of them takes what the others leave; absent means 1. "dcn" maps axes to
        the parts of them that are apart, joined by a slower network: {"data": 8, "fsdp": 16, "dcn": {"data": 4}} is 4
        slices, or groups of hosts, of 2 x 16 devices.
      devices: all of the process group's by default.

    Raises:
      ConfigError: an unknown axis, sizes that don't multiply to the number of devices, or parts that there aren't.
    """
    devices = jax.devices() if devices is None else devices
    sizes, given = _sizes(axes), written({name: size for name, size in axes.items() if name != DCN})
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
    types, outer = (AxisType.Auto,) * len(AXES), _outer(axes, sizes)
    if math.prod(outer) == 1:
        return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)
    return Mesh(hybrid(sizes, outer, devices), AXES, axis_types=types)


def hybrid(sizes: Sequence[int], outer: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Returns devices as an array of the given sizes, of which the outer parts are joined by a slower network.

    Slices of TPUs are told apart by their own numbers. Any other devices are parts of equal size in the order of their
    processes, so that a part is one or several hosts; virtual devices of one process are cut in their order.

    Args:
      sizes: of the whole array.
      outer: into how many parts each of its dimensions is divided.
      devices: all of them.

    Raises:
      ConfigError: there aren't as many slices, or a process would be in two parts.
    """
    parts = math.prod(outer)
    inner = [size // part for size, part in zip(sizes, outer, strict=True)]
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) > 1:
        if len(slices) != parts:
            raise ConfigError(f"config.mesh.dcn asks for {parts} slices, there are {len(slices)}")
        return mesh_utils.create_hybrid_device_mesh(inner, outer, devices)
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    of_process = collections.Counter(device.process_index for device in ordered)
    size = len(ordered) // parts
    if len(of_process) > 1 and any(size % count for count in of_process.values()):
        raise ConfigError(
            f"config.mesh.dcn asks for {parts} parts of {size} devices, which would divide the devices of a process: "
            f"there are {len(of_process)} processes"
        )
    whole = np.asarray(ordered, object).reshape(*outer, *inner)
    count = len(sizes)
    return whole.transpose([axis for i in range(count) for axis in (i, count + i)]).reshape(sizes)


def describe_mesh(axes: Mapping[str, int]) -> AbstractMesh:
    """Returns a mesh without devices, for where leaves would live on it: all of its sizes have to be given.

    Args:
      axes: sizes by name of `AXES`; absent means 1.

    Raises:
      ConfigError: an unknown axis, or a size that isn't positive.
    """
    axes = {name: size for name, size in axes.items() if name != DCN}
    sizes = _sizes(axes)
    if -1 in sizes:
        raise ConfigError(f"mesh {written(axes)}: without devices there is nothing for -1 to take")
    return AbstractMesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _sizes(axes: Mapping[str, int]) -> list[int]:
    axes = {name: size for name, size in axes.items() if name != DCN}
    for name in axes:
        if name not in AXES:
            raise ConfigError(f"config.mesh has no axis {name!r}: {nearest(name, AXES)}")
    sizes = [int(axes.get(name, 1)) for name in AXES]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ConfigError(f"config.mesh {written(axes)}: sizes are positive, and at most one is -1")
    return sizes


def _outer(axes: Mapping[str, int], sizes: Sequence[int]) -> list[int]:
    dcn = axes.get(DCN) or {}
    for name, size in dcn.items():
        if name not in AXES:
            raise ConfigError(f"config.mesh.dcn has no axis {name!r}: {nearest(name, AXES)}")
        whole = sizes[AXES.index(name)]
        if not isinstance(size, int) or size < 1 or whole % size:
            raise ConfigError(f"config.mesh.dcn {name}={size}: expected a number that divides {name}={whole}")
    return [dcn.get(name, 1) for name in AXES]


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


def share(mesh: Mesh) -> tuple[int, int]:
    """Returns which part of a batch the devices of this process need, and how many such parts there are.

    Processes whose devices are apart only along other axes than the batch's, such as tensor, need the same part.

    Raises:
      ConfigError: its devices need rows that aren't one part.
    """
    rows = batch_sharding(mesh).addressable_devices_indices_map((shares(mesh),)).values()
    starts = sorted({index[0].start or 0 for index in rows})
    first, count = starts[0], len(starts)
    if starts != list(range(first, first + count)) or first % count or shares(mesh) % count:
        raise ConfigError(
            f"config.mesh {written(mesh.shape)}: the devices of process {jax.process_index()} would need the parts "
            f"{starts} of {shares(mesh)} of a batch, which aren't one; choose sizes that keep its devices together"
        )
    return first // count, shares(mesh) // count


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
