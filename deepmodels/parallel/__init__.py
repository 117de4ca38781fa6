"""The device mesh, the placement of batches on it, and the rules that say where parameters live."""

from deepmodels.parallel.activations import over_mesh
from deepmodels.parallel.hosts import connect, surroundings, together
from deepmodels.parallel.mesh import (
    AXES,
    BATCH_AXES,
    batch_sharding,
    check_batch_size,
    describe_mesh,
    fetch,
    make_mesh,
    place,
    prefetch,
    share,
    shares,
    sizes,
    written,
)
from deepmodels.parallel.rules import RULES, check_axes, on_host, part_bytes, shardings, shardings_like
from deepmodels.parallel.topology import described_devices
from deepmodels.parallel.watchdog import alive

__all__ = [
    "AXES",
    "BATCH_AXES",
    "RULES",
    "alive",
    "batch_sharding",
    "check_axes",
    "check_batch_size",
    "connect",
    "describe_mesh",
    "described_devices",
    "fetch",
    "make_mesh",
    "on_host",
    "over_mesh",
    "part_bytes",
    "place",
    "prefetch",
    "shardings",
    "shardings_like",
    "share",
    "shares",
    "sizes",
    "surroundings",
    "together",
    "written",
]
