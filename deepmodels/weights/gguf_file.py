"""Models of llama.cpp: GGUF files, whose tensors are quantised, by the package `gguf` (extra `gguf`).

Their metadata say what config.json says elsewhere. Rows of queries and keys of the "llama" architecture stand in the
order in which neighbouring channels pair; Gemma's normalisations have their offset in them. Both are undone.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from deepmodels import gguf_header
from deepmodels.errors import WeightsError, nearest
from deepmodels.weights.convert import DENSE, SAME, Rule, Rules, Transform
from deepmodels.weights.layout import Described
from deepmodels.weights.llama import SWAPPED

_LARGEST = 10_000_000


class Quantised(NamedTuple):
    """A tensor that is in a file, and is read from it as float32 by `np.asarray`, each time anew."""

    path: Path
    shape: tuple[int, ...]
    kind: int  # ggml's number of its type
    begin: int  # bytes from the beginning of the file
    row_bytes: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Returns it.

        Raises:
          WeightsError: the file is shorter than it was.
        """
        rows = math.prod(self.shape[:-1])
        with open(self.path, "rb") as file:
            file.seek(self.begin)
            data = np.fromfile(file, np.uint8, rows * self.row_bytes)
        if len(data) != rows * self.row_bytes:
            raise WeightsError(f"{self.path} has become shorter while it was read")
        kind = _library().GGMLQuantizationType(self.kind)
        values = _library().quants.dequantize(data.reshape(rows, -1), kind).reshape(self.shape)
        return np.asarray(values, dtype or np.float32)


def _library() -> ModuleType:
    try:
        importlib.import_module("gguf.quants")
        return importlib.import_module("gguf")
    except ImportError as error:
        raise WeightsError("the package 'gguf' is missing: pip install 'deepmodels-jax[gguf]'") from error


def describe(path: Path) -> tuple[dict[str, Quantised], Described]:
    """Returns the tensors of a GGUF file by name, none of them read, and the model that its metadata describe.

    Raises:
      WeightsError: it is none, it is damaged, its architecture or a type of its tensors isn't known, or the package
        `gguf` is missing.
    """
    header = gguf_header.read(path)
    library, size = _library(), path.stat().st_size
    tensors = {}
    for name, tensor in header.tensors.items():
        try:
            kind = library.GGMLQuantizationType(tensor.kind)
            block, block_bytes = library.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise WeightsError(f"{path}: {name} is of the unknown type {tensor.kind}") from None
        rows, length = math.prod(tensor.shape[:-1]), tensor.shape[-1] if tensor.shape else 1
        row_bytes = length // block * block_bytes
        if length % block or not rows * length or tensor.begin + rows * row_bytes > size:
            raise WeightsError(f"{path}: {name} is {kind.name}{list(tensor.shape)}, which isn't in its {size:,} bytes")
        tensors[name] = Quantised(path, tensor.shape, tensor.kind, tensor.begin, row_bytes)
    try:
        return tensors, _described(_Metadata(header.metadata), tensors)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


class _Metadata:
    """The numbers of a file's metadata, those of the architecture by the second part of their name."""

    def __init__(self, entries: Mapping[str, Any]):
        self.entries = entries
        self.architecture = entries.get("general.architecture")
        if self.architecture not in _ARCHITECTURES:
            raise WeightsError(
                f"unknown architecture {self.architecture!r}: {nearest(str(self.architecture), _ARCHITECTURES)}"
            )

    def number(self, name: str, default: float | None, *, kinds: tuple[type, ...] = (int,)) -> Any:
        value = self.entries.get(f"{self.architecture}.{name}", default)
        if value is default:
            return value
        if type(value) not in kinds or not 0 < value <= _LARGEST:
            raise WeightsError(f"{self.architecture}.{name} is {value!r}, not a positive number of up to {_LARGEST:,}")
        return value

    def required(self, name: str, *, kinds: tuple[type, ...] = (int,)) -> Any:
        value = self.number(name, None, kinds=kinds)
        if value is None:
            raise WeightsError(f"its metadata have no {self.architecture}.{name}")
        return value


def _described(metadata: _Metadata, tensors: Mapping[str, Quantised]) -> Described:
    if "token_embd.weight" not in tensors or len(tensors["token_embd.weight"].shape) != 2:
        raise WeightsError("it has no token_embd.weight, a matrix with a row for each token")
    layers, heads = metadata.required("block_count"), metadata.required("attention.head_count")
    if layers > len(tensors):
        raise WeightsError(f"it says {layers} layers, but there are only {len(tensors)} tensors")
    arguments: dict[str, Any] = {
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "hidden_size": metadata.required("embedding_length"),
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": metadata.number("attention.head_count_kv", heads),
        "head_size": metadata.number("attention.key_length", metadata.required("embedding_length") // heads),
        "epsilon": _short(metadata.required("attention.layer_norm_rms_epsilon", kinds=(float,))),
        "max_length": metadata.number("context_length", 4096),
        "rope": {"theta": _short(metadata.number("rope.freq_base", 10_000.0, kinds=(float,)))},
        "tied": "output.weight" not in tensors,
    }
    if metadata.number("attention.value_length", arguments["head_size"]) != arguments["head_size"]:
        raise WeightsError("keys and values have different sizes")
    if metadata.number("rope.dimension_count", arguments["head_size"]) != arguments["head_size"]:
        raise WeightsError("only a part of each head's channels is turned, which isn't implemented")
    experts = metadata.number("expert_count", None)
    if experts is None:
        arguments["mlp_size"] = metadata.required("feed_forward_length")
    else:
        size = metadata.number("expert_feed_forward_length", None)
        arguments["mlp_size"] = metadata.required("feed_forward_length") if size is None else size
        arguments["mixture"] = {"num_experts": experts, "num_chosen": metadata.required("expert_used_count")}
    arguments |= _scaling(metadata, arguments, tensors) | _ARCHITECTURES[metadata.architecture](metadata, arguments)
    return Described("llama", arguments, rules(metadata.architecture, heads, arguments["num_kv_heads"]))


def _short(value: float) -> float:
    """The shortest decimal that is this number in float32, in which the metadata are: 1e-05 and not 9.99999975e-06."""
    return float(str(np.float32(value)))


def _scaling(
    metadata: _Metadata, arguments: Mapping[str, Any], tensors: Mapping[str, Quantised]
) -> dict[str, dict[str, Any]]:
    kind = metadata.entries.get(f"{metadata.architecture}.rope.scaling.type", "none")
    rope = arguments["rope"]
    if "rope_freqs.weight" in tensors:  # Llama 3.1's, computed
        divisors = tuple(float(x) for x in np.asarray(tensors["rope_freqs.weight"]).reshape(-1))
        return {"rope": rope | {"scaling": {"kind": "divided", "divisors": divisors}}}
    if kind == "none":
        return {}
    factor = metadata.required("rope.scaling.factor", kinds=(float,))
    if kind == "linear":
        return {"rope": rope | {"scaling": {"kind": kind, "factor": factor}}}
    if kind == "yarn":
        length = metadata.required("rope.scaling.original_context_length")
        return {"rope": rope | {"scaling": {"kind": kind, "factor": factor, "original_length": length}}}
    raise WeightsError(f"its rope.scaling.type is {kind!r}, but only none, linear and yarn are implemented")


def _gemma(metadata: _Metadata, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"gate_function": "geglu", "norm_offset": 1.0, "scaled_embed": True}


def _gemma2(metadata: _Metadata, arguments: Mapping[str, Any]) -> dict[str, Any]:
    largest = arguments["num_layers"] == 46  # 27B, of which the metadata don't say it
    return _gemma(metadata, arguments) | {
        "post_norms": True,
        "window": {"size": metadata.required("attention.sliding_window"), "global_every": 2},
        "attention_soft_cap": metadata.number("attn_logit_softcapping", 50.0, kinds=(float,)),
        "logit_soft_cap": metadata.number("final_logit_softcapping", 30.0, kinds=(float,)),
        "scale_size": arguments["hidden_size"] // arguments["num_heads"] if largest else None,
    }


def _gemma3(metadata: _Metadata, arguments: Mapping[str, Any]) -> dict[str, Any]:
    largest = arguments["num_layers"] == 62  # likewise
    window = {"size": metadata.required("attention.sliding_window"), "global_every": 6, "rope": {"theta": 10_000.0}}
    return _gemma(metadata, arguments) | {
        "post_norms": True,
        "head_norms": True,
        "window": window,
        "scale_size": arguments["hidden_size"] // arguments["num_heads"] if largest else None,
    }


_ARCHITECTURES: Mapping[str, Callable[[_Metadata, Mapping[str, Any]], dict[str, Any]]] = {
    "llama": lambda metadata, arguments: {},  # Mistral, Mixtral and SmolLM2 call themselves so too
    "qwen2": lambda metadata, arguments: {"qkv_bias": True},
    "qwen3": lambda metadata, arguments: {"head_norms": True},
    "qwen3moe": lambda metadata, arguments: {"head_norms": True},
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
}


def _halves(heads: int) -> Transform:
    """Rows of each head in turns of two halves become one half behind the other, and back."""

    def forward(w: np.ndarray) -> np.ndarray:
        return w.reshape(heads, -1, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)

    def inverse(w: np.ndarray) -> np.ndarray:
        return w.reshape(heads, 2, -1, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)

    return Transform(forward, inverse)


def rules(architecture: str, num_heads: int, num_kv_heads: int) -> Rules:
    """Returns the rows of llama.cpp's names.

    Args:
      architecture: "llama", "gemma2", ...
      num_heads: of queries.
      num_kv_heads: of keys.
    """
    theirs, ours = "blk.{layer}", "params/layers[{layer}]"
    offset = Transform(lambda w: w - 1, lambda w: w + 1) if architecture.startswith("gemma") else SAME
    turns = {"attn_q": num_heads, "attn_k": num_kv_heads} if architecture == "llama" else {}
    rows = [
        Rule("token_embd.weight", "params/token_embed/embedding"),
        Rule("output.weight", "params/head/kernel", DENSE),
    ]
    for name, own in {"attn_q": "query", "attn_k": "key", "attn_v": "value", "attn_output": "out"}.items():
        order = _halves(turns[name]) if name in turns else SAME
        rows.append(Rule(f"{theirs}.{name}.weight", f"{ours}/attention/{own}/kernel", _both(order, DENSE)))
        rows.append(Rule(f"{theirs}.{name}.bias", f"{ours}/attention/{own}/bias", order))
    norms = {
        f"{theirs}.attn_norm": f"{ours}/norm1",
        f"{theirs}.ffn_norm": f"{ours}/norm2",
        f"{theirs}.post_attention_norm": f"{ours}/post_norm1",
        f"{theirs}.post_ffw_norm": f"{ours}/post_norm2",
        f"{theirs}.attn_q_norm": f"{ours}/attention/query_norm",
        f"{theirs}.attn_k_norm": f"{ours}/attention/key_norm",
        "output_norm": "params/norm",
    }
    rows += [Rule(f"{name}.weight", f"{own}/scale", offset) for name, own in norms.items()]
    rows.append(Rule(f"{theirs}.ffn_gate_inp.weight", f"{ours}/mlp/router/logits/kernel", DENSE))
    for name in ("gate", "up", "down"):
        rows.append(Rule(f"{theirs}.ffn_{name}.weight", f"{ours}/mlp/{name}/kernel", DENSE))
        rows.append(Rule(f"{theirs}.ffn_{name}_exps.weight", f"{ours}/mlp/experts/{name}/kernel", SWAPPED))
        each = f"{ours}/mlp/experts[{{expert}}]/{name}/kernel"
        rows.append(Rule(f"{theirs}.ffn_{name}.{{expert}}.weight", each, DENSE))  # of older files
    return (*rows, Rule("rope_freqs.weight", None))


def _both(first: Transform, second: Transform) -> Transform:
    return Transform(lambda w: second.forward(first.forward(w)), lambda w: first.inverse(second.inverse(w)))
