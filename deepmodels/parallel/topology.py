"""Devices that aren't there: a slice of TPUs, for which the compiler that libtpu brings compiles all the same."""

import importlib.util
import os

import jax
from jax.experimental import topologies

from deepmodels.errors import ConfigError

# libtpu asks the machine that it takes itself to be on, unless it is told
_ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5p-8", "TPU_WORKER_HOSTNAMES": "localhost"}


def described_devices(topology: str) -> list[jax.Device] | None:
    """Returns the devices that a text describes, or has JAX start with as many virtual ones and returns None.

    To be called before JAX starts its back end, which is the CPU's then.

    Args:
      topology: a number of virtual CPU devices, "512", or a slice of TPUs, see `tpu_devices`: "tpu:v5p:4x8x8".

    Raises:
      ConfigError: it is neither, or there can't be such a slice.
    """
    if topology.startswith("tpu:"):
        return tpu_devices(topology.removeprefix("tpu:"))
    if not topology.isdigit() or int(topology) < 1:
        raise ConfigError(
            f"--topology {topology}: expected a number of devices, or a slice of TPUs such as tpu:v5p:4x8x8"
        )
    # XLA's CPU back end computes bfloat16 in float32, and takes what doesn't change out of loops: a copy in float32 of
    # all that is in bfloat16, which no accelerator holds
    passes = "while-loop-invariant-code-motion,while-loop-expensive-invariant-code-motion"
    flags = f"--xla_force_host_platform_device_count={topology} --xla_disable_hlo_passes={passes}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    jax.config.update("jax_platforms", "cpu")
    return None


def tpu_devices(topology: str) -> list[jax.Device]:
    """Returns the devices of a slice of TPUs, to lower and compile for; nothing can run on them.

    To be called before JAX starts its back end, which is the CPU's then.

    Args:
      topology: the generation and the chips along each axis, "v5p:4x8x8".

    Raises:
      ConfigError: libtpu isn't installed, or knows no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "a topology of TPUs needs their compiler, libtpu, which the extra tpu installs: "
            "pip install 'deepmodels-jax[tpu]', best in an environment of its own"
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    try:
        return list(topologies.get_topology_desc(topology, platform="tpu").devices)
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"topology 'tpu:{topology}': expected one such as tpu:v5p:4x8x8; libtpu says: {said}"
        ) from error
