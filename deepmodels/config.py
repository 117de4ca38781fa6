"""Configs: loading an experiment's file, overriding its values, and completing it with the defaults.

An experiment is a Python file with `get_config(size) -> ConfigDict`. Loading one runs it, so it has to be trusted as
any program does. A config is plain data: it is completed with DEFAULTS, checked, locked, and stored with the run.
"""

import ast
import importlib.util
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from deepmodels.errors import ConfigError, nearest

REQUIRED = ("steps", "model", "data", "optimizer")

DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "precision": "float32",  # or bfloat16, float64: the compute type; masters stay float32
    "compile": "jit",  # or pmap: pure data parallelism only
    "deterministic": False,  # or True: the same bits each time on a GPU, slower; on a CPU they are the same anyway
    # devices by axis, see docs/meshes.md; -1 for one takes what the others leave
    "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1, "expert": 1, "pipeline": 1, "dcn": {}},
    "objective": {"name": "classification"},
    # weights to start from, a path or "owner/name" on the hub; the others are arguments of `deepmodels.load`
    "init": {"weights": None, "source": None, "revision": None, "sha256": None, "cast": False, "fresh": None},
    # {"rank": 8, "alpha": 16, "pattern": dense layers, "train": what trains besides, "quantize": layers in 4 bits},
    # see deepmodels.training.lora and deepmodels.training.four_bits
    "lora": None,
    # networks that don't train, by name, each {"weights": "runs/lenet5", ...}, see deepmodels.training.frozen
    "frozen": {},
    # {"network": one of them, "samples": 2000}: what the model samples is judged, see deepmodels.training.judging
    "judge": None,
    "augment": {},  # function name -> its arguments, see deepmodels.augment
    # {"target": 0.6, "images": 500_000}: what a discriminator sees is augmented, see deepmodels.training.step
    "adaptive_augment": None,
    "critic_steps": 1,  # moves of the critic for each of the generator, where a model has two players
    "shard_optimizer": False,  # the optimizer's state over the data axis too: ZeRO's first stage, see docs/meshes.md
    "offload_optimizer": False,  # its state rests in the host's memory between steps
    "accumulate": 1,  # parts a batch is split into, their gradients averaged
    # parts that a batch goes through a pipeline in, where the mesh has one; by default four for each of its stages
    "microbatches": None,
    "every": {"log": 50, "evaluate": 500, "checkpoint": 500},  # steps
    "keep": {"last": 2, "best": None, "mode": "max"},  # best: the metric by which one more checkpoint is kept
    "decode": None,  # {"metrics": names, ...}: what a model writes by itself is measured and shown at the end
    "early_stopping": None,  # {"metric": "validation/loss", "mode": "min", "patience": evaluations without improvement}
    # what becomes of a step whose numbers go wrong: stop, skip, or rollback; see deepmodels.training.guard
    "guard": {
        "policy": "stop",
        "z_score": 6.0,  # from which a loss or a gradient's norm stands out; None looks for what isn't finite alone
        "warmup": 50,  # steps before anything can stand out
        "patience": 5,  # skip: so many bad steps in a row; one more stops the run
        "rollbacks": 3,  # rollback: so often; once more stops the run
    },
    "sinks": (),  # tensorboard, wandb; metrics.jsonl and metrics.csv are always written
}

SECTIONS = ("mesh", "init", "every", "keep", "guard")  # of these keys alone
LORA = {"rank": 8, "alpha": None, "pattern": ".*attention/(query|value)", "train": None, "quantize": None}
FROZEN = {
    "weights": None,  # the folder of a run, or as for init; None for a network as it is drawn at random
    "model": None,  # if the weights aren't of a run
    "source": None,  # as for init
    "revision": None,
    "sha256": None,
    "cast": False,
    "mean": None,  # that it normalises by: by default as its run did, or as its model's row says, or as this run does
    "std": None,
    "image_shape": None,  # (height, width, channels) of the pictures it is shown; by default as this run has them
}
JUDGE = {"network": "judge", "samples": 2_000}
# metrics: of deepmodels.evaluation.WRITTEN; the others are arguments of deepmodels.sampling.beam_search
DECODE = {"metrics": (), "beam_size": 4, "length_penalty": 0.6}
ADAPTIVE = {"target": 0.6, "images": 500_000}
EARLY_STOPPING = {"metric": "validation/loss", "mode": "min", "patience": 5}

# What may change between the starts of one run without changing what it computes.
FREE = ("steps", "mesh", "compile", "every", "keep", "early_stopping", "decode", "sinks", "data.threads", "data.path")
FREE += ("deterministic", "shard_optimizer", "offload_optimizer")
FREE += ("guard", "data.skip_damaged")  # how faults are met, which is what one may have to change to go on
FREE += ("microbatches",)


def load(spec: str, overrides: Mapping[str, str] | None = None) -> ConfigDict:
    """Returns the config of an experiment's file, with values overridden.

    Args:
      spec: "experiments/lenet5_fashion.py", or with one of its sizes, "experiments/lenet5_fashion.py:smoke".
      overrides: dotted path -> value as text, {"optimizer.learning_rate": "1e-3"}.

    Raises:
      ConfigError: no such file or size, or a path that the config doesn't have.
    """
    file, _, size = spec.partition(":")
    module = run_file(file)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"config file {file!r} doesn't define get_config()")
    try:
        inspect.signature(module.get_config).bind(*([size] if size else []))
    except TypeError as error:
        raise ConfigError(f"{file}: get_config takes no size, got {size!r}") from error
    try:
        config = module.get_config(*([size] if size else []))
    except KeyError as error:
        raise ConfigError(f"{file}: get_config has no size {size!r} ({error} is not among its sizes)") from error
    config = complete(config)
    override(config, overrides or {})
    return complete(config)


def run_file(file: str) -> ModuleType:
    """Returns what a Python file makes when it is run.

    Raises:
      ConfigError: there is no such file; the nearest beside it is named.
    """
    path = Path(file)
    if not path.is_file():
        files = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ConfigError(f"config file {file!r} doesn't exist: {nearest(file, files)}")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def complete(config: Mapping[str, Any]) -> ConfigDict:
    """Returns a locked copy of `config` with every key of DEFAULTS.

    Raises:
      ConfigError: a key is unknown (the nearest is named) or a required one is missing.
    """
    given = _plain(config)
    known = (*REQUIRED, *DEFAULTS)
    for key in given:
        if key not in known:
            raise ConfigError(f"config has no key {key!r}: {nearest(key, known)}")
    missing = [key for key in REQUIRED if key not in given]
    if missing:
        raise ConfigError(f"config needs the key{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}")
    result = DEFAULTS | given
    defaults = {key: DEFAULTS[key] for key in SECTIONS}
    defaults |= {"lora": LORA, "judge": JUDGE, "early_stopping": EARLY_STOPPING, "decode": DECODE}
    defaults |= {"adaptive_augment": ADAPTIVE}
    for key, values in defaults.items():
        section = result[key]
        if section is None and DEFAULTS[key] is None:
            continue
        result[key] = _section(key, section, values)
    if not isinstance(result["frozen"], dict):
        raise ConfigError(f"config.frozen is a section of networks by name, got {result['frozen']!r}")
    result["frozen"] = {name: _section(f"frozen.{name}", section, FROZEN) for name, section in result["frozen"].items()}
    for name, section in result["frozen"].items():
        if section["model"] is not None and (not isinstance(section["model"], dict) or "name" not in section["model"]):
            raise ConfigError(f"config.frozen.{name}.model needs a 'name', got {section['model']!r}")
    for key in ("model", "objective", "data", "optimizer"):
        if not isinstance(result[key], dict) or not isinstance(result[key].get("name"), str):
            raise ConfigError(f"config.{key} needs a 'name', got {result[key]!r}")
    weights = result["init"]["weights"]
    if weights is None and result["init"] != DEFAULTS["init"]:
        raise ConfigError("config.init needs 'weights', a path or the \"owner/name\" of a repository on the hub")
    if weights is not None and not isinstance(weights, str):
        raise ConfigError(f"config.init.weights is a path or a name on the hub, got {weights!r}")
    for key in ("log", "evaluate", "checkpoint"):
        _positive(f"config.every.{key}", result["every"][key])
    for key in ("steps", "accumulate", "critic_steps"):
        _positive(f"config.{key}", result[key])
    if result["microbatches"] is not None:
        _positive("config.microbatches", result["microbatches"])
    _positive("config.keep.last", result["keep"]["last"])
    _positive("config.data.batch_size", result["data"].get("batch_size"))
    for key in ("shard_optimizer", "offload_optimizer"):
        if not isinstance(result[key], bool):
            raise ConfigError(f"config.{key} is True or False, got {result[key]!r}")
        if result[key] and result["compile"] == "pmap":
            raise ConfigError(f"config.{key} is for config.compile='jit': under 'pmap' each device has the whole state")
    for key in ("keep", "early_stopping"):
        if result[key] and result[key]["mode"] not in ("min", "max"):
            raise ConfigError(f"config.{key}.mode is 'min' or 'max', got {result[key]['mode']!r}")
    _check_guard(result["guard"])
    _count("config.data.skip_damaged", result["data"].get("skip_damaged", 0))
    if result["judge"] is not None:
        _positive("config.judge.samples", result["judge"]["samples"])
    if result["lora"] is not None:
        _positive("config.lora.rank", result["lora"]["rank"])
        if result["optimizer"].get("freeze"):
            raise ConfigError(
                "config.lora: adapters train, all else is frozen; what trains besides is lora.train, not "
                "what optimizer.freeze leaves"
            )
    if result["adaptive_augment"] is not None:
        _positive("config.adaptive_augment.images", result["adaptive_augment"]["images"])
        target = result["adaptive_augment"]["target"]
        if not isinstance(target, int | float) or not -1 < target < 1:
            raise ConfigError(f"config.adaptive_augment.target: expected a mean of signs, -1 to 1, got {target!r}")
    if not isinstance(result["deterministic"], bool):
        raise ConfigError(f"config.deterministic is True or False, got {result['deterministic']!r}")
    if result["compile"] not in ("jit", "pmap"):
        raise ConfigError(f"config.compile is 'jit' or 'pmap', got {result['compile']!r}")
    completed = ConfigDict(result)
    completed.lock()
    return completed


def override(config: ConfigDict, values: Mapping[str, str]) -> None:
    """Sets values of `config` by dotted path, in place.

    A value's text is read as a Python literal, or else as it stands; an integer given for a float becomes one. A key
    that its section doesn't have yet can be added where the section names a function (model, objective, data,
    optimizer, augment ...): whether that takes it is checked when it is called.

    Raises:
      ConfigError: a section or a top-level key is unknown, or a value has the wrong type.
    """
    for path, text in values.items():
        *sections, key = path.split(".")
        section, walked = config, "config"
        for name in sections:
            if not isinstance(section, ConfigDict) or name not in section:
                known = section.keys() if isinstance(section, ConfigDict) else ()
                raise ConfigError(f"{walked} has no key {name!r} (in --config.{path}): {nearest(name, known)}")
            section, walked = section[name], f"{walked}.{name}"
        if not isinstance(section, ConfigDict):
            raise ConfigError(f"{walked} is no section (in --config.{path}): it is {section!r}")
        if key not in section and walked in ("config", *(f"config.{name}" for name in SECTIONS)):
            raise ConfigError(f"{walked} has no key {key!r}: {nearest(key, section.keys())}")
        value, old = literal(text), section.get(key)
        if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if isinstance(old, ConfigDict) and not isinstance(value, dict):
            raise ConfigError(f"{walked}.{key} is a section, give one of its keys: {', '.join(old.keys())}")
        if (
            old is not None
            and value is not None
            and not isinstance(value, type(old))
            and not isinstance(old, ConfigDict)
        ):
            raise ConfigError(f"{walked}.{key} is a {type(old).__name__} ({old!r}), got {text!r}")
        with section.unlocked():
            section[key] = value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns a line for each value that differs between two completed configs and changes what training computes."""
    old, new = _effective(old), _effective(new)
    lines = []
    for path in sorted(old.keys() | new.keys()):
        if any(path == free or path.startswith(free + ".") for free in FREE):
            continue
        before, after = (side.get(path, "absent") for side in (old, new))
        if before != after:
            lines.append(f"config.{path}: {before!r} -> {after!r}")
    return lines


def _effective(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values, and the length of a schedule that has the run's when its section doesn't say."""
    values = flat(config)
    if values.get("optimizer.schedule.name") in ("cosine", "linear", "one_cycle"):
        values.setdefault("optimizer.schedule.steps", values["steps"])
    return values


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config's values by dotted path."""
    result = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            result |= {f"{key}.{inner}": v for inner, v in flat(value).items()}
        else:
            result[key] = list(value) if isinstance(value, tuple) else value
    return result


def to_json(config: Mapping[str, Any]) -> str:
    """Returns a config as JSON text, with sorted keys."""
    return json.dumps(_plain(config), indent=2, sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping | ConfigDict):
        return {key: _plain(inner) for key, inner in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def literal(text: str) -> Any:
    """Returns a value from its text: a Python literal, true, false or null, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "null": None}.get(text, text)


def _section(name: str, section: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """A section with what it doesn't say from `values`, which are all that it may say."""
    if not isinstance(section, dict):
        raise ConfigError(f"config.{name} is a section with the keys {', '.join(values)}, got {section!r}")
    for key in section:
        if key not in values:
            raise ConfigError(f"config.{name} has no key {key!r}: {nearest(key, values)}")
    return dict(values) | section


def _check_guard(guard: Mapping[str, Any]) -> None:
    if guard["policy"] not in ("stop", "skip", "rollback"):
        raise ConfigError(f"config.guard.policy is 'stop', 'skip' or 'rollback', got {guard['policy']!r}")
    _positive("config.guard.warmup", guard["warmup"])
    for key in ("patience", "rollbacks"):
        _count(f"config.guard.{key}", guard[key])
    score = guard["z_score"]
    if score is not None and (not isinstance(score, int | float) or isinstance(score, bool) or not score > 0):
        raise ConfigError(f"config.guard.z_score is a positive number or None, got {score!r}")


def _positive(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is a positive whole number, got {value!r}")


def _count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"{name} is a whole number, 0 or more, got {value!r}")
