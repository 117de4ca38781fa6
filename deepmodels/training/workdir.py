"""The folder of a run: made once, and entered again only by the same training."""

import contextlib
import errno
import fcntl
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from deepmodels import config as configs
from deepmodels.errors import CheckpointError, ConfigError, DiskError

PACKAGES = ("deepmodels-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_LOCK = ".lock"


@contextlib.contextmanager
def open_workdir(workdir: str | Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """Makes the folder of a run, or enters the one that the same config has made before, and holds it alone.

    Raises:
      ConfigError: the folder can't be written, another process trains in it, or it was made by a config that trains
        something else; the message has the values that differ.
      DiskError: the disk is full.
    """
    workdir = Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _unwritten(workdir, error) from error
        raise ConfigError(f"workdir {str(workdir)!r} can't be written: {error.strerror}") from error
    with alone(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        stored = workdir / "config.json"
        if stored.exists():
            lines = configs.differences(configs.complete(read_config(workdir)), config)
            if lines:
                raise ConfigError(
                    f"workdir {str(workdir)!r} holds a run of another config:\n  "
                    + "\n  ".join(lines)
                    + "\nGo on with the old values, or choose another workdir"
                )
        if jax.process_index() == 0:
            replace(stored, configs.to_json(config) + "\n")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("workdir")
        yield workdir


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Has a file or folder of a run written within, or says why it can't be.

    Raises:
      DiskError: it can't; the message has how much is free there.
    """
    try:
        yield
    except OSError as error:
        raise _unwritten(path, error) from error


def replace(path: Path, text: str) -> None:
    """Writes a file in one move: whoever reads it, whenever this process is killed, finds the old text or the new.

    Raises:
      DiskError: it can't be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    with writing(path):
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def _unwritten(path: Path, error: OSError) -> DiskError:
    there = path
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / 2**20
    return DiskError(
        f"{path} can't be written ({error.strerror or error}); {free:.1f} MiB are free there. The checkpoints stand: "
        "once that is mended, the same command goes on from the last one"
    )


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Locks a folder until the end, or the end of the process, however that comes.

    Raises:
      ConfigError: another process has it.
      DiskError: the lock can't be written.
    """
    with writing(workdir / _LOCK):
        file = open(workdir / _LOCK, "ab", buffering=0)  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"workdir {str(workdir)!r} is in use: {_who(holder_of(workdir))} trains in it. Wait, stop that process "
                "or choose another workdir"
            ) from error
        except OSError as error:
            warnings.warn(
                f"{workdir} can't be locked ({error.strerror}): nothing keeps a second run out, and of two the first "
                "ends when it saves next",
                stacklevel=4,
            )
        with writing(workdir / _LOCK):
            file.truncate(0)
            # with a number of its own: two hosts may share a name, and their processes a number
            file.write(f"process {os.getpid()} on {socket.gethostname()} ({uuid.uuid4().hex})".encode())
        yield


def holder_of(workdir: Path) -> str | None:
    """Returns who holds a folder or held it last, a text that differs with each start; None if nobody has."""
    try:
        return (workdir / _LOCK).read_text()
    except FileNotFoundError:
        return None


def check_held(workdir: Path, holder: str | None) -> None:
    """Makes sure that no other run has taken a folder over since `holder_of` said who holds it.

    Where a file system doesn't tell one host of another's locks, nothing keeps a second run out; then the first ends
    here, before it writes between the other's checkpoints. Neither looks at a clock.

    Raises:
      CheckpointError: one has; the message names the process and host of both.
    """
    now = holder_of(workdir)
    if holder is not None and now != holder:
        raise CheckpointError(
            f"workdir {str(workdir)!r} was taken over by {_who(now or 'somebody')}, while this run, {_who(holder)}, "
            "trained in it: this one ends. Keep one of them, or choose another workdir"
        )


def _who(holder: str) -> str:
    return holder.partition(" (")[0].strip()


def read_config(workdir: str | Path) -> dict[str, Any]:
    """Returns the config that a workdir was last started with.

    Raises:
      ConfigError: the folder isn't one of a run.
    """
    return read_json(workdir, "config.json", "run")


def read_json(workdir: str | Path, name: str, kind: str) -> dict[str, Any]:
    """Returns what the file says by which a folder is known.

    Args:
      workdir: the folder.
      name: of the file.
      kind: what a folder with it is, for errors.

    Raises:
      ConfigError: the folder has no such file, or it is damaged.
    """
    path = Path(workdir) / name
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"workdir {str(workdir)!r} isn't a {kind}: it has no {name}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}") from error


def write_record(workdir: Path, record: Mapping[str, Any]) -> None:
    """Writes run.json, in one move."""
    replace(workdir / "run.json", json.dumps(record, indent=2))


def read_record(workdir: Path) -> dict[str, Any]:
    """Returns what run.json says; nothing if it isn't there, or is damaged: checkpoints have all of it but the last."""
    try:
        return json.loads((workdir / "run.json").read_text())
    except (OSError, ValueError):
        return {}


def provenance() -> dict[str, Any]:
    """Returns what a result depends on beside its config: versions, git revision, command, devices, processors."""
    return {
        "versions": {"python": sys.version.split()[0]} | {name: _version(name) for name in PACKAGES},
        "git": _git_revision(),
        "command": sys.argv,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processors": _processors(),
        "processes": jax.process_count(),
    }


def peak_memory_bytes() -> int:
    """Returns the most memory used so far: of the first device where it counts, else of this process, in bytes."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _processors() -> int:
    """Those that this process may use: on a CPU their number changes the bits, if config.deterministic isn't set."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The revision of the code that runs, with "+" where it has been changed since; None outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        revision = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+" if changed.strip() else "")
