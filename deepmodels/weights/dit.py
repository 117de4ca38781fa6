"""Where diffusers keeps the weights of DiT and of Stable Diffusion 3's MMDiT.

Its DiT has the embeddings of time and class in every layer, all with the same values in the weights that circulate; the
paper has them once, and so have we. Those of the first layer are read, and the table writes no others.
"""

from deepmodels.weights.convert import Rule, Rules, conv, dense

_THEIRS, _LAYER = "transformer_blocks.{layer}", "layers[{layer}]"


def _attention(theirs: str, ours: str) -> Rules:
    return (
        *dense(f"{theirs}.to_q", f"{ours}/query"),
        *dense(f"{theirs}.to_k", f"{ours}/key"),
        *dense(f"{theirs}.to_v", f"{ours}/value"),
        *dense(f"{theirs}.to_out.0", f"{ours}/out"),
    )


_EMBEDDINGS = "transformer_blocks.0.norm1.emb"

DIT: Rules = (
    *conv("pos_embed.proj", "patch_embed"),
    *dense(f"{_EMBEDDINGS}.timestep_embedder.linear_1", "time_dense1"),
    *dense(f"{_EMBEDDINGS}.timestep_embedder.linear_2", "time_dense2"),
    Rule(f"{_EMBEDDINGS}.class_embedder.embedding_table.weight", "params/class_embed/embedding"),
    Rule(f"{_THEIRS}.norm1.emb.{{*}}", None),
    *dense(f"{_THEIRS}.norm1.linear", f"{_LAYER}/modulation"),
    *_attention(f"{_THEIRS}.attn1", f"{_LAYER}/attention"),
    *dense(f"{_THEIRS}.ff.net.0.proj", f"{_LAYER}/dense1"),
    *dense(f"{_THEIRS}.ff.net.2", f"{_LAYER}/dense2"),
    *dense("proj_out_1", "modulation"),
    *dense("proj_out_2", "head"),
)


def _joint(theirs: str, ours: str) -> Rules:
    return (
        *dense(f"{theirs}.norm1.linear", f"{ours}/modulation"),
        *dense(f"{theirs}.norm1_context.linear", f"{ours}/context_modulation"),
        *_attention(f"{theirs}.attn", f"{ours}/attention"),
        *dense(f"{theirs}.attn.add_q_proj", f"{ours}/context_attention/query"),
        *dense(f"{theirs}.attn.add_k_proj", f"{ours}/context_attention/key"),
        *dense(f"{theirs}.attn.add_v_proj", f"{ours}/context_attention/value"),
        *dense(f"{theirs}.attn.to_add_out", f"{ours}/context_attention/out"),
        *dense(f"{theirs}.ff.net.0.proj", f"{ours}/dense1"),
        *dense(f"{theirs}.ff.net.2", f"{ours}/dense2"),
        *dense(f"{theirs}.ff_context.net.0.proj", f"{ours}/context_dense1"),
        *dense(f"{theirs}.ff_context.net.2", f"{ours}/context_dense2"),
    )


def mmdit(num_layers: int) -> Rules:
    """Returns the rows of an MMDiT, whose last layer we keep apart.

    The positions, which aren't trained, are in diffusers' files, but not among our variables, so that they are neither
    read nor written.

    Args:
      num_layers: of the model.
    """
    return (
        *conv("pos_embed.proj", "patch_embed"),
        Rule("pos_embed.pos_embed", None),
        *dense("time_text_embed.timestep_embedder.linear_1", "time_dense1"),
        *dense("time_text_embed.timestep_embedder.linear_2", "time_dense2"),
        *dense("time_text_embed.text_embedder.linear_1", "vector_dense1"),
        *dense("time_text_embed.text_embedder.linear_2", "vector_dense2"),
        *dense("context_embedder", "context_embed"),
        *_joint(f"transformer_blocks.{num_layers - 1}", "last"),
        *_joint(_THEIRS, _LAYER),
        *dense("norm_out.linear", "modulation"),
        *dense("proj_out", "head"),
    )


MMDIT = {"sd3_medium": mmdit(24), "mmdit_tiny": mmdit(2)}
