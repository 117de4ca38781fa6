"""Settings of a back end under which the models run faster, each measured: `deepmodels bench --against plain`."""

import ctypes
import sys
from typing import NamedTuple

import jax


class Profile(NamedTuple):
    """Compiler options of a back end; the version is the day on which they were measured last."""

    version: str
    options: dict[str, str]


# A GPU has none yet: nobody measured one
PROFILES = {
    "cpu": Profile(
        "2026-11-29",
        # convolutions and matrix products by Eigen; YNNPACK, XLA's default, is better at sums only
        {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"},
    ),
}
_TESTED = ((0, 10), (0, 13))  # versions of JAX that know these options: the first, and the first that isn't known to

_M_ARENA_MAX, _M_MMAP_MAX, _M_TRIM_THRESHOLD = -8, -4, -1  # malloc.h


def compiler_options() -> dict[str, str]:
    """Returns the options to compile a training step with, for the default back end; {} for versions not tried."""
    version = tuple(map(int, jax.__version__.split(".")[:2]))
    if not _TESTED[0] <= version < _TESTED[1] or jax.default_backend() not in PROFILES:
        return {}
    return PROFILES[jax.default_backend()].options


def profile() -> str:
    """Returns the name, the version and the options of what `compiler_options` gives, "none" for no options."""
    options = " ".join(f"{name}={value}" for name, value in compiler_options().items())
    return f"{jax.default_backend()} {PROFILES[jax.default_backend()].version}: {options}" if options else "none"


def keep_memory() -> bool:
    """Makes this process keep the memory it frees, and returns whether the system's allocator knows how.

    On a CPU each call of a compiled program asks the C library for its buffers, and glibc gives large ones back to the
    system at once: every step then has its memory mapped and cleared anew, page by page. It's for a process that does
    nothing but train, as `deepmodels train` does, and to be called before the first array is made.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is None:  # not glibc
        return False
    # one arena, as the others map large blocks in any case; no maps; nothing trimmed
    return all([mallopt(_M_ARENA_MAX, 1), mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, -1)])
