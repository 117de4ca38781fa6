"""Some trials of the faults that checkpoints.py, bad_numbers.py and bad_records.py in this folder make many of."""

import importlib
import subprocess
import sys
from pathlib import Path

import promises
import pytest
import run


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
    command = [sys.executable, Path(__file__).with_name("processes.py"), "--no-record", "--trials=6", "--seed=1"]
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


def test_the_tables_of_the_docs_are_those_of_the_results(tmp_path, monkeypatch):
    docs = tmp_path / "trust.md"
    docs.write_text(promises.DOCS.read_text())
    monkeypatch.setattr(promises, "DOCS", docs)
    promises.write_docs()
    assert docs.read_text() == (run.ROOT / "docs" / "trust.md").read_text()


def test_tests_are_counted_as_trials(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        """<testsuites><testsuite>
        <testcase name="one"/>
        <testcase name="many"><properties><property name="trials" value="24"/><property name="refused" value="20"/>
          </properties></testcase>
        <testcase name="broken"><failure message="assert 1 == 2">trace</failure></testcase>
        <testcase name="left out"><skipped/></testcase>
        </testsuite></testsuites>"""
    )
    assert run.counted("P8", report) == promises.Outcome(
        "P8", 26, {"refused": 20, "skipped": 1}, ["broken: assert 1 == 2"]
    )


@pytest.mark.slow
def test_a_soak(tmp_path):
    """`pytest -m slow tests/chaos/test_chaos.py`."""
    script = [
        sys.executable,
        Path(__file__).with_name("soak.py"),
        "--no-record",
        "--minutes=0.5",
        f"--workdir={tmp_path}",
    ]
    result = subprocess.run([*script, "--only", "lenet5_fashion"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]
    assert "lenet5_fashion: the same bits" in result.stdout
