"""Where torch keeps the weights of a Transformer: `nn.Transformer` without its last two norms, and an embedding.

    class Model(nn.Module):
        def __init__(self):
            self.embedding = nn.Embedding(vocab_size, 512)
            self.transformer = nn.Transformer(512, custom_encoder=..., custom_decoder=...)

Ours stack the layers. `nn.Transformer` has biases in its attentions: create ours with `attention_bias=True`.
"""

from deepmodels.weights.convert import Rule, Rules, attention, dense, layer_norm


def _stack(name: str) -> Rules:
    theirs, ours = f"transformer.{name}.layers.{{layer}}", f"{name}/layers[{{layer}}]"
    return (
        *attention(f"{theirs}.self_attn", f"{ours}/attention"),
        *attention(f"{theirs}.multihead_attn", f"{ours}/cross_attention"),
        *dense(f"{theirs}.linear1", f"{ours}/dense1"),
        *dense(f"{theirs}.linear2", f"{ours}/dense2"),
        *layer_norm(f"{theirs}.norm{{n}}", f"{ours}/norm{{n}}"),
    )


TORCH: Rules = (Rule("embedding.weight", "params/token_embed/embedding"), *_stack("encoder"), *_stack("decoder"))
