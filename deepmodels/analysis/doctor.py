"""A health check of this machine: which versions and devices are here, and what works on them."""

import importlib.metadata
import importlib.util
import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels import cache
from deepmodels.version import __version__

_DISTRIBUTIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tensorflow-datasets")
_EXTRAS = {  # package: the extra that installs it
    "tensorboardX": "tensorboard",
    "wandb": "wandb",
    "tokenizers": "text",
    "sentencepiece": "text",
    "tiktoken": "text",
    "sacrebleu": "text",
    "torch": "parity",
}
_COLLECTIVE_SECONDS = 20
_IMPORT_SECONDS = 120


class Check(NamedTuple):
    """One line of the health check: what was looked at, whether it is as it should be, and what was found."""

    name: str
    ok: bool
    detail: str


def checks() -> list[Check]:
    """Returns one line per check, in a fixed order: versions, devices, what works, what is missing.

    Never raises: a check that fails is a line with its reason. An optional package that isn't installed is no failure.
    Switches the compilation cache on, as a run does. Takes some seconds, as two checks start a process each.
    """
    lines = [Check("python", True, f"{platform.python_version()} on {platform.platform()}")]
    lines.append(Check("deepmodels", True, __version__))
    lines += [_check(name, _version, name) for name in _DISTRIBUTIONS]
    lines.append(_check("devices", _devices))
    lines.append(_check("matrix product", _matrix_product, jnp.float32))
    lines.append(_check("bfloat16", _matrix_product, jnp.bfloat16))
    lines.append(_check("attention kernels", _attention))
    lines.append(_check("compilation cache", _compilation_cache))
    lines.append(_check("collective start", _collective_start))
    lines.append(_check("imports", _imports))
    lines += [_check(package, _optional, package, extra) for package, extra in _EXTRAS.items()]
    return lines


def _check(name: str, look: Callable[..., str], *args: object) -> Check:
    try:
        return Check(name, True, look(*args))
    except Exception as error:  # whatever is broken here is this check's finding
        return Check(name, False, _line(error))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:300]


def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)


def _devices() -> str:
    devices = jax.devices()
    kinds = Counter((device.platform, device.device_kind) for device in devices)
    text = ", ".join(f"{count} x {kind} ({name})" for (name, kind), count in kinds.items())
    memory = (devices[0].memory_stats() or {}).get("bytes_limit")
    return text + (f", {memory / 2**30:.0f} GiB usable on each" if memory else ", memory not reported")


def _matrix_product(dtype: jnp.dtype) -> str:
    ones = jnp.ones((256, 256), dtype)
    result = np.asarray(jax.jit(jnp.matmul)(ones, ones), np.float32)
    if not (result == 256).all():
        raise ArithmeticError(f"a 256 x 256 product of ones gave {result.min()} to {result.max()}, not 256")
    return f"256 x 256 product is right on {jax.devices()[0].device_kind}"


def _attention() -> str:
    on_nvidia = jax.default_backend() == "gpu" and "rocm" not in jax.devices()[0].client.platform_version.lower()
    query = jnp.ones((1, 128, 2, 64), jnp.bfloat16)
    found = []
    for implementation in ("xla", "cudnn") if on_nvidia else ("xla",):
        try:
            with jax.numpy_dtype_promotion("standard"):  # JAX's own kernels mix dtypes
                output = jax.nn.dot_product_attention(
                    query, query, query, is_causal=True, implementation=implementation
                )
            right = np.allclose(np.asarray(output, np.float32), 1, atol=0.02)  # a mean of ones, in bfloat16
            found.append(f"{implementation} {'ran' if right else 'gave a wrong result'}")
        except Exception as error:
            found.append(f"{implementation} failed ({_line(error)})")
    text = "; ".join(found)
    if not all(line.endswith("ran") for line in found):
        raise RuntimeError(text)
    return text if on_nvidia else f"{text}; cudnn needs an NVIDIA GPU"


def _compilation_cache() -> str:
    folder = cache.enable()
    with tempfile.TemporaryFile(dir=folder):
        pass
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return f"{folder} is writable, {len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB"


def _collective_start() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    program = (
        "import jax\n"
        f"address = {address!r}\n"
        "jax.distributed.initialize(address, num_processes=1, process_id=0, coordinator_bind_address=address)\n"
        "assert jax.process_count() == 1 and jax.devices()\n"
        "jax.distributed.shutdown()\n"
    )
    _run(program, _COLLECTIVE_SECONDS)
    return f"a coordinator and one process met on {address}"


def _imports() -> str:
    program = (
        "import importlib, pkgutil, sys, deepmodels\n"
        "for module in pkgutil.walk_packages(deepmodels.__path__, 'deepmodels.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "found = [name for name in ('tensorflow', 'torch') if name in sys.modules]\n"
        "sys.exit(f'deepmodels imported {found}' if found else 0)\n"
    )
    _run(program, _IMPORT_SECONDS)
    return "every module of deepmodels imports, without tensorflow or torch"


def _run(program: str, seconds: float) -> None:
    """Runs a program in a Python of its own, on the CPU: accelerators may belong to this process alone."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=seconds
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(reason)


def _optional(package: str, extra: str) -> str:
    if importlib.util.find_spec(package) is None:
        return f'not installed; if you want it: pip install "deepmodels-jax[{extra}]"'
    return _version(package)
