"""Colours. The formulas are torchvision's, which are Pillow's: brightness to `equalize` change one image by a number.

H height, W width, C channels. Those functions keep shape and dtype; uint8 loses its fraction and stays in 0 to 255,
floats aren't clipped, as their range isn't known. The random ones take a key and a batch, and each image draws numbers
of its own.
"""

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels.augment.pixels import check_bytes, check_image, check_images, check_range, rounded, truncated
from deepmodels.errors import ShapeError

Array = jax.Array


def brightness(image: Array, factor: Array | float) -> Array:
    """Returns an image (H, W, C) whose pixels are multiplied by `factor`, 0 or more: 0 is black, 1 changes nothing."""
    check_image(image)
    return truncated(image.astype(jnp.float32) * factor, image.dtype)


def contrast(image: Array, factor: Array | float) -> Array:
    """Returns an image (H, W, C) with its distance from the mean of its greys multiplied by `factor`, 0 or more."""
    check_image(image)
    return _blend(image, _grey(image).mean(), factor)


def saturation(image: Array, factor: Array | float) -> Array:
    """Returns an image (H, W, 3) with its distance from its greys multiplied by `factor`, 0 or more.

    A grey image (H, W, 1) stays as it is.
    """
    check_image(image)
    return image if image.shape[-1] == 1 else _blend(image, _grey(image), factor)


def hue(image: Array, shift: Array | float) -> Array:
    """Returns an image (H, W, 3) with its colours turned by `shift`: -0.5 to 0.5 times the colour circle.

    Value and saturation, those of the HSV model, stay. A grey image (H, W, 1) stays as it is.
    """
    check_image(image)
    if image.shape[-1] == 1:
        return image
    _check_color(image)
    x = image.astype(jnp.float32)
    high, chroma = x.max(-1), x.max(-1) - x.min(-1)
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    safe = jnp.where(chroma == 0, 1.0, chroma)
    sixths = jnp.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    sixths = jnp.where(high == red, (green - blue) / safe, sixths)

    def channel(offset: int) -> Array:
        distance = (offset + sixths + 6 * shift) % 6
        return high - chroma * jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)

    turned = jnp.stack([channel(5), channel(3), channel(1)], -1)
    if image.dtype == jnp.uint8:
        turned = turned * (255.999 / 255)  # so that losing the fraction doesn't darken what hasn't changed
    return truncated(turned, image.dtype)


def sharpness(image: Array, factor: Array | float) -> Array:
    """Returns an image (H, W, C) with its distance from its smoothed self multiplied by `factor`; the rim stays."""
    check_image(image)
    height, width, _ = image.shape
    if min(height, width) < 3:
        return image
    x = image.astype(jnp.float32)
    windows = [x[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)]
    smooth = (sum(windows) + 4 * windows[4]) / 13
    if image.dtype == jnp.uint8:
        smooth = jnp.round(smooth)
    inner = x[1:-1, 1:-1]
    return truncated(x.at[1:-1, 1:-1].set(inner + (1 - factor) * (smooth - inner)), image.dtype)


def posterize(image: Array, bits: Array | int) -> Array:
    """Returns a uint8 image (H, W, C) that keeps the upper `bits`, 0 to 8, of each pixel."""
    check_image(image)
    check_bytes(image)
    mask = 256 - jnp.left_shift(1, 8 - jnp.asarray(bits, jnp.int32))
    return image & mask.astype(jnp.uint8)


def solarize(image: Array, threshold: Array | float) -> Array:
    """Returns a uint8 image (H, W, C) in which pixels of `threshold` or more, on the scale 0 to 255, are inverted."""
    check_image(image)
    check_bytes(image)
    return jnp.where(image.astype(jnp.float32) >= threshold, 255 - image, image)


def invert(image: Array) -> Array:
    """Returns the negative of a uint8 image (H, W, C): 255 - pixel."""
    check_image(image)
    check_bytes(image)
    return 255 - image


def autocontrast(image: Array) -> Array:
    """Returns a uint8 image (H, W, C) with each channel stretched to 0 to 255; one of a single value stays."""
    check_image(image)
    check_bytes(image)
    x = image.astype(jnp.float32)
    low, high = x.min((0, 1), keepdims=True), x.max((0, 1), keepdims=True)
    flat = high == low
    scale = jnp.where(flat, 1.0, (high - low) * np.float32(1 / 255))
    return truncated((x - jnp.where(flat, 0.0, low)) / scale, image.dtype)


def equalize(image: Array) -> Array:
    """Returns a uint8 image (H, W, C) in which all values are about equally frequent, channel by channel."""
    check_image(image)
    check_bytes(image)

    channels = image.shape[-1]
    places = image.astype(jnp.int32) + 256 * jnp.arange(channels)[np.newaxis, np.newaxis]  # one table after the other
    counts = jnp.zeros(256 * channels, jnp.int32).at[places].add(1).reshape(channels, 256)
    below = jnp.cumsum(counts, 1) - counts
    brightest = jnp.take_along_axis(counts, image.max((0, 1)).astype(jnp.int32)[:, np.newaxis], 1)
    step = (image.shape[0] * image.shape[1] - brightest) // 255
    table = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    table = jnp.where(step == 0, jnp.arange(256)[np.newaxis], table)
    return table.astype(jnp.uint8).reshape(-1)[places]


def color_jitter(
    key: Array,
    images: Array,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Array:
    """Returns images (B, H, W, C), each with its brightness, contrast, saturation and hue changed at random.

    They change in this order; torchvision's draws one.

    Args:
      key: a random key.
      images: uint8 or float (B, H, W, C), black at 0.
      brightness: its factor is uniform in 1 - `brightness` to 1 + `brightness`; 0 to 1.
      contrast: likewise.
      saturation: likewise.
      hue: its shift is uniform in -`hue` to `hue`; 0 to 0.5.

    Raises:
      ConfigError: an argument is out of its range.
    """
    check_images(images)
    for name, value in {"brightness": brightness, "contrast": contrast, "saturation": saturation}.items():
        check_range(name, value, 0, 1)
    check_range("hue", hue, 0, 0.5)
    for function, center, amount, own in zip(
        _JITTER, (1, 1, 1, 0), (brightness, contrast, saturation, hue), jax.random.split(key, 4), strict=True
    ):
        if amount:
            drawn = jax.random.uniform(own, (images.shape[0],), minval=center - amount, maxval=center + amount)
            images = jax.vmap(function)(images, drawn)
    return images


_JITTER = (brightness, contrast, saturation, hue)

# Of the colours of ImageNet on the scale 0 to 1, from fb.resnet.torch: standard deviations squared, directions in rows.
_PCA_VALUES = np.float32([0.2175, 0.0188, 0.0045])
_PCA_VECTORS = np.float32([[-0.5675, -0.5808, -0.5836], [0.7192, -0.0045, -0.6948], [0.4009, -0.8140, 0.4203]])


def pca_lighting(key: Array, images: Array, std: float = 0.1) -> Array:
    """Returns images (B, H, W, 3), to each of which one colour is added, along ImageNet's principal components.

    Krizhevsky, Sutskever & Hinton (2012), section 4.1.

    Args:
      key: a random key.
      images: uint8 or float (B, H, W, 3) on the scale 0 to 255.
      std: deviation of the three weights that are drawn for an image.

    Raises:
      ShapeError: images don't have three channels.
    """
    check_images(images)
    _check_color(images)
    weights = std * jax.random.normal(key, (images.shape[0], 3)) * _PCA_VALUES[np.newaxis]
    shift = 255 * jnp.matmul(weights, _PCA_VECTORS, precision="highest")[:, np.newaxis, np.newaxis]
    return rounded(images.astype(jnp.float32) + shift, images.dtype)


def _blend(image: Array, other: Array, factor: Array | float) -> Array:
    return truncated(factor * image.astype(jnp.float32) + (1 - factor) * other, image.dtype)


def _grey(image: Array) -> Array:
    """Returns float32 (H, W, 1), as bytes without their fraction where the image has bytes."""
    x = image.astype(jnp.float32)
    if image.shape[-1] == 1:
        return x
    _check_color(image)
    grey = 0.2989 * x[..., :1] + 0.587 * x[..., 1:2] + 0.114 * x[..., 2:]
    return jnp.floor(grey) if image.dtype == jnp.uint8 else grey


def _check_color(image: Array) -> None:
    if image.shape[-1] != 3:
        raise ShapeError(f"images: expected 3 channels, red, green and blue, got {image.shape[-1]}")
