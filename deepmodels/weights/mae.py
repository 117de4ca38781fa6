"""Where transformers keeps the weights of the masked autoencoders. Ours stack the layers."""

from deepmodels.weights.convert import Rule, Rules, conv, dense, layer_norm
from deepmodels.weights.vit import layer

TRANSFORMERS: Rules = (
    Rule("vit.embeddings.cls_token", "params/class_token"),
    Rule("vit.embeddings.position_embeddings", "params/position_embed"),
    *conv("vit.embeddings.patch_embeddings.projection", "patch_embed"),
    *layer("vit.encoder.layer.{layer}", "layers[{layer}]"),
    *layer_norm("vit.layernorm", "norm"),
    *dense("decoder.decoder_embed", "decoder_embed"),
    Rule("decoder.mask_token", "params/mask_token"),
    Rule("decoder.decoder_pos_embed", "params/decoder_position_embed"),
    *layer("decoder.decoder_layers.{layer}", "decoder_layers[{layer}]"),
    *layer("decoder.decoder_encoder.layer.{layer}", "decoder_layers[{layer}]"),  # as transformers 5 writes it
    *layer_norm("decoder.decoder_norm", "decoder_norm"),
    *dense("decoder.decoder_pred", "decoder_head"),
)
