"""Where diffusers keeps the weights of its U-Nets. Ours stack the layers of a transformer."""

from deepmodels.weights.convert import Rule, Rules, conv, dense, layer_norm


def block(theirs: str, ours: str) -> Rules:
    """Returns the rows of a residual block, of an autoencoder's too.

    Args:
      theirs: the block's name there.
      ours: its path inside "params".
    """
    return (
        *layer_norm(f"{theirs}.norm1", f"{ours}/norm1"),
        *conv(f"{theirs}.conv1", f"{ours}/conv1"),
        *dense(f"{theirs}.time_emb_proj", f"{ours}/embed"),
        *layer_norm(f"{theirs}.norm2", f"{ours}/norm2"),
        *conv(f"{theirs}.conv2", f"{ours}/conv2"),
        *conv(f"{theirs}.conv_shortcut", f"{ours}/conv_skip"),
    )


def _attention(theirs: str, ours: str, **names: str) -> Rules:
    return tuple(row for old, new in names.items() for row in dense(f"{theirs}.{old}", f"{ours}/{new}"))


def attention(theirs: str, ours: str) -> Rules:
    """Returns the rows of attention between the positions of a map, with the names of older files too."""
    return (
        *layer_norm(f"{theirs}.group_norm", f"{ours}/norm"),
        *_attention(
            theirs, f"{ours}/attention", **{"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "out"}
        ),
        *_attention(theirs, f"{ours}/attention", query="query", key="key", value="value", proj_attn="out"),
    )


def _transformer(theirs: str, ours: str) -> Rules:
    layer, our_layer = f"{theirs}.transformer_blocks.{{layer}}", f"{ours}/layers[{{layer}}]"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "out"}
    return (
        *layer_norm(f"{theirs}.norm", f"{ours}/norm_in"),
        *conv(f"{theirs}.proj_in", f"{ours}/proj_in"),  # or dense layers: the same axes without a window
        *layer_norm(f"{layer}.norm1", f"{our_layer}/norm1"),
        *_attention(f"{layer}.attn1", f"{our_layer}/attention", **names),
        *layer_norm(f"{layer}.norm2", f"{our_layer}/norm2"),
        *_attention(f"{layer}.attn2", f"{our_layer}/cross_attention", **names),
        *layer_norm(f"{layer}.norm3", f"{our_layer}/norm3"),
        *dense(f"{layer}.ff.net.0.proj", f"{our_layer}/dense1"),
        *dense(f"{layer}.ff.net.2", f"{our_layer}/dense2"),
        *conv(f"{theirs}.proj_out", f"{ours}/proj_out"),
    )


def _attentions(theirs: str, ours: str) -> Rules:
    return (*attention(theirs, ours), *_transformer(theirs, ours))


def _level(way: str, sample: str) -> Rules:
    theirs = f"{way}_blocks.{{level}}"
    return (
        *block(f"{theirs}.resnets.{{block}}", f"{way}{{level}}_block{{block}}"),
        *_attentions(f"{theirs}.attentions.{{block}}", f"{way}{{level}}_attention{{block}}"),
        *conv(f"{theirs}.{sample}.0.conv", f"{way}{{level}}_sample"),
        *block(f"{theirs}.{sample}.0", f"{way}{{level}}_sample"),
    )


DIFFUSERS: Rules = (
    *conv("conv_in", "conv_in"),
    *dense("time_embedding.linear_1", "time_dense1"),
    *dense("time_embedding.linear_2", "time_dense2"),
    Rule("class_embedding.weight", "params/class_embed/embedding"),
    *dense("add_embedding.linear_1", "vector_dense1"),
    *dense("add_embedding.linear_2", "vector_dense2"),
    *_level("down", "downsamplers"),
    *block("mid_block.resnets.{block}", "middle_block{block}"),
    *_attentions("mid_block.attentions.0", "middle_attention"),
    *_level("up", "upsamplers"),
    *layer_norm("conv_norm_out", "norm_out"),
    *conv("conv_out", "conv_out"),
)
