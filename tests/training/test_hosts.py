"""Several processes, as on several hosts: the same bits as one, and none is left waiting."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deepmodels import parallel
from deepmodels.errors import ConfigError
from deepmodels.training import check_run
from deepmodels.training.checkpoint import saved_steps
from deepmodels.training.sinks import read_json_lines

ROOT = Path(__file__).parents[2]
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
    def start(layout: str, workdir: str, steps: int) -> subprocess.Popen:
        config = tmp_path / "config.py"
        config.write_text(CONFIG % (steps, steps))
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }
        command = [ROOT / "launch" / "local.sh", layout, f"--config={config}", f"--workdir={tmp_path / workdir}"]
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
    """Up to the order in which a sum of eight is taken, which differs between threads and processes."""
    for layout in ("8", "2x4"):
        assert start(layout, layout, 5).wait(timeout=300) == 0, (tmp_path / f"{layout}.log").read_text()
    np.testing.assert_allclose(losses(tmp_path / "8"), losses(tmp_path / "2x4"), rtol=1e-5)
    assert all(check.ok for check in check_run(tmp_path / "2x4"))
    said = (tmp_path / "2x4.log").read_text()
    assert said.count("report: ") == 1, "one of them speaks"


@pytest.mark.slow
def test_asked_to_leave_or_killed_they_all_end_and_go_on(start, tmp_path):
    """SIGTERM for one of two, SIGKILL for one of two, the end with four: the bits are those of two left alone."""
    assert start("2x4", "whole", 120).wait(timeout=300) == 0
    workdir = tmp_path / "parts"
    started = start("2x4", "parts", 120)
    wait_for_step(workdir, 7)
    os.kill(processes(started)[1], signal.SIGTERM)
    assert started.wait(timeout=120) == 75, (tmp_path / "parts.log").read_text()
    left = saved_steps(workdir)[-1]
    assert 7 < left < 120
    started = start("2x4", "parts", 120)
    wait_for_step(workdir, left + 7)
    os.kill(processes(started)[1], signal.SIGKILL)
    killed = time.monotonic()
    assert started.wait(timeout=parallel.hosts.HEARTBEAT_SECONDS + 60) not in (0, 75)
    assert time.monotonic() - killed < parallel.hosts.HEARTBEAT_SECONDS + 10
    assert start("4x2", "parts", 120).wait(timeout=300) == 0, (tmp_path / "parts.log").read_text()
    assert digests(tmp_path / "whole", 120) == digests(workdir, 120)


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


def test_who_started_them():
    assert parallel.surroundings({}) is None
    assert parallel.surroundings({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert parallel.surroundings({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}) == "Slurm"
    assert parallel.surroundings({"OMPI_COMM_WORLD_SIZE": "4"}) == "Open MPI"
    assert parallel.surroundings({"TPU_WORKER_HOSTNAMES": "a,b"}) == "TPU"


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
