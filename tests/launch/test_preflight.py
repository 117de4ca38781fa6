"""launch/preflight.py: one line for each thing that would end a run, and an exit code."""

import collections
import json
import os
import shutil
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest

from deepmodels import training

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "launch" / "preflight.py"
CONFIG = ROOT / "experiments" / "lenet5_fashion.py"


@pytest.fixture(scope="module")
def preflight(load_script):
    return load_script("launch/preflight.py")


@pytest.fixture
def uncompiled(monkeypatch):
    """The step isn't compiled: it needs what it says here, and takes no time."""
    needs = types.SimpleNamespace(lower_seconds=0.0, compile_seconds=0.0, peak_bytes=2_000)
    monkeypatch.setattr(training, "estimate", lambda config, devices: needs)


@pytest.fixture
def run(preflight, capfd, tmp_path):
    """Returns a function that calls it and gives the exit code, what is well and what isn't, by name."""

    def call(*arguments, workdir=tmp_path / "run"):
        code = preflight.main([f"--config={CONFIG}:smoke", f"--workdir={workdir}", *arguments])
        out, err = capfd.readouterr()
        lines = [line.removeprefix("--  ").partition(": ") for line in err.splitlines() if line.startswith("--  ")]
        assert len({name for name, _, _ in lines}) == len(lines)
        return code, out, {name: text for name, _, text in lines}

    return call


def test_nothing_is_found_and_nothing_is_left(run, tmp_path):
    code, out, findings = run("--config.mesh.fsdp=2")
    assert (code, findings) == (0, {})
    names = [line[4:].partition(":")[0] for line in out.splitlines()[:-1]]
    assert names == ["config", "mesh", "data", "workdir", "devices", "processes", "network", "step", "memory"]
    assert "mesh: data=4 x fsdp=2\n" in out
    assert "data: 1,800 train" in out
    assert out.endswith("preflight: nothing found\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "name", "message"),
    [
        (["--config.optimzer.learning_rate=1"], "config", "did you mean 'optimizer'"),
        (["--config.mesh.data=3"], "experiment", "asks for 3 devices, there are 8"),
        (["--config.model.name=lenet6"], "experiment", "did you mean 'lenet"),
        (["--config.data.name=fashion_mnist", "--config.data.path=/nowhere"], "experiment", "no train-images"),
        (["--hardware=h1000"], "hardware", "did you mean 'h100'"),
    ],
)
def test_a_wrong_config(run, uncompiled, arguments, name, message):
    code, out, findings = run(*arguments)
    assert code == 1
    assert set(findings) == {name}
    assert message in findings[name]
    assert ("ok  step" in out) == (name == "hardware")  # nothing is compiled for what can't be
    assert out.endswith("preflight: 1 found\n")


def test_a_workdir_that_cannot_be(run, uncompiled, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert "is a file" in run(workdir=tmp_path / "file" / "run")[2]["workdir"]

    (tmp_path / "other").mkdir()
    assert run(workdir=tmp_path / "other")[0] == 0
    config = {
        "steps": 2,
        "model": {"name": "lenet5"},
        "data": {"name": "x", "batch_size": 3},
        "optimizer": {"name": "y"},
    }
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    assert "config.data.batch_size: 3 -> 8" in run(workdir=tmp_path / "other")[2]["workdir"]

    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 0, 10**6))
    code, _, findings = run()
    assert code == 1
    assert "has 1 MB free, and 3 checkpoints of 740 kB need 2.22 MB" in findings["workdir"]


def test_a_step_that_needs_more_memory_than_there_is(run, uncompiled, preflight, monkeypatch):
    monkeypatch.setattr(preflight, "memory_of", lambda *_: (1000.0, "free"))
    code, _, findings = run()
    assert (code, set(findings)) == (1, {"memory"})
    assert "2 kB of a device are needed, it has 1 kB (free)" in findings["memory"]


def test_memory_is_the_hardwares_or_the_devices(preflight):
    class Device:
        platform, device_kind = "gpu", "H100"

        def memory_stats(self):
            return {"bytes_limit": 60e9, "bytes_in_use": 1e9}

    assert preflight.memory_of(Device(), None, True) == (59e9, "free")
    assert preflight.memory_of(Device(), None, False)[0] is None
    assert "unknown" in preflight.check_memory(10, None, "give --hardware")


def test_processes_that_differ_are_named(preflight, monkeypatch):
    import numpy as np
    from jax.experimental import multihost_utils

    def gather(mine):
        others = np.stack([mine, mine, mine])
        others[2, [0, 3]] += 1
        return others

    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    with pytest.raises(Exception, match="process 2 has another config, jax than process 0"):
        preflight.agree({"config": "a", "deepmodels": "b", "code": "c", "jax": "d"})


@pytest.mark.slow
def test_two_processes(tmp_path):
    """`pytest -m slow tests/launch/test_preflight.py`: a minute. Two that agree, and two that don't."""

    def start(*of_the_second):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        common = [
            sys.executable,
            SCRIPT,
            f"--config={CONFIG}:smoke",
            f"--workdir={tmp_path}",
            f"--coordinator={address}",
            "--config.data.batch_size=16",  # a row for each of both processes' devices
        ]
        processes = [
            subprocess.Popen(
                [*common, "--num-processes=2", f"--process-id={number}", *more],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for number, more in enumerate(([], of_the_second))
        ]  # fmt: skip
        said = [process.communicate(timeout=300) for process in processes]
        return [process.returncode for process in processes], said

    codes, said = start()
    assert codes == [0, 0], said
    assert "16 x cpu of 2 processes" in said[0][0]
    assert "ok" not in said[1][0]  # process 0 speaks; Gloo does too
    codes, said = start("--config.seed=1")
    assert codes == [1, 1], said
    assert "process 1 has another config than process 0" in said[0][1]


@pytest.mark.slow
def test_a_machine_that_is_not_there(tmp_path):
    """`pytest -m slow tests/launch/test_preflight.py`: its devices are virtual, its memory the data sheet's."""
    done = subprocess.run(
        [sys.executable, SCRIPT, f"--config={CONFIG}:smoke", f"--workdir={tmp_path / 'there'}", "--topology=4",
         "--hardware=h100", "--config.mesh.fsdp=2"],
        capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [line[4:].partition(":")[0] for line in done.stdout.splitlines()[:-1]]
    assert names == ["config", "mesh", "data", "processes", "step", "memory"]
    assert "mesh: data=2 x fsdp=2\n" in done.stdout
    assert "it has 80 GB (its data sheet)" in done.stdout
