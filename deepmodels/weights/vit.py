"""Where other libraries keep the weights of the vision transformers. Ours stack the layers."""

from deepmodels.weights.convert import Rule, Rules, attention, conv, dense, layer_norm

_LAYER = "layers[{layer}]"
_TORCHVISION_LAYER = "encoder.layers.encoder_layer_{layer}"

TORCHVISION: Rules = (
    Rule("class_token", "params/class_token"),
    *conv("conv_proj", "patch_embed"),
    Rule("encoder.pos_embedding", "params/position_embed"),
    *layer_norm(f"{_TORCHVISION_LAYER}.ln_1", f"{_LAYER}/norm1"),
    *attention(f"{_TORCHVISION_LAYER}.self_attention", f"{_LAYER}/attention"),
    *layer_norm(f"{_TORCHVISION_LAYER}.ln_2", f"{_LAYER}/norm2"),
    *dense(f"{_TORCHVISION_LAYER}.mlp.0", f"{_LAYER}/dense1"),
    *dense(f"{_TORCHVISION_LAYER}.mlp.3", f"{_LAYER}/dense2"),
    *dense(f"{_TORCHVISION_LAYER}.mlp.linear_1", f"{_LAYER}/dense1"),  # in the files of its first version
    *dense(f"{_TORCHVISION_LAYER}.mlp.linear_2", f"{_LAYER}/dense2"),
    *layer_norm("encoder.ln", "norm"),
    *dense("heads.head", "head"),
)

TIMM: Rules = (  # and the DINOv2 of torch's hub
    Rule("cls_token", "params/class_token"),
    Rule("mask_token", None),  # what hidden patches are replaced by in pre-training
    *conv("patch_embed.proj", "patch_embed"),
    Rule("pos_embed", "params/position_embed"),
    *layer_norm("blocks.{layer}.norm1", f"{_LAYER}/norm1"),
    *attention("blocks.{layer}.attn", f"{_LAYER}/attention", inputs="qkv.", out="proj"),
    Rule("blocks.{layer}.ls1.gamma", f"params/{_LAYER}/scale1"),
    *layer_norm("blocks.{layer}.norm2", f"{_LAYER}/norm2"),
    *dense("blocks.{layer}.mlp.fc1", f"{_LAYER}/dense1"),
    *dense("blocks.{layer}.mlp.fc2", f"{_LAYER}/dense2"),
    Rule("blocks.{layer}.ls2.gamma", f"params/{_LAYER}/scale2"),
    *layer_norm("norm", "norm"),
    *dense("head", "head"),
)


def _embeddings(prefix: str) -> Rules:
    return (
        Rule(f"{prefix}embeddings.cls_token", "params/class_token"),
        Rule(f"{prefix}embeddings.mask_token", None),
        Rule(f"{prefix}embeddings.position_embeddings", "params/position_embed"),
        *conv(f"{prefix}embeddings.patch_embeddings.projection", "patch_embed"),
        *layer_norm(f"{prefix}layernorm", "norm"),
        Rule(f"{prefix}pooler.{{*}}", None),  # of a class of transformers, not of the paper; it is seldom trained
    )


def layer(theirs: str, ours: str) -> Rules:
    """Returns the rows of a layer of transformers' ViT, and of its decoder in a masked autoencoder.

    Args:
      theirs: the layer's name there.
      ours: its path inside "params".
    """
    return (
        *layer_norm(f"{theirs}.layernorm_before", f"{ours}/norm1"),
        *dense(f"{theirs}.attention.attention.query", f"{ours}/attention/query"),
        *dense(f"{theirs}.attention.attention.key", f"{ours}/attention/key"),
        *dense(f"{theirs}.attention.attention.value", f"{ours}/attention/value"),
        *dense(f"{theirs}.attention.output.dense", f"{ours}/attention/out"),
        *layer_norm(f"{theirs}.layernorm_after", f"{ours}/norm2"),
        *dense(f"{theirs}.intermediate.dense", f"{ours}/dense1"),
        *dense(f"{theirs}.output.dense", f"{ours}/dense2"),
    )


def _vit(prefix: str) -> Rules:
    return (*_embeddings(prefix), *layer(f"{prefix}encoder.layer.{{layer}}", _LAYER))


def _dinov2(prefix: str) -> Rules:
    theirs = f"{prefix}encoder.layer.{{layer}}"
    return (
        *_embeddings(prefix),
        *layer_norm(f"{theirs}.norm1", f"{_LAYER}/norm1"),
        *dense(f"{theirs}.attention.attention.query", f"{_LAYER}/attention/query"),
        *dense(f"{theirs}.attention.attention.key", f"{_LAYER}/attention/key"),
        *dense(f"{theirs}.attention.attention.value", f"{_LAYER}/attention/value"),
        *dense(f"{theirs}.attention.output.dense", f"{_LAYER}/attention/out"),
        Rule(f"{theirs}.layer_scale1.lambda1", f"params/{_LAYER}/scale1"),
        *layer_norm(f"{theirs}.norm2", f"{_LAYER}/norm2"),
        *dense(f"{theirs}.mlp.fc1", f"{_LAYER}/dense1"),
        *dense(f"{theirs}.mlp.fc2", f"{_LAYER}/dense2"),
        Rule(f"{theirs}.layer_scale2.lambda1", f"params/{_LAYER}/scale2"),
    )


# transformers' files; without a prefix: the bare model's, which come first, so that a bare model is written as one
VIT: Rules = (*_vit(""), *_vit("vit."), *dense("classifier", "head"))
DINOV2: Rules = (*_dinov2(""), *_dinov2("dinov2."))
VIT_WITH_HEAD: Rules = (*_vit("vit."), *dense("classifier", "head"))
