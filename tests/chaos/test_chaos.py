"""Some trials of the faults that `tests/chaos/checkpoints.py` makes many of."""

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
