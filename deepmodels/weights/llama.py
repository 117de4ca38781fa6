"""Where transformers keeps the weights of Llama and its descendants. Ours stack the layers, and the experts in them.

A table reads experts one by one, as they are in files, and in one array, as they are in the memory of transformers 5;
it writes them one by one, but for gpt-oss, in whose files gate and up take turns in one array.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from deepmodels.errors import WeightsError, unknown
from deepmodels.weights.convert import DENSE, SAME, Rule, Rules, Transform
from deepmodels.weights.layout import CONFIG, Layout, decoder_fields, flag, number, rope_of, rope_written

SWAPPED = Transform(lambda w: np.swapaxes(w, 1, 2), lambda w: np.swapaxes(w, 1, 2))  # (experts, out, in)

_THEIRS, _OURS = "model.layers.{layer}", "layers[{layer}]"


def scale(source: str, target: str) -> Rules:
    """Returns the row of a normalisation without bias. `target` is a path inside "params"."""
    return (Rule(f"{source}.weight", f"params/{target}/scale"),)


def dense(source: str, target: str) -> Rules:
    """Returns the rows of a dense layer of torch. `target` is a path inside "params"."""
    return Rule(f"{source}.weight", f"params/{target}/kernel", DENSE), Rule(f"{source}.bias", f"params/{target}/bias")


def gated(source: str, target: str) -> Rules:
    """Returns the rows of a gated dense part. `target` is a path inside "params"."""
    return tuple(row for name in ("gate", "up", "down") for row in dense(f"{source}.{name}_proj", f"{target}/{name}"))


def experts(source: str, target: str) -> Rules:
    """Returns the rows of a layer's experts, one by one and in one array. `target` is a path inside "params"."""
    return (
        *(
            Rule(f"{source}.{{expert}}.{name}_proj.weight", f"params/{target}[{{expert}}]/{name}/kernel", DENSE)
            for name in ("gate", "up", "down")
        ),
        *_together(source, target),
    )


def around(tied: str) -> Rules:
    """Returns the rows of what is around the layers: embedding, last normalisation, head."""
    return (
        Rule("model.embed_tokens.weight", "params/token_embed/embedding"),
        *scale("model.norm", "norm"),
        *dense("lm_head", "head"),
        Rule("lm_head.weight", None),  # the embedding again, where the model has no matrix of its own for it
        Rule(tied, None),
    )


def transformers(model_type: str) -> Rules:
    """Returns the rows of one of transformers' types.

    Args:
      model_type: as in transformers' config.json: "llama", "mixtral", ...

    Raises:
      ConfigError: it is none of them.
    """
    if model_type not in _NORMS:
        raise unknown("model_type", model_type, _NORMS)
    attention, mlp = f"{_THEIRS}.self_attn", f"{_THEIRS}.mlp"
    return (
        *(
            row
            for theirs, ours in {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}.items()
            for row in dense(f"{attention}.{theirs}", f"{_OURS}/attention/{ours}")
        ),
        *scale(f"{attention}.q_norm", f"{_OURS}/attention/query_norm"),
        *scale(f"{attention}.k_norm", f"{_OURS}/attention/key_norm"),
        Rule(f"{attention}.sinks", f"params/{_OURS}/attention/sink"),
        *(
            row
            for theirs, ours in _NORMS[model_type].items()
            for row in scale(f"{_THEIRS}.{theirs}_layernorm", f"{_OURS}/{ours}")
        ),
        *_DENSE_PARTS.get(model_type, gated(mlp, f"{_OURS}/mlp")),
        *around("model.layers.{layer}.self_attn.rotary_emb.inv_freq"),  # a constant that old files have
    )


def _together(source: str, target: str) -> Rules:
    return (
        Rule(f"{source}.gate_up_proj[:,0/2]", f"params/{target}/gate/kernel", SWAPPED),
        Rule(f"{source}.gate_up_proj[:,1/2]", f"params/{target}/up/kernel", SWAPPED),
        Rule(f"{source}.down_proj", f"params/{target}/down/kernel", SWAPPED),
    )


def _mixtral() -> Rules:
    theirs, ours = f"{_THEIRS}.block_sparse_moe", f"{_OURS}/mlp"
    return (
        *dense(f"{theirs}.gate", f"{ours}/router/logits"),
        *(
            Rule(f"{theirs}.experts.{{expert}}.{w}.weight", f"params/{ours}/experts[{{expert}}]/{name}/kernel", DENSE)
            for w, name in (("w1", "gate"), ("w3", "up"), ("w2", "down"))
        ),
        *dense(f"{_THEIRS}.mlp.gate", f"{ours}/router/logits"),
        *_together(f"{_THEIRS}.mlp.experts", f"{ours}/experts"),
    )


def _gpt_oss() -> Rules:
    theirs, ours = f"{_THEIRS}.mlp.experts", f"{_OURS}/mlp/experts"
    parts = {"gate": ("gate_up_proj", "[...,0::2]"), "up": ("gate_up_proj", "[...,1::2]"), "down": ("down_proj", "")}
    return (
        *dense(f"{_THEIRS}.mlp.router", f"{_OURS}/mlp/router/logits"),
        *(
            Rule(f"{theirs}.{name}{end}{part}", f"params/{ours}/{own}/{leaf}", SAME)
            for own, (name, part) in parts.items()
            for end, leaf in (("", "kernel"), ("_bias", "bias"))
        ),
    )


_DENSE_PARTS = {
    "mixtral": _mixtral(),
    "qwen3_moe": (
        *dense(f"{_THEIRS}.mlp.gate", f"{_OURS}/mlp/router/logits"),
        *experts(f"{_THEIRS}.mlp.experts", f"{_OURS}/mlp/experts"),
    ),
    "gpt_oss": _gpt_oss(),
}
_BEFORE = {"input": "norm1", "post_attention": "norm2"}
_AROUND = {
    "input": "norm1",
    "post_attention": "post_norm1",
    "pre_feedforward": "norm2",
    "post_feedforward": "post_norm2",
}
_NORMS = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gpt_oss"), _BEFORE),
    **dict.fromkeys(("gemma2", "gemma3_text"), _AROUND),
}

TRANSFORMERS = {
    "llama": transformers("llama"),
    "mixtral_8x7b": transformers("mixtral"),
    **dict.fromkeys(("qwen3_30b_a3b", "qwen3_235b_a22b"), transformers("qwen3_moe")),
    **dict.fromkeys(("gemma2_2b", "gemma2_9b", "gemma2_27b"), transformers("gemma2")),
    **dict.fromkeys(("gemma3_270m", "gemma3_1b", "gemma3_4b", "gemma3_12b", "gemma3_27b"), transformers("gemma3_text")),
    **dict.fromkeys(("gpt_oss_20b", "gpt_oss_120b"), transformers("gpt_oss")),
}

# how config.json says it

_FULL, _SLIDING = "full_attention", "sliding_attention"
_PLAIN = dict(
    gate_function="swiglu",
    mixture=None,
    window=None,
    head_norms=False,
    sinks=False,
    scale_size=None,
    attention_soft_cap=None,
    logit_soft_cap=None,
    norm_offset=0.0,
    post_norms=False,
    scaled_embed=False,
)
_GEMMA = _PLAIN | dict(gate_function="geglu", norm_offset=1.0, scaled_embed=True)
_HEADS = {"ForCausalLM": {}}
_FIXED = {"attention_dropout": 0.0, "quantization_config": None}
_SILU = _FIXED | {"hidden_act": "silu"}
_Config = Mapping[str, Any]


def _without(arguments: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in names}


def _fields(
    *sizes: int, epsilon: float = 1e-6, kv_heads: int | None = None, head_size: int | None = None
) -> dict[str, tuple[str, Any]]:
    names = ("vocab_size", "hidden_size", "num_layers", "num_heads", "mlp_size", "max_length")
    fields = decoder_fields(**dict(zip(names, sizes, strict=True)), epsilon=epsilon)
    return fields | {"num_kv_heads": ("num_key_value_heads", kv_heads), "head_size": ("head_dim", head_size)}


def _common(theta: float, tied: bool) -> Callable[[_Config], dict[str, Any]]:
    """What every type's config says of positions, ties and biases."""

    def read(config: _Config) -> dict[str, Any]:
        return {"rope": rope_of(config, theta), "tied": flag(config, "tie_word_embeddings", tied)}

    return read


def _biases(config: _Config, default: bool = False) -> dict[str, Any]:
    said = flag(config, "attention_bias", default)
    return {"qkv_bias": said, "out_bias": said}


def _window(config: _Config) -> dict[str, Any]:
    """Of a type whose layers all have a window, if there is one."""
    size = number(config, "sliding_window", None)
    return {"window": None if size is None else {"size": size}}


def _pattern(config: _Config, size: int | None, default: Callable[[int], bool]) -> dict[str, Any] | None:
    """The plain data of a window, of a type whose layers differ; `default` says which of them have it."""
    layers = number(config, "num_hidden_layers", 0)
    types = config.get("layer_types") or [_SLIDING if default(i) else _FULL for i in range(layers)]
    if not isinstance(types, list) or len(types) != layers or not {*types} <= {_FULL, _SLIDING}:
        raise WeightsError(f"{CONFIG}: layer_types are {types!r}, not {_FULL!r} or {_SLIDING!r} for {layers} layers")
    if _SLIDING not in types:
        return None
    if size is None:
        raise WeightsError(f"{CONFIG}: layer_types has {_SLIDING!r}, but there is no sliding_window")
    if _FULL not in types:
        return {"size": size}
    every = types.index(_FULL) + 1
    if types != _types(layers, every):
        raise WeightsError(f"{CONFIG}: layer_types are implemented where every n-th layer is {_FULL!r}, got {types!r}")
    return {"size": size, "global_every": every}


def _types(layers: int, every: int | None) -> list[str]:
    return [_FULL if every and (i + 1) % every == 0 else _SLIDING for i in range(layers)]


def _said_window(arguments: Mapping[str, Any]) -> dict[str, Any]:
    window = arguments["window"]
    if window is None:
        return {"sliding_window": None, "layer_types": [_FULL] * arguments["num_layers"]}
    return {"sliding_window": window.size, "layer_types": _types(arguments["num_layers"], window.global_every)}


def _qwen_window(config: _Config) -> dict[str, Any]:
    if not flag(config, "use_sliding_window", False):
        return {"window": None}
    first = number(config, "max_window_layers", 28)
    return {"window": _pattern(config, number(config, "sliding_window", 4096), lambda i: i >= first)}


def _said_qwen_window(arguments: Mapping[str, Any]) -> dict[str, Any]:
    used = arguments["window"] is not None
    return _said_window(arguments) | {"use_sliding_window": used, "max_window_layers": 0}


def _refuse_both_ways(config: _Config) -> None:
    if config.get("use_bidirectional_attention"):
        raise WeightsError(f"{CONFIG}: use_bidirectional_attention is true, but only causal attention is implemented")


def _activation(config: _Config, name: str) -> None:
    said = config.get(name)
    if said not in (None, "gelu", "gelu_pytorch_tanh"):  # Gemma's first files say gelu and mean the other
        raise WeightsError(f"{CONFIG}: {name} is {said!r}, but only 'gelu_pytorch_tanh' is implemented")


def _gemma_derived(theta: float) -> Callable[[_Config, Collection[str]], dict[str, Any]]:
    def derived(config: _Config, names: Collection[str]) -> dict[str, Any]:
        _activation(config, "hidden_activation" if config.get("hidden_activation") else "hidden_act")
        _refuse_both_ways(config)
        return _common(theta, tied=True)(config) | _biases(config)

    return derived


def _gemma2_derived(every: int, caps: tuple[float | None, float | None]) -> Callable[..., dict[str, Any]]:
    """Of Gemma 2 and 3: windows, soft caps and what products are divided by."""

    def derived(config: _Config, names: Collection[str]) -> dict[str, Any]:
        every_ = number(config, "sliding_window_pattern", every)
        found = _gemma_derived(10_000.0)(config, names)
        found["window"] = _pattern(config, number(config, "sliding_window", 4096), lambda i: (i + 1) % every_ != 0)
        found["scale_size"] = number(config, "query_pre_attn_scalar", 256)
        for ours, theirs, default in zip(_CAPS, ("attn", "final"), caps, strict=True):
            name = f"{theirs}_logit_softcapping"
            found[ours] = number(config, name, 0.0) or None if name in config else default
        return found

    return derived


_CAPS = ("attention_soft_cap", "logit_soft_cap")


def _gemma3_derived(config: _Config, names: Collection[str]) -> dict[str, Any]:
    found = _gemma2_derived(6, (None, None))(config, names) | {"rope": rope_of(config, 1_000_000.0, _FULL)}
    if found["window"] is not None:
        nested = isinstance(config.get("rope_parameters"), Mapping)
        near = rope_of(config if nested else {}, number(config, "rope_local_base_freq", 10_000.0), _SLIDING)
        found["window"]["rope"] = near
    return found


def _said_gemma(arguments: Mapping[str, Any]) -> dict[str, Any]:
    said = _said_common(arguments) | {"hidden_act": "gelu_pytorch_tanh"}
    if arguments["post_norms"]:
        said |= _said_window(arguments) | {"hidden_activation": said.pop("hidden_act")}
        said |= {"attn_logit_softcapping": arguments[_CAPS[0]], "final_logit_softcapping": arguments[_CAPS[1]]}
        said["query_pre_attn_scalar"] = arguments["scale_size"] or _head_size(arguments)
    if arguments["head_norms"] and arguments["window"] is not None:
        said["rope_local_base_freq"] = (arguments["window"].rope or arguments["rope"]).theta
    return said


def _said_common(arguments: Mapping[str, Any]) -> dict[str, Any]:
    heads = {"num_key_value_heads": arguments["num_kv_heads"] or arguments["num_heads"]}
    heads |= {"head_dim": _head_size(arguments), "attention_bias": arguments["out_bias"]}
    return heads | {"tie_word_embeddings": arguments["tied"]} | rope_written(arguments["rope"])


def _head_size(arguments: Mapping[str, Any]) -> int:
    return arguments["head_size"] or arguments["hidden_size"] // arguments["num_heads"]


def _mixture(experts_name: str, chosen: int, count: int, **rest: bool) -> Callable[[_Config], dict[str, Any]]:
    """What a config says of experts. transformers 5 may write "num_local_experts" for "num_experts"."""

    def read(config: _Config) -> dict[str, Any]:
        other = number(config, "num_experts" if experts_name == "num_local_experts" else "num_local_experts", count)
        sizes = {"num_experts": number(config, experts_name, other)}
        return {"mixture": sizes | {"num_chosen": number(config, "num_experts_per_tok", chosen)} | rest}

    return read


def _same_bias(arguments: Mapping[str, Any]) -> bool:
    return arguments["qkv_bias"] == arguments["out_bias"]


def _alike(arguments: Mapping[str, Any]) -> bool:
    """Whether all layers have the same window, or none."""
    return arguments["window"] is None or arguments["window"].global_every is None


def _one_rope(arguments: Mapping[str, Any]) -> bool:
    return arguments["window"] is None or arguments["window"].rope is None


def _holds_experts(*, use_bias: bool) -> Callable[[Mapping[str, Any]], bool]:
    def fits(arguments: Mapping[str, Any]) -> bool:
        mixture = arguments["mixture"]
        return mixture is not None and mixture.use_bias == use_bias and _one_rope(arguments)

    return fits


def _layout(
    model_type: str,
    prefix: str,
    fields: Mapping[str, Any],
    fixed: Mapping[str, Any],
    arguments: Mapping[str, Any],
    *rest,
) -> Layout:
    return Layout("llama", prefix, fields, fixed, arguments, _HEADS, lambda _: transformers(model_type), *rest)


_LLAMA_FIELDS = _fields(32_000, 4096, 32, 32, 11_008, 2048)
_MISTRAL_FIELDS = _fields(32_000, 4096, 32, 32, 14_336, 131_072, kv_heads=8)
_QWEN_FIELDS = _fields(151_936, 4096, 32, 32, 22_016, 32_768, kv_heads=32)

LAYOUTS: Mapping[str, Layout] = {
    "llama": _layout(
        *("llama", "Llama", _LLAMA_FIELDS, _SILU | {"mlp_bias": False}, _PLAIN),
        lambda config, names: _common(10_000.0, False)(config) | _biases(config),
        *(_said_common, _same_bias),
    ),
    "mistral": _layout(
        *("mistral", "Mistral", _MISTRAL_FIELDS, _SILU),
        _without(_PLAIN, "window") | dict(qkv_bias=False, out_bias=False),
        lambda config, names: _common(10_000.0, False)(config) | _window({"sliding_window": 4096} | dict(config)),
        lambda arguments: _without(_said_common(arguments) | _said_window(arguments), "attention_bias", "layer_types"),
        lambda arguments: _alike(arguments) and _one_rope(arguments),
    ),
    "mixtral": _layout(
        *(
            "mixtral",
            "Mixtral",
            _MISTRAL_FIELDS | {"epsilon": ("rms_norm_eps", 1e-5)},
            _SILU | {"router_jitter_noise": 0.0},
        ),
        _without(_PLAIN, "window", "mixture") | dict(qkv_bias=False, out_bias=False),
        lambda config, names: (
            _common(1_000_000.0, False)(config) | _window(config) | _mixture("num_local_experts", 2, 8)(config)
        ),
        lambda arguments: (
            _without(_said_common(arguments) | _said_window(arguments), "attention_bias", "layer_types")
            | {"num_local_experts": arguments["mixture"].num_experts}
            | {"num_experts_per_tok": arguments["mixture"].num_chosen}
        ),
        lambda arguments: (
            _holds_experts(use_bias=False)(arguments) and arguments["mixture"].normalised and _alike(arguments)
        ),
    ),
    "qwen2": _layout(
        *("qwen2", "Qwen2", _QWEN_FIELDS, _SILU, _without(_PLAIN, "window") | dict(qkv_bias=True, out_bias=False)),
        lambda config, names: _common(10_000.0, False)(config) | _qwen_window(config),
        lambda arguments: _without(_said_common(arguments), "attention_bias") | _said_qwen_window(arguments),
        _one_rope,
    ),
    "qwen3": _layout(
        *("qwen3", "Qwen3", _QWEN_FIELDS | {"head_size": ("head_dim", 128)}, _SILU),
        _without(_PLAIN, "window") | dict(head_norms=True),
        lambda config, names: _common(10_000.0, False)(config) | _qwen_window(config) | _biases(config),
        lambda arguments: _said_common(arguments) | _said_qwen_window(arguments),
        lambda arguments: _same_bias(arguments) and _one_rope(arguments),
    ),
    "qwen3_moe": _layout(
        *("qwen3_moe", "Qwen3Moe"),
        _fields(151_936, 2048, 24, 32, 768, 32_768, kv_heads=4) | {"mlp_size": ("moe_intermediate_size", 768)},
        _SILU | {"decoder_sparse_step": 1, "use_sliding_window": False},
        _without(_PLAIN, "mixture") | dict(head_norms=True),
        lambda config, names: _common(10_000.0, False)(config) | _biases(config) | _qwen3_experts(config),
        lambda arguments: (
            _said_common(arguments)
            | {"num_experts": arguments["mixture"].num_experts, "norm_topk_prob": arguments["mixture"].normalised}
            | {"num_experts_per_tok": arguments["mixture"].num_chosen, "intermediate_size": arguments["mlp_size"]}
        ),
        lambda arguments: _holds_experts(use_bias=False)(arguments) and _same_bias(arguments),
    ),
    "gemma": _layout(
        *("gemma", "Gemma", _fields(256_000, 3072, 28, 16, 24_576, 8192, kv_heads=16, head_size=256), _FIXED, _GEMMA),
        *(_gemma_derived(10_000.0), _said_gemma, _same_bias),
    ),
    "gemma2": _layout(
        *("gemma2", "Gemma2", _fields(256_000, 2304, 26, 8, 9216, 8192, kv_heads=4, head_size=256), _FIXED),
        _without(_GEMMA, "window", "scale_size", *_CAPS) | dict(post_norms=True),
        *(_gemma2_derived(2, (50.0, 30.0)), _said_gemma),
        lambda arguments: _same_bias(arguments) and _one_rope(arguments),
    ),
    "gemma3_text": _layout(
        *("gemma3_text", "Gemma3", _fields(262_208, 2304, 26, 8, 9216, 131_072, kv_heads=4, head_size=256), _FIXED),
        _without(_GEMMA, "window", "scale_size", *_CAPS) | dict(post_norms=True, head_norms=True),
        *(_gemma3_derived, _said_gemma, _same_bias),
    ),
    "gpt_oss": _layout(
        *("gpt_oss", "GptOss", _fields(201_088, 2880, 36, 64, 2880, 131_072, epsilon=1e-5, kv_heads=8, head_size=64)),
        _SILU | {"swiglu_alpha": 1.702, "swiglu_limit": 7.0},
        _without(_PLAIN, "mixture", "window") | dict(gate_function="clamped_swiglu", sinks=True),
        lambda config, names: (
            {"rope": rope_of(config if _says_rope(config) else _GPT_OSS_ROPE | dict(config), 150_000.0)}
            | {"tied": flag(config, "tie_word_embeddings", False)}
            | _biases(config, default=True)
            | {"window": _pattern(config, number(config, "sliding_window", 128), lambda i: i % 2 == 0)}
            | _mixture("num_local_experts", 4, 128, use_bias=True)(config)
        ),
        lambda arguments: (
            _said_common(arguments)
            | _said_window(arguments)
            | _said_rope(arguments)
            | {"num_local_experts": arguments["mixture"].num_experts}
            | {"num_experts_per_tok": arguments["mixture"].num_chosen}
        ),
        lambda arguments: (
            _holds_experts(use_bias=True)(arguments) and arguments["mixture"].normalised and _same_bias(arguments)
        ),
    ),
}


def _qwen3_experts(config: _Config) -> dict[str, Any]:
    if config.get("mlp_only_layers"):
        raise WeightsError(f"{CONFIG}: mlp_only_layers are {config['mlp_only_layers']!r}, but only none is implemented")
    return _mixture("num_experts", 8, 128, normalised=flag(config, "norm_topk_prob", False))(config)


def _said_rope(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of gpt-oss, for which transformers takes YaRN where the config says nothing."""
    rope = arguments["rope"]
    return {"rope_parameters": {"rope_type": "default", "rope_theta": rope.theta}} if rope.scaling is None else {}


def _says_rope(config: _Config) -> bool:
    return bool(config.get("rope_parameters") or config.get("rope_scaling"))


_GPT_OSS_ROPE = {  # what transformers takes where the config says nothing
    "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}
}
