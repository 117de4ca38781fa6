"""Several processes as one program: how they meet, and an end that leaves none of them waiting."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping

import jax

from deepmodels.errors import INTERRUPTED, ConfigError, DeepModelsError

HEARTBEAT_SECONDS = 60  # after which the others give up on a process that is silent
MEETING_SECONDS = 300


def surroundings(environment: Mapping[str, str] = os.environ) -> str | None:
    """Returns what started several processes of this program, as the environment says: None for one by itself."""

    def count(name: str) -> int:
        text = environment.get(name, "")
        return int(text) if text.isdigit() else 1

    if "SLURM_PROCID" in environment and count("SLURM_STEP_NUM_TASKS") > 1:
        return "Slurm"
    if count("OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return "TPU"
    return None


@contextlib.contextmanager
def together(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> Iterator[None]:
    """Joins the other processes of the same run, if there are any, and leaves them with an exit code.

    An error ends this process at once, after it has been said: what waits for it then ends too, and whoever started
    them starts all of them again. Without arguments Slurm's, Open MPI's and a TPU pod's processes find each other.

    Args:
      coordinator: "host:port" of process 0.
      num_processes: how many there are.
      process_id: which of them this one is, from 0 on.

    Raises:
      ConfigError: some of the arguments are missing, or can't be.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given) and surroundings() is None:
        yield
        return
    if missing and len(missing) < len(given):
        raise ConfigError(f"several processes need {', '.join(given)}; missing: {', '.join(missing)}")
    bind = {}
    if not missing:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"coordinator: expected host:port, got {coordinator!r}")
        if num_processes < 1 or not 0 <= process_id < num_processes:
            raise ConfigError(f"process_id: expected 0 to num_processes - 1, got {process_id} of {num_processes}")
        bind = {"coordinator_bind_address": coordinator}  # by itself it listens on every interface
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        **bind,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        initialization_timeout=MEETING_SECONDS,
        shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )
    try:
        yield
    except BaseException as error:
        _leave(error)
    jax.distributed.shutdown()


def _leave(error: BaseException) -> None:
    """Says an error and ends the process: on the way out of Python it would wait for the others, and they for it."""
    code = 1
    if isinstance(error, DeepModelsError):
        print(f"error: process {jax.process_index()}: {error}", file=sys.stderr)
        code = error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        code = INTERRUPTED
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
