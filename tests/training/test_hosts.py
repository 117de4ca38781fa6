"""Several processes, as on several hosts: the same bits as one, and none is left waiting."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from deepmodels import cli, parallel
from deepmodels.errors import CheckpointError, ConfigError
from deepmodels.parallel import hosts
from deepmodels.training import check_run
from deepmodels.training.checkpoint import saved_steps
from deepmodels.training.sinks import read_json_lines

ROOT = Path(__file__).parents[2]
MLP = '"name": "mlp"'
CONFIG = """
def get_config():
    return {
        "steps": %d,
        "model": {"name": "mlp", "num_classes": 10},
        "data": {"name": "fashion_mnist_embedded", "batch_size": 16, "mean": 0.286, "std": 0.353},
        "optimizer": {"name": "momentum", "learning_rate": 0.05, "ema": 0.9},
        "mesh": {"data": 4, "fsdp": 2},
        "every": {"log": 1, "evaluate": %d, "checkpoint": 5},
    }
"""


@pytest.fixture
def start(tmp_path):
    def start(layout: str, workdir: str, steps: int, model: str = MLP) -> subprocess.Popen:
        config = tmp_path / "config.py"
        config.write_text((CONFIG % (steps, steps)).replace(MLP, model))
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }
        command = [ROOT / "launch" / "local.sh", layout, f"--config={config}", f"--workdir={tmp_path / workdir}"]
        command += ["--heartbeat-seconds=600"]  # the script ends them all, and this machine may be busy
        with open(tmp_path / f"{workdir}.log", "a") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    return start


def digests(workdir: Path, step: int) -> dict[str, str]:
    from orbax.checkpoint import v1 as ocp

    return ocp.checkpointables_metadata(workdir / "checkpoints" / str(step)).custom_metadata["digests"]


def wait_for_step(workdir: Path, step: int) -> None:
    metrics, end = workdir / "metrics.jsonl", time.monotonic() + 180
    while not metrics.exists() or f'"step": {step}' not in metrics.read_text():
        assert time.monotonic() < end
        time.sleep(0.05)


def processes(started: subprocess.Popen) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(started.pid)], capture_output=True, text=True, check=True).stdout
    return [int(line) for line in found.split()]


def losses(workdir: Path) -> list[float]:
    return [line["loss"] for line in read_json_lines(workdir / "metrics.jsonl") if "loss" in line]


def test_two_processes_do_what_one_does(start, tmp_path):
    """To the bit, as all of them add by gloo."""
    for layout in ("1x8", "2x4"):
        assert start(layout, layout, 5).wait(timeout=300) == 0, (tmp_path / f"{layout}.log").read_text()
    assert losses(tmp_path / "1x8") == losses(tmp_path / "2x4")
    assert digests(tmp_path / "1x8", 5) == digests(tmp_path / "2x4", 5)
    assert all(check.ok for check in check_run(tmp_path / "2x4"))
    said = (tmp_path / "2x4.log").read_text()
    assert said.count("report: ") == 1, "one of them speaks"
    met, _, trained = said.partition("XLA's options: ")
    assert "[Gloo]" in met
    assert "step 5/5" in trained
    assert "[Gloo]" not in trained, "connections don't wait for a compilation"


def sha256(workdir: Path) -> str:
    detail = check_run(workdir)[-1].detail
    assert "all as they were saved" in detail
    return detail.rpartition(" ")[2]


@pytest.mark.slow
@pytest.mark.parametrize("model", [MLP, '"name": "resnet_tiny"', '"name": "vit_tiny", "image_size": 28'])
def test_any_number_of_processes_ends_with_the_same_bits(start, tmp_path, model):
    """pytest -m slow tests/training/test_hosts.py -k any_number

    1x8, 2x4, 4x2: the losses, and the SHA-256 of the state. A process by itself adds in another order, and comes close;
    with batch norm it begins so, and training takes last bits further apart.
    """
    layouts = ("1x8", "2x4", "4x2")
    for layout in (*layouts, "8"):
        assert start(layout, layout, 20, model).wait(timeout=600) == 0, (tmp_path / f"{layout}.log").read_text()
    assert len({tuple(losses(tmp_path / layout)) for layout in layouts}) == 1
    assert len({sha256(tmp_path / layout) for layout in layouts}) == 1
    compared = slice(5 if "resnet" in str(model) else None)
    np.testing.assert_allclose(losses(tmp_path / "8")[compared], losses(tmp_path / "4x2")[compared], rtol=1e-4)


@pytest.mark.slow
def test_asked_to_leave_or_killed_they_all_end_and_go_on(start, tmp_path):
    """pytest -m slow tests/training/test_hosts.py -k asked_to_leave

    Of four processes one gets SIGTERM; two go on, and the script gets it; four go on, and one is killed; two come to
    the end. The same batches in the same order, and the bits of one process left alone.
    """
    assert start("1x8", "whole", 120).wait(timeout=600) == 0
    workdir = tmp_path / "parts"
    left = 0
    for layout, whom in (("4x2", "a process"), ("2x4", "the script")):
        started = start(layout, "parts", 120)
        wait_for_step(workdir, left + 7)
        os.kill(processes(started)[1] if whom == "a process" else started.pid, signal.SIGTERM)
        assert started.wait(timeout=120) == 75, (tmp_path / "parts.log").read_text()
        assert left + 7 < saved_steps(workdir)[-1] < 120
        left = saved_steps(workdir)[-1]
    started = start("4x2", "parts", 120)
    wait_for_step(workdir, left + 7)
    children = processes(started)
    os.kill(children[1], signal.SIGKILL)
    killed = time.monotonic()
    assert started.wait(timeout=60) == 128 + signal.SIGKILL
    assert time.monotonic() - killed < 10, "the script ends the others at once"
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert "process 1 has ended by signal 9, KILL: so do the others" in (tmp_path / "parts.log").read_text()
    assert start("2x4", "parts", 120).wait(timeout=600) == 0, (tmp_path / "parts.log").read_text()
    assert losses(tmp_path / "whole") == losses(workdir)
    assert sha256(tmp_path / "whole") == sha256(workdir)


HEARTBEAT, STUCK, MEETING = 10, 20, 30
FAULTS = {  # what one process does at its tenth step; the other's exit codes, what it says, and in how many seconds
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", {-6, 76}, "", HEARTBEAT),
    "stopped": ("os.kill(os.getpid(), signal.SIGSTOP)", {-6, 76}, "", HEARTBEAT),
    "raises": ("raise RuntimeError('on purpose')", {-6, 76}, "", HEARTBEAT),
    "loops": ("while True: pass", {76, -6}, "no batch and no result for 20 s (--stuck-seconds)", STUCK),
    "absent": ("", {76}, "process 0 of 2 has waited 30 s (--meeting-seconds)", MEETING),
}
FAULTY = """
import os, signal, sys, time
from deepmodels import cli
from deepmodels.training import compiled, loop

def faulty(function, number):
    calls = []
    def called(*given, **named):
        calls.append(1)
        if len(calls) == number:
            print("FAULT", flush=True)
            {fault}
        return function(*given, **named)
    return called

if "--process-id={rank}" in sys.argv:
    {place} = faulty({place}, {number})
cli.main()
"""


@pytest.fixture
def two(tmp_path):
    """Returns a function that starts two processes of four devices, as on two hosts, of which one has a fault."""
    running = []

    def start(rank: int, fault: str, *options: str, place: str = "compiled.JitStep.__call__", number=10, ranks=(0, 1)):
        steps = 1000 if place.startswith("compiled") else 10
        (tmp_path / "config.py").write_text(CONFIG % (steps, steps))
        program = tmp_path / "program.py"
        program.write_text(FAULTY.format(rank=rank, fault=fault, place=place, number=number))
        port, flags = np.random.default_rng().integers(20000, 40000), "--xla_force_host_platform_device_count=4"
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{flags} --xla_backend_optimization_level=0"}
        command = [sys.executable, program, "train", f"--config={tmp_path / 'config.py'}", *options]
        command += [f"--workdir={tmp_path / 'run'}", f"--coordinator=127.0.0.1:{port}", "--num-processes=2"]
        for index in ranks:
            with open(tmp_path / f"{index}.log", "w") as log:
                running.append(
                    subprocess.Popen([*command, f"--process-id={index}"], env=environment, stdout=log, stderr=log)
                )
        return running

    yield start
    for process in running:
        process.kill()
        process.wait()


def wait_for_fault(log: Path) -> None:
    end = time.monotonic() + 180
    while "FAULT" not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "rank"), [*((fault, 1) for fault in FAULTS), ("killed", 0), ("raises", 0)])
def test_one_of_them_fails_and_none_waits_for_it(two, tmp_path, record_property, fault, rank):
    """pytest -m slow tests/training/test_hosts.py -k one_of_them_fails -s

    As on two hosts: no script ends the other process. The seconds that it takes are printed.
    """
    action, codes, said, seconds = FAULTS[fault]
    limits = (HEARTBEAT, STUCK, MEETING if fault == "absent" else 120)
    options = [
        f"--{name}-seconds={limit}" for name, limit in zip(("heartbeat", "stuck", "meeting"), limits, strict=True)
    ]
    since, survivor = time.monotonic(), 1 - rank
    started = two(rank, action, *options, ranks=(0,) if fault == "absent" else (0, 1))
    if fault != "absent":
        wait_for_fault(tmp_path / f"{rank}.log")
        since = time.monotonic()
    code = started[survivor].wait(timeout=180)
    took = time.monotonic() - since
    text = (tmp_path / f"{survivor}.log").read_text()
    record_property(f"seconds, process {rank} {fault}", round(took))
    print(f"\n{fault}, process {rank}: the other ended after {took:.1f} s, code {code}")
    print("\n".join(line for line in text.splitlines() if "rror" in line)[:1500])
    assert code in codes, text
    assert took < seconds + (25 if fault == "absent" else 10), text  # of which 15 are for Python's own start
    assert said in text
    if fault in ("killed", "stopped", "raises"):
        assert "another task died" in text or "another process is gone" in text
    if fault in ("loops", "absent"):
        assert "Where the threads of this process are:" in text
        assert 'File "' in text
    if fault == "loops":
        assert started[rank].wait(timeout=30) in codes
        assert "in called" in (tmp_path / f"{rank}.log").read_text()
    if fault == "raises":
        assert started[rank].wait(timeout=5) == 1
        assert "on purpose" in (tmp_path / f"{rank}.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_asked_to_leave_at_the_end_they_are_done(two, tmp_path, rank):
    """pytest -m slow tests/training/test_hosts.py -k at_the_end

    Process 1 waits in the last barrier while process 0 is at the report: nothing is left to be saved.
    """
    started = two(0, "time.sleep(8)", place="loop.write_report", number=1)
    wait_for_fault(tmp_path / "0.log")
    time.sleep(3)
    started[rank].send_signal(signal.SIGTERM)
    for index, process in enumerate(started):
        assert process.wait(timeout=60) == 0, (tmp_path / f"{index}.log").read_text()
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "metadata"])
def test_together_they_set_a_damaged_checkpoint_aside(start, tmp_path, damage):
    """One of them moves it, all go on from the one before, and the end is the same."""
    assert start("2x4", "run", 12).wait(timeout=300) == 0
    workdir = tmp_path / "run"
    whole = digests(workdir, 12)
    newest = workdir / "checkpoints" / "12"
    if damage == "metadata":
        found = [path for path in newest.rglob("*") if path.is_file() and path.name == "_CHECKPOINT_METADATA"]
    else:  # of one process alone: the other finds its own part as it was
        found = [path for path in newest.rglob("ocdbt.process_1/d/*") if path.is_file()]
    largest = max(found, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    if damage == "remove":
        largest.unlink()
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    else:
        largest.write_bytes(content[: len(content) // 2])
    (tmp_path / "run.log").unlink()
    assert start("2x4", "run", 12).wait(timeout=300) == 0, (tmp_path / "run.log").read_text()
    said = (tmp_path / "run.log").read_text()
    assert said.count("checkpoint of step 12 is damaged") == 1
    assert "going on from step 10" in said
    assert [path.name for path in (workdir / "damaged").iterdir()] == ["12"]
    assert digests(workdir, 12) == whole


def test_who_started_them(monkeypatch):
    assert parallel.surroundings({}) is None
    assert parallel.surroundings({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert parallel.surroundings({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}) == "Slurm"
    assert parallel.surroundings({"OMPI_COMM_WORLD_SIZE": "4"}) == "Open MPI"
    assert parallel.surroundings({"TPU_WORKER_HOSTNAMES": "a,b"}) == "TPU"
    assert parallel.surroundings({"TPU_WORKER_HOSTNAMES": "localhost"}) is None
    assert parallel.surroundings({"MEGASCALE_NUM_SLICES": "2"}) == "TPU"
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
    assert parallel.surroundings(pod) == "Kubernetes"
    assert parallel.surroundings(pod | {"JAX_PROCESS_COUNT": "1"}) is None
    assert parallel.surroundings(pod | {"TPU_WORKER_HOSTNAMES": "a,b"}) == "TPU"
    assert parallel.surroundings({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) is None, "a notebook's pod, say"
    monkeypatch.setattr("jax._src.cloud_tpu_init.running_in_cloud_tpu_vm", True)
    assert parallel.surroundings({}) == "TPU", "its metadata know whether there are others"
    assert parallel.surroundings({"TPU_WORKER_HOSTNAMES": "localhost"}) is None


@pytest.fixture
def met(monkeypatch):
    """What jax.distributed.initialize would have been called with."""
    calls = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *args, **named: calls.append((*args, named)))
    monkeypatch.setattr(hosts, "_part", lambda: None)
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_BIND_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return calls


SLURM = {
    "SLURM_JOB_ID": "4097", "SLURM_STEP_NODELIST": "localhost,other", "SLURM_NTASKS": "8", "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "2",
}  # fmt: skip
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


@pytest.mark.parametrize(
    ("environment", "expected", "bind"),
    [
        (SLURM, ("localhost:61441", 2, 1, [1]), "localhost:61441"),
        (
            SLURM | {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1234", "JAX_COORDINATOR_BIND_ADDRESS": "0.0.0.0:1234"},
            ("127.0.0.1:1234", 2, 1, [1]),
            "0.0.0.0:1234",
        ),
        (
            POD | {"JAX_COORDINATOR_ADDRESS": "localhost:55527", "JAX_PROCESS_COUNT": "4"},
            ("localhost:55527", 4, 1, None),
            "localhost:55527",
        ),
        (
            POD | {"JAX_COORDINATOR_ADDRESS": "localhost:55527", "JAX_PROCESS_COUNT": "4"}
            | {"JOB_INDEX": "1", "PROCESSES_IN_JOB": "2"},
            ("localhost:55527", 4, 3, None),
            "localhost:55527",
        ),
    ],
)  # fmt: skip
def test_where_they_meet(monkeypatch, met, environment, expected, bind):
    """Process 0 listens on one address, never on all of the host's."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with parallel.together(heartbeat_seconds=7, meeting_seconds=8):
        pass
    ((*given, named),) = met
    assert tuple(given) == expected
    assert named["coordinator_bind_address"] == bind
    assert named["heartbeat_timeout_seconds"] == 7


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (SLURM | {"SLURM_STEP_NODELIST": "no-such-node[1-2]"}, "Slurm: the host of process 0, 'no-such-node1', has no"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI: JAX doesn't find the other processes here; give --coordinator"),
        (POD | {"JAX_COORDINATOR_ADDRESS": "localhost:1"}, "the container needs JAX_PROCESS_COUNT"),
        (POD, "Set JAX_COORDINATOR_ADDRESS=HOST:PORT and JAX_PROCESS_COUNT=N"),
    ],
)
def test_what_keeps_them_from_meeting(monkeypatch, met, environment, message):
    monkeypatch.setitem(sys.modules, "kubernetes", None)  # as where it isn't installed
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=re.escape(message)), parallel.together():
        pass
    assert met == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("127.0.0.1:1234", 2, None), "missing: process_id"),
        (("127.0.0.1", 2, 0), "expected host:port, got '127.0.0.1'"),
        (("127.0.0.1:1234", 2, 2), "got 2 of 2"),
    ],
)
def test_what_processes_need_to_meet(arguments, message):
    with pytest.raises(ConfigError, match=message), parallel.together(*arguments):
        pass


class Metadata(BaseHTTPRequestHandler):
    """Those of a virtual machine of Google's, of a slice with two hosts."""

    def do_GET(self):
        answers = {"agent-worker-number": "1", "worker-network-endpoints": "x:y:127.0.0.1,x:y:127.0.0.2", "tpu-env": ""}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answers[self.path.rpartition("/")[2]].encode())

    def log_message(self, *_):
        pass


def test_hosts_of_a_tpu_ask_their_metadata(monkeypatch, met):
    pytest.importorskip("requests")
    for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "TPU_SKIP_MDS_QUERY", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("jax._src.cloud_tpu_init.running_in_cloud_tpu_vm", True)
    monkeypatch.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
    with HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        with parallel.together():
            pass
        server.shutdown()
    ((*given, named),) = met
    assert given == ["127.0.0.1:8482", 2, 1, None]
    assert named["coordinator_bind_address"] == "127.0.0.1:8482"


def test_a_tpu_whose_metadata_cannot_be_asked_is_by_itself(monkeypatch, met, capsys):
    for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "TPU_SKIP_MDS_QUERY", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("jax._src.cloud_tpu_init.running_in_cloud_tpu_vm", True)
    monkeypatch.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:1")
    with parallel.together():
        pass
    assert met == []
    assert "TPU: nothing says whether there are other hosts" in capsys.readouterr().err


STUCK_IN_PYTHON = """
import time
from deepmodels import parallel
with parallel.together(stuck_seconds=2):
    for _ in range(3):
        time.sleep(1)
        parallel.alive()
    print("got on for longer than that", flush=True)
    def turn():
        while True: pass
    turn()
"""


def test_a_process_by_itself_is_watched_too():
    done = subprocess.run([sys.executable, "-c", STUCK_IN_PYTHON], capture_output=True, text=True, timeout=120)
    assert done.returncode == 76
    assert done.stdout == "got on for longer than that\n"
    assert done.stderr.endswith(
        "error: no batch and no result for 2 s (--stuck-seconds): it hangs, or what it waits for does\n"
    )
    assert re.search(r"in turn$", done.stderr, re.MULTILINE)


def test_the_command_has_the_same_limits():
    options = cli._parser().parse_args(["train", "--config=x", "--workdir=y"])
    assert options.heartbeat_seconds == hosts.HEARTBEAT_SECONDS
    assert options.meeting_seconds == hosts.MEETING_SECONDS
    assert options.stuck_seconds == hosts.STUCK_SECONDS


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckpointError("saving step 5 failed (UNKNOWN: Gloo AllGather failed: Connection reset by peer)"), 76),
        (CheckpointError("saving step 5 failed (no space left)"), 1),
        (RuntimeError("UNAVAILABLE: the coordination service is gone"), 76),
        (RuntimeError("something else"), 1),
    ],
)
def test_who_is_left_by_another_says_so(monkeypatch, error, code):
    left = []
    monkeypatch.setattr(hosts.os, "_exit", left.append)
    hosts._leave(error, 1)
    assert left == [code]
