"""Settings of a back end: those under which the models run faster, each measured by `deepmodels bench --against plain`,
and those under which a program gives the same bits each time that it runs.
"""

from typing import NamedTuple

import jax


class Profile(NamedTuple):
    """Compiler options of a back end, for programs with some operation."""

    version: str  # the day on which they were measured last
    operation: str  # of StableHLO
    options: dict[str, str]


# A GPU has none yet: nobody measured one
PROFILES = {
    "cpu": Profile(
        "2026-11-29",
        # Programs with convolutions are faster with all convolutions and matrix products by Eigen, and sums alone by
        # YNNPACK, which is XLA's choice for single products too; the others, but for LSTMs, with XLA's own choice
        "stablehlo.convolution",
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


def compile(
    lowered: jax.stages.Lowered, deterministic: bool = False, platform: str | None = None
) -> jax.stages.Compiled:
    """Returns a lowered program, compiled with the options of its back end; see `compiler_options`."""
    return lowered.compile(compiler_options(lowered, deterministic, platform))


def compiler_options(
    lowered: jax.stages.Lowered, deterministic: bool = False, platform: str | None = None
) -> dict[str, str | bool | int]:
    """Returns the options to compile a program with; without `deterministic`, {} for versions of JAX not tried.

    Args:
      lowered: the program.
      deterministic: whether it must give the same bits each time.
      platform: of the devices it is compiled for; by default that of the default back end.
    """
    platform = platform or jax.default_backend()
    if deterministic and platform in DETERMINISTIC:
        return DETERMINISTIC[platform]
    known = _profile(platform)
    return known.options if known and known.operation in lowered.as_text() else {}


def profile(deterministic: bool = False) -> str:
    """Returns what `compiler_options` gives in one line: the version of the options for speed, "none" without any."""
    back_end = jax.default_backend()
    known = _profile(back_end)
    if deterministic and back_end in DETERMINISTIC:
        name, options = f"{back_end} deterministic", DETERMINISTIC[back_end]
    elif known:
        name, options = f"{back_end} {known.version}, with {known.operation}", known.options
    else:
        return "none"
    return f"{name}: {' '.join(f'{option}={value}' for option, value in options.items())}"


def _profile(platform: str) -> Profile | None:
    """The options for speed that this version of JAX was tried with."""
    version = tuple(map(int, jax.__version__.split(".")[:2]))
    return PROFILES.get(platform) if _TESTED[0] <= version < _TESTED[1] else None
