"""Crops, flips, warps and blanks. B batch, H height, W width, C channels.

`resized_crop` to `rotate` are deterministic and take one image; the random ones take a key and a batch, and each image
draws numbers of its own. The dtype is kept; uint8 is rounded.
"""

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels.augment.pixels import check_image, check_images, check_range, rounded
from deepmodels.errors import ConfigError

Array = jax.Array
TRIES = 10  # boxes that are drawn until one fits into the image, as in torchvision


def resized_crop(image: Array, top: Array, left: Array, height: Array, width: Array, size: tuple[int, int]) -> Array:
    """Returns a box of an image (H, W, C), resized bilinearly to (*size, C); shrinking averages, as Pillow does.

    Args:
      image: uint8 or float (H, W, C).
      top: first row of the box.
      left: first column of the box.
      height: rows of the box.
      width: columns of the box.
      size: height and width of the result.
    """
    check_image(image)
    rows = _resize_weights(image.shape[0], top, height, size[0])
    columns = _resize_weights(image.shape[1], left, width, size[1])
    x = jnp.einsum("qw,hwc->hqc", columns, image.astype(jnp.float32), precision="highest")
    x = jnp.einsum("ph,hqc->pqc", rows, x, precision="highest")
    return rounded(x, image.dtype)


def _resize_weights(length: int, start: Array, size: Array, target: int) -> Array:
    """Returns (target, length): the share of each pixel of a line in each pixel of the resized piece of it."""
    start, size = jnp.asarray(start, jnp.float32), jnp.asarray(size, jnp.float32)
    scale = size / target
    centers = (jnp.arange(target, dtype=jnp.float32)[:, np.newaxis] + 0.5) * scale  # from the start of the piece
    pixels = jnp.arange(length, dtype=jnp.float32)[np.newaxis] + 0.5 - start
    weights = jnp.maximum(0, 1 - jnp.abs(pixels - centers) / jnp.maximum(scale, 1))
    weights = jnp.where((pixels > 0) & (pixels < size), weights, 0)
    return weights / weights.sum(1, keepdims=True)


def center_crop(images: Array, size: int) -> Array:
    """Returns the centres (B, size, size, C) of images (B, H, W, C); what is smaller gets a black rim."""
    check_images(images)
    if size < 1:
        raise ConfigError(f"size: expected at least 1 pixel, got {size}")
    rims = [max(0, size - length) for length in images.shape[1:3]]
    images = jnp.pad(images, ((0, 0), *((rim // 2, rim - rim // 2) for rim in rims), (0, 0)))
    top, left = (round((length - size) / 2) for length in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


def affine(image: Array, matrix: Array) -> Array:
    """Returns an image (H, W, C) whose point (x, y) is what `matrix` (2, 3) times (x, y, 1) was, bilinearly.

    Points count in pixels from the upper left corner, so the first pixel's centre is (0.5, 0.5). Outside is black.
    """
    check_image(image)
    height, width, _ = image.shape
    x, y = jnp.meshgrid(jnp.arange(width, dtype=jnp.float32) + 0.5, jnp.arange(height, dtype=jnp.float32) + 0.5)
    x, y = (matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] - 0.5 for i in range(2))
    left, top = jnp.floor(x), jnp.floor(y)
    right_share, bottom_share = (x - left)[..., np.newaxis], (y - top)[..., np.newaxis]
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))

    def pixels(down: int, right: int) -> Array:
        rows = jnp.clip(top + down, -1, height).astype(jnp.int32) + 1
        columns = jnp.clip(left + right, -1, width).astype(jnp.int32) + 1
        return padded[rows, columns].astype(jnp.float32)

    upper = pixels(0, 0) * (1 - right_share) + pixels(0, 1) * right_share
    lower = pixels(1, 0) * (1 - right_share) + pixels(1, 1) * right_share
    return rounded(upper * (1 - bottom_share) + lower * bottom_share, image.dtype)


def shear_x_matrix(amount: Array, height: int, width: int) -> Array:
    """Returns the matrix for `affine` that moves each row to the left by `amount` times its distance from the top."""
    return _matrix(1, amount, 0, 0, 1, 0)


def shear_y_matrix(amount: Array, height: int, width: int) -> Array:
    """Returns the matrix for `affine` that moves each column up by `amount` times its distance from the left."""
    return _matrix(1, 0, 0, amount, 1, 0)


def translate_x_matrix(pixels: Array, height: int, width: int) -> Array:
    """Returns the matrix for `affine` that moves an image to the right by whole pixels; a fraction is left out."""
    return _matrix(1, 0, -jnp.trunc(pixels), 0, 1, 0)


def translate_y_matrix(pixels: Array, height: int, width: int) -> Array:
    """Returns the matrix for `affine` that moves an image down by whole pixels; a fraction is left out."""
    return _matrix(1, 0, 0, 0, 1, -jnp.trunc(pixels))


def rotate_matrix(degrees: Array, height: int, width: int) -> Array:
    """Returns the matrix for `affine` that turns an image (height, width) about its centre, against the clock."""
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    x, y = width / 2, height / 2
    return _matrix(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def _matrix(*entries: Array | float) -> Array:
    return jnp.stack([jnp.asarray(entry, jnp.float32) for entry in entries]).reshape(2, 3)


def random_crop(key: Array, images: Array, padding: int = 0, size: int | None = None) -> Array:
    """Returns a window at a random place of each of images (B, H, W, C), padded with zeros on all sides.

    Args:
      key: a random key.
      images: uint8 or float (B, H, W, C).
      padding: pixels added at each side; 4 for CIFAR in He et al. (2015), arXiv:1512.03385, section 4.2.
      size: height and width of the window; by default (H, W).

    Raises:
      ConfigError: `padding` is negative, or the window is larger than the padded image.
    """
    check_images(images)
    if padding < 0:
        raise ConfigError(f"padding: expected 0 or more pixels, got {padding}")
    window = images.shape[1:3] if size is None else (size, size)
    room = [length + 2 * padding - own for length, own in zip(images.shape[1:3], window, strict=True)]
    if min(room) < 0 or min(window) < 1:
        largest = min(images.shape[1:3]) + 2 * padding
        raise ConfigError(f"size: expected 1 to {largest}, the padded image's shorter side, got {size}")
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    offsets = jax.random.randint(key, (images.shape[0], 2), 0, np.array([room]) + 1)

    def crop(image: Array, offset: Array) -> Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (*window, image.shape[-1]))

    return jax.vmap(crop)(padded, offsets)


def random_resized_crop(
    key: Array,
    images: Array,
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Array:
    """Returns a random box of each of images (B, H, W, C), resized to (size, size). Szegedy et al. (2014), section 6.

    Args:
      key: a random key.
      images: uint8 or float (B, H, W, C).
      size: height and width of the result.
      scale: least and greatest share of the image's area in the box.
      ratio: least and greatest width of the box over its height, before the resizing.

    Raises:
      ConfigError: `size` is less than 1, or a pair isn't positive and in order.
    """
    check_images(images)
    if size < 1:
        raise ConfigError(f"size: expected at least 1 pixel, got {size}")
    boxes = _random_boxes(key, images, scale, ratio)
    return jax.vmap(lambda image, box: resized_crop(image, *box[:4], (size, size)))(images, boxes)


def random_flip(key: Array, images: Array, probability: float = 0.5) -> Array:
    """Returns images (B, H, W, C), each turned left to right with the given probability.

    Args:
      key: a random key.
      images: uint8 or float (B, H, W, C).
      probability: 0 to 1.

    Raises:
      ConfigError: `probability` isn't within 0 to 1.
    """
    check_images(images)
    check_range("probability", probability, 0, 1)
    flipped = jax.random.bernoulli(key, probability, (images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def random_erasing(
    key: Array,
    images: Array,
    probability: float = 0.5,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    value: float | tuple[float, ...] | str = 0.0,
) -> Array:
    """Returns images (B, H, W, C) in some of which a random box is blank. Zhong et al. (2017), arXiv:1708.04896.

    Args:
      key: a random key.
      images: uint8 or float (B, H, W, C).
      probability: share of the images that lose a box, 0 to 1.
      scale: least and greatest share of the image's area in the box.
      ratio: least and greatest width of the box over its height.
      value: of the blank pixels on the images' scale, one number or one for each channel; or "random", for noise that
        is uniform in 0 to 255.

    Raises:
      ConfigError: an argument is out of its range.
    """
    check_images(images)
    check_range("probability", probability, 0, 1)
    if isinstance(value, str):
        if value != "random":
            raise ConfigError(f"value: expected a number, one for each channel, or 'random', got {value!r}")
        fill = jax.random.uniform(jax.random.fold_in(key, 1), images.shape, maxval=255.0)
    else:
        if np.size(value) not in (1, images.shape[-1]):
            raise ConfigError(f"value: expected 1 or {images.shape[-1]} numbers, got {value}")
        fill = jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1)
    top, left, height, width, found = _random_boxes(jax.random.fold_in(key, 2), images, scale, ratio).T
    erased = found.astype(bool) & jax.random.bernoulli(jax.random.fold_in(key, 3), probability, found.shape)
    height = jnp.where(erased, height, 0)
    return jnp.where(boxes_mask(images.shape, top, left, height, width), rounded(fill, images.dtype), images)


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
    check_images(images)
    if size < 1:
        raise ConfigError(f"size: expected at least 1 pixel, got {size}")
    batch, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (batch,), 0, height) - size // 2
    left = jax.random.randint(column_key, (batch,), 0, width) - size // 2
    side = jnp.full_like(top, size)
    return jnp.where(boxes_mask(images.shape, top, left, side, side), jnp.asarray(fill, images.dtype), images)


def boxes_mask(shape: tuple[int, ...], top: Array, left: Array, height: Array, width: Array) -> Array:
    """Returns bools (B, H, W, 1) that are true in one box for each image of a batch's `shape` (B, H, W, C)."""
    rows, columns = jnp.arange(shape[1])[np.newaxis], jnp.arange(shape[2])[np.newaxis]
    top, left, height, width = (x[:, np.newaxis] for x in (top, left, height, width))
    rows, columns = (rows >= top) & (rows < top + height), (columns >= left) & (columns < left + width)
    return rows[:, :, np.newaxis, np.newaxis] & columns[:, np.newaxis, :, np.newaxis]


def _random_boxes(key: Array, images: Array, scale: tuple[float, float], ratio: tuple[float, float]) -> Array:
    """Returns int32 (B, 5): top, left, height, width, and whether a box of that area and ratio was found.

    Where none of TRIES fits, the box is the largest at the centre whose ratio is allowed.
    """
    for name, (low, high) in {"scale": scale, "ratio": ratio}.items():
        if not 0 < low <= high:
            raise ConfigError(f"{name}: expected two positive numbers in order, got {(low, high)}")
    batch, rows, columns, _ = images.shape
    area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
    areas = rows * columns * jax.random.uniform(area_key, (batch, TRIES), minval=scale[0], maxval=scale[1])
    ratios = jnp.exp(jax.random.uniform(ratio_key, (batch, TRIES), minval=np.log(ratio[0]), maxval=np.log(ratio[1])))
    widths = jnp.round(jnp.sqrt(areas * ratios)).astype(jnp.int32)
    heights = jnp.round(jnp.sqrt(areas / ratios)).astype(jnp.int32)
    fits = (widths > 0) & (widths <= columns) & (heights > 0) & (heights <= rows)
    first = jnp.argmax(fits, 1, keepdims=True)  # 0 if there is none
    found = fits.any(1)
    nearest = np.clip(columns / rows, *ratio)
    height = jnp.where(found, jnp.take_along_axis(heights, first, 1)[:, 0], round(min(rows, columns / nearest)))
    width = jnp.where(found, jnp.take_along_axis(widths, first, 1)[:, 0], round(min(columns, rows * nearest)))

    def place(key: Array, room: Array) -> Array:
        drawn = jnp.floor(jax.random.uniform(key, (batch,)) * (room + 1).astype(jnp.float32)).astype(jnp.int32)
        return jnp.where(found, jnp.minimum(drawn, room), room // 2)

    top, left = place(top_key, rows - height), place(left_key, columns - width)
    return jnp.stack([top, left, height, width, found.astype(jnp.int32)], 1)
