"""Slurm for real, on this machine alone: two nodes that aren't there, and what a scheduler does to a job.

    sudo apt-get install slurm-wlm munge                     # Debian 12 and its kin
    sudo env PATH=$PATH python tests/slurm/run.py            # what it shows is put into docs/launching.md

It starts munged, slurmctld and a slurmd for each of two nodes, with all they write in a folder of its own, trains in
two tasks through launch/slurm.sbatch, and does to the job what happens on a cluster. Each run must end with the SHA-256
of an undisturbed one. Meanwhile /etc/hosts knows the names n1 and n2.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "chaos"))

import promises  # noqa: E402

BATCH = ROOT / "launch" / "slurm.sbatch"
DOCS = ROOT / "docs" / "launching.md"
BEGIN = "<!-- slurm: made by tests/slurm/run.py -->"
CONF = """
ClusterName=two
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=90
CredType=cred/munge
SlurmctldPort=16817
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/%n
StateSaveLocation={folder}/ctld
SlurmctldLogFile={folder}/log/ctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=20
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=4000
PartitionName=low Nodes=n1,n2 Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=n1,n2 State=UP PriorityTier=100 PreemptMode=OFF
"""
CONFIG = """
def get_config():
    return {{
        "steps": {steps},
        "model": {{"name": "lenet5", "num_classes": 10}},
        "data": {{"name": "fashion_mnist_embedded", "batch_size": 16, "mean": 0.286, "std": 0.353}},
        "augment": {{"random_crop": {{"padding": 2}}}},
        "optimizer": {{"name": "adamw", "learning_rate": 1e-3, "ema": 0.99}},
        "mesh": {{"data": 2, "fsdp": 2}},
        "every": {{"log": 5, "evaluate": {steps}, "checkpoint": 10}},
    }}
"""


def run(*command: str | Path) -> str:
    """Returns what a command says; raises RuntimeError with all of it if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def until(what: Callable[[], object], seconds: float = 600) -> None:
    """Waits until something is so.

    Raises:
      TimeoutError: it isn't, after so many seconds.
    """
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s")
        time.sleep(0.2)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Starts the daemons of two nodes, and ends them."""
    for name in ("ctld", "n1", "n2", "log"):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname(), folder=folder))
    os.environ["SLURM_CONF"] = str(conf)
    hosts, names = Path("/etc/hosts"), "127.0.0.1 n1 n2\n"
    had = hosts.read_text()
    daemons = []
    try:
        hosts.write_text(had.rstrip("\n") + "\n" + names)  # or nobody finds process 0
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        if not Path("/run/munge/munge.socket.2").exists():
            command = ["runuser", "-u", "munge", "--", "/usr/sbin/munged", "--foreground"]
            daemons.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            until(Path("/run/munge/munge.socket.2").exists, 20)
        daemons.append(subprocess.Popen(["slurmctld", "-D", "-f", str(conf)], stderr=subprocess.DEVNULL))
        time.sleep(2)
        for node in ("n1", "n2"):
            command = ["slurmd", "-D", "-N", node, "-f", str(conf)]
            daemons.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        until(lambda: run("sinfo", "--noheader", "--format=%t", "--partition=low").strip() == "idle", 60)
        yield
    finally:
        with contextlib.suppress(Exception):
            run("scancel", "--user=root", "--signal=KILL")
            time.sleep(3)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
        hosts.write_text(hosts.read_text().replace(names, ""))


class Job:
    """A training run under Slurm."""

    def __init__(self, folder: Path, name: str, *options: str, steps: int):
        """Submits it."""
        self.name, self.workdir, self.log = name, folder / name, folder / f"{name}.log"
        config = folder / f"config-{steps}.py"
        config.write_text(CONFIG.format(steps=steps))
        self.steps = steps
        given = ["--parsable", f"--job-name={name}", f"--output={self.log}", "--cpus-per-task=1", *options]
        slow = "--heartbeat-seconds=600"  # as a machine with two nodes on it may be; Slurm ends all if one fails
        self.id = run("sbatch", *given, BATCH, f"--config={config}", f"--workdir={self.workdir}", slow).strip()

    def state(self) -> str:
        """Returns what Slurm says of it: PENDING, RUNNING, COMPLETED ..."""
        return re.search(r"JobState=(\w+)", run("scontrol", "show", "job", self.id))[1]

    def restarts(self) -> int:
        """Returns how often it has been queued again."""
        return int(re.search(r"Restarts=(\d+)", run("scontrol", "show", "job", self.id))[1])

    def reaches(self, step: int) -> None:
        """Waits until a step is in its metrics."""
        path = self.workdir / "metrics.jsonl"
        until(lambda: path.exists() and f'"step": {step},' in path.read_text())

    def ends(self) -> str:
        """Waits until it has ended; returns the SHA-256 of its last state."""
        going = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "PREEMPTED", "SUSPENDED")

        def over() -> bool:
            if self.state() in going:
                return False
            time.sleep(10)  # a job that is at its time's end is for a moment neither ended nor queued again
            return self.state() not in going

        until(over, 1200)
        if self.state() != "COMPLETED":
            raise RuntimeError(f"job {self.name} is {self.state()}:\n{self.log.read_text()[-4000:]}")
        said = run(sys.executable, "-m", "deepmodels", "doctor", f"--workdir={self.workdir}")
        return re.search(rf"ok  checkpoints/{self.steps}: .*sha256 (\w+)", said)[1]

    def processes(self) -> list[int]:
        """Returns its tasks' process ids."""
        said = run("pgrep", "-f", f"python.*deepmodels train.*--workdir={self.workdir}( |$)")
        return [int(line) for line in said.split()]


def term(folder: Path) -> Job:
    """scancel --signal=TERM"""
    job = Job(folder, "term", steps=STEPS)
    job.reaches(20)
    run("scancel", "--signal=TERM", job.id)
    return job


def requeue(folder: Path) -> Job:
    """scontrol requeue: TERM, and KILL after KillWait"""
    job = Job(folder, "requeue", steps=STEPS)
    job.reaches(20)
    run("scontrol", "requeue", job.id)
    return job


def kill(folder: Path) -> Job:
    """SIGKILL of one of the two processes"""
    job = Job(folder, "kill", steps=STEPS)
    job.reaches(20)
    os.kill(job.processes()[-1], signal.SIGKILL)
    return job


def preempt(folder: Path) -> Job:
    """preemption by a job of a higher partition"""
    job = Job(folder, "preempt", steps=STEPS)
    job.reaches(20)
    run("sbatch", "--partition=high", "--nodes=2", "--ntasks=2", "--output=/dev/null", "--wrap=srun sleep 5")
    return job


def limit(folder: Path) -> Job:
    """a time limit of one minute, TERM 15 seconds before"""
    return Job(folder, "limit", "--time=1", "--signal=TERM@15", steps=LONG)


STEPS, LONG = 300, 600
FAULTS = {fault.__name__: fault for fault in (term, requeue, kill, preempt, limit)}
SHOWN = re.compile(r"saved step|going on|queued again|error|CANCELLED|Killed|TIMEOUT|PREEMPT|Terminated|test/accuracy")


def main() -> int:
    """Does all of it; returns 1 if a run didn't end as it should."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), help="some of the faults")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/launching.md as it is")
    options = parser.parse_args()
    if os.geteuid() or not shutil.which("slurmctld") or not shutil.which("munged"):
        parser.error("it takes root, and Debian's packages slurm-wlm and munge")
    failures, lines, counts = [], [], Counter()

    def say(text: str) -> None:
        print(text, flush=True)
        lines.append(text)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which ends the daemons too
    os.environ |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, cluster(Path(folder)):
        folder = Path(folder)
        say(f"{run('sinfo', '--version').strip()}, nodes: {run('sinfo', '--noheader', '--format=%N %t').split()[0]}")
        whole = {}
        for name in options.only:
            fault = FAULTS[name]
            job = fault(folder)
            digest = job.ends()
            if job.steps not in whole:
                whole[job.steps] = Job(folder, f"whole-{job.steps}", steps=job.steps).ends()
            same, restarts = digest == whole[job.steps], job.restarts()
            counts["starts"] += restarts + 1
            if not same or restarts < 1:
                failures.append(f"{fault.__doc__}: {digest}, {restarts + 1} starts")
            say(f"\n== {fault.__doc__}")
            for line in job.log.read_text().splitlines():
                if SHOWN.search(line):
                    say("   " + line.replace(f"{folder}/", "")[:200])
            verdict = "the same state as" if same else "NOT the state of"
            say(f"   starts: {restarts + 1}; sha256 {digest[:16]}...: {verdict} the undisturbed run")
    print(*failures, sep="\n", file=sys.stderr)
    if not options.no_docs and options.only == list(FAULTS):
        promises.record(promises.Outcome("P7", len(FAULTS), counts, failures))
        promises.between(DOCS, BEGIN, "\n".join(f"    {line}".rstrip() for line in lines))
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
