"""The folder of a run: full, unwritable, wanted by two, oddly named, or under a clock that goes back."""

import contextlib
import gc
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import deepmodels
from deepmodels import cli, integrity, train
from deepmodels import config as configs
from deepmodels.errors import CheckpointError, ConfigError, DiskError
from deepmodels.training import certify, check_run, loop, workdir
from deepmodels.training.checkpoint import saved_steps
from deepmodels.training.sinks import read_json_lines
from deepmodels.training.workdir import open_workdir


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> None:
    """Leaves nothing free."""
    with open(disk / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def meter_that(act, at: int) -> type:
    """A meter of the loop's that does something when a step has been made."""

    class Meter(loop.Meter):
        def add(self, step, metrics):
            super().add(step, metrics)
            if step == at:
                act()

    return Meter


# Of several reads or writes that fail at once orbax reports one; asyncio mentions the others when it collects them.
leftovers = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

AUTOENCODER = {
    "model": {"name": "autoencoder_tiny", "image_shape": (28, 28, 1)},
    "objective": {"name": "reconstruction"},
    "data": {"name": "fashion_mnist_embedded", "batch_size": 16},
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
}
FULL = {  # what is written next when the disk is full: the config, the error, and the name that it says
    "checkpoint": ({}, CheckpointError, "saving step 6 to .*checkpoints failed .*; step 3 is the last whole one"),
    "metrics": ({"every": {"log": 1, "evaluate": 30, "checkpoint": 15}}, DiskError, r"metrics\.(jsonl|csv) can't be"),
    "tensorboard": (
        {"every": {"log": 1, "evaluate": 30, "checkpoint": 15}, "sinks": ("tensorboard",)},
        DiskError,
        r"(metrics\.(jsonl|csv)|tensorboard) can't be",
    ),
    "pictures": (AUTOENCODER | {"every": {"log": 30, "evaluate": 6, "checkpoint": 3}}, DiskError, "pictures can't be"),
    "report": ({}, DiskError, "report.html can't be written"),
}


@leftovers
@pytest.mark.parametrize(
    "write", ["checkpoint", *(pytest.param(w, marks=pytest.mark.slow) for w in FULL if w != "checkpoint")]
)
def test_a_full_disk_is_said_at_once_and_costs_nothing_that_was_saved(
    tiny_config, small_disk, tmp_path, monkeypatch, write
):
    """`pytest -m slow tests/training/test_disk.py` has the others."""
    values, kind, said = FULL[write]
    values = {"model": {"name": "mlp_tiny"}, "every": {"log": 30, "evaluate": 30, "checkpoint": 3}} | values
    config = tiny_config(steps=30 if write in ("metrics", "tensorboard") else 12, keep={"last": 50}, **values)
    whole = train(config, tmp_path / "whole").state
    filled, first = [], config["every"]["checkpoint"]

    def fill_once():
        if not filled:
            while first not in saved_steps(small_disk / "run"):  # it is saved meanwhile
                time.sleep(0.01)
            fill(small_disk)
            filled.append(True)

    tested = loop._tested
    if write == "report":
        monkeypatch.setattr(loop, "_tested", lambda *arguments: (fill_once(), tested(*arguments))[1])
    else:
        monkeypatch.setattr(loop, "Meter", meter_that(fill_once, at=first + 1))
    with pytest.raises(kind, match=said) as raised:
        train(config, small_disk / "run")
    gc.collect()
    assert " 0.0 MiB are free" in str(raised.value)
    steps = saved_steps(small_disk / "run")
    assert steps == [3, 6, 9, 12] if write == "report" else steps == [first]
    assert all(line.ok for line in check_run(small_disk / "run"))
    assert np.isfinite(deepmodels.evaluate(small_disk / "run")["test/loss"]), "to read takes no space"

    (small_disk / "ballast").unlink()
    again = train(config, small_disk / "run")
    assert integrity.sha256(again.state) == integrity.sha256(whole)
    assert again.report.exists()


def test_an_unwritable_workdir(tiny_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="workdir .* can't be written: Not a directory"):
        train(tiny_config(), tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match="isn't a run"):
        deepmodels.evaluate(tmp_path)


ODD = "runs of März 2026/läuft ✓ 100% #1 & 'more'"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of 4 steps, in a folder whose name is odd; not to be changed."""
    folder = tmp_path_factory.mktemp("done") / ODD
    config = {
        "steps": 4,
        "model": {"name": "mlp_tiny"},
        "data": {"name": "fashion_mnist_embedded", "batch_size": 16},
        "optimizer": {"name": "momentum", "learning_rate": 0.01},
        "every": {"log": 2, "evaluate": 2, "checkpoint": 2},
    }
    return train(config, folder).report.parent


def test_a_disk_that_can_only_be_read(done, tiny_config, small_disk):
    """A run there can't go on; all that only looks at it works."""
    shutil.copytree(done, small_disk / "run")
    before = deepmodels.evaluate(small_disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(ConfigError, match="workdir .* can't be written: Read-only file system"):
        train(json.loads((done / "config.json").read_text()), small_disk / "run")
    with pytest.raises(ConfigError, match="workdir .*new' can't be written: Read-only file system"):
        train(tiny_config(steps=4), small_disk / "new")
    assert deepmodels.evaluate(small_disk / "run") == before
    assert all(line.ok for line in check_run(small_disk / "run"))
    _, variables, _ = deepmodels.training.load_run(small_disk / "run")
    assert variables["params"]


def test_a_second_run_in_a_workdir_is_refused(tiny_config, tmp_path):
    with (
        open_workdir(tmp_path, configs.complete(tiny_config())),
        pytest.raises(ConfigError, match=f"is in use: process {os.getpid()} on {os.uname().nodename} trains in it"),
    ):
        train(tiny_config(steps=1), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == tiny_config()["steps"], "left as it was"


def test_a_lock_that_another_host_does_not_see_says_who_took_the_folder_over(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(workdir.fcntl, "flock", lambda *_: None)
    config = configs.complete(tiny_config())
    with open_workdir(tmp_path, config):
        first = workdir.holder_of(tmp_path)
        workdir.check_held(tmp_path, first)
        monkeypatch.setattr(workdir.socket, "gethostname", lambda: "elsewhere")
        with open_workdir(tmp_path, config):
            workdir.check_held(tmp_path, workdir.holder_of(tmp_path))
            with pytest.raises(CheckpointError, match=f"over by process {os.getpid()} on elsewhere, while this run"):
                workdir.check_held(tmp_path, first)


@pytest.mark.slow
def test_where_hosts_do_not_see_each_others_locks_the_first_of_two_runs_ends_at_its_next_save(
    tiny_config, tmp_path, monkeypatch
):
    """`pytest -m slow tests/training/test_disk.py`."""
    monkeypatch.setattr(workdir.fcntl, "flock", lambda *_: None)
    config = tiny_config(steps=8, model={"name": "mlp_tiny"})
    whole = train(config, tmp_path / "whole").state
    holders = []

    def enter():
        while saved_steps(tmp_path / "run") != [2]:
            time.sleep(0.01)
        with open_workdir(tmp_path / "run", configs.complete(config)) as folder:
            holders.append(workdir.holder_of(folder))

    monkeypatch.setattr(loop, "Meter", meter_that(enter, at=3))
    with pytest.raises(CheckpointError, match=rf"taken over by process {os.getpid()} on .*, while this run, process"):
        train(config, tmp_path / "run")
    assert workdir.holder_of(tmp_path / "run") == holders[0], "it is the other's"
    assert saved_steps(tmp_path / "run") == [2]
    monkeypatch.setattr(loop, "Meter", loop.Meter.__base__)
    assert integrity.sha256(train(config, tmp_path / "run").state) == integrity.sha256(whole)


@leftovers
def test_who_only_looks_changes_nothing(done, tmp_path, capsys):
    """A run may be saving while its checkpoints are evaluated."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    (tmp_path / ".trash" / "1").mkdir(parents=True)
    unfinished = tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp-123"
    unfinished.mkdir()
    [path, *_] = (tmp_path / "checkpoints" / "4" / "state" / "d").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    capsys.readouterr()
    deepmodels.evaluate(tmp_path)
    assert "warning: checkpoint of step 4 is damaged" in capsys.readouterr().err
    assert unfinished.exists()
    assert (tmp_path / ".trash" / "1").exists()
    assert saved_steps(tmp_path) == [2, 4]
    with pytest.raises(CheckpointError, match="no checkpoint can be read.*step 4 is damaged"):
        deepmodels.evaluate(tmp_path, step=4)
    gc.collect()


@pytest.mark.slow
def test_a_clock_that_goes_back(tiny_config, tmp_path, monkeypatch):
    """By an hour each time that it is looked at: no duration is negative, and the newest step is that of the run.

    `pytest -m slow tests/training/test_disk.py`.
    """
    config = tiny_config(steps=6, model={"name": "mlp_tiny"}, every={"log": 1, "evaluate": 3, "checkpoint": 1})
    whole = train(config, tmp_path / "whole").state
    clock = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * 10**9)
    train(config | {"steps": 4}, tmp_path / "run")
    assert saved_steps(tmp_path / "run") == [3, 4], "the last two"
    again = train(config, tmp_path / "run").state
    monkeypatch.undo()
    assert next(clock) < 2_000_000_000 - 3600, "nothing has looked at it"
    assert integrity.sha256(again) == integrity.sha256(whole)
    for line in read_json_lines(tmp_path / "run" / "metrics.jsonl"):
        times = {name: line[name] for name in line if name.endswith(("seconds", "second", "stall", "overhead"))}
        assert all(value >= 0 for value in times.values()), times


def test_a_workdir_with_spaces_and_letters_of_all_kinds(done, capsys):
    text = (done / "report.html").read_text()
    assert text.count("<img") == text.count('src="data:') > 0, "the page needs no other file, wherever it is"
    cli.main(["evaluate", "--workdir", str(done)])
    cli.main(["doctor", "--workdir", str(done)])
    assert capsys.readouterr().out.count("ok  checkpoints/") == 2
    assert train(json.loads((done / "config.json").read_text()), done).state.step == 4, "nothing is left to do"


@pytest.mark.slow
def test_a_certificate_there(tiny_config, tmp_path):
    """`pytest -m slow tests/training/test_disk.py`."""
    assert certify(tiny_config(model={"name": "mlp_tiny"}), tmp_path / ODD, steps=4).same
