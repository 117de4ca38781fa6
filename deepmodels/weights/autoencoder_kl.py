"""Where diffusers keeps the weights of the autoencoder of latent diffusion."""

from deepmodels.weights.convert import Rules, conv, layer_norm
from deepmodels.weights.diffusion import attention, block


def _half(name: str, way: str, sample: str) -> Rules:
    theirs, ours = f"{name}.{way}_blocks.{{level}}", f"{name}/{way}{{level}}"
    return (
        *conv(f"{name}.conv_in", f"{name}/conv_in"),
        *block(f"{theirs}.resnets.{{block}}", f"{ours}_block{{block}}"),
        *conv(f"{theirs}.{sample}.0.conv", f"{ours}_sample"),
        *block(f"{name}.mid_block.resnets.{{block}}", f"{name}/middle/block{{block}}"),
        *attention(f"{name}.mid_block.attentions.0", f"{name}/middle/attention"),
        *layer_norm(f"{name}.conv_norm_out", f"{name}/norm_out"),
        *conv(f"{name}.conv_out", f"{name}/conv_out"),
    )


DIFFUSERS: Rules = (
    *_half("encoder", "down", "downsamplers"),
    *_half("decoder", "up", "upsamplers"),
    *conv("quant_conv", "to_latent"),
    *conv("post_quant_conv", "from_latent"),
)
