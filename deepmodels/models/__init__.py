"""The models: one family, one file, and one table of all their named sizes."""

import fnmatch
from typing import Any

from flax import linen as nn

from deepmodels import arguments
from deepmodels.errors import unknown
from deepmodels.models import (
    alexnet,
    autoencoder,
    autoencoder_kl,
    bert,
    boltzmann,
    clip,
    convnext,
    ctc,
    dalle,
    deeplab,
    deepseek,
    densenet,
    diffusion,
    dit,
    efficientnet,
    fcn,
    gan,
    gpt,
    inception,
    lenet,
    llama,
    mae,
    mcculloch_pitts,
    mlp,
    mobilenet,
    neocognitron,
    perceptron,
    recurrent,
    resnet,
    seq2seq,
    style,
    super_resolution,
    t5,
    transformer,
    translation,
    unet,
    vae,
    vgg,
    vit,
)
from deepmodels.models.variant import Variant

MODELS: dict[str, Variant] = {
    **mcculloch_pitts.VARIANTS,
    **perceptron.VARIANTS,
    **mlp.VARIANTS,
    **neocognitron.VARIANTS,
    **lenet.VARIANTS,
    **alexnet.VARIANTS,
    **vgg.VARIANTS,
    **inception.VARIANTS,
    **resnet.VARIANTS,
    **densenet.VARIANTS,
    **mobilenet.VARIANTS,
    **efficientnet.VARIANTS,
    **convnext.VARIANTS,
    **fcn.VARIANTS,
    **unet.VARIANTS,
    **deeplab.VARIANTS,
    **recurrent.VARIANTS,
    **seq2seq.VARIANTS,
    **ctc.VARIANTS,
    **transformer.VARIANTS,
    **bert.VARIANTS,
    **t5.VARIANTS,
    **gpt.VARIANTS,
    **llama.VARIANTS,
    **deepseek.VARIANTS,
    **vit.VARIANTS,
    **clip.VARIANTS,
    **dit.VARIANTS,
    **autoencoder.VARIANTS,
    **mae.VARIANTS,
    **boltzmann.VARIANTS,
    **vae.VARIANTS,
    **dalle.VARIANTS,
    **gan.VARIANTS,
    **translation.VARIANTS,
    **super_resolution.VARIANTS,
    **style.VARIANTS,
    **diffusion.VARIANTS,
    **autoencoder_kl.VARIANTS,
}


def create(name: str, **overrides: Any) -> nn.Module:
    """Returns the model of this name as a Linen module.

    Every model is called as `model.apply(variables, *inputs, train=False)`; `MODELS[name].inputs` has the inputs.
    Classifiers take `num_classes` and return logits (batch, num_classes) in the dtype of their inputs.

    Args:
      name: a key of `MODELS`.
      overrides: arguments of the model's class that differ from the named size.

    Raises:
      ConfigError: the name is unknown, or the class takes no argument of that name.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    variant = MODELS[name]
    arguments.check(f"model {name!r}", variant.cls, variant.arguments | overrides, given=("parent", "name"))
    return variant.cls(**variant.arguments | overrides)


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names that match a shell pattern such as "resnet*", in the order of the table."""
    return fnmatch.filter(MODELS, pattern)
