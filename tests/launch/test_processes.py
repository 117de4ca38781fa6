"""launch/local.sh and launch/slurm.sbatch, with a `deepmodels`, a `srun` and a `scontrol` that say what they do."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
TRAINS = """#!/usr/bin/env bash
trap 'echo "$7 saves"; exit 75' TERM
echo "$*" >> started
case "$7" in  # the process id
  ${FAILS:-none}) sleep 0.2; eval "$HOW" ;;
esac
for ((i = 0; i < ${TENTHS:-1}; i++)); do sleep 0.1; done
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Returns a function that puts a program of this name first in the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    return make


def local(layout: str, **environment: str) -> subprocess.Popen:
    command = [LAUNCH / "local.sh", layout, "--workdir=x"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=os.environ | environment, stdout=pipe, stderr=pipe, text=True)


def test_local_starts_them_all(programs, tmp_path):
    programs("deepmodels", TRAINS)
    started = local("3x2")
    _, said = started.communicate(timeout=20)
    assert started.returncode == 0, said
    lines = sorted((tmp_path / "started").read_text().split("\n")[:-1])
    assert len(lines) == 3
    port = lines[0].split()[2]
    assert lines == [f"train --coordinator {port} --num-processes 3 --process-id {i} --workdir=x" for i in range(3)]


@pytest.mark.parametrize(
    ("how", "code", "why"),
    [("exit 3", 3, "process 1 has ended with code 3"), ("kill -9 $$", 137, "process 1 has ended by signal 9, KILL")],
)
def test_local_ends_all_if_one_fails(programs, how, code, why):
    programs("deepmodels", TRAINS)
    started = local("3x2", FAILS="1", HOW=how, TENTHS="300")
    before = time.monotonic()
    _, said = started.communicate(timeout=20)
    assert time.monotonic() - before < 10
    assert started.returncode == code
    assert why in said


def test_local_passes_term_on_and_waits(programs, tmp_path):
    programs("deepmodels", TRAINS)
    started = local("2x2", TENTHS="300")
    while not (tmp_path / "started").exists() or (tmp_path / "started").read_text().count("\n") < 2:
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    said, errors = started.communicate(timeout=20)
    assert started.returncode == 75, errors
    assert said.count("saves") == 2


@pytest.mark.parametrize(
    ("code", "restarts", "queued"),
    [(0, 0, False), (1, 0, False), (77, 0, False), (75, 0, True), (75, 50, True), (137, 3, True), (137, 20, False)],
)
def test_slurm_queues_again_what_can_go_on(programs, tmp_path, code, restarts, queued):
    programs("srun", f'#!/bin/sh\necho "$@" > ran\nexit {code}\n')
    programs("scontrol", '#!/bin/sh\necho "$@" > asked\n')
    environment = os.environ | {"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": str(restarts)}
    done = subprocess.run(["bash", LAUNCH / "slurm.sbatch", "--workdir=x"], env=environment)
    assert done.returncode == code
    assert (tmp_path / "ran").read_text() == "--kill-on-bad-exit=1 --label deepmodels train --workdir=x\n"
    assert (tmp_path / "asked").exists() == queued
    if queued:
        assert (tmp_path / "asked").read_text() == "requeue 12\n"


def test_slurm_runs_a_line_of_an_array(programs, tmp_path):
    programs("srun", '#!/bin/bash\nshift 2\nexec "$@"\n')
    programs("deepmodels", '#!/bin/bash\nprintf "%s\\n" "$@" > ran\n')
    (tmp_path / "commands.txt").write_text("deepmodels train --a=1\ndeepmodels train '--config.name=two words'\n")

    def run(line: int) -> int:
        environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(line)}
        return subprocess.run(["bash", LAUNCH / "slurm.sbatch", "commands.txt"], env=environment).returncode

    assert run(2) == 0
    assert (tmp_path / "ran").read_text() == "train\n--config.name=two words\n"
    assert run(3) == 2


def test_slurm_waits_when_the_signal_reaches_the_script_too(programs):
    programs("srun", '#!/bin/bash\ntrap "sleep 0.5; exit 75" TERM\ntouch there\nfor i in {1..99}; do sleep 0.1; done\n')
    programs("scontrol", "#!/bin/sh\ntouch asked\n")
    started = subprocess.Popen(["bash", LAUNCH / "slurm.sbatch"], env=os.environ | {"SLURM_JOB_ID": "12"})
    while not Path("there").exists():
        time.sleep(0.02)
    (srun,) = subprocess.run(["pgrep", "-P", str(started.pid)], capture_output=True, text=True).stdout.split()
    started.send_signal(signal.SIGTERM)
    os.kill(int(srun), signal.SIGTERM)
    assert started.wait(timeout=20) == 75
    assert Path("asked").exists()
