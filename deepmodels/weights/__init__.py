"""Weights of other libraries: read their files, convert by one table of rows per family, write their files."""

from collections.abc import Collection, Mapping

from deepmodels.errors import ConfigError, unknown
from deepmodels.weights import (
    alexnet,
    autoencoder_kl,
    bert,
    clip,
    convnext,
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
    llama,
    mae,
    mobilenet,
    recurrent,
    resnet,
    style,
    t5,
    transformer,
    translation,
    vae,
    vgg,
    vit,
)
from deepmodels.weights.convert import Rules, count_known

OURS = "deepmodels"  # the source whose names are our own: "params/conv1/kernel"

# source -> family, or name of a model where a family's sizes differ -> rows
TABLES: Mapping[str, Mapping[str, Rules]] = {
    "torchvision": {
        "alexnet": alexnet.TORCHVISION,
        **vgg.TORCHVISION,
        "inception": inception.TORCHVISION,
        "resnet": resnet.TORCHVISION,
        "densenet": densenet.TORCHVISION,
        "mobilenet": mobilenet.TORCHVISION,
        "efficientnet": efficientnet.TORCHVISION,
        "convnext": convnext.TORCHVISION,
        "fcn": fcn.TORCHVISION,
        "deeplab": deeplab.TORCHVISION,
        "vit": vit.TORCHVISION,
    },
    "timm": {
        **vgg.TIMM,
        "inception": inception.TIMM,
        "resnet": resnet.TIMM,
        "densenet": densenet.TIMM,
        "mobilenet": mobilenet.TIMM,
        "convnext": convnext.TIMM,
        "vit": vit.TIMM,
    },
    "transformers": {
        **bert.TRANSFORMERS,
        **gpt.TRANSFORMERS,
        "t5": t5.TRANSFORMERS,
        **llama.TRANSFORMERS,
        **deepseek.TRANSFORMERS,
        "vit": vit.VIT,
        "mae": mae.TRANSFORMERS,
        "clip": clip.TRANSFORMERS,
        **dict.fromkeys(clip.TEXT, clip.TRANSFORMERS_TEXT),
        "dinov2_s_14": vit.DINOV2,
    },
    "torch": {
        "dcgan": gan.DCGAN,
        "dcgan_paper": gan.DCGAN,
        "fast_style": style.FAST_STYLE,
        "transformer": transformer.TORCH,
        "dalle": dalle.TORCH,
        **recurrent.TORCH,
    },
    "pytorch-CycleGAN-and-pix2pix": {"pix2pix": translation.PIX2PIX, "cyclegan": translation.CYCLEGAN},
    "diffusers": {
        "diffusion": diffusion.DIFFUSERS,
        "autoencoder_kl": autoencoder_kl.DIFFUSERS,
        "dit": dit.DIT,
        **dit.MMDIT,
    },
    "open_clip": {"clip": clip.OPEN_CLIP},
    "fairseq": {"roberta_base": bert.FAIRSEQ},
    "dall_e": {"dalle_dvae": vae.DALL_E},
    "g2p_en": {"g2p_gru": recurrent.G2P_EN},
}

# family -> rows of our own names of what only some of its heads have, so that a trunk can go on under another head
HEADS: Mapping[str, Rules] = {"bert": bert.HEADS}


def table(source: str, name: str, family: str) -> Rules:
    """Returns the rows that convert a library's weights of a model.

    Args:
      source: a key of `TABLES`, the library that names the arrays.
      name: the model's name.
      family: its family, whose rows count if the name has none of its own.

    Raises:
      ConfigError: there are no such rows.
    """
    if source not in TABLES:
        raise unknown("source of weights", source, [*TABLES, OURS])
    rows = TABLES[source].get(name, TABLES[source].get(family))
    if rows is None:
        have = [other for other, rows in TABLES.items() if name in rows or family in rows]
        raise ConfigError(f"there is no table of {source}'s names for {name!r}; there is one for {[*have, OURS]}")
    return rows


def detect(keys: Collection[str], name: str, family: str) -> str:
    """Returns the source whose names `keys` are: the one whose table of this model knows the most of them.

    Args:
      keys: names of arrays.
      name: the model's name.
      family: its family.
    """
    known = {source: count_known(keys, rows.get(name, rows.get(family, ()))) for source, rows in TABLES.items()}
    known[OURS] = sum(key.startswith("params/") for key in keys)
    return max(known, key=known.get)
