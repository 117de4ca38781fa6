"""Steps whose numbers go wrong: what is noticed, what becomes of the step, and what is written down about it.

A loss or a gradient that isn't finite, or one that stands out, is noticed. By `config.guard.policy` the run stops (the
compiled step is then the plain one: the host looks at the metrics that it reads anyway), the step's update is left out
on the device, or the run goes back to its last checkpoint and passes over the batches up to the bad one.

What stands out is told by z-scores of the loss and of the gradient's norm, on scales that large numbers are logarithms
of, against means and variances that forget exponentially; a loss below zero has to stand out on its own scale as well.
Steps that are left out don't enter these.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels import data, trees
from deepmodels.errors import DeepModelsError
from deepmodels.training import experiment
from deepmodels.training.checkpoint import look
from deepmodels.training.compiled import JitStep, PmapStep
from deepmodels.training.events import write_event
from deepmodels.training.experiment import Experiment
from deepmodels.training.step import TrainState
from deepmodels.trees import PyTree

TRIGGERS = ("", "loss isn't finite", "gradient isn't finite", "loss stands out", "gradient stands out")
_MEMORY = 0.98  # of the means and variances: they are of about the last 50 steps
_LEAST = 0.1  # standard deviation: a loss that has hardly changed for a while may move by half its size
_REPEATED = 1_000  # most steps that are made once more to find out where a number went wrong
_NAMED = 20  # leaves


class TrainingError(DeepModelsError):
    """Training can't go on: the loss isn't finite, say."""

    exit_code = 77  # starting it again as it is would end here again
    everywhere = True


class Fault(TrainingError):
    """A step that a run stops at; whose gradient it was isn't known yet."""

    def __init__(self, message: str, step: int, windows: Sequence[Sequence[int]]):
        super().__init__(message)
        self.step, self.windows = step, windows  # the step's number, from 1


class RolledBack(Exception):
    """A run goes back to its last checkpoint, and passes over the batches up to that of the step `step`."""

    def __init__(self, step: int, windows: Sequence[Sequence[int]]):
        super().__init__(step)
        self.step, self.windows = step, windows


class Watch(NamedTuple):
    """What is known of the steps so far: numbers, or arrays ()."""

    count: jax.Array | float = 0.0  # steps that the means and variances are of
    loss_mean: jax.Array | float = 0.0
    loss_variance: jax.Array | float = 0.0
    gradient_mean: jax.Array | float = 0.0
    gradient_variance: jax.Array | float = 0.0
    consecutive: jax.Array | int = 0  # bad steps, up to the last
    left_out: jax.Array | int = 0  # bad steps, of all


class Guarded(NamedTuple):
    """A state, and what is known of the steps that led to it."""

    state: TrainState
    watch: Watch


class Host(NamedTuple):
    """What `observe` needs of jax.numpy, for numbers of Python."""

    where: Callable = lambda condition, yes, no: yes if condition else no
    maximum: Callable = max
    sqrt: Callable = math.sqrt
    sinh: Callable = math.sinh
    cosh: Callable = math.cosh
    isfinite: Callable = math.isfinite
    logical_and: Callable = lambda a, b: a and b
    logical_or: Callable = lambda a, b: a or b
    logical_not: Callable = lambda a: not a


def observe(watch: Watch, loss, size, settings: Mapping[str, Any], xp: Any = jnp) -> tuple[Any, Watch]:
    """Returns the number of what is wrong with a step, 0 for nothing, and what is known after it.

    Args:
      watch: what is known so far.
      loss: arcsinh of the loss, a number or an array ().
      size: the logarithm of the gradient's norm; of one that is 0, minus infinity.
      settings: `z_score` and `warmup`, as `config.guard` has them.
      xp: jax.numpy, or Host() for numbers of Python.
    """
    resting = size == -math.inf  # a batch without a mistake says nothing of how large gradients are
    finite_loss, finite_gradient = xp.isfinite(loss), xp.logical_or(xp.isfinite(size), resting)
    size = xp.where(resting, watch.gradient_mean, size)
    loss_off, size_off = loss - watch.loss_mean, size - watch.gradient_mean
    loss_spike = size_spike = False
    if settings["z_score"] is not None:
        known, limit = watch.count >= settings["warmup"], settings["z_score"]
        loss_spike, size_spike = (
            xp.logical_and(known, off > limit * xp.maximum(xp.sqrt(variance), _LEAST))
            for off, variance in ((loss_off, watch.loss_variance), (size_off, watch.gradient_variance))
        )
        # and on its own scale: from -25 to 2 it is far on that of logarithms, and no news of a loss that moves by 15
        usual = xp.cosh(watch.loss_mean) * xp.maximum(xp.sqrt(watch.loss_variance), _LEAST)
        loss_spike = xp.logical_and(loss_spike, xp.sinh(loss) - xp.sinh(watch.loss_mean) > limit * usual)
    trigger = xp.where(size_spike, 4, 0)
    trigger = xp.where(loss_spike, 3, trigger)
    trigger = xp.where(xp.logical_not(finite_gradient), 2, trigger)
    trigger = xp.where(xp.logical_not(finite_loss), 1, trigger)
    bad = trigger > 0

    rate = xp.maximum(1 / (watch.count + 1), 1 - _MEMORY)
    counts = xp.logical_not(xp.logical_or(bad, resting))

    def moved(old, new):
        return xp.where(counts, new, old)

    return trigger, Watch(
        moved(watch.count, watch.count + 1),
        moved(watch.loss_mean, watch.loss_mean + rate * loss_off),
        moved(watch.loss_variance, (1 - rate) * (watch.loss_variance + rate * loss_off * loss_off)),
        moved(watch.gradient_mean, watch.gradient_mean + rate * size_off),
        moved(watch.gradient_variance, (1 - rate) * (watch.gradient_variance + rate * size_off * size_off)),
        xp.where(bad, watch.consecutive + 1, 0),
        xp.where(bad, watch.left_out + 1, watch.left_out),
    )


def guarded(step: Callable, settings: Mapping[str, Any], place: jax.sharding.Sharding | None = None) -> Callable:
    """Returns a step of `Guarded` that leaves all but the step's number as it was where the numbers are bad.

    Args:
      step: `(state, batch) -> (state, metrics)`, with "loss" and "grad_norm" among the metrics.
      settings: as for `observe`.
      place: of "leaf_norms", which a compiler might else divide among processes; None under pmap.

    Returns:
      `(guarded, batch) -> (guarded, metrics)`; the metrics have "trigger", the number of what was wrong, and "watch".
    """

    def guarded_step(both: Guarded, batch: PyTree) -> tuple[Guarded, dict[str, Any]]:
        changed, metrics = step(both.state, batch)
        loss, norm = (metrics[name].astype(jnp.float32) for name in ("loss", "grad_norm"))
        trigger, watch = observe(both.watch, jnp.arcsinh(loss), jnp.log(norm), settings)
        kept = jax.tree.map(lambda new, old: jax.lax.select(trigger == 0, new, old), changed, both.state)
        watch = jax.tree.map(lambda new, old: new.astype(old.dtype), watch, both.watch)
        if place is not None and "leaf_norms" in metrics:
            metrics = metrics | {"leaf_norms": jax.lax.with_sharding_constraint(metrics["leaf_norms"], place)}
        return Guarded(kept._replace(step=changed.step), watch), metrics | {"trigger": trigger, "watch": watch}

    return guarded_step


class GuardedStep:
    """A compiled step whose updates are left out where their numbers are bad; to the loop it is as any other."""

    def __init__(self, kind: type[JitStep | PmapStep], x: Experiment, watch: Watch):
        """Keeps the step; `compile` does the work."""
        whole = x.abstract.step.sharding
        places = Guarded(jax.tree.map(lambda leaf: leaf.sharding, x.abstract), Watch(*[whole] * len(Watch._fields)))
        step = experiment.make_step(x, kind.axis_name, leaf_norms=True)
        step = guarded(step, x.config.guard, None if kind is PmapStep else whole)
        self._step = kind(step, x.mesh, places, x.config.deterministic)
        self._watch = jax.device_put(
            Watch(*[np.asarray(value, np.float32 if isinstance(value, float) else np.int32) for value in watch]), whole
        )
        self.compile, self.place, self._call = self._step.compile, self._step.place, self._step.__call__

    def __call__(self, both: Guarded, batch: PyTree) -> tuple[Guarded, dict[str, Any]]:
        """Makes a step."""
        return self._call(both, batch)

    def enter(self, state: TrainState) -> Guarded:
        """Returns the state, and with it what is known of the steps before."""
        return self._step.enter(Guarded(state, self._watch))

    def leave(self, both: Guarded) -> TrainState:
        """Returns the state alone."""
        return self._step.leave(both).state


class Guard:
    """Looks at the metrics that are read from the device, and acts by the policy.

    Args:
      x: the experiment.
      workdir: of the run.
      windows: batches that are passed over, [[step, count], ...]: before step number `step` + 1 of the run, `count`.
      record: what a checkpoint's record has of it; None at the beginning.
      close: waits for what is being saved; called before the run is left.
    """

    def __init__(
        self,
        x: Experiment,
        workdir: Path,
        windows: Sequence[Sequence[int]],
        record: Mapping[str, Any] | None,
        close: Callable[[], None],
    ):
        self._x, self._workdir, self._windows, self._close = x, workdir, windows, close
        self._settings = x.config.guard
        self._watch = Watch(**record) if record else Watch()
        self._names = list(trees.flatten(x.abstract.params))

    def step(self, kind: type[JitStep | PmapStep]) -> JitStep | PmapStep | GuardedStep:
        """Returns the step of the run, to be compiled."""
        if self._settings.policy != "stop":
            return GuardedStep(kind, self._x, self._watch)
        places = jax.tree.map(lambda leaf: leaf.sharding, self._x.abstract)
        step = experiment.make_step(self._x, kind.axis_name)
        return kind(step, self._x.mesh, places, self._x.config.deterministic)

    def record(self) -> dict[str, float]:
        """Returns what is known after the last step that was read, for a checkpoint's record."""
        return self._watch._asdict()

    def count(self) -> dict[str, float]:
        """Returns how many steps were left out, as a metric, where the policy leaves steps out."""
        return {"guard/left_out": float(self._watch.left_out)} if self._settings.policy != "stop" else {}

    def updates(self, step: int) -> int:
        """Returns how many of the first steps have changed the parameters."""
        return step - self._watch.left_out

    def look(self, steps: Sequence[tuple[int, Mapping[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
        """Returns the steps that count, by number, each with its metrics as numbers.

        Raises:
          TrainingError: the policy is to stop, or too many steps were bad.
          RolledBack: the policy is to go back.
        """
        found = []
        for number, metrics in steps:
            metrics = dict(metrics)
            norms = metrics.pop("leaf_norms", None)
            trigger = metrics.pop("trigger", None)
            if trigger is None:
                loss, norm = (_number(metrics[name]) for name in ("loss", "grad_norm"))
                size = math.log(norm) if norm > 0 else norm if math.isnan(norm) else -math.inf
                trigger, watch = observe(self._watch, math.asinh(loss), size, self._settings, Host())
                self._watch = watch._replace(left_out=self._watch.left_out)
            else:  # under pmap each device has them
                self._watch = Watch(*[np.ravel(value)[0].item() for value in metrics.pop("watch")])
                trigger, norms = int(np.ravel(trigger)[0]), norms.reshape(-1, len(self._names))[0]
            if trigger:
                self._act(number, trigger, metrics, norms)
            if not trigger or self._settings.policy == "stop":
                found.append((number, metrics))
        return found

    def _act(self, step: int, trigger: int, metrics: Mapping[str, Any], norms: np.ndarray | None) -> None:
        settings, values = self._settings, {name: _number(metrics[name]) for name in ("loss", "grad_norm")}
        leaves = [] if norms is None else _leaves(self._names, norms)
        action, error = "left out", None
        if settings.policy == "stop" and trigger > 2:
            action = "noted"
            if self._watch.consecutive > settings.patience:  # it isn't a spike, but how things are now
                self._watch = Watch(left_out=self._watch.left_out)
        elif settings.policy == "stop":
            action, error = "stopped", Fault(f"{_not_finite(step, values)}: {_ADVICE}", step, self._windows)
        elif settings.policy == "skip" and self._watch.consecutive > settings.patience:
            action = "stopped"
            error = TrainingError(
                f"step {step} is the {self._watch.consecutive}th in a row that went wrong ({TRIGGERS[trigger]}: loss "
                f"{values['loss']:.4g}, gradient's norm {values['grad_norm']:.4g}), and config.guard.patience is "
                f"{settings.patience}; see {self._workdir / 'events.jsonl'}. {_ADVICE}"
            )
        elif settings.policy == "rollback":
            action, error = "rolled back", RolledBack(step, self._windows)
            if len(self._windows) >= settings.rollbacks:
                action = "stopped"
                error = TrainingError(
                    f"step {step} went wrong ({TRIGGERS[trigger]}), and the run has gone back {len(self._windows)} "
                    f"times, config.guard.rollbacks; see {self._workdir / 'events.jsonl'}. {_ADVICE}"
                )
        write_event(
            self._workdir,
            "bad step",
            step=step,
            action=action,
            trigger=TRIGGERS[trigger],
            **values,
            leaves=leaves,
            records=experiment.train_records(self._x, step - 1, self._windows).tolist(),
        )
        if error is not None:
            self._close()
            raise error


_ADVICE = "lower optimizer.learning_rate, set optimizer.clip_norm, or look at the data; the checkpoints before it stand"


def _number(value: np.ndarray) -> float:
    return value.item() if value.size == 1 else float(np.mean(value))  # under pmap each device has it


def _not_finite(step: int, values: Mapping[str, float]) -> str:
    for name, what in {"loss": "loss", "grad_norm": "gradient's norm"}.items():
        if not math.isfinite(values[name]):
            return f"the {what} of step {step} is {values[name]}"
    raise AssertionError(values)


def _leaves(names: Sequence[str], norms: np.ndarray) -> list[str]:
    """The leaves whose gradient isn't finite, or else the three with the largest, at most 20."""
    wrong = [name for name, norm in zip(names, norms, strict=True) if not np.isfinite(norm)]
    return wrong[:_NAMED] or [names[i] for i in np.argsort(-norms)[:3]]


def go_back(workdir: Path, step: int, to: int, windows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Returns the windows of a run that goes back from a bad step to an earlier one, and writes the event.

    Args:
      workdir: of the run.
      step: the bad one's number, from 1.
      to: the step whose state was restored.
      windows: so far.
    """
    first, last = data.position(to, windows), data.position(step - 1, windows)
    write_event(workdir, "rolled back", step=step, to=to, passed_over=[first, last])
    return [*windows, [to, last + 1 - first]]


def explain(x: Experiment, workdir: Path, first: Callable[[], TrainState], fault: Fault) -> str:
    """Returns which leaves a step's gradient wasn't finite in, and writes it down: by repeating the steps up to it.

    They are repeated from the last checkpoint, or from the beginning, by which nothing of the run changes. If the step
    turns out well this time, it wasn't the data.

    Args:
      x: the experiment.
      workdir: of the run.
      first: makes its first state.
      fault: at which the run has stopped.
    """
    restored = look(workdir, x.abstract)
    state = first() if restored is None else restored.state
    begin = int(state.step)
    if fault.step - begin > _REPEATED:
        write_event(workdir, "not repeated", step=fault.step, since=begin)
        return f"the last checkpoint, of step {begin}, is too far back to find out in which gradients"
    kind = {"jit": JitStep, "pmap": PmapStep}[x.config.compile]
    batches = experiment.train_batches(x, begin, fault.windows)
    plain = Guard(x, workdir, (), None, lambda: None).step(kind)
    state = plain.enter(state)
    for _ in range(begin, fault.step - 1):
        state, _ = plain(state, plain.place(next(batches)))
    state = plain.leave(state)
    last = GuardedStep(kind, x, Watch())
    batch = last.place(next(batches))
    _, metrics = last(last.enter(state), batch)
    batches.close()
    metrics = jax.device_get(metrics)
    again = bool(np.ravel(metrics["trigger"])[0])
    names = list(trees.flatten(x.abstract.params))
    leaves = _leaves(names, metrics["leaf_norms"].reshape(-1, len(names))[0]) if again else []
    write_event(workdir, "repeated", step=fault.step, since=begin, same=again, leaves=leaves)
    if not again:
        return "the same step made again is finite: suspect the hardware, not the data"
    more = f" and {len(leaves) - 5} more" if len(leaves) > 5 else ""
    return f"made again, it is so in the gradient of {', '.join(leaves[:5])}{more}"
