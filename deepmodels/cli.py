"""The `deepmodels` command: train, evaluate, convert, list, info ... Each is a Python call, named in its help."""

import argparse
import collections
import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from deepmodels import memory
from deepmodels.errors import INTERRUPTED, ConfigError, DeepModelsError
from deepmodels.version import __version__


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits: 0 done, 1 an error that is said in one paragraph, 2 wrong usage, 130 interrupted.

    And of training: 75 asked to leave and saved, 76 stuck or left by the others: start it again; 77 diverged: don't.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if arguments is None and options.command in ("train", "certify", "evaluate", "sample"):  # what computes for long
        memory.restart_with_huge_pages()
    try:
        if options.command == "sweep":
            rest, options.space = _space(rest)
        overridable = options.command in ("train", "certify", "estimate", "sweep")
        overrides = _overrides(rest) if overridable else {}
        if rest and not overridable:
            parser.error(f"unknown arguments: {' '.join(rest)}")
        options.run(options, overrides)
    except DeepModelsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the output has seen enough


def train(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """deepmodels.train(deepmodels.load_config(CONFIG), WORKDIR)"""
    from deepmodels import config

    loaded = config.load(options.config, overrides)  # before the slow imports: a mistyped key shows at once
    from deepmodels import parallel, training

    with parallel.together(
        options.coordinator,
        options.num_processes,
        options.process_id,
        heartbeat_seconds=options.heartbeat_seconds,
        meeting_seconds=options.meeting_seconds,
        stuck_seconds=options.stuck_seconds,
    ):
        training.train(loaded, options.workdir, quiet=options.quiet)


def certify(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """deepmodels.training.certify(deepmodels.load_config(CONFIG), WORKDIR, steps=...)"""
    from deepmodels import config

    loaded = config.load(options.config, overrides)
    from deepmodels import training

    found = training.certify(loaded, options.workdir, steps=options.steps)
    history = f"{found.steps} steps, and the same killed by SIGKILL after step {found.killed_after} and started again"
    if found.same:
        verdict = f"the same state to the bit, sha256 {found.sha256['killed']}"
    else:
        verdict = f"NOT the same state: {', '.join(found.differing[:5])} ({len(found.differing)} leaves)"
    _show(options, found._asdict(), lambda: [f"{history}: {verdict}", str(Path(options.workdir, "certificate.json"))])
    if not found.same:
        sys.exit(1)


def sweep(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """deepmodels.training.sweep(CONFIG, WORKDIR, SPACE, ...), or deepmodels.training.gather(WORKDIR)"""
    environment = dict(os.environ)
    os.environ["JAX_PLATFORMS"] = "cpu"  # this process only checks: the devices are the trials'
    from rich.table import Table

    from deepmodels import training
    from deepmodels.training import sweeps

    if options.gather:
        trials = training.gather(options.workdir, metric=options.metric, mode=options.mode)
    else:
        if options.config is None:
            raise ConfigError("--config is missing: the experiment's file")
        trials = training.sweep(
            options.config,
            options.workdir,
            {**(sweeps.read_space(options.values) if options.values else {}), **options.space},
            overrides=overrides,
            method=options.method,
            trials=options.trials,
            seed=options.seed,
            metric=options.metric,
            mode=options.mode,
            jobs=options.jobs,
            slurm=options.slurm,
            environment=environment,
            say=(lambda _: None) if options.json else partial(print, flush=True),
        )
    folder = Path(options.workdir)
    if options.slurm and not options.gather:
        commands, lines = shlex.quote(str(folder / "commands.txt")), sweeps.array(trials)
        print(
            f"sbatch --nodes=1 --array={lines}%{options.jobs} launch/slurm.sbatch {commands}"
            if lines
            else "all trials are done: --gather"
        )
        return
    metric = options.metric or sweeps.read(folder)["metric"]
    names = list(trials[0].parameters)
    table = Table("trial", metric, *names, "state", box=None, header_style="bold")
    for trial in trials:
        value = "-" if trial.value is None else f"{trial.value:.5g}"
        parameters = (sweeps.shown(trial.parameters[name]) for name in names)
        table.add_row(str(trial.number), value, *parameters, trial.state)
    counts = collections.Counter(trial.state for trial in trials)
    lines = [table, f"{folder / 'sweep.csv'}: " + ", ".join(f"{count} {state}" for state, count in counts.items())]
    lines += [f"trial {trial.number} {trial.state}: {trial.reason}" for trial in trials if trial.reason]
    _show(options, [trial._asdict() for trial in trials], lambda: lines)
    if counts["failed"] or (counts["unfinished"] and not options.gather):
        sys.exit(1)


def evaluate(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """deepmodels.evaluate(WORKDIR, split=..., step=...)"""
    from deepmodels import training

    metrics = training.evaluate(options.workdir, split=options.split, step=options.step)
    _show(options, metrics, lambda: [f"{name}  {value:.4f}" for name, value in metrics.items()])


def convert(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """deepmodels.convert(MODEL, SRC, DST, source=..., cast=..., num_classes=...)"""
    from deepmodels import loading

    size = {} if options.num_classes is None else {"num_classes": options.num_classes}
    done = loading.convert(options.model, options.src, options.dst, source=options.source, cast=options.cast, **size)
    text = f"{options.dst}: {done.tensors} tensors, {done.elements:,} numbers, sha256 {done.sha256}"
    _show(options, done._asdict(), lambda: [text])


def export(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """deepmodels.export(MODEL, VARIABLES, FILE, only=..., length=..., sizes=..., platforms=...)"""
    from deepmodels import cache, exporting, trees

    cache.enable()
    sizes = dict(size for text in options.size for size in _sizes("--size", text, "a name and a number, batch=1"))
    model, variables, inputs = _exportable(options.what, options.weights)
    settings = dict(inputs=inputs, length=options.length, sizes=sizes)
    platforms = options.platforms.split(",")
    names = exporting.export(model, variables, options.to, only=options.function, platforms=platforms, **settings)
    apart = exporting.difference(model, variables, options.to, **settings)
    facts = {"file": options.to, "bytes": Path(options.to).stat().st_size, "functions": names, "difference": apart}
    text = f"{options.to}: {', '.join(names)}, {trees.count(variables):,} numbers, {facts['bytes']:,} bytes"
    if apart is None:
        ran = f"not run back: it is for {options.platforms}"
    else:
        ran = f"run back, differs from the model by at most {max(apart.values()):.2g}"
    _show(options, facts, lambda: [text, ran])


def _exportable(name: str, weights: str | None):
    """A model, its variables, and what its call takes where its name or its run says so, or else None."""
    from deepmodels import exporting, loading, models
    from deepmodels.errors import unknown
    from deepmodels.weights import hub

    if name in models.MODELS:
        inputs = models.MODELS[name].inputs
        if weights is not None:
            return *loading.load(name, weights, cast=True), inputs
        print("the parameters are fresh ones, of seed 0: --weights gives others", file=sys.stderr)
        return *exporting.fresh(name), inputs
    if weights is not None:
        raise ConfigError(f"--weights is for a model by its name, and {name!r} is none: `deepmodels list` shows them")
    if Path(name, "checkpoints").is_dir():
        from deepmodels import training

        model, variables, _ = training.load_run(name)
        return model, variables, training.run_inputs(name)
    if not Path(name).exists() and "/" not in name:
        raise unknown("model", name, models.MODELS)
    if Path(name).is_dir() and not Path(name, "config.json").is_file():
        raise ConfigError(f"{name!r} is neither a run, with checkpoints, nor a model's folder, with a config.json")
    return *loading.load_folder(hub.find(name), cast=True), None


def sample(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """deepmodels.generate(MODEL, VARIABLES, PROMPTS, ...); text_to_image.generate(PIPELINE, PROMPTS, ...)"""
    from deepmodels import cache, generation, tokenizers

    cache.enable()
    if Path(options.model, "model_index.json").is_file():
        _pictures(options)
        return
    if options.output is not None:
        raise ConfigError(f"--output is for a model that makes pictures: there is no {options.model}/model_index.json")
    model, variables, folder, tokenizer = _decoder(options.model, options.weights)
    if options.adapter is not None:
        from deepmodels import loading
        from deepmodels.training import lora

        adapted = loading.load_adapter(options.adapter, model, variables["params"])
        variables = {**variables, "params": lora.merge(adapted)}
    draft = None if options.draft is None else _decoder(options.draft, None)[:2]
    place = options.tokenizer or folder
    if place is not None:
        tokenizer = tokenizers.load(place)
    if tokenizer is None or (options.chat and place is None):
        raise ConfigError(f"{options.model!r} is no folder with a tokenizer: give --tokenizer")
    prompts = options.prompt
    if options.chat:
        chat = tokenizers.load_chat(place)
        system = [] if options.system is None else [{"role": "system", "content": options.system}]
        texts = [chat.render([*system, {"role": "user", "content": prompt}]) for prompt in prompts]
        prompts = [tokenizer.encode(text) for text in texts]  # the template writes all special tokens itself
    elif options.system is not None:
        raise ConfigError("--system is for a chat: give --chat")
    live = len(prompts) == 1 and options.num_beams == 1 and not options.json

    def tell(number: int, piece: str) -> None:
        print(piece, end="", flush=True)

    completions = generation.generate(
        model,
        variables,
        prompts,
        tokenizer=tokenizer,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        num_beams=options.num_beams,
        end_tokens=None if folder is None else generation.end_tokens_of(folder),
        stop=options.stop,
        draft=draft,
        draft_tokens=options.draft_tokens,
        quantized=options.int8_cache,
        seed=options.seed,
        on_text=tell if live else None,
    )
    if live:
        print()
        return
    rows = [{"prompt": p, **c._asdict()} for p, c in zip(options.prompt, completions, strict=True)]
    _show(options, rows, lambda: [f"{row['prompt']}\n> {row['text']}" for row in rows])


def _pictures(options: argparse.Namespace) -> None:
    """Writes pictures that texts describe, and on request what they were after each step."""
    import numpy as np
    from PIL import Image
    from rich.progress import Progress

    from deepmodels import text_to_image

    if options.output is None:
        raise ConfigError(f"--model {options.model} makes pictures: give --output FILE.png")
    pipeline = text_to_image.load(options.model)
    given = {name: _pixels(getattr(options, name), mode) for name, mode in (("image", "RGB"), ("mask", "L"))}

    def write(images: np.ndarray, suffix: str = "") -> None:
        for number, image in enumerate(np.round(images * 255).astype(np.uint8)):
            several = f"-{number}" if len(images) > 1 else ""
            path = options.output.with_stem(f"{options.output.stem}{several}{suffix}")
            Image.fromarray(image).save(path)
            print(path)

    options.output.parent.mkdir(parents=True, exist_ok=True)
    with Progress(disable=options.json or not sys.stderr.isatty()) as progress:
        task = progress.add_task("denoising", total=None)
        made = text_to_image.generate(
            pipeline,
            options.prompt,
            negative_prompt=options.negative_prompt,
            steps=options.steps,
            guidance_scale=options.guidance_scale,
            height=options.height,
            width=options.width,
            strength=options.strength,
            sampler=options.sampler,
            seed=options.seed,
            tile=options.tile,
            on_step=lambda number: progress.update(task, completed=int(number) + 1, total=options.steps),
            trace=options.every_step,
            **given,
        )
    write(made.images)
    for number, latents in enumerate(made.trace if options.every_step else ()):
        write(text_to_image.decode(pipeline, latents, tile=options.tile), f"-step{number + 1:03}")


def _pixels(path: Path | None, mode: str):
    """A picture's values in [0, 1], or None."""
    import numpy as np
    from PIL import Image

    if path is None:
        return None
    try:
        return np.asarray(Image.open(path).convert(mode), np.float32) / 255
    except OSError as error:
        raise ConfigError(f"{path} can't be read as a picture: {error}") from error


def _decoder(name: str, weights: str | None):
    """A model that writes texts, its variables in float32, and the model's folder or the run's tokenizer, if any."""
    from deepmodels import loading, models
    from deepmodels.weights import hub

    tokenizer = None
    if Path(name, "checkpoints").is_dir():
        from deepmodels import training

        model, variables, tokenizer = training.load_run(name)
        folder = None
    elif name in models.MODELS:
        if weights is None:
            raise ConfigError(f"--model {name}: a name says the sizes only: give --weights too, or a model's folder")
        model, variables = loading.load(name, weights, cast=True)
        folder = None
    else:
        if weights is not None:
            raise ConfigError(
                f"--weights is for a model by its name, and {name!r} is none: `deepmodels list` shows them"
            )
        folder = hub.find(name)
        model, variables = loading.load_folder(folder, cast=True)
    if not hasattr(model, "extend"):
        raise ConfigError(f"--model {name}: a {type(model).__name__} doesn't write texts token by token")
    return model, variables, folder, tokenizer


def train_tokenizer(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """deepmodels.tokenizers.train_bpe(FILES, vocab_size, OUT, special=...)"""
    from deepmodels import tokenizers

    made = tokenizers.train_bpe(options.files, options.vocab_size, options.out, special=options.special)
    _show(options, None, lambda: [f"{options.out}: {made.vocab_size:,} ids"])


def list_models(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """deepmodels.list_models(PATTERN)"""
    from rich.table import Table

    from deepmodels import analysis

    rows = analysis.table(options.pattern)
    if not rows:
        raise ConfigError(f"no model's name matches {options.pattern!r}; `deepmodels list` shows all")
    table = Table("name", "family", "year", "parameters", "input", "paper", box=None, header_style="bold")
    for row in rows:
        shapes = ", ".join("x".join(map(str, spec["shape"])) for spec in row["input"].values())
        table.add_row(row["name"], row["family"], str(row["year"]), f"{row['parameters']:,}", shapes, row["paper"])
    _show(options, rows, lambda: [table])


def info(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """deepmodels.info(NAME), or deepmodels.analysis.placement(NAME, MESH)"""
    from deepmodels import analysis, models

    if options.mesh is not None:
        from rich.table import Table

        places = analysis.placement(options.name, _mesh(options.mesh))
        table = Table("parameter", "shape", "divided by", "bytes of a device", box=None, header_style="bold")
        for place in places:
            divided = ", ".join(axis or "-" for axis in place.axes) if any(place.axes) else "whole"
            table.add_row(place.name, "x".join(map(str, place.shape)) or "scalar", divided, f"{place.bytes:,}")
        total = f"{options.name} on {options.mesh}: {sum(place.bytes for place in places):,} bytes of each device"
        _show(options, [place._asdict() for place in places], lambda: [table, total])
        return
    if options.json:
        print(json.dumps(analysis.info(options.name), indent=2))
        return
    model = models.create(options.name)
    variant = models.MODELS[options.name]
    table = analysis.summary(model, *analysis.example(variant), depth=options.depth)
    _show(options, None, lambda: [f"{options.name}: {variant.family}, {variant.year}. {variant.paper}", table])


def estimate(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """deepmodels.estimate(CONFIG_OR_NAME, mesh=..., hardware=..., tokens=..., ...)"""
    devices, hardware = None, options.hardware
    if options.topology is not None:  # before JAX starts
        from deepmodels import parallel

        devices = parallel.described_devices(options.topology)
        if devices is not None and hardware is None:
            hardware = f"tpu_{options.topology.split(':')[1]}"
    from deepmodels import cache, config, training

    cache.enable()
    named = ".py" not in options.what
    if named and overrides:
        raise ConfigError("--config.a.b=value is for an experiment's config, not for a model by its name")
    found = training.estimate(
        options.what if named else config.load(options.what, overrides),
        mesh=None if options.mesh is None else _mesh(options.mesh),
        batch_size=options.batch_size,
        devices=devices,
        hardware=hardware,
        tokens=options.tokens,
        utilisation=options.utilisation,
        price=options.price,
    )
    _show(options, found.to_dict(), lambda: [str(found)])


def _mesh(text: str) -> dict[str, int]:
    """The sizes of "data=2,fsdp=4,dcn.data=2"."""
    sizes = {}
    for name, size in _sizes("--mesh", text, "axis=size, separated by commas: data=2,fsdp=4"):
        outer, _, axis = name.rpartition(".")
        (sizes.setdefault(outer, {}) if outer else sizes)[axis] = size
    return sizes


def _sizes(flag: str, text: str, expected: str) -> list[tuple[str, int]]:
    """The names and numbers of "batch=1,tokens_length=128"."""
    sizes = []
    for part in text.split(","):
        name, equals, size = part.partition("=")
        if not equals or not size.lstrip("-").isdigit():
            raise ConfigError(f"{flag} {text}: expected {expected}")
        sizes.append((name.strip(), int(size)))
    return sizes


def doctor(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """deepmodels.analysis.doctor.checks(), or deepmodels.training.check_run(WORKDIR)"""
    from deepmodels import cache
    from deepmodels.analysis.doctor import checks

    cache.enable()
    if options.workdir is not None:
        from deepmodels import training

        rows = training.check_run(options.workdir)
    else:
        rows = checks()
    _show(
        options,
        [check._asdict() for check in rows],
        lambda: [f"{'ok  ' if check.ok else '--  '}{check.name}: {check.detail}" for check in rows],
    )
    if options.workdir is not None and not all(check.ok for check in rows):
        sys.exit(1)


def parity(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """parity/ledger.py, which isn't part of the package, as it imports torch"""
    import subprocess

    ledger = Path(__file__).parent.parent / "parity" / "ledger.py"
    if not ledger.exists():
        raise ConfigError(f"the ledger is measured in a clone of the repository: there is no {ledger}")
    needed = ("torch", "torchvision", "timm", "transformers", "diffusers")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} missing: pip install -e '.[parity]' in {ledger.parent.parent}")
    sys.exit(subprocess.run([sys.executable, str(ledger), *options.names]).returncode)


def bench(options: argparse.Namespace, overrides: dict[str, str]) -> None:
    """benchmarks/bench.py, which isn't part of the package, as its peers import torch"""
    import subprocess

    script = Path(__file__).parent.parent / "benchmarks" / "bench.py"
    if not script.exists():
        raise ConfigError(f"speed is measured in a clone of the repository: there is no {script}")
    given = {name: value for name, value in vars(options).items() if name not in ("command", "run")}
    given |= {name: given[name].split(",") for name in ("against", "tasks")}
    sys.exit(subprocess.run([sys.executable, str(script), json.dumps(given)]).returncode)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deepmodels", description="Train and inspect every landmark deep model.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, text: str, parsers=commands) -> argparse.ArgumentParser:
        sub = parsers.add_parser(name, help=text, description=f"{text} In Python: {run.__doc__}.", allow_abbrev=False)
        sub.set_defaults(run=run)
        return sub

    sub = command("train", train, "Train what a config describes, or go on where it stopped.")
    sub.add_argument(
        "--config", required=True, metavar="FILE[:SIZE]", help="an experiment's file, and one of its sizes"
    )
    sub.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
    sub.add_argument("--quiet", action="store_true", help="print nothing")
    sub.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where nothing else says it")
    sub.add_argument("--num-processes", type=int, metavar="N", help="of the run, on all hosts")
    sub.add_argument("--process-id", type=int, metavar="I", help="of this one, from 0 on")
    for name, default, text in (
        ("heartbeat", 60, "after which the others end if a process is silent"),
        ("meeting", 300, "in which all processes have to be there"),
        ("stuck", 1800, "without a batch or a result after which a process ends; 0 for never"),
    ):
        text = f"{text} (default: {default})"
        sub.add_argument(f"--{name}-seconds", type=int, default=default, metavar="S", help=text)
    sub.epilog = "Any value of the config: --config.optimizer.learning_rate=1e-3"

    sub = command(
        "certify", certify, "Prove that a config's training, killed and started again, is the same to the bit."
    )
    sub.add_argument(
        "--config", required=True, metavar="FILE[:SIZE]", help="an experiment's file, and one of its sizes"
    )
    sub.add_argument("--workdir", required=True, metavar="DIR", help="a folder for both runs and certificate.json")
    sub.add_argument("--steps", type=int, default=20, metavar="N", help="of each run, an even number (default: 20)")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.epilog = "Any value of the config: --config.optimizer.learning_rate=1e-3"

    sub = command("sweep", sweep, "Train a config with many values of a few of its keys, and compare.")
    sub.add_argument("--config", metavar="FILE[:SIZE]", help="an experiment's file, and one of its sizes")
    sub.add_argument("--workdir", required=True, metavar="DIR", help="the sweep's folder, with one for each trial")
    sub.add_argument("--values", metavar="FILE", help="a Python file whose get_sweep() has values by path")
    sub.add_argument("--method", default="grid", help="grid (default), random, or tpe, which is Optuna's")
    sub.add_argument("--trials", type=int, metavar="N", help="of random and tpe")
    sub.add_argument("--seed", type=int, default=0, help="of what random and tpe draw (default: 0)")
    sub.add_argument("--metric", metavar="NAME", help="default: validation/loss, or test/loss without that split")
    sub.add_argument("--mode", metavar="min|max", help="which of its values are better; of a loss: min")
    sub.add_argument("--jobs", type=int, default=1, metavar="N", help="trials at a time (default: 1)")
    sub.add_argument("--slurm", action="store_true", help="write a file of commands for an array, and start nothing")
    sub.add_argument("--gather", action="store_true", help="start nothing, and compare the trials that the folder has")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.epilog = (
        "What is tried: --sweep.optimizer.learning_rate=1e-3,1e-2, or uniform:LOW:HIGH, log:LOW:HIGH, and with "
        ":POINTS behind it for a grid. Any value of all trials: --config.steps=100"
    )

    sub = command("evaluate", evaluate, "Measure a run's checkpoint on one split.")
    sub.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
    sub.add_argument("--split", default="test", help="test (default), train or validation")
    sub.add_argument("--step", type=int, help="the checkpoint's step; default: the best one kept, or the last")
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = command("convert", convert, "Write a model's weights in another format, after checking that they fit it.")
    sub.add_argument("src", metavar="SRC", help="a file, a folder, or owner/name on the Hugging Face hub")
    sub.add_argument(
        "dst", metavar="DST", help=".safetensors with another library's names, .npz or a folder of orbax with our own"
    )
    sub.add_argument("--model", required=True, metavar="NAME", help="as `deepmodels list` prints it")
    sub.add_argument("--source", default="torchvision", help="whose names a .safetensors gets (default: torchvision)")
    sub.add_argument("--num-classes", type=int, help="where it isn't the model's own")
    sub.add_argument("--cast", action="store_true", help="convert floats of another precision")
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = command("export", export, "Write a model as a program that runs without this library, and run it back.")
    sub.add_argument("what", metavar="NAME|RUN|FOLDER", help="a model's name, a run's folder, a model's, or owner/name")
    sub.add_argument("--to", required=True, metavar="FILE", help="x.stablehlo, or x.onnx with the package jax2onnx")
    sub.add_argument("--weights", metavar="FILE", help="of a model by its name; default: fresh ones")
    sub.add_argument(
        "--function", action="append", metavar="NAME", help="call, prefill, step, encode ...: default: all, in ONNX one"
    )
    sub.add_argument("--length", type=int, metavar="N", help="positions of a text that is written; default: all")
    sub.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="NAME=N",
        help="fix what would be of any size, batch=1 or tokens_length=128; may be given again",
    )
    sub.add_argument("--platforms", default="cpu,cuda,tpu", help="of StableHLO (default: cpu,cuda,tpu)")
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = command(
        "sample", sample, "Let a language model go on with a text or answer in a chat; or make pictures of one."
    )
    sub.add_argument(
        "--model",
        required=True,
        metavar="FOLDER_OR_NAME",
        help="a model's folder, a run's, owner/name on the hub, or a name",
    )
    sub.add_argument("--weights", metavar="FILE", help="of a model by its name")
    sub.add_argument("--adapter", metavar="FOLDER", help="of LoRA, as peft or a run with config.lora writes it")
    sub.add_argument("--tokenizer", metavar="PATH", help="where it isn't in the model's folder")
    sub.add_argument("--prompt", required=True, action="append", metavar="TEXT", help="may be given several times")
    sub.add_argument(
        "--chat", action="store_true", help="the prompt is a user's message, by the folder's chat template"
    )
    sub.add_argument("--system", metavar="TEXT", help="what a chat begins with")
    sub.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="default: 128")
    sub.add_argument("--temperature", type=float, metavar="X", help="draws tokens; default: the likeliest each time")
    sub.add_argument("--top-k", type=int, metavar="N", help="draws from the likeliest N")
    sub.add_argument("--top-p", type=float, metavar="P", help="draws from the likeliest with probability P together")
    sub.add_argument("--min-p", type=float, metavar="P", help="draws from those with P of the likeliest's probability")
    sub.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1 against repetition")
    sub.add_argument("--num-beams", type=int, default=1, metavar="N", help="a beam search")
    sub.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends the text; may be given again")
    sub.add_argument("--draft", metavar="FOLDER", help="a smaller model that guesses ahead")
    sub.add_argument(
        "--draft-tokens", type=int, default=4, metavar="N", help="tokens it guesses at a time (default: 4)"
    )
    sub.add_argument("--int8-cache", action="store_true", help="keep keys and values in int8")
    sub.add_argument("--seed", type=int, default=0, help="of what is drawn")
    sub.add_argument("--json", action="store_true", help="print JSON")
    of_pictures = sub.add_argument_group("of a folder of diffusers, which makes pictures")
    of_pictures.add_argument("--output", type=Path, metavar="FILE", help="the picture to write, x.png")
    of_pictures.add_argument("--negative-prompt", metavar="TEXT", help="what it shouldn't be of")
    of_pictures.add_argument("--steps", type=int, default=50, metavar="N", help="of the sampler (default: 50)")
    of_pictures.add_argument(
        "--sampler", metavar="NAME", help="default: the folder's; ddim, euler, heun, dpm_solver ..."
    )
    of_pictures.add_argument("--guidance-scale", type=float, default=7.5, metavar="X", help="default: 7.5; 1 is none")
    of_pictures.add_argument("--height", type=int, metavar="N", help="pixels")
    of_pictures.add_argument("--width", type=int, metavar="N", help="pixels")
    of_pictures.add_argument("--image", type=Path, metavar="FILE", help="a picture to change")
    of_pictures.add_argument("--mask", type=Path, metavar="FILE", help="white where it is to be made anew")
    of_pictures.add_argument("--strength", type=float, metavar="X", help="how far it is changed, up to 1")
    of_pictures.add_argument("--tile", type=int, metavar="N", help="decode parts of N latents' side, to save memory")
    of_pictures.add_argument("--every-step", action="store_true", help="write what it was after each step too")

    sub = commands.add_parser("tokenizer", help="Train a tokenizer.", allow_abbrev=False)
    actions = sub.add_subparsers(required=True, metavar="ACTION")
    sub = command("train", train_tokenizer, "Train a byte-level BPE on text files.", actions)
    sub.add_argument("files", nargs="+", metavar="FILE", help="text in UTF-8")
    sub.add_argument("--vocab-size", type=int, required=True, help="ids in all")
    sub.add_argument("--out", required=True, metavar="FILE", help="the tokenizer.json to write")
    sub.add_argument(
        "--special", nargs="+", default=[], metavar="TOKEN", help="more that stand for themselves: '<fim_prefix>'"
    )

    sub = command("list", list_models, "List the models.")
    sub.add_argument("pattern", nargs="?", default="*", help="as for file names: 'resnet*'")
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = command("info", info, "Show a model layer by layer, with shapes, parameters and FLOPs.")
    sub.add_argument("name", help="as `deepmodels list` prints it")
    sub.add_argument("--depth", type=int, help="levels of submodules to show")
    sub.add_argument(
        "--mesh", metavar="AXES", help="where each parameter lives instead: data=2,fsdp=4,tensor=2,expert=2 ..."
    )
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = command("estimate", estimate, "Say what training takes per device, by compiling its step for a mesh.")
    sub.add_argument("what", metavar="FILE[:SIZE]|NAME", help="an experiment's file and size, or a model's name")
    sub.add_argument("--mesh", metavar="AXES", help="data=2,fsdp=4,tensor=2; default: the config's")
    sub.add_argument(
        "--topology", metavar="N|tpu:v5p:4x8x8", help="virtual devices, or TPUs; default: those of this machine"
    )
    sub.add_argument("--batch-size", type=int, metavar="N", help="examples of a step, on all devices")
    sub.add_argument("--hardware", metavar="NAME", help="h100, tpu_v5p ...; of others, times are unknown")
    sub.add_argument("--tokens", type=float, metavar="N", help="a budget, 300e9, for days and energy")
    sub.add_argument("--utilisation", type=float, default=0.4, metavar="X", help="of the peak (default: 0.4)")
    sub.add_argument("--price", type=float, metavar="X", help="of a device for an hour, for the cost")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.epilog = "Any value of the config: --config.model.remat=full"

    sub = command("parity", parity, "Compare models with independent implementations; writes PARITY.md.")
    sub.add_argument("names", nargs="*", metavar="NAME", help="models; all that have another implementation by default")

    sub = command(
        "bench", bench, "Measure speed beside other libraries; writes benchmarks/results/ and a page of docs/."
    )
    sub.add_argument(
        "names", nargs="*", metavar="NAME", help="of benchmarks/subjects.py, or a file with a model that writes; or all"
    )
    sub.add_argument(
        "--against",
        default="torch,transformers,diffusers,plain",
        metavar="PEERS",
        help="torch, transformers, diffusers, timm, keras; plain is ours without huge pages and XLA's options "
        "(default: %(default)s)",
    )
    sub.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="default: cpu")
    sub.add_argument(
        "--tasks", default="train,infer,decode,denoise", metavar="TASKS", help="which of them (default: %(default)s)"
    )
    sub.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each side (default: 5)")
    sub.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of a turn, about (default: 3)")
    sub.add_argument("--report", action="store_true", help="measure nothing: write the page of the rows that are there")

    sub = command("doctor", doctor, "Check this installation: versions, devices, what works and what is missing.")
    sub.add_argument("--workdir", metavar="DIR", help="check a run's folder instead: read and compare all checkpoints")
    sub.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _overrides(rest: Sequence[str]) -> dict[str, str]:
    """Values of the config from `--config.a.b=value` or `--config.a.b value`."""
    values, rest = {}, list(rest)
    while rest:
        flag = rest.pop(0)
        path, equals, value = flag.partition("=")
        if not path.startswith("--config."):
            raise ConfigError(f"unknown argument {flag!r}: a value of the config is given as --config.a.b=value")
        if not equals:
            if not rest:
                raise ConfigError(f"{path} needs a value: {path}=value")
            value = rest.pop(0)
        values[path.removeprefix("--config.")] = value
    return values


def _space(rest: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """What `--sweep.a.b=values` leaves of the arguments, and the values by path."""
    others, values = [], {}
    for flag in rest:
        path, equals, text = flag.partition("=")
        if not path.startswith("--sweep."):
            others.append(flag)
        elif not equals:
            raise ConfigError(f"{path} needs values: {path}=1,2,3")
        else:
            values[path.removeprefix("--sweep.")] = text
    return others, values


def _show(options: argparse.Namespace, data, lines) -> None:
    if getattr(options, "json", False):
        print(json.dumps(data, indent=2))
        return
    from rich.console import Console

    console = Console()
    console.width = max(console.width, 140) if not console.is_terminal else console.width
    for line in lines():
        console.print(line, highlight=False, markup=False, soft_wrap=isinstance(line, str))
