"""Sweeps: what is tried, what is found before anything starts, and that a second start goes on."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from deepmodels import cli, config, training
from deepmodels.errors import ConfigError
from deepmodels.training import Preempted, gather, sweep, sweeps
from deepmodels.training.report import draw_sweep
from deepmodels.training.sweeps import Range, parse, propose

CONFIG = """
def get_config():
    return {
        "steps": 6,
        "model": {"name": "lenet_tiny", "num_classes": 10},
        "data": {"name": "fashion_mnist_embedded", "batch_size": 16, "validation_size": 100},
        "optimizer": {"name": "momentum", "learning_rate": 0.05, "momentum": 0.9},
    }

def get_sweep():
    return {"optimizer.learning_rate": "log:1e-3:1e-1", "model.name": ["lenet_tiny", "lenet5"]}
"""

# Trains nothing: the loss is (log10 of the learning rate + 2) squared; a file in the sweep's folder says what fails.
FAKE = """
import json, math, os, pathlib, signal, sys, time
folder = pathlib.Path(next(a for a in sys.argv if a.startswith("--workdir=")).partition("=")[2])
rate = float(next(a for a in sys.argv if "learning_rate" in a).partition("=")[2])
plan = folder.parent / "plan.json"
code = json.loads(plan.read_text()).get(folder.name, 0) if plan.exists() else 0
with open(folder / "started", "a") as file:
    file.write("once more\\n")
if code == "hang":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
    (folder / "hangs").write_text("")
    time.sleep(60)
if code:
    print("error: it went wrong")
    sys.exit(code)
loss = (math.log10(rate) + 2) ** 2
(folder / "metrics.jsonl").write_text(json.dumps({"step": 3, "validation/loss": 9.0}) + "\\n" + json.dumps(
    {"step": 6, "validation/loss": loss, "test/accuracy": rate}) + "\\n")
(folder / "report.html").write_text("")
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes trials of FAKE, and of the checks only what reads the config; returns the sweep's folder."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)

    def start(workdir, record, trial, environment):
        folder = workdir / f"trial-{trial.number:04}"
        folder.mkdir(exist_ok=True)
        (folder / "trial.json").write_text(json.dumps({"parameters": trial.parameters}))
        arguments = sweeps._arguments(workdir, record, trial)
        with open(folder / "log.txt", "a") as log:
            return subprocess.Popen([sys.executable, "-S", script, *arguments], stdout=log, stderr=log)

    monkeypatch.setattr(sweeps, "_start", start)
    monkeypatch.setattr(sweeps, "_checked", lambda *_: ("validation/loss", "min"))
    return tmp_path / "sweep"


def starts(folder: Path) -> list[int]:
    return [len(path.read_text().splitlines()) for path in sorted(folder.glob("trial-*/started"))]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("1e-3,1e-2", (1e-3, 1e-2)),
        ("lenet5,lenet_tiny", ("lenet5", "lenet_tiny")),
        ("[(0.1, 0.2), None]", ((0.1, 0.2), None)),
        ("(0.1,),(0.2,)", ((0.1,), (0.2,))),
        ("none", ("none",)),
        ("adam", ("adam",)),
        ([1, "a"], (1, "a")),
        ("true,false", (True, False)),
        ("uniform:0:0.5", Range(0, 0.5, False)),
        ("uniform:1:8", Range(1, 8, False)),
        ("log:1e-4:1e-1:4", (1e-4, 1e-3, 1e-2, 1e-1)),
        ("uniform:1:8:3", (1, 4, 8)),
    ],
)
def test_values_are_read(values, expected):
    assert parse(values) == expected


def test_a_range_in_place_of_a_float_is_of_floats():
    assert parse("uniform:0:1:3", like=0.5) == (0.0, 0.5, 1.0)
    assert isinstance(parse("uniform:0:1", like=0.5).at(0.3), float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("log:0:1", "positive"),
        ("log:1:a", "log:LOW:HIGH"),
        ("uniform:2:1", "less"),
        ("uniform:1", "uniform:LOW:HIGH"),
        ("log:1:10:1", "from 2 on"),
        ("1,1", "twice"),
        ("a,", "separated by commas"),
        ("a,(1,2)", "Python's notation"),
        ([], "separated by commas"),
    ],
)
def test_values_that_cannot_be_read(values, message):
    with pytest.raises(ConfigError, match=message):
        parse(values)


def test_whole_numbers_of_a_range_are_equally_likely():
    shares = (np.arange(9_000) + 0.5) / 9_000
    counts = np.unique([Range(1, 9, False).at(share) for share in shares], return_counts=True)
    np.testing.assert_array_equal(counts[0], range(1, 10))
    np.testing.assert_allclose(counts[1], 1_000, atol=1)
    assert {Range(1, 8, True).at(share) for share in shares} == set(range(1, 9))
    assert Range(1e-4, 1e-2, True).at(0.5) == pytest.approx(1e-3)


def test_a_grid_is_every_combination_and_the_last_changes_fastest():
    (grid,) = propose({"a": (1, 2), "b": ("x", "y")}, method="grid", trials=None, seed=0, jobs=1, mode="min")
    assert [tuple(point.values()) for point in grid] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


def test_more_random_trials_are_the_same_ones_first():
    space = {"rate": Range(1e-4, 1e-1, True), "name": ("a", "b")}
    (few,), (many,) = (propose(space, method="random", trials=n, seed=3, jobs=1, mode="min") for n in (4, 9))
    (other,) = propose(space, method="random", trials=4, seed=4, jobs=1, mode="min")
    assert few == many[:4]
    assert few != other
    assert len({point["rate"] for point in many}) == 9


def tpe(seed: int, jobs: int = 2, trials: int = 40) -> list[dict]:
    """What is proposed where the loss is the distance from (0.3, b), and every 7th trial fails."""
    space = {"x": Range(0.0, 1.0, False), "kind": ("a", "b")}
    rounds, tried = propose(space, method="tpe", trials=trials, seed=seed, jobs=jobs, mode="min"), []
    proposed = next(rounds)
    try:
        while True:
            tried += proposed
            losses = [abs(point["x"] - 0.3) + (point["kind"] == "a") for point in proposed]
            proposed = rounds.send([None if len(tried) % 7 == 0 else loss for loss in losses])
    except StopIteration:
        return tried


def test_tpe_is_a_function_of_its_seed_and_looks_where_it_is_good():
    pytest.importorskip("optuna")
    tried = tpe(0)
    assert tried == tpe(0) != tpe(1)
    assert len(tried) == 40
    early, late = (np.mean([abs(point["x"] - 0.3) for point in part]) for part in (tried[:10], tried[-10:]))
    assert late < 0.5 * early


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "gird"}, "did you mean 'grid'"),
        ({}, "points of a range"),
        ({"method": "random"}, "needs a number"),
        ({"method": "random", "trials": 2, "jobs": 0}, "at a time"),
        ({"method": "tpe", "trials": 2, "slurm": True}, "grid or random"),
        ({"method": "random", "trials": 2, "overrides": {"optimizer.learning_rate": "1"}}, "leave one"),
        ({"method": "random", "trials": 2, "jobs": 2, "environment": {"CUDA_VISIBLE_DEVICES": "0,1,2"}}, "dealt out"),
    ],
)
def test_a_sweep_that_cannot_be(arguments, message, spec, fake):
    with pytest.raises(ConfigError, match=message):
        sweep(spec, fake, {"optimizer.learning_rate": "log:1e-3:1e-1"}, **arguments)
    assert not fake.exists()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"optimzer.learning_rate": "1,2"}, "did you mean 'optimizer'"),
        ({"optimizer.momentun": "0.5,0.9"}, "did you mean 'momentum'"),
        ({"optimizer.learning_rate": "1e-3,fast"}, "is a float .* got 'fast'"),
        ({"model.name": "lenet_tiny,lenet6"}, "did you mean 'lenet"),
        ({}, "needs values"),
    ],
)
def test_what_is_wrong_is_found_before_anything_starts(space, message, spec, tmp_path):
    with pytest.raises(ConfigError, match=message):
        sweep(spec, tmp_path / "sweep", space)
    assert not (tmp_path / "sweep").exists()


def test_the_metric_is_one_that_is_measured_and_has_a_direction(spec, tmp_path):
    space = {"optimizer.learning_rate": "1e-3,1e-2"}
    with pytest.raises(ConfigError, match="did you mean 'validation/accuracy'"):
        sweep(spec, tmp_path / "sweep", space, metric="validation/acuracy")
    with pytest.raises(ConfigError, match="'min' or 'max'"):
        sweep(spec, tmp_path / "sweep", space, metric="validation/accuracy")
    assert not (tmp_path / "sweep").exists()


def test_a_second_start_goes_on(spec, fake):
    fake.mkdir()
    (fake / "plan.json").write_text(json.dumps({"trial-0001": 1, "trial-0002": 77}))
    lines = []
    space = {"optimizer.learning_rate": "1e-4,1e-3,1.0,1e-2"}
    trials = sweep(spec, fake, space, jobs=2, say=lines.append)
    assert [(trial.number, trial.state) for trial in trials] == [
        (3, "done"), (0, "done"), (1, "failed"), (2, "diverged"),
    ]  # fmt: skip
    assert trials[0].value == pytest.approx(0)
    assert trials[1].value == pytest.approx(4)
    assert trials[2].reason == "error: it went wrong"
    assert any("trial 1: failed" in line for line in lines)

    (fake / "plan.json").unlink()
    trials = sweep(spec, fake, space, say=lines.append)
    assert starts(fake) == [1, 2, 1, 1]  # what failed, once more; neither what is done nor what diverged
    assert [trial.number for trial in trials] == [3, 1, 0, 2]

    with open(fake / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["optimizer.learning_rate"] for row in rows] == ["0.01", "0.001", "0.0001", "1.0"]
    assert [row["state"] for row in rows] == ["done", "done", "done", "diverged"]
    assert float(rows[0]["test/accuracy"]) == 0.01
    assert (fake / "sweep.png").read_bytes().startswith(b"\x89PNG")

    with pytest.raises(ConfigError, match="another sweep"):
        sweep(spec, fake, {"optimizer.learning_rate": "1e-4,1e-3"})
    with pytest.raises(ConfigError, match=r"config\.steps|seed"):
        sweep(spec, fake, space, overrides={"seed": "1"})
    assert [trial.number for trial in gather(fake, metric="test/accuracy", mode="max")] == [3, 1, 0, 2]
    with pytest.raises(ConfigError, match="did you mean 'test/accuracy'"):
        gather(fake, metric="test/acuracy", mode="max")


def test_tpe_goes_on_with_the_trials_it_would_have_chosen(spec, fake, tmp_path):
    pytest.importorskip("optuna")
    space = {"optimizer.learning_rate": "log:1e-4:1e-1"}
    arguments = dict(method="tpe", trials=11, seed=1, say=lambda _: None)
    whole = sweep(spec, tmp_path / "whole", space, **arguments)
    sweep(spec, fake, space, **arguments | {"trials": 9})
    assert sweep(spec, fake, space, **arguments) == whole
    assert starts(fake) == [1] * 11
    (fake / "trial-0010" / "trial.json").write_text(json.dumps({"parameters": {"optimizer.learning_rate": 0.5}}))
    with pytest.raises(ConfigError, match="another version"):
        sweep(spec, fake, space, **arguments)


def test_sigterm_has_the_trials_save(spec, fake):
    fake.mkdir()
    (fake / "plan.json").write_text(json.dumps({"trial-0001": "hang"}))

    def ask():
        while not (fake / "trial-0001" / "hangs").exists():
            stop.wait(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    stop = threading.Event()
    asker = threading.Thread(target=ask)
    asker.start()
    space, before = {"optimizer.learning_rate": "1e-4,1e-3,1e-2"}, signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        sweep(spec, fake, space, say=lambda _: None)
    asker.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert {trial.number: trial.state for trial in gather(fake)} == {0: "done", 1: "unfinished", 2: "unfinished"}
    (fake / "plan.json").unlink()
    sweep(spec, fake, space, say=lambda _: None)
    assert starts(fake) == [1, 2, 1]


def test_an_array_of_slurm_is_what_is_left_to_do(spec, fake, capsys):
    space = {"optimizer.learning_rate": "1e-4,1e-3", "model.name": "lenet_tiny,lenet5"}
    sweep(spec, fake, space, slurm=True, overrides={"data.mean": "(0.25,)"})
    lines = (fake / "commands.txt").read_text().splitlines()
    assert len(lines) == 4
    command, name, spec_argument, workdir, *rest = shlex.split(lines[1])
    assert (command, name, spec_argument) == ("deepmodels", "train", f"--config={spec}")
    assert workdir == f"--workdir={fake / 'trial-0001'}"
    loaded = config.load(spec, cli._overrides(rest))
    assert (loaded.optimizer.learning_rate, loaded.model.name, loaded.data.mean) == (1e-4, "lenet5", (0.25,))
    assert not list(fake.glob("trial-*"))

    (fake / "trial-0002").mkdir()
    (fake / "trial-0002" / "metrics.jsonl").write_text('{"step": 6, "validation/loss": 1.5}\n')
    (fake / "trial-0002" / "report.html").write_text("")
    swept = [f"--sweep.{path}={values}" for path, values in space.items()]
    again = [
        "sweep",
        f"--config={spec}",
        f"--workdir={fake}",
        *swept,
        "--config.data.mean=(0.25,)",
        "--slurm",
        "--jobs=3",
    ]
    cli.main(again)
    expected = f"sbatch --nodes=1 --array=1-2,4%3 launch/slurm.sbatch {fake}/commands.txt\n"
    assert capsys.readouterr().out == expected
    assert (fake / "commands.txt").read_text().splitlines() == lines  # a job that is queued again has its line still
    cli.main(["sweep", f"--workdir={fake}", "--gather"])
    assert "1 done, 3 unfinished" in capsys.readouterr().out


def test_devices_are_dealt_out():
    assert sweeps._shares({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 2) == ["0,1", "2,3"]
    assert sweeps._shares({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 1) is None
    assert sweeps._shares({}, 4) is None


def test_values_may_be_in_a_file(spec):
    space = sweeps.read_space(spec)
    assert {path: parse(values) for path, values in space.items()} == {
        "optimizer.learning_rate": Range(1e-3, 1e-1, True),
        "model.name": ("lenet_tiny", "lenet5"),
    }


def test_the_picture_has_a_panel_for_each_parameter():
    parameters = {"rate": [1e-3, 1e-1, 1e-2], "name": ["b", "a", "b"], "layers": [1, 2, 3]}
    figure = draw_sweep("validation/loss", [0.1, 0.3, 9.0], parameters, {"rate"})
    rate, name, layers = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["rate", "name", "layers"]
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "linear", "linear"]
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}  # 9 would leave the others on one line
    assert [label.get_text() for label in name.get_xticklabels()] == ["b", "a"]
    points, best = rate.collections
    np.testing.assert_allclose(points.get_offsets(), [[1e-3, 0.1], [1e-1, 0.3], [1e-2, 9.0]])
    np.testing.assert_allclose(best.get_offsets(), [[1e-3, 0.1]])
    assert layers.get_ylabel() == ""


@pytest.mark.slow
def test_the_command_sweeps_for_real(spec, tmp_path):
    """`pytest -m slow tests/training/test_sweeps.py`: two minutes. One of three trials diverges."""
    command = [
        sys.executable, "-m", "deepmodels", "sweep", f"--config={spec}", f"--workdir={tmp_path / 'sweep'}", "--json",
        "--sweep.optimizer.learning_rate=1e-3,1e-2,1e30", "--metric=validation/accuracy", "--mode=max", "--jobs=2",
    ]  # fmt: skip
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    trials = json.loads(first.stdout)
    assert {trial["number"]: trial["state"] for trial in trials} == {0: "done", 1: "done", 2: "diverged"}
    assert trials[0]["value"] >= trials[1]["value"]
    assert trials[0]["metrics"]["validation/accuracy"] == trials[0]["value"]
    again = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(again.stdout) == trials
    result = training.evaluate(tmp_path / "sweep" / "trial-0000", split="validation")
    assert result["validation/accuracy"] == pytest.approx(next(t["value"] for t in trials if t["number"] == 0))
