"""Some trials of the faults that checkpoints.py, bad_numbers.py and bad_records.py in this folder make many of."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("trials", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_no_checkpoint_is_lost_or_wrong(trials):
    command = [
        sys.executable,
        Path(__file__).with_name("checkpoints.py"),
        "--no-record",
        f"--trials={trials}",
        "--seed=1",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]
    assert result.stdout.count(f"| {trials} |") == 2


@pytest.mark.slow
def test_processes_that_train_together_end_with_the_same_bits():
    """pytest -m slow tests/chaos -k together"""
    command = [sys.executable, Path(__file__).with_name("processes.py"), "--no-docs", "--trials=6", "--seed=1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]


@pytest.fixture
def script(monkeypatch):
    """Returns a function that imports one of the scripts."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module


@pytest.mark.parametrize(
    ("trials", "kinds"),
    [(4, ["accumulated over a mesh"]), pytest.param(20, None, marks=pytest.mark.slow)],
)
def test_bad_numbers_leave_no_trace(script, trials, kinds):
    numbers = script("bad_numbers")
    outcome = numbers.numbers(trials, 0, 1, kinds or list(numbers.KINDS))
    assert not outcome.failures
    assert sum(count for what, count in outcome.counts.items() if what.endswith("left out")) >= trials


@pytest.mark.parametrize("trials", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_no_record_is_lost_or_silently_wrong(script, trials):
    outcome = script("bad_records").records(trials, 1)
    assert not outcome.failures
    assert sum(count for what, count in outcome.counts.items() if "named" in what) >= trials // 3
