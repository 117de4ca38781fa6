"""The device mesh, the placement of batches on it, and the rules that say where parameters live."""

from deepmodels.parallel.hosts import surroundings, together
from deepmodels.parallel.mesh import (
    batch_sharding,
    check_batch_size,
    describe_mesh,
    fetch,
    keep_batch_divided,
    make_mesh,
    place,
    prefetch,
    shares,
)
from deepmodels.parallel.rules import RULES, part_bytes, shardings, shardings_like
from deepmodels.parallel.watchdog import alive

__all__ = [
    "RULES",
    "alive",
    "batch_sharding",
    "check_batch_size",
    "describe_mesh",
    "fetch",
    "keep_batch_divided",
    "make_mesh",
    "part_bytes",
    "place",
    "prefetch",
    "shardings",
    "shardings_like",
    "shares",
    "surroundings",
    "together",
]
