"""Mixtures of the images of a batch, with labels to match. B batch, H height, W width, C channels, K classes.

One share is drawn for a batch, as in the papers' code; each image's partner is the one before it, as the order of a
batch is random anyway.
"""

import jax
import jax.numpy as jnp

from deepmodels.augment.geometry import boxes_mask
from deepmodels.augment.pixels import check_images, rounded
from deepmodels.errors import ConfigError, ShapeError

Array = jax.Array


def mixup(key: Array, images: Array, labels: Array, num_classes: int, alpha: float = 0.2) -> tuple[Array, Array]:
    """Returns weighted means of pairs of images, and their labels likewise. Zhang et al. (2017), arXiv:1710.09412.

    Args:
      key: a random key.
      images: uint8 or float (B, H, W, C).
      labels: integers (B,), below `num_classes`.
      num_classes: K.
      alpha: the share is drawn from the beta distribution (alpha, alpha).

    Returns:
      Images as they were, (B, H, W, C), and labels as distributions over the classes, float32 (B, K).

    Raises:
      ConfigError: `alpha` isn't positive.
      ShapeError: labels aren't integers (B,).
    """
    targets = _one_hot(images, labels, num_classes, alpha)
    share = jax.random.beta(key, alpha, alpha)
    return rounded(_mean(images.astype(jnp.float32), share), images.dtype), _mean(targets, share)


def cutmix(key: Array, images: Array, labels: Array, num_classes: int, alpha: float = 1.0) -> tuple[Array, Array]:
    """Returns images with a box of another, and their labels in that proportion. Yun et al. (2019), arXiv:1905.04899.

    Arguments, results and errors are those of `mixup`; `alpha` draws the share of the area that stays.
    """
    targets = _one_hot(images, labels, num_classes, alpha)
    share_key, row_key, column_key = jax.random.split(key, 3)
    half = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha)) / 2
    sides = []
    for own, length in zip((row_key, column_key), images.shape[1:3], strict=True):
        center, reach = jax.random.randint(own, (), 0, length), (half * length).astype(jnp.int32)
        start, stop = jnp.maximum(center - reach, 0), jnp.minimum(center + reach, length)
        sides.append((start[jnp.newaxis], (stop - start)[jnp.newaxis]))
    (top, height), (left, width) = sides
    mixed = jnp.where(boxes_mask(images.shape, top, left, height, width), _partners(images), images)
    share = 1 - (height * width)[0].astype(jnp.float32) / (images.shape[1] * images.shape[2])
    return mixed, _mean(targets, share)


def _one_hot(images: Array, labels: Array, num_classes: int, alpha: float) -> Array:
    check_images(images)
    if alpha <= 0:
        raise ConfigError(f"alpha: expected a positive number, got {alpha}")
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ShapeError(f"labels: expected integers of shape (batch,), got {labels.dtype} {tuple(labels.shape)}")
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


def _partners(x: Array) -> Array:
    return jnp.roll(x, 1, axis=0)


def _mean(x: Array, share: Array) -> Array:
    return share * x + (1 - share) * _partners(x)
