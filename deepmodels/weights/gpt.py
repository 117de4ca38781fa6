"""Where transformers keeps the weights of GPT-1 and GPT-2, whose dense kernels are (in, out) as ours are."""

from collections.abc import Mapping
from typing import Any

from deepmodels.weights.convert import SAME, Rule, Rules, dense, layer_norm
from deepmodels.weights.layout import Layout

_LAYER = "layers[{layer}]"


def _body(prefix: str, tokens: str, positions: str) -> Rules:
    theirs = f"{prefix}h.{{layer}}"
    return (
        Rule(f"{prefix}{tokens}.weight", "params/token_embed/embedding"),
        Rule(f"{prefix}{positions}.weight", "params/position_embed/embedding"),
        *layer_norm(f"{theirs}.ln_1", f"{_LAYER}/norm1"),
        *(
            row
            for i, name in enumerate(("query", "key", "value"))
            for row in (
                Rule(f"{theirs}.attn.c_attn.weight[:,{i}/3]", f"params/{_LAYER}/attention/{name}/kernel"),
                Rule(f"{theirs}.attn.c_attn.bias[{i}/3]", f"params/{_LAYER}/attention/{name}/bias"),
            )
        ),
        *dense(f"{theirs}.attn.c_proj", f"{_LAYER}/attention/out", SAME),
        *layer_norm(f"{theirs}.ln_2", f"{_LAYER}/norm2"),
        *dense(f"{theirs}.mlp.c_fc", f"{_LAYER}/dense1", SAME),
        *dense(f"{theirs}.mlp.c_proj", f"{_LAYER}/dense2", SAME),
        *layer_norm(f"{prefix}ln_f", "norm"),
        Rule(f"{theirs}.attn.bias", None),  # the mask of what comes after
        Rule(f"{theirs}.attn.masked_bias", None),
        Rule(f"{prefix}position_ids", None),
    )


_TIED = (Rule("lm_head.weight", None),)  # the embedding again

# with the head of a language model, and as the files of the hub's first days have it, without
GPT2: Rules = (*_body("transformer.", "wte", "wpe"), *_body("", "wte", "wpe"), *_TIED)
GPT1: Rules = (
    *_body("transformer.", "tokens_embed", "positions_embed"),
    *_body("", "tokens_embed", "positions_embed"),
    *_TIED,
)
TRANSFORMERS = {"gpt1": GPT1, "gpt": GPT2}

_FIELDS = {
    "hidden_size": ("n_embd", 768),
    "num_layers": ("n_layer", 12),
    "num_heads": ("n_head", 12),
    "dropout_rate": ("resid_pdrop", 0.1),
    "epsilon": ("layer_norm_epsilon", 1e-5),
}
_GPT1_FIELDS = {"vocab_size": ("vocab_size", 40_478), "max_length": ("n_positions", 512)}
_GPT2_FIELDS = {
    "vocab_size": ("vocab_size", 50_257),
    "max_length": ("n_positions", 1024),
    "mlp_size": ("n_inner", None),
}
_GPT2_FIXED = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_HEADS: Mapping[str, dict[str, Any]] = {"LMHeadModel": {}, "Model": {}}  # one matrix, with which both are whole


def _dropout(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(("embd_pdrop", "attn_pdrop"), arguments["dropout_rate"])


LAYOUTS = {
    "openai-gpt": Layout(
        *("gpt", "OpenAIGPT", _FIELDS | _GPT1_FIELDS, {"afn": "gelu", "tie_word_embeddings": True}),
        *(dict(post_norm=True, window=None, mlp_size=None), _HEADS, lambda arguments: GPT1),
        written=_dropout,
    ),
    "gpt2": Layout(
        *("gpt", "GPT2", _FIELDS | _GPT2_FIELDS, _GPT2_FIXED, dict(post_norm=False, window=None)),
        *(_HEADS, lambda arguments: GPT2),
        written=_dropout,
    ),
}
