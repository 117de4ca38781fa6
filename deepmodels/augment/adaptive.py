"""What a discriminator sees in place of pictures when there are few of them. Karras et al. (2020), arXiv:2006.06676.

B batch, H height, W width, C channels.
"""

import math

import jax
import jax.numpy as jnp

from deepmodels.augment.pixels import check_images

Array = jax.Array
_LUMA = (0.299, 0.587, 0.114)


def discriminator_augment(key: Array, images: Array, probability: Array) -> Array:
    """Returns pictures each of which was changed by some transformations, differentiably; with probability 0 by none.

    Each of these happens to a picture with that probability, with the strengths of the paper's appendix B: turned left
    to right, by multiples of 90 degrees where it's square, moved by up to an eighth, resized, turned by any angle; its
    brightness, its contrast, and of three channels the saturation changed. What comes in at the borders is reflected.

    Args:
      key: a random key.
      images: (B, H, W, C) floats, the middle of whose range is 0.
      probability: (), 0 to 1.
    """
    check_images(images)
    count, height, width, channels = images.shape
    keys, probability = iter(jax.random.split(key, 16)), jnp.asarray(probability)
    matrix, changed = jnp.broadcast_to(jnp.eye(3), (count, 3, 3)), jnp.zeros(count, bool)

    def happens() -> Array:
        return jax.random.uniform(next(keys), (count,), probability.dtype) < probability

    def then(change: Array) -> None:  # (B, 2, 3), of points that count from the middle in pixels
        nonlocal matrix, changed
        on = happens()
        last = jnp.broadcast_to(jnp.eye(3)[2], (count, 1, 3))
        moved = jnp.matmul(matrix, jnp.concatenate([change, last], 1), precision="highest")
        matrix, changed = jnp.where(on[:, None, None], moved, matrix), changed | on

    zero, one = jnp.zeros(count), jnp.ones(count)
    then(_rows(-one, zero, zero, zero, one, zero))
    quarters = jax.random.randint(next(keys), (count,), 1, 4)
    if height == width:
        cos, sin = jnp.asarray([1.0, 0, -1, 0])[quarters], jnp.asarray([0.0, 1, 0, -1])[quarters]
        then(_rows(cos, -sin, zero, sin, cos, zero))
    share = jax.random.uniform(next(keys), (2, count), minval=-1 / 8, maxval=1 / 8)
    then(_rows(one, zero, jnp.round(share[0] * width), zero, one, jnp.round(share[1] * height)))
    scale = jnp.exp2(0.2 * jax.random.normal(next(keys), (count,)))
    then(_rows(scale, zero, zero, zero, scale, zero))
    angle = jax.random.uniform(next(keys), (count,), minval=-math.pi, maxval=math.pi)
    then(_rows(jnp.cos(angle), -jnp.sin(angle), zero, jnp.sin(angle), jnp.cos(angle), zero))
    images = jnp.where(changed[:, None, None, None], jax.vmap(_warp)(images, matrix), images)

    def drawn(values: Array, plain: float) -> Array:  # one number for each picture, that which changes nothing for most
        return jnp.where(happens(), values, plain)[:, None, None, None].astype(images.dtype)

    images += drawn(0.2 * jax.random.normal(next(keys), (count,)), 0.0)
    images *= drawn(jnp.exp2(0.5 * jax.random.normal(next(keys), (count,))), 1.0)
    if channels == 3:
        on = happens()[:, None, None, None]
        factor = jnp.exp2(jax.random.normal(next(keys), (count, 1, 1, 1))).astype(images.dtype)
        grey = (images * jnp.asarray(_LUMA, images.dtype)[None, None, None]).sum(-1, keepdims=True)
        images = jnp.where(on, grey + factor * (images - grey), images)
    return images


def _rows(*entries: Array) -> Array:
    """Six entries (B,) as matrices (B, 2, 3)."""
    return jnp.stack(entries, 1).reshape(-1, 2, 3)


def _warp(image: Array, matrix: Array) -> Array:
    """An image (H, W, C) whose point p, counted from the middle, is what matrix (3, 3) times p was, bilinearly."""
    height, width, _ = image.shape
    lines = (jnp.arange(size, dtype=matrix.dtype) - (size - 1) / 2 for size in (height, width))
    y, x = jnp.meshgrid(*lines, indexing="ij")
    x, y = (
        matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] + (size - 1) / 2 for i, size in ((0, width), (1, height))
    )
    (left, right, across), (top, bottom, down) = _reflected(x, width), _reflected(y, height)
    across, down = (share[..., None].astype(image.dtype) for share in (across, down))
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
    return upper * (1 - down) + lower * down


def _reflected(place: Array, size: int) -> tuple[Array, Array, Array]:
    """The two pixels beside places of a line that is reflected at both ends, and the share of the second."""
    period = 2 * (size - 1)
    place = jnp.mod(place, period)
    place = jnp.minimum(place, period - place)
    first = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, size - 2)
    return first, first + 1, place - first.astype(place.dtype)
