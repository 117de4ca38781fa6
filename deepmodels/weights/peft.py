"""Adapters as peft keeps them: adapter_config.json and adapter_model.safetensors.

A dense layer's adapter is lora_A (rank, in) and lora_B (out, rank), named by the layer of transformers. Layers of ours
that are one there, as queries, keys and values in GPT-2, have one adapter: if their lora_a differ, of as many times the
rank, with zeros where one layer's part has nothing to do with another's.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from deepmodels import trees
from deepmodels.errors import WeightsError, nearest
from deepmodels.trees import PyTree
from deepmodels.weights.convert import Origin, Rules, origins

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_REFUSED = {"use_dora": "DoRA", "lora_bias": "biases of adapters", "use_qalora": "QA-LoRA"}


class _Adapter(NamedTuple):
    a: np.ndarray  # (in, rank)
    b: np.ndarray  # (rank, out)
    scale: float


def from_ours(params: PyTree, rules: Rules) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays and the config of parameters with adapters, see `deepmodels.training.lora`.

    Args:
      params: of a model.
      rules: the table of its weights.

    Raises:
      WeightsError: there are no adapters, or the table has no name for a layer.
    """
    leaves = trees.flatten(params)
    modules: dict[str, dict[int, _Adapter]] = {}
    shapes: dict[str, tuple[int, Origin]] = {}
    everything: set[str] = set()
    for origin in origins({"params": params}, rules):
        ours = origin.leaf.removeprefix("params/").removesuffix("/kernel")
        if not origin.leaf.endswith("/kernel") or origin.key is None:
            if f"{ours}/lora_a" in leaves:
                raise WeightsError(f"{ours} has an adapter, but transformers has no name for the layer")
            continue
        name = origin.key.removesuffix(".weight")
        everything.add(name)
        if f"{ours}/lora_a" not in leaves:
            continue
        a, b, scale = (np.asarray(leaves[f"{ours}/lora_{x}"][origin.index]) for x in ("a", "b", "scale"))
        modules.setdefault(name, {})[origin.part] = _Adapter(a, b, float(scale))
        shapes[name] = origin.parts, origin
    if not modules:
        raise WeightsError("the parameters have no adapters: deepmodels.training.lora.add makes them")
    arrays, ranks, alphas = {}, {}, {}
    for name, parts in modules.items():
        count, origin = shapes[name]
        whole = _joined(parts, count)
        ranks[name], alphas[name] = whole.a.shape[1], whole.scale * whole.a.shape[1]
        arrays[f"{_PREFIX}{name}.lora_A.weight"] = np.ascontiguousarray(whole.a.T)
        arrays[f"{_PREFIX}{name}.lora_B.weight"] = np.ascontiguousarray(whole.b.T)
    last = {name.rpartition(".")[2] for name in modules}
    others = {name.rpartition(".")[2] for name in everything - modules.keys()}
    rank, alpha = (max(set(values.values()), key=list(values.values()).count) for values in (ranks, alphas))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(modules if last & others else last),
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "fan_in_fan_out": _fan_in_first(next(origin for _, origin in shapes.values())),
        "init_lora_weights": True,
        "inference_mode": True,
    }
    return arrays, config


def to_ours(
    arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], params: PyTree, rules: Rules
) -> dict[str, np.ndarray]:
    """Returns the leaves of peft's adapters by the names that they have in our parameters, see `from_ours`.

    Layers of a stack that have none get zeros, as have those with a smaller rank than others of it.

    Raises:
      WeightsError: this isn't an adapter of LoRA, or it has one for what isn't a dense layer of the model.
    """
    if config.get("peft_type") != "LORA":
        raise WeightsError(f"{CONFIG}: peft_type is {config.get('peft_type')!r}, but only 'LORA' is implemented")
    for name, kind in _REFUSED.items():
        if config.get(name):
            raise WeightsError(f"{CONFIG}: {name} is set, but {kind} aren't implemented")
    slots: dict[str, list[Origin]] = {}
    for origin in origins({"params": params}, rules):
        if origin.key is not None and origin.leaf.endswith("/kernel"):
            slots.setdefault(origin.key.removesuffix(".weight"), []).append(origin)
    shapes = {name: tuple(leaf.shape) for name, leaf in trees.flatten({"params": params}).items()}
    dtypes = {name: leaf.dtype for name, leaf in trees.flatten({"params": params}).items()}

    found: dict[str, dict[tuple[int, ...], _Adapter]] = {}
    for key in arrays:
        match = re.fullmatch(re.escape(_PREFIX) + r"(.*)\.lora_([AB])\.weight", key)
        name = match and match[1]
        if name not in slots:
            raise WeightsError(f"{key}: not an adapter of a dense layer here: {nearest(str(name), slots)}")
        other = key.replace(f".lora_{match[2]}.", f".lora_{'BA'[match[2] == 'B']}.")
        if other not in arrays:
            raise WeightsError(f"{key} is there, but {other} is missing")
        if match[2] == "B":
            continue
        a, b = arrays[key].T, arrays[other].T
        scale = _scale(config, name, a.shape[1])
        for origin in slots[name]:
            *_, rows, columns = shapes[origin.leaf]
            if a.shape[0] != rows or b.shape != (a.shape[1], columns * origin.parts):
                raise WeightsError(
                    f"{key} and B are {list(arrays[key].shape)} and {list(arrays[other].shape)}, "
                    f"but the layer has {rows} inputs and {columns * origin.parts} outputs"
                )
            part = b[:, origin.part * columns : (origin.part + 1) * columns]
            found.setdefault(origin.leaf, {})[origin.index] = _Adapter(a, part, scale)

    leaves = {}
    for leaf, adapters in found.items():
        *stacked, rows, columns = shapes[leaf]
        rank = max(adapter.a.shape[1] for adapter in adapters.values())
        whole = {
            "lora_a": np.zeros((*stacked, rows, rank), dtypes[leaf]),
            "lora_b": np.zeros((*stacked, rank, columns), dtypes[leaf]),
            "lora_scale": np.zeros(stacked, dtypes[leaf]),
        }
        for index, adapter in adapters.items():
            own = adapter.a.shape[1]
            whole["lora_a"][(*index, ..., slice(own))] = adapter.a
            whole["lora_b"][(*index, slice(own))] = adapter.b
            whole["lora_scale"][index] = adapter.scale
        module = leaf.removeprefix("params/").removesuffix("kernel")
        leaves |= {module + name: value for name, value in whole.items()}
    return leaves


def _joined(parts: dict[int, _Adapter], count: int) -> _Adapter:
    """One adapter for layers whose outputs stand side by side in one array."""
    first = next(iter(parts.values()))
    columns = first.b.shape[1]
    same = all(np.array_equal(part.a, first.a) and part.scale == first.scale for part in parts.values())
    if same:
        rank, scale, a = first.a.shape[1], first.scale, first.a
    else:
        scale, a = 1.0, np.concatenate([part.a for part in parts.values()], axis=1)
        rank = a.shape[1]
    b = np.zeros((rank, count * columns), first.b.dtype)
    start = 0
    for number, part in parts.items():
        rows = slice(0, rank) if same else slice(start, start := start + part.a.shape[1])
        b[rows, number * columns : (number + 1) * columns] = part.b if same else part.scale * part.b
    return _Adapter(a, b, scale)


def _fan_in_first(origin: Origin) -> bool:
    """Whether transformers has that kernel as (in, out), as GPT-2's Conv1D."""
    return origin.transform.inverse(np.zeros((2, 3))).shape == (2, 3)


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    alphas = config.get("alpha_pattern") or {}
    own = next((alpha for pattern, alpha in alphas.items() if re.fullmatch(rf"(.*\.)?({pattern})", name)), None)
    alpha = config.get("lora_alpha", 8) if own is None else own
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
