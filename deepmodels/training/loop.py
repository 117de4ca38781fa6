"""The training loop: one straight page from a config to a trained, saved and reported model."""

import inspect
import io
import itertools
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from PIL import Image
from rich.console import Console
from rich.table import Table

from deepmodels import cache, loading, parallel, trees, tuning
from deepmodels import config as configs
from deepmodels.analysis import summary
from deepmodels.errors import CheckpointError, ConfigError, DeepModelsError, WeightsError, nearest
from deepmodels.evaluation import confusion_matrix, predict
from deepmodels.tokenizers import Tokenizer
from deepmodels.training import decoding, experiment, four_bits, judging, lora
from deepmodels.training.checkpoint import Checkpoints, best_step, look, saved_steps
from deepmodels.training.compiled import JitStep, PmapStep
from deepmodels.training.damage import Damage, check_unchanged
from deepmodels.training.experiment import Experiment
from deepmodels.training.freeze import trainable_table
from deepmodels.training.frozen import FROZEN
from deepmodels.training.guard import Fault, Guard, RolledBack, TrainingError, explain, go_back
from deepmodels.training.optimizer import averaged_params
from deepmodels.training.pictures import make_pictures
from deepmodels.training.preemption import Preempted, preemptible
from deepmodels.training.progress import Progress
from deepmodels.training.report import write_report
from deepmodels.training.sinks import create_sinks, read_json_lines
from deepmodels.training.step import TrainState, of_model
from deepmodels.training.workdir import (
    open_workdir,
    peak_memory_bytes,
    provenance,
    read_config,
    read_record,
    write_record,
    writing,
)
from deepmodels.trees import PyTree

_TEXTS = 12  # in the report


class Result(NamedTuple):
    """What a run leaves behind."""

    metrics: dict[str, float]  # of the test split: "test/loss", "test/accuracy"
    state: TrainState
    report: Path


def run(config: Mapping[str, Any], workdir: str | Path, *, quiet: bool = False) -> Result:
    """Trains what `config` describes, or goes on where an earlier start of the same run stopped.

    Args:
      config: a mapping as an experiment's get_config() returns it; deepmodels.config has its keys.
      workdir: the run's folder: config.json, run.json, metrics.jsonl, metrics.csv, checkpoints/, report.html.
      quiet: prints nothing.

    Returns:
      The metrics of the test split, of the best checkpoint where config.keep.best names a metric and of the last
      otherwise; the state they are of; and the path of the report.

    Raises:
      ConfigError: the config can't be used, or isn't the one that the workdir was started with.
      DataError: the data set is missing or damaged.
      WeightsError: the weights to start from aren't there, can't be read, or don't fit the model.
      CheckpointError: a checkpoint can't be saved, or none of those there can be read.
      DiskError: another file of the run can't be written.
      TrainingError: the loss or a gradient isn't finite, or more steps were bad than config.guard allows.
      Preempted: SIGTERM came; the state is saved, and the same call goes on from it.
    """
    say = (lambda _: None) if quiet or jax.process_index() else print
    cache.enable()
    x = experiment.make(config)
    judging.check(x)
    _check_metrics(x)
    if x.config.decode is not None:
        decoding.check(x)
    given = {} if saved_steps(workdir) else experiment.pretrained(x)
    with open_workdir(workdir, x.config) as workdir, preemptible() as leaving:
        windows, bad = read_record(workdir).get("windows", []), None
        while True:
            try:
                return _train(x, workdir, given, windows, bad, leaving, say, quiet)
            except RolledBack as error:
                say(f"step {error.step:,} went wrong: back to the last checkpoint, and past its batch")
                traceback.clear_frames(error.__traceback__)  # they hold the state, of which two may not fit
                windows, bad = error.windows, error.step
            except Fault as error:
                traceback.clear_frames(error.__traceback__)
                try:
                    more = explain(x, workdir, lambda: x.init(given), error)
                except DeepModelsError as problem:
                    more = f"In which gradients can't be found out: {problem}"
                raise TrainingError(f"{error}. {more}") from None


def _train(
    x: Experiment,
    workdir: Path,
    given: Mapping[str, jax.Array],
    windows: list[list[int]],
    bad: int | None,
    leaving: Callable[[], bool],
    say: Callable[[str], None],
    quiet: bool,
) -> Result:
    """The run itself, in a folder that is its own.

    With the leaves to start from, the batches to pass over, the number of the step from which it goes back, and who
    says that it must leave.
    """
    config, every = x.config, x.config.every
    parallel.connect(x.mesh)
    watched = _watched(x)
    checkpoints = Checkpoints(workdir)
    restored = checkpoints.restore(x.abstract)
    if restored is None:
        state, evaluations = x.init(given), []
        for line in _origins(x, given):
            say(line)
    else:
        state, evaluations = restored.state, restored.record["evaluations"]
        for line in restored.warnings:
            say(f"warning: {line}")
        say(f"going on from step {int(state.step):,}")
    say(_headline(x))
    say(f"XLA's options: {tuning.profile(config.deterministic)}")
    if packed := x.abstract.variables.get(four_bits.COLLECTION):
        kernels = trees.count(four_bits.unpack({}, packed))
        say(f"{kernels:,} more of kernels in 4 bits, {trees.size_bytes(packed):,} bytes with their scales")
    if x.freeze:
        say(_text(trainable_table(x.abstract.params, x.freeze)))
    start = step = int(state.step)
    earlier = {} if restored is None else restored.record
    windows = max(windows, earlier.get("windows", []), key=len)
    if bad is not None:
        windows = go_back(workdir, bad, start, windows)
    record = provenance() | {"config": json.loads(configs.to_json(config)), "evaluations": evaluations}
    damage = Damage(x, workdir, earlier.get("damaged", {}))
    record |= {"windows": windows, "data": check_unchanged(x, earlier.get("data"))}
    sinks = []
    if jax.process_index() == 0:
        with writing(workdir):
            sinks = create_sinks(workdir, config.sinks, resume_step=None if restored is None else start)
            write_record(workdir, record)

    def close() -> None:
        checkpoints.close()
        for sink in sinks:
            sink.close()

    guard = Guard(x, workdir, windows, earlier.get("watch"), close)
    train_step = guard.step({"jit": JitStep, "pmap": PmapStep}[config.compile])
    evaluate_on, draw = judging.judged(x, experiment.make_evaluation(x)), make_pictures(x)
    state = train_step.enter(state)
    meter = Meter(x, guard)

    spoken = not quiet and jax.process_index() == 0
    with Progress(config.steps, start, config.data.batch_size, enabled=spoken) as bar:
        stop = start >= config.steps or should_stop(evaluations, config.early_stopping)
        if not stop:
            batches = parallel.prefetch(experiment.train_batches(x, start, windows), train_step.place)
            batch = next(batches)
            _write(sinks, start, train_step.compile(state, batch))
            meter.start()

        while not stop:
            meter.dispatch()
            state, metrics = train_step(state, batch)
            step += 1
            meter.add(step, metrics)
            stop = step == config.steps

            if step % every.log == 0 or step == start + 1 or stop:
                values = meter.read() | damage.count()
                _write(sinks, step, values)
                shown = {name: values[name] for name in ("loss", "accuracy") if name in values}
                bar.update(step, shown, values["data_stall"])

            improved = False
            if step % every.evaluate == 0 or stop:
                with meter.paused():
                    values = evaluate_on(watched, train_step.leave(state))
                    _show(sinks, workdir, step, draw, train_step.leave(state))
                _write(sinks, step, values)
                evaluations.append({"step": step, **values})
                improved = best_step(evaluations, config.keep) == step
                stop = stop or should_stop(evaluations, config.early_stopping)

            asked = leaving()
            if step % every.checkpoint == 0 or improved or stop or asked:
                meter.check()
                with meter.paused():
                    known = {"watch": guard.record(), "damaged": damage.record()}
                    checkpoints.save(step, train_step.leave(state), record | known)
                    checkpoints.keep(config.keep.last, also=best_step(evaluations, config.keep))
            if asked and not stop:
                checkpoints.close()
                raise Preempted(f"SIGTERM: saved step {step:,} in {workdir}; the same command goes on from there")

            if not stop:
                with meter.waiting():
                    batch = next(batches)

    checkpoints.wait()
    state, chosen = train_step.leave(state), best_step(evaluations, config.keep)
    if chosen not in (None, step):
        state = checkpoints.restore(x.abstract, step=chosen).state
        say(f"best {config.keep.best} at step {chosen:,}: testing that checkpoint")
    checkpoints.keep(config.keep.last, also=chosen)
    checkpoints.close()

    metrics, written = _tested(x, evaluate_on, "test", state)
    _write(sinks, step, metrics | damage.count())
    if config.lora is not None:
        say(_adapter(x, workdir / "adapter", state))
    with writing(workdir / "report.html"):
        report = _report(experiment.without_damaged(x, "test"), workdir, state, metrics, written)
    for sink in sinks:
        for png in sorted((workdir / "report").glob("*.png")):
            sink.images(step, f"report/{png.stem}", png)
        sink.close()
    say("  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    say(f"report: {report}")
    return Result(metrics, state, report)


def evaluate(workdir: str | Path, *, split: str = "test", step: int | None = None) -> dict[str, float]:
    """Returns the metrics of a run's checkpoint on one split, {"test/accuracy": ...}.

    Args:
      workdir: the run's folder.
      split: test, train, or validation where the config has one.
      step: the checkpoint's step; by default the best where config.keep.best names a metric, or else the last.

    Raises:
      ConfigError: the folder isn't a run, or the split isn't in its config.
      CheckpointError: there is no such checkpoint, or it can't be read.
    """
    cache.enable()
    x = experiment.make(read_config(workdir))
    if split not in x.sources:
        raise ConfigError(f"the run has no split {split!r}: {nearest(split, x.sources)}")
    evaluate_on = judging.judged(x, experiment.make_evaluation(x))
    return _tested(x, evaluate_on, split, _restored(x, Path(workdir), step))[0]


def load_run(workdir: str | Path, *, step: int | None = None) -> tuple[nn.Module, PyTree, Tokenizer | None]:
    """Returns a run's model, its variables, and the tokenizer of its data if that is of texts.

    The parameters are averaged where the run averages them, and kernels have what adapters have learned; those that
    were held in 4 bits are what these say.

    Args:
      workdir: the run's folder.
      step: as for `evaluate`.

    Raises:
      ConfigError: the folder isn't a run.
      DataError: the run's data set is missing or damaged.
      CheckpointError: there is no such checkpoint, or it can't be read.
    """
    x = experiment.make(read_config(workdir))
    state = _restored(x, Path(workdir), step)
    params = averaged_params(state.params, state.opt_state)
    variables = four_bits.whole({"params": params, **of_model(state.variables)})
    variables["params"] = lora.merge(variables["params"])
    return x.model, variables, getattr(x.sources["train"], "tokenizer", None)


def run_inputs(workdir: str | Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shape and dtype of what a run gives its model by position of one record, by the model's names.

    Args:
      workdir: the run's folder.

    Raises:
      ConfigError: the folder isn't a run.
      DataError: the run's data set is missing or damaged.
    """
    x = experiment.make(read_config(workdir))
    names = inspect.signature(x.model.__call__).parameters
    specs = experiment.model_inputs(x)
    return {n: jax.ShapeDtypeStruct(s.shape[1:], s.dtype) for n, s in zip(names, specs, strict=False)}


def _restored(x: Experiment, workdir: Path, step: int | None) -> TrainState:
    """The state of a checkpoint, by default the best or else the last."""
    restored = look(workdir, x.abstract, step)
    if restored is None:
        raise CheckpointError(f"{workdir} has no checkpoint yet")
    for line in restored.warnings:
        print(f"warning: {line}", file=sys.stderr)
    best = best_step(restored.record["evaluations"], x.config.keep)
    if step is None and best is not None:
        restored = look(workdir, x.abstract, best)
    return restored.state


class Meter:
    """Averages of the training metrics between two readings, and where the time in between went."""

    def __init__(self, x: Experiment, guard: Guard):
        """Reads nothing yet; `start` starts the clock."""
        self._guard = guard
        self._batch_size = x.config.data.batch_size
        self._learning_rate = jax.jit(x.schedule)
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []  # not looked at yet
        self._counted: list[tuple[int, dict[str, np.ndarray]]] = []

    def start(self) -> None:
        """Starts the clock, and forgets what was measured."""
        self._pending, self._counted, self._steps = [], [], 0
        self._stalled, self._idle, self._since = 0.0, 0.0, time.monotonic()
        self._free = self._since  # when the host could have given the device its next step

    def dispatch(self) -> None:
        """Says that the next step is about to be given to the device.

        If the device is through with the one before, it has been idle since some moment after that was given to it. All
        the host's time since then counts as overhead, but for that in which it waited for data.
        """
        if self._through():
            self._idle += time.monotonic() - self._free

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step, still on the device."""
        self._pending.append((step, metrics))
        self._steps, self._last = self._steps + 1, step
        self._free = time.monotonic()

    def read(self) -> dict[str, float]:
        """Returns the averages since the last reading, of the steps that count; waits for the steps to be done.

        Raises:
          TrainingError, RolledBack: as `Guard.look`.
        """
        self.check()
        read = time.monotonic()
        elapsed = read - self._since
        names = self._counted[0][1] if self._counted else ()
        values = {name: float(np.mean([metrics[name] for _, metrics in self._counted])) for name in names}
        values |= self._guard.count()
        values |= {
            "learning_rate": float(self._learning_rate(self._guard.updates(self._last) - 1)),
            "examples_per_second": self._steps * self._batch_size / elapsed,
            "data_stall": self._stalled / elapsed,
            "dispatch_overhead": self._idle / elapsed,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        self.start()
        self._since = self._free = read  # what these lines took counts
        return values

    def check(self) -> None:
        """Looks at the steps since the last time; waits for them to be done.

        Raises:
          TrainingError, RolledBack: as `Guard.look`.
        """
        pending, self._pending = jax.device_get(self._pending), []
        parallel.alive()
        self._free = time.monotonic()
        self._counted += self._guard.look(pending)

    def paused(self) -> "_Clock":
        """Returns a context whose time counts for nothing."""
        if self._pending:
            jax.block_until_ready(self._pending[-1])  # what was dispatched before still counts
            self._free = time.monotonic()
        return _Clock(self._pass)

    def waiting(self) -> "_Clock":
        """Returns a context whose time counts as waiting for data, if the device is without work at its end."""

        def wait(seconds: float) -> None:
            self._stalled += seconds if self._through() else 0.0
            self._free += seconds

        return _Clock(wait)

    def _through(self) -> bool:
        """Whether the device has done all that it was given."""
        last = self._pending[-1][1].values() if self._pending else ()
        return all(x.is_ready() for x in last if hasattr(x, "is_ready"))  # what was read is NumPy's

    def _pass(self, seconds: float) -> None:
        self._since += seconds
        self._free += seconds


class _Clock:
    def __init__(self, report):
        self._report = report

    def __enter__(self):
        self._start = time.monotonic()

    def __exit__(self, *_):
        self._report(time.monotonic() - self._start)


def should_stop(evaluations: list[dict[str, float]], early_stopping: Mapping[str, Any] | None) -> bool:
    """Returns whether the last `patience` evaluations brought no improvement of the metric.

    Args:
      evaluations: dicts of "step" and metrics.
      early_stopping: `metric`, `mode` ("min" or "max") and `patience`; None never stops.
    """
    if early_stopping is None:
        return False
    best = best_step(evaluations, {"best": early_stopping["metric"], "mode": early_stopping["mode"]})
    return best is not None and sum(values["step"] > best for values in evaluations) >= early_stopping["patience"]


def _watched(x: Experiment) -> str:
    """The split that a run looks at while it trains."""
    return "validation" if "validation" in x.sources else "test"


def _check_metrics(x: Experiment) -> None:
    watched = _watched(x)
    asked = {"config.keep.best": x.config.keep.best}
    if x.config.early_stopping is not None:
        asked["config.early_stopping.metric"] = x.config.early_stopping.metric
    asked = {name: metric for name, metric in asked.items() if metric is not None}
    known = [f"{watched}/{name}" for name in (*experiment.metric_names(x), *judging.metric_names(x))] if asked else []
    for name, metric in asked.items():
        if metric not in known:
            hint = "; set config.data.validation_size for a validation split" if watched == "test" else ""
            raise ConfigError(f"{name}: no metric {metric!r} is measured: {nearest(metric, known)}{hint}")


def _headline(x: Experiment) -> str:
    sizes = ", ".join(f"{len(source):,} {split}" for split, source in x.sources.items())
    return (
        f"{x.config.model.name}: {trees.count(x.abstract.params):,} parameters; {x.config.data.name}: {sizes}; "
        f"{x.config.steps:,} steps of {x.config.data.batch_size}; mesh {parallel.written(x.mesh.shape)}; "
        f"{x.config.precision}"
    )


def _origins(x: Experiment, given: Mapping[str, jax.Array]) -> list[str]:
    """Which leaves of the first state came from a file, and which are new; then the same of each frozen network."""
    lines = [
        f"frozen {name}: {x.config.frozen[name].model.name}, {trees.count(tree):,} numbers, "
        f"from {x.config.frozen[name].weights or 'nowhere: they are random'}"
        for name, tree in x.abstract.variables.get(FROZEN, {}).items()
    ]
    if x.config.init.weights is None:
        return lines
    leaves = trees.flatten(four_bits.whole({"params": x.abstract.params, **of_model(x.abstract.variables)}))
    given = {name: leaf for name, leaf in given.items() if name in leaves}
    new = [f"{name.partition('/')[2]} {list(leaf.shape)}" for name, leaf in leaves.items() if name not in given]
    return [
        f"{x.config.init.weights}: {len(given):,} of {len(leaves):,} leaves, {trees.count(dict(given)):,} numbers; "
        f"new at random: {', '.join(new) or 'none'}",
        *lines,
    ]


def _adapter(x: Experiment, path: Path, state: TrainState) -> str:
    """Writes what a run of LoRA has learned as peft does, where transformers has such a model."""
    kernels = x.abstract.variables.get(four_bits.COLLECTION, {})  # their shapes are enough
    try:
        params = four_bits.unpack(averaged_params(state.params, state.opt_state), kernels)
        loading.save_adapter(path, x.model, params)
    except WeightsError as error:
        return f"no files for peft: {error}"
    return f"adapter: {path}"


def _text(table: Table) -> str:
    text = io.StringIO()
    Console(file=text, width=80, color_system=None).print(table)
    return text.getvalue().rstrip()


def _write(sinks, step: int, values: Mapping[str, float]) -> None:
    for sink in sinks:
        sink.scalars(step, values)


def _tested(
    x: Experiment, evaluate_on: Callable, split: str, state: TrainState
) -> tuple[dict[str, float], decoding.Written | None]:
    """The metrics of a split, and what the model writes by itself, where the config asks for that."""
    metrics = evaluate_on(split, state)
    if x.config.decode is None:
        return metrics, None
    x = experiment.without_damaged(x, split)
    written = decoding.write(x, averaged_params(state.params, state.opt_state), state.variables, split)
    return metrics | decoding.measure(x, written, split), written


def _show(sinks, workdir: Path, step: int, draw: Callable | None, state: TrainState) -> None:
    """Draws what the model makes by now, into the folder `pictures` and for the viewers."""
    if draw is None:
        return
    pictures = draw(averaged_params(state.params, state.opt_state), state.variables)
    if jax.process_index():
        return
    with writing(workdir / "pictures"):
        (workdir / "pictures").mkdir(exist_ok=True)
        for name, pixels in pictures.items():
            Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(
                workdir / "pictures" / f"{name}-{step:07}.png"
            )
            for sink in sinks:
                sink.images(step, name, pixels)


def _report(
    x: Experiment, workdir: Path, state: TrainState, metrics: Mapping[str, float], written: decoding.Written | None
) -> Path:
    history = read_json_lines(workdir / "metrics.jsonl")
    params = averaged_params(state.params, state.opt_state)
    inputs, record, kernels = experiment.model_inputs(x), x.sources["test"][0], []
    pictures = {path.stem.rpartition("-")[0]: path for path in sorted((workdir / "pictures").glob("*.png"))}
    if pictures:
        answers = lambda *_: {"pictures": pictures}  # noqa: E731
        kernels = _looking(params, record["image"].shape)
    elif "image" in record:
        answers = lambda *_: {}  # noqa: E731
        if "label" in record:
            answers = _segmented if np.ndim(record["label"]) == 2 else _classified
        channels = inputs[0].shape[-1]
        kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 4 and leaf.shape[2] == channels]
    else:
        answers = _read if hasattr(x.sources["test"], "tokenizer") else lambda *_: {}
    if written is not None:
        answers = partial(_written, written)
    rates = [line["examples_per_second"] for line in history if "examples_per_second" in line]
    table = summary(x.model, *inputs)
    shown, filters = answers(x, params, state.variables), parallel.fetch(kernels[0]) if kernels else None
    if jax.process_index():
        return workdir / "report.html"
    return write_report(
        workdir,
        title=f"{x.config.model.name} on {x.config.data.name}",
        history=history,
        **shown,
        filters=filters,
        summary_text=str(table),
        config_text=configs.to_json(x.config),
        facts={
            **{name: f"{value:.4f}" for name, value in metrics.items()},
            "steps": int(state.step),
            "parameters": table.parameters,
            "examples per second": f"{np.median(rates):,.0f}" if rates else "-",
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "mesh": parallel.written(x.mesh.shape),
        },
    )


def _looking(params: PyTree, shape: tuple[int, ...]) -> list[jax.Array]:
    """The kernels that look at images of this shape, as (height, width, channels in, channels out)."""
    found = []
    for leaf in jax.tree.leaves(params):
        if leaf.ndim == 4 and leaf.shape[2] == shape[-1]:
            found.append(leaf)
        elif leaf.ndim == 2 and leaf.shape[0] == np.prod(shape):
            found.append(leaf.reshape(*shape, -1))
    return found


def _classified(x: Experiment, params: PyTree, variables: PyTree) -> dict[str, Any]:
    """What the report shows of a classifier's answers on the test split."""
    batches = experiment.evaluation_batches(x, "test")
    labels, probabilities = predict(experiment.make_prediction(x), params, variables, batches)
    predictions, source = probabilities.argmax(-1), x.sources["test"]
    wrong = np.flatnonzero(predictions != labels)
    surest = wrong[np.argsort(-probabilities.max(-1)[wrong], kind="stable")][:64]
    shown = np.unique(np.concatenate([np.arange(min(64, len(labels))), surest]))  # the report needs no more
    return {
        "confusion": confusion_matrix(labels, predictions, probabilities.shape[-1]),
        "class_names": x.class_names if len(x.class_names) == probabilities.shape[-1] else None,
        "samples": {
            "images": np.stack([source[int(index)]["image"] for index in shown]),
            "labels": labels[shown],
            "predictions": predictions[shown],
            "probabilities": probabilities[shown],
        },
    }


def _read(x: Experiment, params: PyTree, variables: PyTree) -> dict[str, Any]:
    """What the report shows of texts: the first of the test split, and what the model makes of them."""
    source, size = x.sources["test"], x.config.data.batch_size
    batches = [*itertools.islice(experiment.evaluation_batches(x, "test"), -(-_TEXTS // size))]
    step = experiment.make_reading(x)
    answers = parallel.fetch([step(params, variables, batch) for batch in batches])
    if answers[0][1] is None:
        classified = "label" in source[0] and np.ndim(source[0]["label"]) == 0
        return _classified_texts(x, params, variables) if classified else {}
    columns = {"input": [], "target": [], "prediction": []}
    rows = [tuple(row) for inputs, written in answers for row in zip(*inputs, written, strict=True)]
    for index, (given, *rest) in enumerate(rows[: min(_TEXTS, len(source))]):
        record, written = source[index], rest.pop()
        target = rest[0][1:] if rest else record["tokens"]  # what a decoder reads begins with what it starts from
        held = record.get("target_mask", record.get("mask", np.ones(len(written), bool)))[-len(written) :]
        columns["input"].append(source.tokenizer.decode(given.tolist()))
        columns["target"].append(source.target_tokenizer.decode(target.tolist()))
        columns["prediction"].append(source.target_tokenizer.decode(written[held].tolist()))
    return {"examples": columns}


def _written(written: decoding.Written, x: Experiment, params: PyTree, variables: PyTree) -> dict[str, Any]:
    """What the report shows of texts that the model wrote by itself."""
    source, shown = x.sources["test"], range(min(_TEXTS, len(written.texts)))
    return {
        "examples": {
            "input": [source.tokenizer.decode(source[index]["tokens"].tolist()) for index in shown],
            "target": [written.references[index] for index in shown],
            "written": [written.texts[index] for index in shown],
        },
        "attention": decoding.look(x, params, variables, written),
    }


def _classified_texts(x: Experiment, params: PyTree, variables: PyTree) -> dict[str, Any]:
    """What the report shows of a classifier of texts."""
    batches = experiment.evaluation_batches(x, "test")
    labels, probabilities = predict(experiment.make_prediction(x), params, variables, batches)
    predictions, source = probabilities.argmax(-1), x.sources["test"]
    names = x.class_names if len(x.class_names) == probabilities.shape[-1] else range(probabilities.shape[-1])
    shown = range(min(_TEXTS, len(labels)))
    return {
        "confusion": confusion_matrix(labels, predictions, probabilities.shape[-1]),
        "class_names": list(map(str, names)),
        "examples": {
            "input": [source.tokenizer.decode(source[index]["tokens"].tolist()) for index in shown],
            "target": [str(names[labels[index]]) for index in shown],
            "prediction": [f"{names[predictions[index]]} {probabilities[index].max():.0%}" for index in shown],
        },
    }


def _segmented(x: Experiment, params: PyTree, variables: PyTree) -> dict[str, Any]:
    """What the report shows of answers that are a class for each pixel, on the first pictures of the test split."""
    batches = itertools.islice(experiment.evaluation_batches(x, "test"), -(-12 // x.config.data.batch_size))
    labels, probabilities = predict(experiment.make_prediction(x), params, variables, batches)
    return {
        "class_names": x.class_names if len(x.class_names) == probabilities.shape[-1] else None,
        "samples": {
            "images": np.stack([x.sources["test"][index]["image"] for index in range(len(labels))]),
            "labels": labels,
            "predictions": probabilities.argmax(-1),
        },
    }
