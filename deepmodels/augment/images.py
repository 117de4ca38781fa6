"""Augmentation of images on the device: pure functions of a key and a batch.

B batch, H height, W width, C channels. Each image draws random numbers of its own, by its place in the global batch, so
the result is the same however the batch is sharded. Shape and dtype are kept; uint8 is rounded and kept in 0 to 255.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels.errors import ConfigError, ShapeError, unknown

Array = jax.Array


def random_crop(key: Array, images: Array, padding: int) -> Array:
    """Returns images (B, H, W, C) padded with zeros on all sides, of which each is cropped to (H, W) at a random place.

    Args:
      key: a random key.
      images: uint8 or float (B, H, W, C).
      padding: pixels added at each side; 4 for CIFAR in He et al. (2015), arXiv:1512.03385, section 4.2.

    Raises:
      ConfigError: `padding` is negative.
    """
    _check_images(images)
    if padding < 0:
        raise ConfigError(f"padding: expected 0 or more pixels, got {padding}")
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    offsets = jax.random.randint(key, (images.shape[0], 2), 0, 2 * padding + 1)

    def crop(image: Array, offset: Array) -> Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, offsets)


def random_flip(key: Array, images: Array, probability: float = 0.5) -> Array:
    """Returns images (B, H, W, C), each turned left to right with the given probability.

    Args:
      key: a random key.
      images: uint8 or float (B, H, W, C).
      probability: 0 to 1.

    Raises:
      ConfigError: `probability` isn't within 0 to 1.
    """
    _check_images(images)
    if not 0 <= probability <= 1:
        raise ConfigError(f"probability: expected 0 to 1, got {probability}")
    flipped = jax.random.bernoulli(key, probability, (images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def color_jitter(key: Array, images: Array, brightness: float = 0.0, contrast: float = 0.0) -> Array:
    """Returns images (B, H, W, C), each with its brightness, then its contrast, multiplied by a random factor.

    Brightness multiplies the pixels, contrast their distance from the image's mean. Float images aren't clipped, as
    their range isn't known.

    Args:
      key: a random key.
      images: uint8 or float (B, H, W, C), black at 0.
      brightness: its factor is uniform in 1 - `brightness` to 1 + `brightness`.
      contrast: its factor is uniform in 1 - `contrast` to 1 + `contrast`.

    Raises:
      ConfigError: `brightness` or `contrast` isn't within 0 to 1.
    """
    _check_images(images)
    for name, value in {"brightness": brightness, "contrast": contrast}.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{name}: expected 0 to 1, got {value}")
    brightness_key, contrast_key = jax.random.split(key)
    shape = (images.shape[0], 1, 1, 1)
    x = images.astype(jnp.float32)
    x = x * jax.random.uniform(brightness_key, shape, minval=1 - brightness, maxval=1 + brightness)
    mean = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    x = mean + (x - mean) * jax.random.uniform(contrast_key, shape, minval=1 - contrast, maxval=1 + contrast)
    return _as_dtype(x, images.dtype)


def cutout(key: Array, images: Array, size: int, fill: float = 0.0) -> Array:
    """Returns images (B, H, W, C) in each of which one square is blank. DeVries, Taylor (2017), arXiv:1708.04552.

    The centre of the square is anywhere in the image, so a part of the square may fall outside.

    Args:
      key: a random key.
      images: uint8 or float (B, H, W, C).
      size: the side of the square, in pixels.
      fill: the value of the blank pixels. The paper's 0 follows normalization, so it is the mean of the data there.

    Raises:
      ConfigError: `size` is less than 1.
    """
    _check_images(images)
    if size < 1:
        raise ConfigError(f"size: expected at least 1 pixel, got {size}")
    batch, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (batch, 1, 1, 1), 0, height) - size // 2
    left = jax.random.randint(column_key, (batch, 1, 1, 1), 0, width) - size // 2
    rows, columns = jnp.arange(height).reshape(1, -1, 1, 1), jnp.arange(width).reshape(1, 1, -1, 1)
    blank = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return jnp.where(blank, jnp.asarray(fill, images.dtype), images)


# In the order in which they are applied: a blank square stays blank, and moves with no crop.
AUGMENTATIONS: dict[str, Callable[..., Array]] = {
    "random_crop": random_crop,
    "random_flip": random_flip,
    "color_jitter": color_jitter,
    "cutout": cutout,
}


def create(arguments: Mapping[str, Mapping[str, Any]]) -> Callable[[Array, Array], Array]:
    """Returns a function (key, images (B, H, W, C)) -> images that applies the named augmentations of AUGMENTATIONS.

    They run in the table's order, whatever the order of `arguments`. Each has a key of its own, which doesn't depend on
    which others are named.

    Args:
      arguments: name -> arguments, {"random_crop": {"padding": 4}, "random_flip": {}}; empty changes nothing.

    Raises:
      ConfigError: an unknown name or argument, or an argument that is missing.
    """
    for name in arguments:
        if name not in AUGMENTATIONS:
            raise unknown("augmentation", name, AUGMENTATIONS)
    steps = []
    for position, (name, function) in enumerate(AUGMENTATIONS.items()):
        if name not in arguments:
            continue
        given = dict(arguments[name])
        parameters = dict(list(inspect.signature(function).parameters.items())[2:])
        for argument in given:
            if argument not in parameters:
                raise unknown(f"argument of augmentation {name!r}", argument, parameters)
        for argument, parameter in parameters.items():
            if parameter.default is parameter.empty and argument not in given:
                raise ConfigError(f"augmentation {name!r} needs {argument!r}")
        steps.append((position, partial(function, **given)))

    def augment(key: Array, images: Array) -> Array:
        for position, step in steps:
            images = step(jax.random.fold_in(key, position), images)
        return images

    return augment


def normalize(images: Array, mean: float | Sequence[float], std: float | Sequence[float]) -> Array:
    """Returns (images / 255 - mean) / std as float32 (B, H, W, C).

    Args:
      images: uint8 (B, H, W, C).
      mean: the mean of each channel on the scale 0 to 1; C numbers, or one for all.
      std: the standard deviation of each channel on the same scale; C numbers, or one for all.

    Raises:
      ShapeError: `images` isn't uint8 with four axes, or `mean` or `std` has another number of channels.
    """
    _check_images(images)
    if images.dtype != jnp.uint8:
        raise ShapeError(f"images: expected uint8, 0 to 255, got {images.dtype}; normalize them once")
    mean, std = np.atleast_1d(np.float64(mean)), np.atleast_1d(np.float64(std))
    for name, value in {"mean": mean, "std": std}.items():
        if len(value) not in (1, images.shape[-1]):
            raise ShapeError(
                f"{name}: expected 1 or {images.shape[-1]} numbers, one for each channel, got {len(value)}"
            )
    scale, offset = 1 / (255 * std), -mean / std  # one multiplication and one addition for each pixel
    shape = (1, 1, 1, -1)
    scale, offset = (jnp.asarray(value, jnp.float32).reshape(shape) for value in (scale, offset))
    return images.astype(jnp.float32) * scale + offset


def _check_images(images: Array) -> None:
    if images.ndim != 4:
        raise ShapeError(f"images: expected shape (batch, height, width, channels), got {tuple(images.shape)}")


def _as_dtype(x: Array, dtype: jnp.dtype) -> Array:
    """Returns float32 values in another dtype, rounded and clipped where that holds integers."""
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        x = jnp.clip(jnp.round(x), limits.min, limits.max)
    return x.astype(dtype)
