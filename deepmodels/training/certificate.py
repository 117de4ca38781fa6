"""A certificate that a config's training goes on, after a kill, exactly as if nothing had happened."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deepmodels import config as configs
from deepmodels.errors import CheckpointError, ConfigError, DeepModelsError
from deepmodels.integrity import leaves, sha256
from deepmodels.training import experiment
from deepmodels.training.checkpoint import Checkpoints, saved_steps
from deepmodels.training.optimizer import SCHEDULES
from deepmodels.training.workdir import provenance
from deepmodels.trees import PyTree

_TRAIN = "import json, sys, deepmodels; deepmodels.train(json.load(open(sys.argv[1])), sys.argv[2], quiet=True)"


class Certificate(NamedTuple):
    """What became of a run that was left alone, and of one that was killed half-way and started again.

    Attributes:
      same: whether their states are equal, to the bit.
      steps: that both trained.
      killed_after: the step of the last checkpoint that the killed one had.
      sha256: of the whole states, {"undisturbed": ..., "killed": ...}, in hexadecimal.
      differing: names of the leaves that aren't equal.
      provenance: versions, revision and devices that it holds for.
      config: that both trained with.
    """

    same: bool
    steps: int
    killed_after: int
    sha256: dict[str, str]
    differing: list[str]
    provenance: dict[str, Any]
    config: dict[str, Any]


def certify(config: Mapping[str, Any], workdir: str | Path, *, steps: int = 20) -> Certificate:
    """Trains twice, once killed by SIGKILL half-way and started again, and compares all of what training changes.

    Both runs are processes of their own on this host, with the config's schedule at its full length. The certificate is
    written to certificate.json. It holds for the same versions, devices and mesh.

    Args:
      config: as for `deepmodels.train`.
      workdir: a folder for both runs, which has neither yet.
      steps: of each run, an even number.

    Raises:
      ConfigError: the config can't be used, `steps` isn't even, or the folder has runs already.
      CheckpointError: the second run had saved its last step before it could be killed.
      DeepModelsError: a run failed by itself; the message has the end of what it said.
    """
    workdir, config = Path(workdir), _of(config, steps)
    runs = {name: workdir / name for name in ("undisturbed", "killed")}
    for run in runs.values():
        if run.exists():
            raise ConfigError(f"{run} is there already: a certificate is made of runs from their beginning")
    workdir.mkdir(parents=True, exist_ok=True)
    text = workdir / "config.json"
    text.write_text(configs.to_json(config))

    # This process leaves the devices alone until the runs are over: it would hold memory that they need.
    _train_until(text, runs["undisturbed"], steps)
    _train_until(text, runs["killed"], steps // 2)
    saved = saved_steps(runs["killed"])
    if steps in saved:
        raise CheckpointError(
            f"the run had saved step {steps}, its last, before it could be killed: certify with more steps"
        )
    _train_until(text, runs["killed"], steps)

    abstract = experiment.make(config).abstract
    states = {name: _state(run, abstract, steps) for name, run in runs.items()}
    found = Certificate(
        same=not (differing := differences(*states.values())),
        steps=steps,
        killed_after=saved[-1],
        sha256={name: sha256(state) for name, state in states.items()},
        differing=differing,
        provenance=provenance(),
        config=json.loads(configs.to_json(config)),
    )
    (workdir / "certificate.json").write_text(json.dumps(found._asdict(), indent=2) + "\n")
    return found


def differences(one: PyTree, other: PyTree) -> list[str]:
    """Returns the names of the leaves that only one of two states has, or that differ in dtype, shape or a bit."""
    one, other = leaves(one), leaves(other)
    names = one.keys() & other.keys()
    equal = {name for name in names if sha256({"": one[name]}) == sha256({"": other[name]})}
    return sorted((one.keys() | other.keys()) - equal)


def _of(config: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The config of both runs: shorter, saved half-way, and with nothing that would end or thin it out by itself."""
    if not isinstance(steps, int) or steps < 2 or steps % 2:
        raise ConfigError(f"a certificate takes an even number of steps, half before the kill, got {steps!r}")
    config = json.loads(configs.to_json(configs.complete(config)))
    schedule = config["optimizer"].get("schedule")
    if isinstance(schedule, dict) and schedule.get("name") in SCHEDULES:  # plateau has no length
        schedule.setdefault("steps", config["steps"])  # or it would end with the few steps of these runs
    config |= {"steps": steps, "keep": {"last": 2}, "early_stopping": None, "decode": None, "sinks": ()}
    config["every"] |= {"evaluate": steps // 2, "checkpoint": steps // 2}
    return config


def _train_until(config: Path, workdir: Path, step: int) -> None:
    """Trains in a process that is killed as soon as the checkpoint of a step is there."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _TRAIN, config, workdir], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while step not in saved_steps(workdir) and process.poll() is None:
                time.sleep(0.002)
        finally:
            process.kill()  # SIGKILL
            process.wait()
        if step not in saved_steps(workdir):
            output.seek(0)
            end = output.read()[-2000:].strip()
            raise DeepModelsError(f"training ended with exit code {process.returncode} before step {step}:\n{end}")


def _state(workdir: Path, abstract: PyTree, step: int) -> PyTree:
    checkpoints = Checkpoints(workdir)
    restored = checkpoints.restore(abstract, step)
    checkpoints.close()
    return restored.state
