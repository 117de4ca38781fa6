"""Checkpoints: orbax writes and reads them, asynchronously; what to keep and what to trust is decided here.

A checkpoint holds the state and a record: config, versions, revision, command, and the evaluations so far; and digests
of both, which whoever restores compares. A step becomes visible by one rename, and goes by one rename too, so that a
run killed at any moment leaves whole steps only.
"""

import copy
import itertools
import logging
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from deepmodels import integrity, parallel, trees
from deepmodels.errors import CheckpointError
from deepmodels.trees import PyTree


class Restored(NamedTuple):
    """A state read from a checkpoint, what was recorded with it, and what to say of it and the steps passed over."""

    state: PyTree
    record: dict[str, Any]
    warnings: list[str]


def saved_steps(workdir: str | Path) -> list[int]:
    """Returns the steps that have a whole checkpoint in a run's folder, in ascending order; none if there is no run."""
    return sorted(int(path.name) for path in Path(workdir, "checkpoints").glob("*") if path.name.isdigit())


def best_step(evaluations: list[dict[str, float]], keep: Mapping[str, Any]) -> int | None:
    """Returns the step of the evaluation that is best by the metric `keep.best`, the first of equals; None without one.

    Args:
      evaluations: dicts of "step" and metrics.
      keep: `best`, a metric's name or None, and `mode`, "min" or "max".
    """
    if keep["best"] is None or not evaluations:
        return None
    sign = {"min": 1, "max": -1}[keep["mode"]]
    return min(evaluations, key=lambda values: sign * values[keep["best"]])["step"]


def chosen_step(workdir: str | Path) -> int:
    """Returns the step of a run's best checkpoint where config.keep.best names a metric, or else of the last.

    Raises:
      CheckpointError: there is none, or the last can't be read.
    """
    from orbax.checkpoint import v1 as ocp

    steps = saved_steps(workdir)
    if not steps:
        raise CheckpointError(f"{workdir} has no checkpoint yet")
    try:
        folder = Path(workdir, "checkpoints", str(steps[-1])).absolute()
        record = ocp.checkpointables_metadata(folder).custom_metadata["record"]
        best = best_step(record["evaluations"], record["config"]["keep"])
    except Exception as error:  # orbax raises whatever its layers do
        raise CheckpointError(f"{workdir}: the checkpoint of step {steps[-1]} can't be read: {error}") from error
    return best if best in steps else steps[-1]


def examine(workdir: str | Path, step: int) -> str:
    """Returns what the checkpoint of a step holds, after reading and comparing all of it; nothing is changed.

    Raises:
      CheckpointError: it is damaged, or has no digests to compare with.
    """
    from orbax.checkpoint import v1 as ocp

    folder = Path(workdir, "checkpoints", str(step)).absolute()
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    try:
        with jax.enable_x64(True):  # or it would be cast
            saved = ocp.checkpointables_metadata(folder)
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), saved.metadata["state"]
            )
            state = ocp.load_checkpointables(folder, {"state": abstract})["state"]
            if "digests" not in saved.custom_metadata:
                raise ValueError("it has no digests, as it is of an older version")
            _compare(state, saved.custom_metadata)
    except Exception as error:  # orbax raises whatever its layers do
        raise CheckpointError(f"checkpoint of step {step}: {_root_cause(error)}") from error
    held = f"{len(jax.tree.leaves(state))} leaves, {trees.count(state):,} numbers"
    return f"{held}, all as they were saved; sha256 {integrity.sha256(state)}"


class Checkpoints:
    """The checkpoints of one run, in the folders `checkpoints` and, set aside, `damaged` of its workdir."""

    def __init__(self, workdir: Path):
        """Opens the folder and clears what an interrupted save or removal left behind."""
        from orbax.checkpoint import v1 as ocp

        self._folder = workdir / "checkpoints"
        self._damaged = workdir / "damaged"
        self._trash = workdir / ".trash"
        shutil.rmtree(self._trash, ignore_errors=True)
        logging.getLogger("absl").addFilter(_not_from_orbax)
        self._said: list[str] = []  # of steps set aside
        open_orbax = partial(
            ocp.training.Checkpointer,
            self._folder.absolute(),
            cleanup_tmp_directories=True,
            preservation_policy=ocp.training.preservation_policies.PreserveAll(),
        )
        try:
            self._orbax = open_orbax()
        except ValueError:  # it reads the metadata of every step, and one that is damaged would keep all out
            for step in self.steps():
                damage = None
                try:
                    ocp.checkpointables_metadata((self._folder / str(step)).absolute())
                except Exception as error:  # orbax raises whatever its layers do
                    damage = error
                if damage := _agreed(damage):
                    self._set_aside(step, damage)
            if not self._said:
                raise
            self._orbax = open_orbax()
        self._pending = None

    def steps(self) -> list[int]:
        """Returns the steps that have a whole checkpoint, in ascending order."""
        return saved_steps(self._folder.parent)

    def save(self, step: int, state: PyTree, record: Mapping[str, Any]) -> None:
        """Starts to save a state; its arrays may be donated as soon as this returns.

        Raises:
          CheckpointError: this save, or the one before it, failed: the disk is full, say. Earlier steps stay good.
        """
        self.wait()
        record = copy.deepcopy(dict(record))  # it is written later, and the run adds to it meanwhile
        metadata = {
            "record": record,
            "record_digest": integrity.text_digest(record),
            "digests": integrity.digests(state),
        }
        try:
            self._pending = self._orbax.save_checkpointables_async(
                step, {"state": state}, force=True, custom_metadata=metadata
            )
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Waits until the last save is whole on disk.

        Raises:
          CheckpointError: it failed.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        try:
            pending.result()
        except Exception as error:
            raise self._failed(error) from error
        parallel.alive()

    def keep(self, last: int, also: int | None = None) -> None:
        """Removes all but the last few steps and the step `also`."""
        if jax.process_index():
            return
        steps = self.steps()
        for step in steps[: -last or None]:
            if step != also:
                self._trash.mkdir(exist_ok=True)
                os.rename(self._folder / str(step), self._trash / str(step))
        shutil.rmtree(self._trash, ignore_errors=True)

    def restore(self, abstract: PyTree, step: int | None = None) -> Restored | None:
        """Returns the newest checkpoint that can be read; None if there are none.

        A damaged step is moved to the folder `damaged`, as it is.

        Args:
          abstract: shapes, dtypes and shardings to restore to; the mesh may differ from the one that was saved from.
          step: only this one.

        Raises:
          CheckpointError: a step's tree, shapes or dtypes aren't those of `abstract`, or no step can be read.
        """
        steps = self.steps() if step is None else [step]
        if step is not None and step not in self.steps():
            raise CheckpointError(f"{self._folder}: no checkpoint of step {step}, there are {self.steps()}")
        said, self._said = self._said, []
        for newest in reversed(steps):
            restored = damage = None
            try:
                restored = self._read(newest, abstract)
            except CheckpointError:
                raise
            except Exception as error:  # orbax raises whatever its layers do
                damage = error
            damage = _agreed(damage)
            if damage is None:
                return restored._replace(warnings=said + restored.warnings)
            if step is None:
                self._set_aside(newest, damage)
                self._orbax.reload()  # or it would refuse to save this step again
                said, self._said = said + self._said, []
            else:
                said.append(f"checkpoint of step {newest} is damaged ({_root_cause(damage)})")
        if said:
            raise CheckpointError(f"{self._folder}: no checkpoint can be read. " + ". ".join(said))
        return None

    def close(self) -> None:
        """Waits for the last save and releases the folder."""
        self.wait()
        self._orbax.close()

    def _read(self, step: int, abstract: PyTree) -> Restored:
        saved = self._orbax.checkpointables_metadata(step)
        if saved.metadata.get("state") is None or not saved.custom_metadata:
            raise ValueError("its metadata can't be read")
        self._check(step, saved.metadata["state"], abstract)
        state = self._orbax.load_checkpointables(step, {"state": abstract})["state"]
        said = []
        if "digests" in saved.custom_metadata:
            _compare(state, saved.custom_metadata)
        else:
            said.append(f"checkpoint of step {step} has no digests, as it is of an older version: unchecked")
        return Restored(state, saved.custom_metadata["record"], said)

    def _set_aside(self, step: int, error: Exception) -> None:
        """Moves a step to the folder `damaged`: process 0 does, while the others wait."""
        said = f"checkpoint of step {step} is damaged ({_root_cause(error)}); it was moved to {self._damaged}"
        if jax.process_index() == 0:
            self._damaged.mkdir(exist_ok=True)
            target = self._damaged / str(step)
            for number in itertools.count(1):  # of an earlier time; nothing is ever removed
                if not target.exists():
                    break
                target = self._damaged / f"{step}-{number}"
            os.rename(self._folder / str(step), target)
            said += f"/{target.name}"
        self._said.append(said)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")

    def _check(self, step: int, saved: PyTree, abstract: PyTree) -> None:
        have, want = trees.flatten(saved), trees.flatten(abstract)
        lines = [f"{name} is missing" for name in want.keys() - have.keys()]
        lines += [f"{name} isn't in the model" for name in have.keys() - want.keys()]
        for name in sorted(have.keys() & want.keys()):
            a, b = have[name], want[name]
            if tuple(a.shape) != tuple(b.shape) or a.dtype != b.dtype:
                lines.append(f"{name} is {a.dtype}{list(a.shape)}, the model has {b.dtype}{list(b.shape)}")
        if lines:
            more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
            raise CheckpointError(
                f"{self._folder / str(step)} doesn't fit the model: {'; '.join(sorted(lines)[:5])}{more}. "
                "Restore it with the config it was saved from, or choose another workdir"
            )

    def _failed(self, error: Exception) -> CheckpointError:
        free = shutil.disk_usage(self._folder).free
        steps = self.steps()
        kept = f"step {steps[-1]} is the last whole one" if steps else "there is no whole one"
        return CheckpointError(
            f"saving a checkpoint to {self._folder} failed ({_root_cause(error)}); {free / 2**20:.1f} MiB are free "
            f"there; {kept}"
        )


def _agreed(damage: Exception | None) -> Exception | None:
    """Returns what is wrong with a checkpoint that all processes have just read: None if none of them found anything.

    So they all go on with the same step, and none moves what another still reads.
    """
    if jax.process_count() == 1:
        return damage
    found = multihost_utils.process_allgather(np.array([damage is not None])).reshape(-1)
    if damage is None and found.any():
        return ValueError(f"process {int(found.argmax())} can't read it")
    return damage


def _compare(state: PyTree, metadata: Mapping[str, Any]) -> None:
    """Raises ValueError unless a state and its record are those that were saved, to the bit."""
    if integrity.text_digest(metadata["record"]) != metadata["record_digest"]:
        raise ValueError("its record isn't the one that was saved")
    if wrong := integrity.differing(state, metadata["digests"]):
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"not what was saved: {', '.join(wrong[:3])}{more}")


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """What goes wrong in orbax is said by us, once and in a paragraph; its own log is pages of it, thread by thread."""
    return "orbax" not in record.pathname


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
