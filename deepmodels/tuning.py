"""Settings of a back end: those under which the models run faster, each measured by `deepmodels bench --against plain`,
and those under which a program gives the same bits each time that it runs.
"""

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
# Where a back end is otherwise free to add in any order, and to choose among algorithms by how fast they were a moment
# ago. A CPU isn't: for one number of threads (NPROC in the environment, or else that of the processors) its programs
# give the same bits each time, and XLA has no option that makes them the same for another number.
DETERMINISTIC: dict[str, dict[str, bool | int]] = {
    "gpu": {  # the first implies the others where its documentation says so
        "xla_gpu_deterministic_ops": True,
        "xla_gpu_exclude_nondeterministic_ops": True,
        "xla_gpu_autotune_level": 0,
    },
}
_TESTED = ((0, 10), (0, 13))  # versions of JAX that know these options: the first, and the first that isn't known to

_M_ARENA_MAX, _M_MMAP_MAX, _M_TRIM_THRESHOLD = -8, -4, -1  # malloc.h


def compiler_options(deterministic: bool = False, platform: str | None = None) -> dict[str, str | bool | int]:
    """Returns the options to compile a program with; without `deterministic`, {} for versions of JAX not tried.

    Args:
      deterministic: whether it must give the same bits each time.
      platform: of the devices it is compiled for; by default that of the default back end.
    """
    platform = platform or jax.default_backend()
    if deterministic and platform in DETERMINISTIC:
        return DETERMINISTIC[platform]
    version = tuple(map(int, jax.__version__.split(".")[:2]))
    if not _TESTED[0] <= version < _TESTED[1] or platform not in PROFILES:
        return {}
    return PROFILES[platform].options


def profile(deterministic: bool = False) -> str:
    """Returns what `compiler_options` gives in one line: the version of the options for speed, "none" without any."""
    given = compiler_options(deterministic)
    if not given:
        return "none"
    back_end = jax.default_backend()
    strict = deterministic and back_end in DETERMINISTIC
    name = f"{back_end} {'deterministic' if strict else PROFILES[back_end].version}"
    return f"{name}: {' '.join(f'{option}={value}' for option, value in given.items())}"


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
