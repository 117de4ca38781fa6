"""launch/tpu_vm.sh with a gcloud that only pretends: what it asks for, and what it does when the TPU is taken away."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "launch" / "tpu_vm.sh"

# Says each call in calls.txt; `states` and `codes` hold what the next ones are answered.
GCLOUD = """#!/usr/bin/env bash
cd "$(dirname "$0")"
printf '%s\\n' "${*//$'\\n'/ }" >>calls.txt
next() { head -n 1 "$1"; sed -i 1d "$1"; }
case "$*" in
  *describe*) state=$(next states); [ -n "$state" ] && [ "$state" != NONE ] && echo "$state" || exit 1 ;;
  *"cat ~/exit_code"*) code=$(next codes); [ -n "$code" ] && echo "$code" || exit 1 ;;
  *"pip install"*) [ ! -e uninstallable ] ;;
  *pgrep*) [ -e underway ] && rm underway ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    """Returns a function that runs the script with answers to its questions: exit code, calls, and what it said."""
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(GCLOUD)
    gcloud.chmod(0o755)

    def call(*arguments, states, codes=(), **variables):
        (tmp_path / "states").write_text("\n".join(states))
        (tmp_path / "codes").write_text("\n".join(codes))
        environment = {"NAME": "pod", "ZONE": "z1", "TYPE": "v5p-32", "WAIT_SECONDS": "0", **variables}
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            [SCRIPT, *arguments], env={**environment, "PATH": path}, capture_output=True, text=True, timeout=60
        )
        calls = tmp_path / "calls.txt"
        return done.returncode, calls.read_text().splitlines() if calls.exists() else [], done.stderr

    return call


def what(calls: list[str]) -> list[str]:
    """The calls in a word each, without the questions."""
    words = {"create": " create ", "delete": " delete ", "copy": " scp ", "install": "pip install", "train": "setsid"}
    return [word for call in calls for word, part in words.items() if part in call]


TRAIN = ("run", "--config=experiments/lenet5_fashion.py:smoke", "--workdir=/runs/a b")


def test_a_run_without_disturbance(run):
    states = ["NONE", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "ACTIVE", "ACTIVE"]
    code, calls, said = run(*TRAIN, states=states, codes=["", "0"], SPOT="1", PROJECT="p", EXTRAS="text")
    assert code == 0, said
    assert what(calls) == ["create", "copy", "install", "train"]
    (create,) = (call for call in calls if " create " in call)
    for part in ("queued-resources create pod", "--zone z1", "--project p", "--node-id pod", "--spot",
                 "--accelerator-type v5p-32", "--runtime-version v2-alpha-tpuv5"):  # fmt: skip
        assert part in create
    (install,) = (call for call in calls if "pip install" in call)
    assert "--worker=all" in install
    assert ".[tpu,text]" in install
    (train,) = (call for call in calls if "setsid" in call)
    assert "--worker=all" in train


def test_a_run_that_is_under_way_is_followed(run, tmp_path):
    """As after a connection that ended; if it then fails, it is installed and started as ever."""
    (tmp_path / "underway").write_text("")
    code, calls, said = run(*TRAIN, states=["ACTIVE"] * 10, codes=["", "0"])
    assert code == 0, said
    assert what(calls) == []
    (tmp_path / "underway").write_text("")
    (tmp_path / "calls.txt").unlink()
    code, calls, said = run(*TRAIN, states=["ACTIVE"] * 10, codes=["1", "0"])
    assert (code, what(calls)) == (0, ["copy", "install", "train"]), said


def test_every_host_gets_the_arguments_as_they_were_given(run, tmp_path):
    """The command for the hosts is run by a shell here, with a deepmodels that says its arguments and its exit code."""
    _, calls, _ = run("train", *TRAIN[1:], states=[], codes=["0"])
    (train,) = (call for call in calls if "setsid" in call)
    program = tmp_path / "home" / "deepmodels" / ".venv" / "bin" / "deepmodels"
    program.parent.mkdir(parents=True)
    program.write_text("#!/usr/bin/env bash\nprintf '%s\\n' \"$@\"\nexit 75\n")
    program.chmod(0o755)
    command = train.partition("--command=")[2].replace("setsid nohup", "").removesuffix("&")
    subprocess.run(["bash", "-c", command], env={**os.environ, "HOME": str(tmp_path / "home")}, check=True)
    assert (tmp_path / "home" / "train.log").read_text().splitlines() == ["train", *TRAIN[1:]]
    assert (tmp_path / "home" / "exit_code").read_text() == "75\n"


def test_a_tpu_that_is_taken_away_is_asked_for_again(run):
    states = ["ACTIVE", "SUSPENDING", "SUSPENDING", "SUSPENDING", "SUSPENDED", "NONE", "ACTIVE", "ACTIVE"]
    code, calls, said = run(*TRAIN, states=states, codes=["", "0"])
    assert code == 0, said
    assert what(calls) == ["copy", "install", "train", "delete", "create", "copy", "install", "train"]
    assert "restarts left" not in said


@pytest.mark.parametrize(
    ("codes", "restarts", "code", "trained"),
    [
        (["75", "0"], "0", 0, 2),  # asked to leave: goes on, and that isn't counted
        (["77"], "5", 77, 1),  # diverged
        (["1", "134", "0"], "2", 0, 3),
        (["1", "1", "1"], "1", 1, 2),
    ],
)
def test_what_follows_an_exit_code(run, codes, restarts, code, trained):
    got, calls, said = run(*TRAIN, states=["ACTIVE"] * 20, codes=codes, RESTARTS=restarts)
    assert got == code, said
    assert what(calls) == ["copy", "install", *["train"] * trained]


def test_an_installation_that_fails_is_tried_again_and_not_for_ever(run, tmp_path):
    (tmp_path / "uninstallable").write_text("")
    code, calls, said = run(*TRAIN, states=["ACTIVE"] * 20, codes=["0"], RESTARTS="1")
    assert code == 1
    assert what(calls) == ["copy", "install"] * 2
    assert "the installation failed, 0 restarts left" in said


def test_wrong_usage(run):
    assert "NAME" in run("create", states=[], NAME="")[2]
    assert "unknown action" in run("cretae", states=[])[2]
    assert "accelerator type" in run("create", states=[], TYPE="")[2]
