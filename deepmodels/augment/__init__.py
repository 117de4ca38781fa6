"""Augmentation of batches on the device: pure functions of a key and a batch, and the table that configs name them by.

B batch, H height, W width, C channels, K classes. Images draw numbers of their own, by their place in the global batch,
so the result is the same however the batch is sharded.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from deepmodels.augment.adaptive import discriminator_augment as discriminator_augment
from deepmodels.augment.color import autocontrast as autocontrast
from deepmodels.augment.color import brightness as brightness
from deepmodels.augment.color import color_jitter as color_jitter
from deepmodels.augment.color import contrast as contrast
from deepmodels.augment.color import equalize as equalize
from deepmodels.augment.color import hue as hue
from deepmodels.augment.color import invert as invert
from deepmodels.augment.color import pca_lighting as pca_lighting
from deepmodels.augment.color import posterize as posterize
from deepmodels.augment.color import saturation as saturation
from deepmodels.augment.color import sharpness as sharpness
from deepmodels.augment.color import solarize as solarize
from deepmodels.augment.geometry import affine as affine
from deepmodels.augment.geometry import center_crop as center_crop
from deepmodels.augment.geometry import cutout as cutout
from deepmodels.augment.geometry import random_crop as random_crop
from deepmodels.augment.geometry import random_erasing as random_erasing
from deepmodels.augment.geometry import random_flip as random_flip
from deepmodels.augment.geometry import random_resized_crop as random_resized_crop
from deepmodels.augment.geometry import resized_crop as resized_crop
from deepmodels.augment.mixing import cutmix as cutmix
from deepmodels.augment.mixing import mixup as mixup
from deepmodels.augment.pixels import normalize as normalize
from deepmodels.augment.policies import aug_mix as aug_mix
from deepmodels.augment.policies import auto_augment as auto_augment
from deepmodels.augment.policies import rand_augment as rand_augment
from deepmodels.augment.policies import trivial_augment as trivial_augment
from deepmodels.errors import ConfigError, unknown

# (key, images (B, H, W, C), **arguments) -> images, in the order in which they are applied: crops before colours, as
# these look at what is left; blank boxes last, so that they stay blank and nothing moves them.
AUGMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "random_crop": random_crop,
    "random_flip": random_flip,
    "random_resized_crop": random_resized_crop,
    "color_jitter": color_jitter,
    "pca_lighting": pca_lighting,
    "auto_augment": auto_augment,
    "rand_augment": rand_augment,
    "trivial_augment": trivial_augment,
    "aug_mix": aug_mix,
    "random_erasing": random_erasing,
    "cutout": cutout,
}

# (key, images, labels (B,), num_classes, **arguments) -> (images, labels (B, K)), after all of the above. Where several
# are named, each batch gets one of them.
MIXES: dict[str, Callable[..., tuple[jax.Array, jax.Array]]] = {
    "mixup": mixup,
    "cutmix": cutmix,
}


def create(arguments: Mapping[str, Mapping[str, Any]]) -> Callable[[jax.Array, dict], dict]:
    """Returns a function (key, batch) -> batch that applies the named functions of AUGMENTATIONS and MIXES.

    They run in the tables' order, whatever the order of `arguments`. Each has a key of its own, which doesn't depend on
    which others are named. A batch has an "image" (B, H, W, C); MIXES also take its "label", integers (B,), and leave a
    distribution over the classes for each, (B, K).

    Args:
      arguments: name -> arguments, {"random_crop": {"padding": 4}, "random_flip": {}}; empty changes nothing.

    Raises:
      ConfigError: an unknown name or argument, or an argument that is missing.
    """
    table = AUGMENTATIONS | MIXES
    for name in arguments:
        if name not in table:
            raise unknown("augmentation", name, table)
    steps, mixes = [], []
    for position, (name, function) in enumerate(table.items()):
        if name not in arguments:
            continue
        given = dict(arguments[name])
        parameters = dict(list(inspect.signature(function).parameters.items())[3 if name in MIXES else 2 :])
        for argument in given:
            if argument not in parameters:
                raise unknown(f"argument of augmentation {name!r}", argument, parameters)
        for argument, parameter in parameters.items():
            if parameter.default is parameter.empty and argument not in given:
                raise ConfigError(f"augmentation {name!r} needs {argument!r}")
        (mixes if name in MIXES else steps).append((position, partial(function, **given)))

    def augment(key: jax.Array, batch: dict) -> dict:
        images = batch["image"]
        for position, step in steps:
            images = step(jax.random.fold_in(key, position), images)
        if not mixes:
            return batch | {"image": images}
        key = jax.random.fold_in(key, len(table))
        choice = jax.random.randint(jax.random.fold_in(key, 0), (), 0, len(mixes))
        positions, functions = zip(*mixes, strict=True)
        key = jax.random.fold_in(key, jnp.asarray(positions)[choice])
        images, labels = jax.lax.switch(choice, functions, key, images, batch["label"])
        return batch | {"image": images, "label": labels}

    return augment
