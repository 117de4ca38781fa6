"""The persistent compilation cache: a program is compiled once a machine, not once a start."""

import contextlib
import os
from pathlib import Path

import jax

from deepmodels.errors import ConfigError

LIMIT = 10 * 2**30  # bytes of the cache's folder


def enable() -> Path:
    """Switches JAX's persistent compilation cache on, for programs of any size, and returns its folder.

    The folder is, in this order: the one JAX was told of (JAX_COMPILATION_CACHE_DIR), $DEEPMODELS_CACHE, or
    ~/.cache/deepmodels/xla. It holds native code, so it is made readable by its owner only. Programs that were not used
    for the longest time are deleted until `LIMIT` bytes are left, but for those of a folder that JAX was told of, for
    which JAX has a limit of its own (JAX_COMPILATION_CACHE_MAX_SIZE).

    Raises:
      ConfigError: the folder can't be made.
    """
    ours = not jax.config.jax_compilation_cache_dir
    folder = jax.config.jax_compilation_cache_dir or os.environ.get("DEEPMODELS_CACHE")
    folder = Path(folder or Path.home() / ".cache" / "deepmodels" / "xla")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the cache of compiled programs, {folder}, can't be made ({error.strerror}): set DEEPMODELS_CACHE to a "
            "folder that can be written"
        ) from error
    if ours:  # at the first call: from then on JAX knows the folder
        trim(folder, LIMIT)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder


def trim(folder: Path, limit: int) -> int:
    """Deletes the programs of a cache that were not used for the longest time, and returns how many.

    JAX's own limit needs a record of uses beside each program, a lock, and a look at the whole folder at each program
    that is written; the file system's time of the last reading does without.

    Args:
      folder: of JAX's compilation cache; nothing but its programs is touched.
      limit: bytes that may be left.
    """
    found = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process trims too
            facts = path.stat()
            found.append((max(facts.st_atime, facts.st_mtime), facts.st_size, path))
    total, deleted = sum(size for _, size, _ in found), 0
    for _, size, path in sorted(found):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total, deleted = total - size, deleted + 1
    return deleted
