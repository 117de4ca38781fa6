"""Several processes as one program: how they meet, and an end that leaves none of them waiting."""

import contextlib
import itertools
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deepmodels.errors import INTERRUPTED, STUCK, ConfigError, DeepModelsError
from deepmodels.parallel.watchdog import watched

HEARTBEAT_SECONDS = 60  # after which the others give up on a process that is silent
MEETING_SECONDS = 300  # in which all have to be there
STUCK_SECONDS = 1800  # without a batch placed or a result read; nothing that a run does takes longer but a compilation
_BY_HAND = "give --coordinator HOST:PORT --num-processes N --process-id I, or JAX_COORDINATOR_ADDRESS"


class _Meeting(NamedTuple):
    coordinator: str | None
    num_processes: int | None
    process_id: int | None
    local_device_ids: list[int] | None = None


def surroundings(environment: Mapping[str, str] = os.environ) -> str | None:
    """Returns what started several processes of this program, as the environment says: None for one by itself."""

    def count(name: str) -> int:
        text = environment.get(name, "")
        return int(text) if text.isdigit() else 1

    if "SLURM_PROCID" in environment and count("SLURM_STEP_NUM_TASKS") > 1:
        return "Slurm"
    if count("OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES", ""))
    if "," in hosts or count("MEGASCALE_NUM_SLICES") > 1:
        return "TPU"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return None if environment.get("JAX_PROCESS_COUNT") == "1" else "Kubernetes"
    return "TPU" if not hosts and _on_tpu_vm(environment) else None


@contextlib.contextmanager
def together(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
    meeting_seconds: int = MEETING_SECONDS,
    stuck_seconds: float = STUCK_SECONDS,
) -> Iterator[None]:
    """Joins the other processes of the same run, if there are any, and leaves them with an exit code.

    An error ends this process at once, after it has been said: what waits for it then ends too, and whoever started
    them starts all of them again. Without the first three arguments the processes of Slurm, Open MPI, Kubernetes and a
    TPU pod find each other. Process 0 listens on the coordinator's address alone, or on JAX_COORDINATOR_BIND_ADDRESS.

    Args:
      coordinator: "host:port" of process 0.
      num_processes: how many there are.
      process_id: which of them this one is, from 0 on.
      heartbeat_seconds: after which the others end if one of them is silent: dead, stopped, or out of reach.
      meeting_seconds: in which all of them have to be there, or those that are end.
      stuck_seconds: after which this process ends if it hasn't placed a batch nor read a result; 0 for never.

    Raises:
      ConfigError: some of the arguments are missing, or can't be; or the processes can't find each other.
    """
    for name, value in {"heartbeat_seconds": heartbeat_seconds, "meeting_seconds": meeting_seconds}.items():
        if value < 1:
            raise ConfigError(f"{name}: expected at least 1, got {value}")
    if stuck_seconds < 0:
        raise ConfigError(f"stuck_seconds: expected a number of seconds, or 0 for any, got {stuck_seconds}")
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ConfigError(f"several processes need {', '.join(given)}; missing: {', '.join(missing)}")
    by = None if not missing else surroundings()
    meeting = _Meeting(coordinator, num_processes, process_id)
    if by is not None:
        meeting = _find(by, os.environ, meeting_seconds)
    stuck = f"no batch and no result for {stuck_seconds:g} s (--stuck-seconds): it hangs, or what it waits for does"
    if meeting.num_processes is None:  # by itself
        with watched(stuck_seconds, stuck):
            yield
        return
    _meet(meeting, by, heartbeat_seconds, meeting_seconds, int(stuck_seconds) or 24 * 3600)
    with watched(stuck_seconds, f"process {meeting.process_id}: {stuck}"):
        try:
            yield
            _part()
        except BaseException as error:
            _leave(error, meeting.process_id)


def _on_tpu_vm(environment: Mapping[str, str]) -> bool:
    """Whether this is a virtual machine with a TPU that may have others beside it, which only its metadata know."""
    from jax._src import cloud_tpu_init

    return cloud_tpu_init.running_in_cloud_tpu_vm and "TPU_SKIP_MDS_QUERY" not in environment


def _find(by: str, environment: Mapping[str, str], seconds: int) -> _Meeting:
    """Where the processes meet and which this one is, as what started them says; no number of them for one alone."""
    address = environment.get("JAX_COORDINATOR_ADDRESS")
    if by == "Kubernetes" and address is not None:
        return _of_kubernetes(address, environment)
    if by == "Kubernetes":
        try:
            import kubernetes  # noqa: F401
        except ImportError:
            raise ConfigError(
                f"Kubernetes: this is pod {environment['JOB_COMPLETION_INDEX']} of an indexed Job, and nothing says "
                "where process 0 is. Set JAX_COORDINATOR_ADDRESS=HOST:PORT and JAX_PROCESS_COUNT=N (1 for a pod by "
                "itself) in the container, or install jax[k8s] and let its service account read pods, jobs, services"
            ) from None
    from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize asks, before it listens everywhere

    try:
        found = _Meeting(*ClusterEnv.auto_detect_unset_distributed_params(address, None, None, None, None, seconds))
    except Exception as error:  # whatever the cluster's own library raises
        if by == "TPU" and _on_tpu_vm(environment):  # a notebook's, say, which can't ask
            print(f"TPU: nothing says whether there are other hosts ({error}): going on by itself", file=sys.stderr)
            return _Meeting(None, None, None)
        raise ConfigError(f"{by}: the processes can't find each other: {error}; {_BY_HAND}") from error
    if None in found[:3]:
        raise ConfigError(f"{by}: JAX doesn't find the other processes here; {_BY_HAND}")
    if by == "Slurm":
        found = found._replace(num_processes=int(environment["SLURM_STEP_NUM_TASKS"]))
    return found._replace(num_processes=None) if by == "TPU" and found.num_processes == 1 else found


def _of_kubernetes(address: str, environment: Mapping[str, str]) -> _Meeting:
    """From variables of the container; with several replicated jobs JOB_INDEX counts these."""
    numbers = {"JOB_INDEX": "0", "PROCESSES_IN_JOB": "0", **environment}
    try:
        count, index, job, size = (
            int(numbers[name])
            for name in ("JAX_PROCESS_COUNT", "JOB_COMPLETION_INDEX", "JOB_INDEX", "PROCESSES_IN_JOB")
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            "Kubernetes: beside JAX_COORDINATOR_ADDRESS the container needs JAX_PROCESS_COUNT, the number of pods "
            f"(and, of several replicated jobs, JOB_INDEX and PROCESSES_IN_JOB): {type(error).__name__}: {error}"
        ) from error
    return _Meeting(address, count, job * size + index)


def _meet(meeting: _Meeting, by: str | None, heartbeat: int, seconds: int, shutdown: int) -> None:
    """Waits until all processes are there.

    Raises:
      ConfigError: process 0 can't be found, or can't listen.
    """
    coordinator, count, index, local = meeting
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"coordinator: expected host:port, got {coordinator!r}")
    if count < 1 or not 0 <= index < count:
        raise ConfigError(f"process_id: expected 0 to num_processes - 1, got {index} of {count}")
    bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", coordinator)
    here = f"process {index} of {count}"
    if by is not None and index == 0:
        print(f"{by}: {count} processes, process 0 listens on {bind}", file=sys.stderr)
    came = f"{here} has waited {seconds} s (--meeting-seconds) at {coordinator}, and not all have come"
    with watched(seconds, came):
        _wait_for(host, seconds, by)
        try:
            jax.distributed.initialize(
                coordinator,
                count,
                index,
                local,
                cluster_detection_method="deactivate" if by is not None else None,
                coordinator_bind_address=bind,  # by itself it listens on every interface
                heartbeat_timeout_seconds=heartbeat,
                initialization_timeout=seconds + 60,  # our own watch speaks first, and more clearly
                shutdown_timeout_seconds=shutdown,
            )
        except RuntimeError as error:
            advice = ""
            if index == 0:
                advice = f": if {bind} isn't of this host, or taken, set JAX_COORDINATOR_BIND_ADDRESS=ADDRESS:PORT"
            raise ConfigError(f"{here} can't join the others at {coordinator} ({error}){advice}") from error


def _wait_for(host: str, seconds: int, by: str | None) -> None:
    """Waits until the name of process 0's host has an address: in Kubernetes it gets one when its pod has started."""
    end = time.monotonic() + seconds / 2
    while True:
        try:
            socket.getaddrinfo(host.strip("[]"), None)
            return
        except OSError as error:
            if by != "Kubernetes" or time.monotonic() > end:
                raise ConfigError(
                    f"{by or 'coordinator'}: the host of process 0, {host!r}, has no address here ({error.strerror}): "
                    "let the name resolve, or set JAX_COORDINATOR_ADDRESS=ADDRESS:PORT in all processes"
                ) from error
            time.sleep(1)


def connect(mesh: Mesh) -> None:
    """Has processes with CPUs make the connections within every set of axes, while none of them is ahead.

    Gloo makes them in the first collective among some devices, and gives up on who comes 30 seconds late to that, as a
    process may that still compiles the program.
    """
    axes = [name for name, size in mesh.shape.items() if size > 1]
    if jax.process_count() == 1 or mesh.devices.flat[0].platform != "cpu":
        return
    sets = [some for count in range(len(axes)) for some in itertools.combinations(axes, count + 1)]

    def sums(x: jax.Array) -> list[jax.Array]:
        return [jax.lax.psum(x, some) for some in sets]

    places = [PartitionSpec(tuple(name for name in axes if name not in some)) for some in sets]
    placed = NamedSharding(mesh, PartitionSpec(tuple(axes)))
    ones = jax.make_array_from_callback((mesh.size,), placed, lambda index: np.ones(1, np.float32))
    multihost_utils.sync_global_devices("connect")
    jax.block_until_ready(jax.jit(jax.shard_map(sums, mesh=mesh, in_specs=placed.spec, out_specs=places))(ones))


def _part() -> None:
    """Waits for the others, of which one may still write the report, and takes leave of them."""
    multihost_utils.sync_global_devices("end")  # until here a SIGTERM is only noted; what follows is short
    jax.distributed.shutdown()


def _leave(error: BaseException, index: int) -> None:
    """Says an error and ends the process: on the way out of Python it would wait for the others, and they for it."""
    code = 1
    if "Gloo" in str(error) or "coordination service" in str(error).lower():  # also of a save that needed the others
        code, said = STUCK, " ".join(str(error).split())[:300]
        print(f"error: process {index}: another process is gone, and its log says why ({said})", file=sys.stderr)
    elif isinstance(error, DeepModelsError):
        code = error.exit_code
        if not error.everywhere or index == 0:
            print(f"error: process {index}: {error}", file=sys.stderr)
        if error.everywhere:
            with contextlib.suppress(Exception):
                _part()  # all of them come here; process 0 first would take the others down
    elif isinstance(error, KeyboardInterrupt):
        code = INTERRUPTED
        print("\ninterrupted: the same command goes on from the last checkpoint", file=sys.stderr)
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
