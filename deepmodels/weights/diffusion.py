"""Where diffusers, and others, keep the weights of U-Nets that undo noise. Ours stack the layers of a transformer."""

from collections.abc import Sequence

from deepmodels.weights.convert import Rule, Rules, Transform, conv, dense, layer_norm


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


def guided_diffusion(levels: int, num_blocks: int, attends: Sequence[bool], window: int = 1) -> Rules:
    """Returns the rows of a network of Dhariwal & Nichol's code, with blocks between its levels.

    There blocks are numbered through: "input_blocks.5.0". Its attention must have queries, keys and values one after
    the other, as `use_new_attention_order` has it.

    Args:
      levels: of the network.
      num_blocks: of a level on the way down.
      attends: whether there is attention at each level.
      window: axes of length 1 behind the attention's weights: 1 there, where positions are one axis.
    """
    flat = Transform(
        lambda w: w.reshape(w.shape[:2]).transpose(1, 0),
        lambda w: w.transpose(1, 0).reshape(*w.shape[::-1], *(1,) * window),
    )

    def resblock(theirs: str, ours: str) -> Rules:
        return (
            *layer_norm(f"{theirs}.in_layers.0", f"{ours}/norm1"),
            *conv(f"{theirs}.in_layers.2", f"{ours}/conv1"),
            *dense(f"{theirs}.emb_layers.1", f"{ours}/embed"),
            *layer_norm(f"{theirs}.out_layers.0", f"{ours}/norm2"),
            *conv(f"{theirs}.out_layers.3", f"{ours}/conv2"),
            *conv(f"{theirs}.skip_connection", f"{ours}/conv_skip"),
        )

    def attention(theirs: str, ours: str) -> Rules:
        rows = layer_norm(f"{theirs}.norm", f"{ours}/norm")
        for i, name in enumerate(("query", "key", "value")):
            rows += (
                Rule(f"{theirs}.qkv.weight[{i}/3]", f"params/{ours}/attention/{name}/kernel", flat),
                Rule(f"{theirs}.qkv.bias[{i}/3]", f"params/{ours}/attention/{name}/bias"),
            )
        return (*rows, *dense(f"{theirs}.proj_out", f"{ours}/attention/out", flat))

    rows = [
        *(row for i in (0, 2) for row in dense(f"time_embed.{i}", f"time_dense{i // 2 + 1}")),
        *(row for i in (0, 2) for row in dense(f"label_emb.{i}", f"vector_dense{i // 2 + 1}")),
        *conv("input_blocks.0.0", "conv_in"),
        *(row for i in (0, 1) for row in resblock(f"middle_block.{2 * i}", f"middle_block{i}")),
        *attention("middle_block.1", "middle_attention"),
        *layer_norm("out.0", "norm_out"),
        *conv("out.2", "conv_out"),
    ]
    number = 1
    for level in range(levels):
        for i in range(num_blocks):
            rows += resblock(f"input_blocks.{number}.0", f"down{level}_block{i}")
            rows += attention(f"input_blocks.{number}.1", f"down{level}_attention{i}") if attends[level] else ()
            number += 1
        if level < levels - 1:
            rows += resblock(f"input_blocks.{number}.0", f"down{level}_sample")
            number += 1
    number = 0
    for step, attend in enumerate(reversed(attends)):
        for i in range(num_blocks + 1):
            theirs = f"output_blocks.{number}"
            rows += resblock(f"{theirs}.0", f"up{step}_block{i}")
            rows += attention(f"{theirs}.1", f"up{step}_attention{i}") if attend else ()
            if i == num_blocks and step < levels - 1:
                rows += resblock(f"{theirs}.{1 + attend}", f"up{step}_sample")
            number += 1
    return tuple(rows)
