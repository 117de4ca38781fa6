"""How a type of transformers' models corresponds to a class of ours: the form of the tables in `folder.LAYOUTS`."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from deepmodels.errors import WeightsError
from deepmodels.weights.convert import Rules

CONFIG = "config.json"
_LARGEST = 10_000_000  # of a config's numbers


class Layout(NamedTuple):
    """How a type of transformers' models corresponds to a class of ours.

    Attributes:
      family: the file of ours, "bert", or what `deepmodels.loading` calls a class where a file has several.
      prefix: of transformers' classes, "Bert" of "BertForMaskedLM".
      fields: our argument -> (name in config.json, what holds where it isn't there); of a config inside it
        "text_config.hidden_size".
      fixed: what config.json must say of the rest, if it does: ours can't be anything else.
      arguments: ours that follow from the type.
      heads: what stands behind the prefix of a class -> our arguments.
      rules: our arguments -> the table of weights.
      derived: (config.json, names of the weights) -> arguments of ours that aren't a field of its own.
      written: our arguments -> what config.json says besides.
      fits: our arguments -> whether the type can hold such a model, where `arguments` don't tell it from others.
    """

    family: str
    prefix: str
    fields: Mapping[str, tuple[str, Any]]
    fixed: Mapping[str, Any]
    arguments: Mapping[str, Any]
    heads: Mapping[str, Mapping[str, Any]]
    rules: Callable[[Mapping[str, Any]], Rules]
    derived: Callable[[Mapping[str, Any], Collection[str]], dict[str, Any]] = lambda config, names: {}
    written: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda arguments: {}
    fits: Callable[[Mapping[str, Any]], bool] = lambda arguments: True


class Described(NamedTuple):
    """What a file says of a model: the family, the arguments of its class, the table of the weights."""

    family: str
    arguments: dict[str, Any]
    rules: Rules


def decoder_fields(
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    mlp_size: int,
    max_length: int,
    epsilon: float = 1e-6,
) -> dict[str, tuple[str, Any]]:
    """Returns the `Layout.fields` that all open decoders have, with what holds where a config.json doesn't say them."""
    return {
        "vocab_size": ("vocab_size", vocab_size),
        "hidden_size": ("hidden_size", hidden_size),
        "num_layers": ("num_hidden_layers", num_layers),
        "num_heads": ("num_attention_heads", num_heads),
        "mlp_size": ("intermediate_size", mlp_size),
        "max_length": ("max_position_embeddings", max_length),
        "epsilon": ("rms_norm_eps", epsilon),
    }


def flag(config: Mapping[str, Any], name: str, default: bool) -> bool:
    """Returns whether a config says yes under a name, or `default` where it says nothing.

    Raises:
      WeightsError: it says something else than yes or no.
    """
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise WeightsError(f"{CONFIG}: {name} is {value!r}, not true or false")
    return value


def rope_of(config: Mapping[str, Any], theta: float, layer_type: str | None = None) -> dict[str, Any]:
    """Returns the plain data of `deepmodels.layers.rotary.Rope` that a config.json means.

    Args:
      config: with "rope_parameters", as transformers 5 writes them, or "rope_theta" and "rope_scaling".
      theta: what holds where it says none.
      layer_type: whose they are, where "rope_parameters" have them by type of layer.

    Raises:
      WeightsError: a kind isn't implemented, or a number is missing or is none.
    """
    parameters = config.get("rope_parameters")
    if layer_type is not None and isinstance(parameters, Mapping):
        parameters = parameters.get(layer_type, parameters)
    parameters = parameters or config.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise WeightsError(f"{CONFIG}: rope_parameters are {parameters!r}, not numbers by name")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in _ROPES:
        raise WeightsError(f"{CONFIG}: rope_type is {kind!r}, but only {', '.join(_ROPES)} are implemented")
    if parameters.get("partial_rotary_factor") not in (None, 1.0):
        raise WeightsError(
            f"{CONFIG}: partial_rotary_factor is {parameters['partial_rotary_factor']!r}, but only 1.0 is"
        )
    theta = _positive(parameters, "rope_theta", _positive(config, "rope_theta", theta))
    if kind == "default":
        return {"theta": theta}
    length = _positive(config, "max_position_embeddings", None)
    length = _positive(config, "original_max_position_embeddings", length)
    scaling: dict[str, Any] = {"kind": kind}
    for ours, (theirs, default) in _ROPES[kind].items():
        default = length if ours == "original_length" else default
        if ours == "factor" and parameters.get(theirs) is None and length:
            default = _positive(config, "max_position_embeddings", None) / _positive(parameters, _ORIGINAL, length)
        value = _positive(parameters, theirs, default, may_be_zero=ours.startswith("mscale"))
        if value is None and ours != "attention_factor":
            raise WeightsError(f"{CONFIG}: the rope_parameters of {kind!r} have no {theirs}")
        scaling[ours] = value
    if kind == "yarn":
        scaling["truncate"] = flag(parameters, "truncate", True)
        if not scaling["mscale_all_dim"]:  # without both, transformers takes neither
            scaling["mscale"] = 1.0
        elif not parameters.get("mscale"):
            raise WeightsError(f"{CONFIG}: rope_parameters have mscale_all_dim without mscale, which isn't implemented")
    return {"theta": theta, "scaling": scaling}


def rope_written(rope: Any) -> dict[str, Any]:
    """Returns what config.json says of a `deepmodels.layers.rotary.Rope`, as all versions of transformers read it."""
    said: dict[str, Any] = {"rope_theta": rope.theta}
    if rope.scaling is not None:
        kind, values = rope.scaling.kind, rope.scaling._asdict()
        if kind not in _ROPES:
            raise WeightsError(f"transformers has no rope_type like {kind!r}")
        scaling = {theirs: values[ours] for ours, (theirs, _) in _ROPES[kind].items()}
        if kind == "yarn":
            scaling["truncate"] = values["truncate"]
            if not values["mscale_all_dim"]:
                del scaling["mscale"], scaling["mscale_all_dim"]
        said["rope_scaling"] = {"rope_type": kind} | {
            name: value for name, value in scaling.items() if value is not None
        }
    return said


_ORIGINAL = "original_max_position_embeddings"
_ROPES: Mapping[str, Mapping[str, tuple[str, float | None]]] = {  # as in Layout.fields
    "default": {},
    "linear": {"factor": ("factor", None)},
    "llama3": {
        "factor": ("factor", None),
        "low_frequency_factor": ("low_freq_factor", None),
        "high_frequency_factor": ("high_freq_factor", None),
        "original_length": (_ORIGINAL, None),
    },
    "yarn": {
        "factor": ("factor", None),
        "original_length": (_ORIGINAL, None),
        "beta_fast": ("beta_fast", 32.0),
        "beta_slow": ("beta_slow", 1.0),
        "mscale": ("mscale", 1.0),
        "mscale_all_dim": ("mscale_all_dim", 0.0),
        "attention_factor": ("attention_factor", None),
    },
}


def _positive(config: Mapping[str, Any], name: str, default: float | None, *, may_be_zero: bool = False) -> Any:
    value = config.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not (0 < value < math.inf or (may_be_zero and value == 0)):
        raise WeightsError(f"{CONFIG}: {name} is {value!r}, not a positive number")
    return value


def number(config: Mapping[str, Any], name: str, default: float | None) -> Any:
    """Returns what a config says under a name, or `default` where it says nothing.

    Raises:
      WeightsError: it says no number of up to ten million, or no whole one where the default isn't a float.
    """
    value = config.get(name)
    if value is None:
        return default
    kinds = (int, float) if isinstance(default, float) else (int,)
    if type(value) not in kinds or not 0 <= value <= _LARGEST:
        kind = "number" if float in kinds else "natural number"
        raise WeightsError(f"{CONFIG}: {name} is {value!r}, not a {kind} of up to {_LARGEST:,}")
    return value
