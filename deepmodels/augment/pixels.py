"""What the pixels of a batch are: checks, rounding to their dtype, and the normalisation that ends every recipe."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels.errors import ConfigError, ShapeError

Array = jax.Array


def check_images(images: Array) -> None:
    """Raises ShapeError unless images have the axes (batch, height, width, channels)."""
    if images.ndim != 4:
        raise ShapeError(f"images: expected shape (batch, height, width, channels), got {tuple(images.shape)}")


def check_image(image: Array) -> None:
    """Raises ShapeError unless an image has the axes (height, width, channels)."""
    if image.ndim != 3:
        raise ShapeError(f"image: expected shape (height, width, channels), got {tuple(image.shape)}")


def check_bytes(images: Array) -> None:
    """Raises ShapeError unless images are uint8."""
    if images.dtype != jnp.uint8:
        raise ShapeError(f"images: expected uint8, 0 to 255, got {images.dtype}")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises ConfigError, which names the argument, unless `low` <= value <= `high`."""
    if not low <= value <= high:
        raise ConfigError(f"{name}: expected {low} to {high}, got {value}")


def rounded(x: Array, dtype: jnp.dtype) -> Array:
    """Returns float values in another dtype; those of integers are rounded to the nearest and kept in its range."""
    if jnp.issubdtype(dtype, jnp.integer):
        x = jnp.clip(jnp.round(x), jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
    return x.astype(dtype)


def truncated(x: Array, dtype: jnp.dtype) -> Array:
    """Returns float values in another dtype; those of integers lose their fraction and are kept in its range.

    Pillow and torchvision do this to colours.
    """
    if jnp.issubdtype(dtype, jnp.integer):
        x = jnp.clip(x, jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
    return x.astype(dtype)


def normalize(images: Array, mean: float | Sequence[float], std: float | Sequence[float]) -> Array:
    """Returns (images / 255 - mean) / std as float32 (B, H, W, C), float64 where JAX has that switched on.

    Args:
      images: uint8 (B, H, W, C).
      mean: the mean of each channel on the scale 0 to 1; C numbers, or one for all.
      std: the standard deviation of each channel on the same scale; C numbers, or one for all.

    Raises:
      ShapeError: `images` isn't uint8 with four axes, or `mean` or `std` has another number of channels.
    """
    check_images(images)
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
    scale, offset = (jnp.asarray(value).reshape(shape) for value in (scale, offset))
    return images.astype(scale.dtype) * scale + offset
