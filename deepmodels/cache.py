"""The persistent compilation cache: a program is compiled once a machine, not once a start."""

import os
from pathlib import Path

import jax


def enable() -> Path:
    """Switches JAX's persistent compilation cache on, for programs of any size, and returns its folder.

    The folder is, in this order: the one JAX was told of (JAX_COMPILATION_CACHE_DIR), $DEEPMODELS_CACHE, or
    ~/.cache/deepmodels/xla. It holds native code, so it is made readable by its owner only.
    """
    folder = jax.config.jax_compilation_cache_dir or os.environ.get("DEEPMODELS_CACHE")
    folder = Path(folder or Path.home() / ".cache" / "deepmodels" / "xla")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder
