"""Checkpoints: orbax writes and reads them, asynchronously; what to keep and what to trust is decided here.

A checkpoint holds the state and a record: config, versions, revision, command, and the evaluations so far; the names,
dtypes and shapes of the state's leaves; and digests of all that, which whoever restores compares. So what isn't as it
was saved is damage, and the step before is used; what is, but doesn't fit the model, is a mistake of whoever asks for
it, and said. A step becomes visible by one rename, and goes by one rename too, so that a run killed at any moment
leaves whole steps only.
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
from deepmodels.training.workdir import check_held, holder_of
from deepmodels.trees import PyTree

_METADATA = (  # ours in a checkpoint: of this version, and of older ones
    {"record", "record_digest", "digests", "leaves", "leaves_digest"},
    {"record", "record_digest", "digests"},
    {"record"},
)


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
            _check_description(saved)  # before it is read: it may claim any size
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


def look(workdir: str | Path, abstract: PyTree, step: int | None = None) -> Restored | None:
    """Returns the newest checkpoint that can be read, or that of a step, and changes nothing; None if there are none.

    It may be that of a run that trains meanwhile, or on a disk that can't be written to.

    Args:
      workdir: the run's folder.
      abstract: as for `Checkpoints.restore`.
      step: only this one.

    Raises:
      CheckpointError: as `Checkpoints.restore` does.
    """
    folder = Path(workdir, "checkpoints")
    said = []
    for newest in _asked(folder, step):
        restored, damage = _tried(folder, newest, abstract)
        if damage is None:
            return restored._replace(warnings=said + restored.warnings)
        said.append(f"checkpoint of step {newest} is damaged ({_root_cause(damage)})")
    if said:
        raise CheckpointError(f"{folder}: no checkpoint can be read. {'. '.join(said)}")
    return None


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
        self._holder = holder_of(workdir)
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
        self._step = None  # that is being saved

    def steps(self) -> list[int]:
        """Returns the steps that have a whole checkpoint, in ascending order."""
        return saved_steps(self._folder.parent)

    def save(self, step: int, state: PyTree, record: Mapping[str, Any]) -> None:
        """Starts to save a state; its arrays may be donated as soon as this returns.

        Raises:
          CheckpointError: this save, or the one before it, failed: the disk is full, say; or another run has taken the
            folder over. Earlier steps stay good.
        """
        self.wait()
        check_held(self._folder.parent, self._holder)
        record = copy.deepcopy(dict(record))  # it is written later, and the run adds to it meanwhile
        leaves, digests = _described(state), integrity.digests(state)
        metadata = {
            "record": record,
            "record_digest": integrity.text_digest(record),
            "digests": digests,
            "leaves": leaves,
            "leaves_digest": integrity.text_digest([leaves, digests]),
        }
        self._step = step
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
          CheckpointError: a step's tree, shapes or dtypes aren't those of `abstract`, no step can be read, or memory is
            short.
        """
        said, self._said = self._said, []
        for newest in _asked(self._folder, step):
            restored, damage = _tried(self._folder, newest, abstract)
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

    def _failed(self, error: Exception) -> CheckpointError:
        free = shutil.disk_usage(self._folder).free
        steps = self.steps()
        kept = f"step {steps[-1]} is the last whole one" if steps else "no step is whole yet"
        return CheckpointError(
            f"saving step {self._step} to {self._folder} failed ({_root_cause(error)}); {free / 2**20:.1f} MiB are "
            f"free there; {kept}. Once that is mended, the same command goes on from it"
        )


def _asked(folder: Path, step: int | None) -> list[int]:
    """The steps to try, the newest first: all there are, or the one that was asked for."""
    steps = saved_steps(folder.parent)
    if step is None:
        return steps[::-1]
    if step not in steps:
        raise CheckpointError(f"{folder}: no checkpoint of step {step}, there are {steps}")
    return [step]


def _tried(folder: Path, step: int, abstract: PyTree) -> tuple[Restored | None, Exception | None]:
    """A checkpoint, or what is wrong with it, as all processes agree.

    Raises:
      CheckpointError: it is as it was saved, and fits neither the model nor into memory.
    """
    restored = damage = None
    try:
        restored = _read(folder / str(step), abstract)
    except CheckpointError:
        raise
    except Exception as error:  # orbax raises whatever its layers do
        if "MemoryError" in (cause := _root_cause(error)) or "RESOURCE_EXHAUSTED" in cause:
            raise CheckpointError(
                f"{folder / str(step)} doesn't fit into memory ({cause}): give the run more, or more devices to divide "
                "its state among; the checkpoint is left as it is"
            ) from error
        damage = error
    return restored, _agreed(damage)


def _read(folder: Path, abstract: PyTree) -> Restored:
    from orbax.checkpoint import v1 as ocp

    folder = folder.absolute()
    saved = ocp.checkpointables_metadata(folder)
    _check_fit(folder, _check_description(saved), _described(abstract))
    state = ocp.load_checkpointables(folder, {"state": abstract})["state"]
    if "digests" in saved.custom_metadata:
        _compare(state, saved.custom_metadata)
        return Restored(state, saved.custom_metadata["record"], [])
    said = f"checkpoint of step {folder.name} has no digests, as it is of an older version: unchecked"
    return Restored(state, saved.custom_metadata["record"], [said])


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


def _described(tree: PyTree) -> dict[str, str]:
    """The dtype and shape of each leaf by name, "float32[2, 3]"."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in trees.flatten(tree).items()}


def _check_description(saved: Any) -> dict[str, str]:
    """Returns what a checkpoint's metadata say of its leaves.

    Raises:
      ValueError: they aren't those that were saved, or what orbax says of the leaves isn't what was recorded of them.
    """
    ours = saved.custom_metadata or {}
    if saved.metadata.get("state") is None or set(ours) not in _METADATA:
        raise ValueError("its metadata can't be read")
    found = _described(saved.metadata["state"])
    if "leaves" not in ours:
        return found
    if integrity.text_digest([ours["leaves"], ours["digests"]]) != ours["leaves_digest"]:
        raise ValueError("the record of its leaves isn't the one that was saved")
    if wrong := sorted(
        name for name in found.keys() | ours["leaves"].keys() if found.get(name) != ours["leaves"].get(name)
    ):
        name = wrong[0]
        raise ValueError(f"{name} was {ours['leaves'].get(name, 'not there')}, and is {found.get(name, 'missing')}")
    return found


def _check_fit(folder: Path, have: Mapping[str, str], want: Mapping[str, str]) -> None:
    """Raises CheckpointError that names the leaves, unless a checkpoint's are those of the model."""
    lines = [f"{name} is missing" for name in want.keys() - have.keys()]
    lines += [f"{name} isn't in the model" for name in have.keys() - want.keys()]
    for name in have.keys() & want.keys():
        if have[name] != want[name]:
            lines.append(f"{name} is {have[name]}, the model has {want[name]}")
    if lines:
        more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise CheckpointError(
            f"{folder} doesn't fit the model: {'; '.join(sorted(lines)[:5])}{more}. "
            "Restore it with the config it was saved from, or choose another workdir"
        )


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
