"""The command: what it prints, what it exits with, and that it is the Python call its help names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import deepmodels
from deepmodels import cli

ROOT = Path(__file__).parent.parent
LENET = "experiments/lenet5_fashion.py"


def run(capsys, *arguments) -> str:
    cli.main(arguments)
    return capsys.readouterr().out


def error(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert isinstance(exit_info.value.code, str), "one paragraph on standard error, exit code 1"
    return exit_info.value.code


def test_list(capsys):
    printed = run(capsys, "list")
    for name in ("mcculloch_pitts", "perceptron", "lenet5", "resnet50", "preact_resnet1001_cifar"):
        assert name in printed
    rows = json.loads(run(capsys, "list", "resnet*", "--json"))
    assert {row["name"] for row in rows} == set(deepmodels.list_models("resnet*"))
    assert rows[0].keys() >= {"name", "family", "year", "paper", "parameters", "input"}


def test_info(capsys):
    printed = run(capsys, "info", "lenet5")
    for text in ("lenet5", "1998", "61,706", "conv1", "28x28x1"):
        assert text in printed, text
    found = json.loads(run(capsys, "info", "resnet50", "--json"))
    assert found["parameters"] == 25_557_032
    assert found["flops"] == 2 * 4_089_184_256
    assert found.keys() >= {"name", "family", "year", "parameters", "flops", "input"}
    assert found == json.loads(json.dumps(deepmodels.info("resnet50")))
    assert "players" not in found
    found = json.loads(run(capsys, "info", "dcgan", "--json"))
    assert found["players"] == {"discriminator": 2_765_568, "generator": 3_576_704}
    assert found["parameters"] == sum(found["players"].values())


def test_doctor(capsys):
    rows = json.loads(run(capsys, "doctor", "--json"))
    names = " ".join(row["name"] for row in rows)
    for text in ("jax", "device", "attention", "cache", "collective"):
        assert text in names, text
    assert len(run(capsys, "doctor").splitlines()) == len(rows), "one line each"


def test_mistakes_exit_with_one_paragraph(capsys, tmp_path):
    assert "did you mean 'lenet5'" in error(capsys, "info", "lenet55")
    assert "no model's name matches 'lanet*'" in error(capsys, "list", "lanet*")
    train = ("train", f"--config={LENET}", f"--workdir={tmp_path}")
    assert "did you mean 'learning_rate'" in error(capsys, *train, "--config.optimizer.learning_rte=1")
    assert "given as --config.a.b=value" in error(capsys, *train, "--learning_rate=1")
    assert "needs a value" in error(capsys, *train, "--config.seed")
    assert "doesn't exist" in error(capsys, "train", "--config=experiments/lenet.py", f"--workdir={tmp_path}")
    assert "isn't a run" in error(capsys, "evaluate", f"--workdir={tmp_path}")


def test_unknown_arguments_are_wrong_usage(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(("list", "--jsn"))
    assert exit_info.value.code == 2


def test_train_and_evaluate_from_the_shell(tmp_path):
    """The whole way, as a user has it: a process of its own, a folder with spaces, `python -m deepmodels`."""
    workdir = tmp_path / "a run"
    environment = os.environ | {"XLA_FLAGS": ""}

    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "deepmodels", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
        )

    train = ("train", f"--config={LENET}:smoke", f"--workdir={workdir}", "--config.optimizer.learning_rate", "1e-3")
    first = command(*train)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    assert "test/accuracy" in first.stdout
    assert f"report: {workdir / 'report.html'}" in first.stdout
    assert json.loads((workdir / "config.json").read_text())["optimizer"]["learning_rate"] == 1e-3
    again = command(*train)
    assert "going on from step 2" in again.stdout
    refused = command("train", f"--config={LENET}:smoke", f"--workdir={workdir}")
    assert refused.returncode == 1
    assert "config.optimizer.learning_rate: 0.001 -> 0.002" in refused.stderr
    assert "Traceback" not in refused.stderr
    evaluated = command("evaluate", f"--workdir={workdir}", "--json")
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert json.loads(evaluated.stdout)["test/accuracy"] == last["test/accuracy"]
