"""Sweeps: one config trained with many values of a few of its keys, on this host or as an array of Slurm's.

A sweep's folder has a run's folder for each trial, `trial-0000` and on, and what came of all: sweep.csv and sweep.png.
"""

import contextlib
import csv
import itertools
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from deepmodels import config as configs
from deepmodels.errors import INTERRUPTED, ConfigError, DeepModelsError, nearest, unknown
from deepmodels.training import experiment, judging
from deepmodels.training.loop import TrainingError
from deepmodels.training.preemption import Preempted
from deepmodels.training.report import DPI, draw_sweep
from deepmodels.training.sinks import read_json_lines
from deepmodels.training.workdir import alone, read_json, replace

METHODS = ("grid", "random", "tpe")
DOWN = ("loss", "perplexity")  # of which less is better


class Range(NamedTuple):
    """Numbers from `low` to `high`, drawn evenly, or evenly in their logarithm; whole ones if both ends are."""

    low: float
    high: float
    log: bool

    def at(self, share: float) -> float:
        """Returns the number at a share, in [0, 1], of the way from `low` to `high`."""
        low, high = self.low, self.high
        whole = isinstance(low, int) and isinstance(high, int)
        if whole:
            low, high = low - 0.5 * (not self.log), high + (1 if self.log else 0.5)
        value = math.exp(math.log(low) + share * math.log(high / low)) if self.log else low + share * (high - low)
        if whole:
            value = math.floor(value) if self.log else round(value)
        return min(max(value, self.low), self.high)

    def __str__(self) -> str:
        """Returns what `parse` reads as this range."""
        return f"{'log' if self.log else 'uniform'}:{self.low}:{self.high}"


Space = Mapping[str, tuple | Range]


class Trial(NamedTuple):
    """What became of one choice of values.

    Attributes:
      number: from 0 on; its folder is `trial-0000` and so on.
      parameters: value by dotted path of the config.
      state: done, diverged, failed, or unfinished.
      value: the last of the sweep's metric that was finite and written, if it is done.
      metrics: the last values of all metrics, if it is done.
      reason: the last line of what a failed one said.
    """

    number: int
    parameters: dict[str, Any]
    state: str = "unfinished"
    value: float | None = None
    metrics: Mapping[str, float] = {}
    reason: str = ""


def parse(values: str | Sequence[Any], like: Any = None) -> tuple | Range:
    """Returns what "1e-3,1e-2", "uniform:0:0.5", "log:1e-4:1e-1" or "log:1e-4:1e-1:4" stands for.

    The first is a choice of values, and so is a list in Python's notation, or a list. The next two are ranges, of whole
    numbers if both ends are written as such. The last is a choice too, of 4 values from end to end.

    Args:
      values: a text, or a list of the values themselves.
      like: the config's value, if it has one; in place of a float no range is of whole numbers.

    Raises:
      ConfigError: the text can't be read, or names no value.
    """
    if not isinstance(values, str):
        choices = tuple(values)
    elif values.startswith(("log:", "uniform:")):
        return _range(values, of_floats=isinstance(like, float))
    else:
        whole = configs.literal(values)
        if isinstance(whole, str) and any(bracket in whole for bracket in "()[]{}"):
            raise ConfigError(f"expected values separated by commas, or a list in Python's notation, got {values!r}")
        choices = tuple(whole if isinstance(whole, list | tuple) else map(configs.literal, values.split(",")))
    if not choices or "" in choices:
        raise ConfigError(f"expected values separated by commas, got {values!r}")
    if len({repr(choice) for choice in choices}) < len(choices):
        raise ConfigError(f"a value is there twice in {values!r}")
    return choices


def _range(text: str, of_floats: bool) -> tuple | Range:
    kind, *ends = text.split(":")
    numbers = [configs.literal(end) for end in ends]
    expected = f"expected {kind}:LOW:HIGH, or {kind}:LOW:HIGH:POINTS, got {text!r}"
    if len(numbers) not in (2, 3) or not all(type(number) in (int, float) for number in numbers):
        raise ConfigError(expected)
    low, high, *points = numbers
    if not low < high or (kind == "log" and low <= 0):
        raise ConfigError(f"{expected}: LOW is less than HIGH" + (", and positive" if kind == "log" else ""))
    if of_floats:
        low, high = float(low), float(high)
    if not points:
        return Range(low, high, kind == "log")
    if not isinstance(points[0], int) or points[0] < 2:
        raise ConfigError(f"{expected}: POINTS is a whole number from 2 on")
    spaced = (np.geomspace if kind == "log" else np.linspace)(low, high, points[0])
    if isinstance(low, int) and isinstance(high, int):
        return tuple(dict.fromkeys(round(value) for value in spaced.tolist()))
    return tuple(float(f"{value:.6g}") for value in spaced.tolist())


def read_space(file: str) -> dict[str, Any]:
    """Returns what `get_sweep()` of a Python file says: values by dotted path, as `parse` takes them.

    Raises:
      ConfigError: there is no such file, or no such function in it.
    """
    module = configs.run_file(file)
    if not hasattr(module, "get_sweep"):
        raise ConfigError(f"{file!r} doesn't define get_sweep()")
    return dict(module.get_sweep())


def propose(
    space: Space, *, method: str, trials: int | None, seed: int, jobs: int, mode: str
) -> Generator[list[dict[str, Any]], Sequence[float | None], None]:
    """Yields lists of parameters that can be tried at once, and takes their values before the next list.

    A grid and random draws are one list. The n-th random draw is a function of the seed and n, so more trials are the
    same ones first. Bergstra, Bardenet, Bengio and Kegl's tree-structured Parzen estimator (2011), as Optuna has it,
    takes `jobs` at a time, and its trials are a function of the seed, of `jobs` and of the values before.

    Args:
      space: choices or a range by path.
      method: grid, random or tpe.
      trials: how many, of a grid None.
      seed: of what is drawn.
      jobs: how many tpe proposes at a time.
      mode: min or max, which values tpe is after.

    Raises:
      ConfigError: the method doesn't go with the space or the number of trials, or Optuna isn't installed.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if method == "grid":
        ranges = [path for path, values in space.items() if isinstance(values, Range)]
        if ranges:
            raise ConfigError(
                f"{ranges[0]}: a grid takes points of a range, as in log:1e-4:1e-1:4; random and tpe draw from one"
            )
        if trials is not None:
            raise ConfigError("trials: a grid has as many as there are combinations, leave it out")
        yield [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
        return
    if not isinstance(trials, int) or trials < 1:
        raise ConfigError(f"trials: {method} needs a number of them, got {trials!r}")
    if method == "random":
        yield [_drawn(space, np.random.default_rng([seed, number])) for number in range(trials)]
        return
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("method tpe needs the package optuna: pip install 'deepmodels-jax[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction={"min": "minimize", "max": "maximize"}[mode], sampler=optuna.samplers.TPESampler(seed=seed)
    )
    for start in range(0, trials, jobs):
        asked = [study.ask() for _ in range(min(jobs, trials - start))]
        values = yield [{path: _suggested(trial, path, at) for path, at in space.items()} for trial in asked]
        for trial, value in zip(asked, values, strict=True):
            failed = optuna.trial.TrialState.FAIL if value is None else None
            study.tell(trial, value, state=failed)


def _drawn(space: Space, random: np.random.Generator) -> dict[str, Any]:
    return {
        path: values.at(random.random()) if isinstance(values, Range) else values[random.integers(len(values))]
        for path, values in space.items()
    }


def _suggested(trial, path: str, values: tuple | Range) -> Any:
    if not isinstance(values, Range):
        return values[trial.suggest_categorical(path, range(len(values)))]
    whole = isinstance(values.low, int) and isinstance(values.high, int)
    return (trial.suggest_int if whole else trial.suggest_float)(path, values.low, values.high, log=values.log)


def sweep(
    config: str,
    workdir: str | Path,
    space: Mapping[str, Any],
    *,
    overrides: Mapping[str, str] | None = None,
    method: str = "grid",
    trials: int | None = None,
    seed: int = 0,
    metric: str | None = None,
    mode: str | None = None,
    jobs: int = 1,
    slurm: bool = False,
    environment: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> list[Trial]:
    """Trains a config with many values of a few of its keys, or goes on where an earlier start of the sweep stopped.

    Each trial is `deepmodels train` in a process and a folder of its own. What is done stays, and so does what has
    diverged; what failed otherwise or was interrupted starts again. All values are checked before anything starts,
    on the first device of this process: with JAX_PLATFORMS=cpu, as the command has it, it leaves a GPU to the trials.

    Args:
      config: an experiment's file, "experiments/lenet5_fashion.py:smoke".
      workdir: the sweep's folder.
      space: dotted path -> values as `parse` takes them.
      overrides: dotted path -> value as text, of all trials.
      method: grid, random or tpe; see `propose`.
      trials: how many, of a grid None.
      seed: of what is drawn, not of the training.
      metric: by which trials are compared; by default the loss of the validation split, or of test without one.
      mode: min or max; by default min for a loss or a perplexity, and an error otherwise.
      jobs: trials at a time. If CUDA_VISIBLE_DEVICES names several devices, they are dealt out.
      slurm: writes commands.txt, a line for each trial, and starts nothing; see `array`.
      environment: of the trials, os.environ by default.
      say: is told, in a line, what starts and ends.

    Returns:
      All trials, the best first; see `gather`.

    Raises:
      ConfigError: a path, a value, the metric or the method can't be used, or the folder has another sweep.
      Preempted: SIGTERM came; the trials that ran have saved, and the same call goes on.
    """
    workdir, environment, overrides = Path(workdir), dict(environment or os.environ), dict(overrides or {})
    if jobs < 1:
        raise ConfigError(f"jobs: expected how many trials run at a time, got {jobs}")
    base = configs.load(config, overrides)
    space = _parsed(space, configs.flat(base), overrides)
    chosen, mode = _checked(config, overrides, space, metric, mode)
    shares = _shares(environment, jobs)
    if slurm and method == "tpe":
        raise ConfigError("Slurm starts all trials of an array at once, and tpe chooses by results: grid or random")
    rounds = propose(space, method=method, trials=trials, seed=seed, jobs=jobs, mode=mode)
    proposed = next(rounds)
    record = {
        "spec": config,
        "config": json.loads(configs.to_json(base)),
        "overrides": overrides,
        "space": {path: str(values) if isinstance(values, Range) else values for path, values in space.items()},
        "method": method,
        "seed": seed,
        "metric": chosen,
        "mode": mode,
        **({"jobs": jobs} if method == "tpe" else {}),
    }
    _make_folder(workdir)
    with alone(workdir):
        _check_same(workdir, record)
        found: list[Trial] = []
        with contextlib.suppress(StopIteration):
            while True:
                started = [Trial(len(found) + number, values) for number, values in enumerate(proposed)]
                _check_replayed(workdir, started)
                record["trials"] = [trial.parameters for trial in (*found, *started)]
                _save(workdir / "sweep.json", record)
                if slurm:
                    _write_commands(workdir, record, started)
                else:
                    # what tpe chose next depends on what has failed, which then stays so
                    again = method != "tpe" or not _folder(workdir, len(found) + len(started)).exists()
                    _run(workdir, record, started, jobs, shares, environment, again, say)
                found += [_read(workdir, trial, chosen) for trial in started]
                proposed = rounds.send([trial.value for trial in found[-len(started) :]])
    return gather(workdir)


def gather(workdir: str | Path, *, metric: str | None = None, mode: str | None = None) -> list[Trial]:
    """Returns a sweep's trials as they stand, the best first, and writes sweep.csv and sweep.png.

    Args:
      workdir: the sweep's folder.
      metric: in place of the sweep's own.
      mode: of that, as for `sweep`.

    Raises:
      ConfigError: the folder isn't a sweep's, or its runs don't have the metric.
    """
    workdir = Path(workdir)
    record = read(workdir)
    if metric is not None:
        record["metric"], record["mode"] = metric, _mode(metric, mode)
    sign = {"min": 1, "max": -1}[record["mode"]]
    trials = [_read(workdir, Trial(n, values), record["metric"]) for n, values in enumerate(record["trials"])]
    trials.sort(key=lambda trial: (trial.value is None, sign * (trial.value or 0.0), trial.number))
    measured = {name for trial in trials for name in trial.metrics}
    if measured and record["metric"] not in measured:
        raise ConfigError(f"no trial has a metric {record['metric']!r}: {nearest(record['metric'], measured)}")
    others = sorted(name for name in measured if "/" in name and name != record["metric"])
    with open(workdir / "sweep.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["trial", "state", record["metric"], *record["space"], *others])
        for trial in trials:
            row = [trial.value, *trial.parameters.values(), *(trial.metrics.get(name) for name in others)]
            table.writerow([_folder(workdir, trial.number).name, trial.state, *row])
    done = [trial for trial in trials if trial.value is not None]
    if done:
        columns = {path: [trial.parameters[path] for trial in done] for path in record["space"]}
        logarithmic = {path for path, values in record["space"].items() if _is_logarithmic(parse(values))}
        figure = draw_sweep(record["metric"], [trial.value for trial in done], columns, logarithmic)
        figure.savefig(workdir / "sweep.png", dpi=DPI, facecolor="white")
    return trials


def array(trials: Sequence[Trial]) -> str:
    """Returns which lines of commands.txt aren't done, as Slurm's `--array` takes them: "1,4-7", or "" for none."""
    lines = sorted(trial.number + 1 for trial in trials if trial.state not in ("done", "diverged"))
    runs = [[line for _, line in group] for _, group in itertools.groupby(enumerate(lines), lambda it: it[1] - it[0])]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def read(workdir: str | Path) -> dict[str, Any]:
    """Returns what a sweep was started with: spec, config, overrides, space, method, seed, metric, mode, and trials.

    Raises:
      ConfigError: the folder isn't a sweep's.
    """
    return read_json(workdir, "sweep.json", "sweep")


def _parsed(space: Mapping[str, Any], config: Mapping[str, Any], overrides: Mapping[str, str]) -> Space:
    if not space:
        raise ConfigError("a sweep needs values to try: --sweep.optimizer.learning_rate=1e-3,1e-2")
    parsed = {}
    for path, values in space.items():
        if path in overrides:
            raise ConfigError(f"{path} has one value of all trials and values to sweep over: leave one of them out")
        try:
            parsed[path] = parse(values, config.get(path))
        except ConfigError as error:
            raise ConfigError(f"--sweep.{path}: {error}") from error
    return parsed


def _checked(
    spec: str, overrides: Mapping[str, str], space: Space, metric: str | None, mode: str | None
) -> tuple[str, str]:
    """Makes the experiment with each value once, on one device, and returns the metric and its mode."""
    made = None
    tries = {path: (values.low, values.high) if isinstance(values, Range) else values for path, values in space.items()}
    first = {path: values[0] for path, values in tries.items()}
    seen = set()
    for path, values in tries.items():
        for value in values:
            changed = first | {path: value}
            if repr(changed) in seen:
                continue
            seen.add(repr(changed))
            try:
                config = configs.load(spec, {**overrides, **{name: _text(v) for name, v in changed.items()}})
                with config.unlocked():
                    config.mesh = {"data": 1}  # the trials' devices may be others
                made = experiment.make(config, jax.devices()[:1])
            except DeepModelsError as error:
                raise ConfigError(f"{path}={_text(value)}: {error}") from error
    names = [*experiment.metric_names(made), *judging.metric_names(made)]
    watched = "validation" if "validation" in made.sources else "test"
    known = [f"{split}/{name}" for split in dict.fromkeys((watched, "test")) for name in names]
    if made.config.decode is not None:
        known += [f"test/{name}" for name in made.config.decode.metrics]
    metric = metric or f"{watched}/loss"
    if metric not in known:
        raise ConfigError(f"no metric {metric!r} is measured: {nearest(metric, known)}")
    return metric, _mode(metric, mode)


def _mode(metric: str, mode: str | None) -> str:
    if mode is None and metric.endswith(DOWN):
        return "min"
    if mode not in ("min", "max"):
        raise ConfigError(f"mode: which values of {metric} are better, 'min' or 'max'? got {mode!r}")
    return mode


def _make_folder(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"workdir {str(workdir)!r} can't be written: {error.strerror}") from error
    if (workdir / "config.json").exists():
        raise ConfigError(f"workdir {str(workdir)!r} holds a run, and a sweep needs a folder of its own")


def _check_same(workdir: Path, record: Mapping[str, Any]) -> None:
    """Raises ConfigError if the folder has another sweep."""
    if not (workdir / "sweep.json").exists():
        return
    old, new = read(workdir), json.loads(json.dumps(record))
    lines = configs.differences(configs.complete(old["config"]), configs.complete(new["config"]))
    keys = ["space", "method", "seed", *(["jobs", "metric", "mode"] if "jobs" in old else [])]
    lines += [f"{key}: {old[key]!r} -> {new.get(key)!r}" for key in keys if old[key] != new.get(key)]
    if lines:
        raise ConfigError(
            f"workdir {str(workdir)!r} holds another sweep:\n  "
            + "\n  ".join(lines)
            + "\nGo on with the old values, or choose another workdir"
        )


def _check_replayed(workdir: Path, trials: Sequence[Trial]) -> None:
    """Raises ConfigError if trials of an earlier start weren't with the values that are proposed now."""
    for trial in trials:
        path = _folder(workdir, trial.number) / "trial.json"
        if path.exists():
            then, now = json.loads(path.read_text())["parameters"], json.loads(json.dumps(trial.parameters))
            if then != now:
                raise ConfigError(
                    f"{path} was made with {then}, and now it would be {now}: another version of what draws them, or "
                    "results that have changed since. Choose another workdir"
                )


def _folder(workdir: Path, number: int) -> Path:
    return workdir / f"trial-{number:04}"


def _read(workdir: Path, trial: Trial, metric: str) -> Trial:
    """A trial as its folder shows it."""
    folder = _folder(workdir, trial.number)
    if (folder / "report.html").exists():  # the last that a run writes
        metrics: dict[str, float] = {}
        for line in read_json_lines(folder / "metrics.jsonl"):
            metrics |= {name: value for name, value in line.items() if value is not None and name != "step"}
        return trial._replace(state="done", value=metrics.get(metric), metrics=metrics)
    path = folder / "trial.json"
    code = json.loads(path.read_text()).get("exit_code") if path.exists() else None
    if code in (None, Preempted.exit_code, INTERRUPTED):
        return trial
    said = (folder / "log.txt").read_text(errors="replace").split("\n") if (folder / "log.txt").exists() else []
    reason = next((line for line in reversed(said) if line.strip()), f"exit code {code}")
    return trial._replace(state="diverged" if code == TrainingError.exit_code else "failed", reason=reason)


def _arguments(workdir: Path, record: Mapping[str, Any], trial: Trial) -> list[str]:
    """What `deepmodels` is called with."""
    values = {**record["overrides"], **{path: _text(value) for path, value in trial.parameters.items()}}
    return [
        "train",
        f"--config={record['spec']}",
        f"--workdir={_folder(workdir, trial.number)}",
        *(f"--config.{path}={value}" for path, value in values.items()),
    ]


def _text(value: Any) -> str:
    """A value as `--config.path=` takes it."""
    return value if isinstance(value, str) and configs.literal(value) == value else repr(value)


def _write_commands(workdir: Path, record: Mapping[str, Any], trials: Sequence[Trial]) -> None:
    lines = [shlex.join(["deepmodels", *_arguments(workdir, record, trial)]) for trial in trials]
    (workdir / "commands.txt").write_text("".join(f"{line}\n" for line in lines))


def _shares(environment: Mapping[str, str], jobs: int) -> list[str] | None:
    """The devices of each of `jobs` trials at a time, if CUDA_VISIBLE_DEVICES says which there are."""
    devices = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if not devices or jobs == 1:
        return None
    each, rest = divmod(len(devices), jobs)
    if rest or not each:
        raise ConfigError(f"jobs: {len(devices)} devices of CUDA_VISIBLE_DEVICES can't be dealt out to {jobs} trials")
    return [",".join(devices[slot * each : (slot + 1) * each]) for slot in range(jobs)]


def _run(
    workdir: Path,
    record: Mapping[str, Any],
    trials: Sequence[Trial],
    jobs: int,
    shares: Sequence[str] | None,
    environment: Mapping[str, str],
    again: bool,
    say: Callable[[str], None],
) -> None:
    """Runs what isn't done, `jobs` at a time; what has failed only `again`."""
    states = {trial.number: _read(workdir, trial, record["metric"]).state for trial in trials}
    over = {"done", "diverged"} if again else {"done", "diverged", "failed"}
    waiting = [trial for trial in trials if states[trial.number] not in over]
    if len(waiting) < len(trials):
        say(f"{len(trials) - len(waiting)} trials are done")
    slots, running = list(range(jobs)), {}  # slot -> trial, its process, and when it started
    with _terminating() as asked:
        try:
            while waiting or running:
                if asked.is_set():
                    raise Preempted("SIGTERM: the trials that ran have saved; the same command goes on from there")
                while waiting and slots:
                    slot, trial = slots.pop(0), waiting.pop(0)
                    own = {} if shares is None else {"CUDA_VISIBLE_DEVICES": shares[slot]}
                    running[slot] = trial, _start(workdir, record, trial, {**environment, **own}), time.monotonic()
                    say(f"trial {trial.number}: {_shown(trial.parameters)}")
                time.sleep(0.05)
                for slot, (trial, process, since) in list(running.items()):
                    if process.poll() is not None:
                        del running[slot]
                        slots.append(slot)
                        _end(workdir, trial, process)
                        say(_outcome(_read(workdir, trial, record["metric"]), time.monotonic() - since))
        except BaseException:
            for _, process, _ in running.values():
                process.terminate()  # it saves
            try:
                for trial, process, _ in running.values():
                    process.wait()
                    _end(workdir, trial, process)
            except KeyboardInterrupt:  # once more
                for _, process, _ in running.values():
                    process.kill()
            raise


def _start(workdir: Path, record: Mapping[str, Any], trial: Trial, environment: Mapping[str, str]) -> subprocess.Popen:
    folder = _folder(workdir, trial.number)
    folder.mkdir(exist_ok=True)
    _save(folder / "trial.json", {"parameters": trial.parameters})
    command = [sys.executable, "-m", "deepmodels", *_arguments(workdir, record, trial)]
    with open(folder / "log.txt", "a") as log:
        return subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a terminal's Ctrl-C is for the sweep, which has its trials save
        )


def _end(workdir: Path, trial: Trial, process: subprocess.Popen) -> None:
    path = _folder(workdir, trial.number) / "trial.json"
    _save(path, {"parameters": trial.parameters, "exit_code": process.returncode})


@contextlib.contextmanager
def _terminating() -> Iterator[threading.Event]:
    """Yields what SIGTERM sets, where Python takes signals."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _outcome(trial: Trial, seconds: float) -> str:
    if trial.state == "done":
        value = "has no such metric" if trial.value is None else f"{trial.value:.6g}"
        return f"trial {trial.number}: {value} after {seconds:.0f} s"
    return f"trial {trial.number}: {trial.state} after {seconds:.0f} s: {trial.reason}"


def _shown(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{path}={shown(value)}" for path, value in parameters.items())


def shown(value: Any) -> str:
    """Returns a value of a parameter in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_logarithmic(values: tuple | Range) -> bool:
    """Whether values are better shown on a logarithmic axis."""
    if isinstance(values, Range):
        return values.log
    numbers = all(type(value) in (int, float) and value > 0 for value in values)
    return numbers and max(values) >= 10 * min(values)


def _save(path: Path, data: Any) -> None:
    replace(path, json.dumps(data, indent=2) + "\n")
