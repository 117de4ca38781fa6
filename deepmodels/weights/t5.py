"""Where transformers keeps the weights of T5. Ours stack the layers; in theirs the first holds what all share."""

from deepmodels.weights.convert import DENSE, Rule, Rules


def _scale(source: str, target: str) -> Rules:
    return (Rule(f"{source}.weight", f"params/{target}/scale"),)


def _dense(source: str, target: str) -> Rules:
    return (Rule(f"{source}.weight", f"params/{target}/kernel", DENSE),)


def _attention(source: str, target: str) -> Rules:
    names = {"q": "query", "k": "key", "v": "value", "o": "out"}
    return tuple(row for theirs, ours in names.items() for row in _dense(f"{source}.{theirs}", f"{target}/{ours}"))


def _stack(name: str, cross: bool) -> Rules:
    theirs, ours = f"{name}.block.{{layer}}.layer", f"{name}/layers[{{layer}}]"
    last, norm = (2, "norm3") if cross else (1, "norm2")
    return (
        *_attention(f"{theirs}.0.SelfAttention", f"{ours}/attention"),
        Rule(
            f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            f"params/{name}/relative_position/embed/embedding",
        ),
        *_scale(f"{theirs}.0.layer_norm", f"{ours}/norm1"),
        *(_attention(f"{theirs}.1.EncDecAttention", f"{ours}/cross_attention") if cross else ()),
        *(_scale(f"{theirs}.1.layer_norm", f"{ours}/norm2") if cross else ()),
        *(
            row
            for w in ("wi", "wi_0", "wi_1", "wo")
            for row in _dense(f"{theirs}.{last}.DenseReluDense.{w}", f"{ours}/{w}")
        ),
        *_scale(f"{theirs}.{last}.layer_norm", f"{ours}/{norm}"),
        *_scale(f"{name}.final_layer_norm", f"{name}/norm"),
        Rule(f"{name}.embed_tokens.weight", None),  # "shared" again
    )


TRANSFORMERS: Rules = (
    Rule("shared.weight", "params/token_embed/embedding"),
    *_stack("encoder", cross=False),
    *_stack("decoder", cross=True),
    # T5 1.0 released a bias between decoder and source that its own code doesn't use
    Rule("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", None),
    *_dense("lm_head", "head"),
    Rule("lm_head.weight", None),  # "shared" again, where the model has no matrix of its own for it
)
