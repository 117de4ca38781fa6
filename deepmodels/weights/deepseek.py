"""Where transformers keeps the weights of DeepSeek-V2 and V3. Ours stack the layers, and the experts in them."""

from collections.abc import Collection, Mapping
from typing import Any

from deepmodels.errors import WeightsError
from deepmodels.weights.convert import DENSE, Rule, Rules
from deepmodels.weights.layout import CONFIG, Layout, decoder_fields, flag, number, rope_of, rope_written
from deepmodels.weights.llama import around, dense, experts, gated, scale


def _layer(theirs: str, ours: str) -> Rules:
    attention, own = f"{theirs}.self_attn", f"{ours}/attention"
    mlp = f"{theirs}.mlp"
    return (
        *dense(f"{attention}.q_proj", f"{own}/query"),
        *dense(f"{attention}.q_a_proj", f"{own}/query_down"),
        *scale(f"{attention}.q_a_layernorm", f"{own}/query_norm"),
        *dense(f"{attention}.q_b_proj", f"{own}/query_up"),
        *dense(f"{attention}.kv_a_proj_with_mqa", f"{own}/latent"),
        *scale(f"{attention}.kv_a_layernorm", f"{own}/latent_norm"),
        Rule(f"{attention}.kv_b_proj.weight", f"params/{own}/latent_up/kernel", DENSE),
        *dense(f"{attention}.o_proj", f"{own}/out"),
        *scale(f"{theirs}.input_layernorm", f"{ours}/norm1"),
        *scale(f"{theirs}.post_attention_layernorm", f"{ours}/norm2"),
        *gated(mlp, f"{ours}/mlp"),
        *dense(f"{mlp}.gate", f"{ours}/mlp/router/logits"),
        Rule(f"{mlp}.gate.e_score_correction_bias", f"balance/{ours}/mlp/router/bias"),
        *experts(f"{mlp}.experts", f"{ours}/mlp/experts"),
        *gated(f"{mlp}.shared_experts", f"{ours}/mlp/shared"),
    )


def transformers(num_dense_layers: int, num_layers: int) -> Rules:
    """Returns the rows of a model; what is behind its last layer, V3's prediction of more than one token, isn't taken.

    Args:
      num_dense_layers: layers without experts, the first ones.
      num_layers: of the model.
    """
    behind = f"{{layer+{num_dense_layers}}}" if num_dense_layers else "{layer}"
    return (
        *_layer("model.layers.{layer}", "dense_layers[{layer}]"),
        *_layer(f"model.layers.{behind}", "layers[{layer}]"),
        *around("model.layers.{layer}.self_attn.rotary_emb.inv_freq"),
        Rule(f"model.layers.{num_layers}.{{*}}", None),
    )


TRANSFORMERS = {"deepseek_v2_lite": transformers(1, 27), "deepseek_v3": transformers(3, 61)}

_Config = Mapping[str, Any]
_FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "moe_layer_freq": 1,
    "quantization_config": None,
}
_SIZES = {
    "latent_size": ("kv_lora_rank", 512),
    "query_rank": ("q_lora_rank", None),
    "head_size": ("qk_nope_head_dim", 128),
    "rotary_size": ("qk_rope_head_dim", 64),
    "value_size": ("v_head_dim", 128),
}


def _derived(config: _Config, names: Collection[str], sigmoid: bool) -> dict[str, Any]:
    groups = number(config, "n_group", 8 if sigmoid else None) or 1
    method = config.get("topk_method")
    expected = ("noaux_tc", None) if sigmoid else ("greedy", "group_limited_greedy", None)
    if method not in expected:
        raise WeightsError(f"{CONFIG}: topk_method is {method!r}, but only {expected[:-1]} is implemented")
    limited = sigmoid or method == "group_limited_greedy"
    chosen = (number(config, "topk_group", 4 if sigmoid else None) or groups) if limited else groups
    routes = {
        "num_experts": number(config, "n_routed_experts", 256 if sigmoid else 64),
        "num_chosen": number(config, "num_experts_per_tok", 8 if sigmoid else None),
        "sigmoid": sigmoid,
        "factor": number(config, "routed_scaling_factor", 2.5 if sigmoid else 1.0),
        "num_groups": groups,
        "num_chosen_groups": chosen,
    }
    if routes["num_chosen"] is None:
        raise WeightsError(f"{CONFIG}: num_experts_per_tok isn't there")
    tied = flag(config, "tie_word_embeddings", False)
    return {"routes": routes, "rope": rope_of(config, 10_000.0), "tied": tied}


def _written(arguments: Mapping[str, Any]) -> dict[str, Any]:
    routes = arguments["routes"]
    limited = routes.num_chosen_groups < routes.num_groups
    said = {
        "n_routed_experts": routes.num_experts,
        "num_experts_per_tok": routes.num_chosen,
        "routed_scaling_factor": routes.factor,
        "n_group": routes.num_groups,
        "topk_group": routes.num_chosen_groups,
        "norm_topk_prob": routes.sigmoid,
        "tie_word_embeddings": arguments["tied"],
        "num_key_value_heads": arguments["num_heads"],
    }
    if not routes.sigmoid:
        said["topk_method"] = "group_limited_greedy" if limited else "greedy"
    return said | rope_written(arguments["rope"])


def _layout(prefix: str, sigmoid: bool, fields: Mapping[str, Any], fixed: Mapping[str, Any]) -> Layout:
    return Layout(
        *("deepseek", prefix, fields, _FIXED | fixed, {}),
        {"ForCausalLM": {}},
        lambda arguments: transformers(arguments["num_dense_layers"], arguments["num_layers"]),
        lambda config, names: _derived(config, names, sigmoid),
        *(_written, lambda arguments: arguments["routes"].sigmoid == sigmoid),
    )


def _fields(*sizes: int, dense: int, expert_size: int, shared: int) -> dict[str, tuple[str, Any]]:
    names = ("vocab_size", "hidden_size", "num_layers", "num_heads", "mlp_size", "max_length")
    return {
        **decoder_fields(**dict(zip(names, sizes, strict=True))),
        **_SIZES,
        "num_dense_layers": ("first_k_dense_replace", dense),
        "expert_size": ("moe_intermediate_size", expert_size),
        "num_shared": ("n_shared_experts", shared),
    }


LAYOUTS: Mapping[str, Layout] = {
    "deepseek_v2": _layout(
        *("DeepseekV2", False),
        _fields(102_400, 4096, 32, 32, 11_008, 2048, dense=0, expert_size=1407, shared=2),
        {"norm_topk_prob": False, "mlp_bias": False, "scoring_func": "softmax"},
    ),
    "deepseek_v3": _layout(
        *("DeepseekV3", True),
        _fields(129_280, 7168, 61, 128, 18_432, 4096, dense=3, expert_size=2048, shared=1),
        {"norm_topk_prob": True, "rope_interleave": True, "scoring_func": "sigmoid"},
    ),
}
