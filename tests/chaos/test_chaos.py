"""Some trials of the faults that `tests/chaos/run.py` makes many of."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("fault", "trials"),
    [
        ("kills", 3),
        ("damages", 8),
        pytest.param("kills", 20, marks=pytest.mark.slow),
        pytest.param("damages", 40, marks=pytest.mark.slow),
    ],
)
def test_no_checkpoint_is_lost_or_wrong(fault, trials):
    command = [sys.executable, Path(__file__).with_name("run.py"), f"--only={fault}", f"--trials={trials}"]
    result = subprocess.run([*command, "--seed=1"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]
    assert f"| {trials} |" in result.stdout
