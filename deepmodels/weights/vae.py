"""Where the package DALL-E keeps the weights of its discrete VAE: an encoder and a decoder, here under their names."""

from deepmodels.weights.convert import CONV, Rule, Rules


def _conv(source: str, target: str) -> Rules:
    return Rule(f"{source}.w", f"params/{target}/kernel", CONV), Rule(f"{source}.b", f"params/{target}/bias")


def _half(name: str) -> Rules:
    block = f"{name}.blocks.group_{{group}}.block_{{block}}"
    ours = f"{name}/group{{group}}_block{{block}}"
    return (
        *_conv(f"{name}.blocks.input", f"{name}/input"),
        *_conv(f"{block}.id_path", f"{ours}/conv_skip"),
        *_conv(f"{block}.res_path.conv_{{n}}", f"{ours}/conv{{n}}"),
        *_conv(f"{name}.blocks.output.conv", f"{name}/output"),
    )


DALL_E: Rules = (*_half("encoder"), *_half("decoder"))
