"""Policies: random sequences of warps and colour changes. uint8 images (B, H, W, C) with one channel or three.

Operations and magnitudes are torchvision's, warps bilinear. All images of a batch are changed at once: each goes
through one warp, which is often the identity, and one selection among the colour changes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels.augment import color, geometry
from deepmodels.augment.pixels import check_bytes, check_images, check_range, truncated
from deepmodels.errors import ConfigError

Array = jax.Array

# (magnitude, height, width) -> the matrix of a warp
WARPS: dict[str, Callable[..., Array]] = {
    "identity": lambda _, height, width: jnp.eye(2, 3, dtype=jnp.float32),
    "shear_x": geometry.shear_x_matrix,
    "shear_y": geometry.shear_y_matrix,
    "translate_x": geometry.translate_x_matrix,
    "translate_y": geometry.translate_y_matrix,
    "rotate": geometry.rotate_matrix,
}
# (image, magnitude) -> image
COLORS: dict[str, Callable[..., Array]] = {
    "brightness": lambda image, magnitude: color.brightness(image, 1 + magnitude),
    "saturation": lambda image, magnitude: color.saturation(image, 1 + magnitude),
    "contrast": lambda image, magnitude: color.contrast(image, 1 + magnitude),
    "sharpness": lambda image, magnitude: color.sharpness(image, 1 + magnitude),
    "posterize": lambda image, magnitude: color.posterize(image, jnp.round(magnitude)),
    "solarize": color.solarize,
    "autocontrast": lambda image, _: color.autocontrast(image),
    "equalize": lambda image, _: color.equalize(image),
    "invert": lambda image, _: color.invert(image),
}
OPERATIONS = (*WARPS, *COLORS)
SIGNED = (*WARPS, "brightness", "saturation", "contrast", "sharpness")  # whose magnitudes are negative half the time


def apply(image: Array, operation: Array | int, magnitude: Array | float) -> Array:
    """Returns an image (H, W, C) changed by one of OPERATIONS.

    Args:
      image: uint8 (H, W, C).
      operation: its place in OPERATIONS.
      magnitude: pixels of a translation, degrees of a rotation, bits that `posterize` keeps, the threshold of
        `solarize`, the slope of a shear; for the other colours, what is added to a factor of 1.
    """
    height, width, _ = image.shape
    operation, magnitude = jnp.asarray(operation), jnp.asarray(magnitude, jnp.float32)
    warp = jnp.where(operation < len(WARPS), operation, 0)
    warps = [lambda magnitude, make=make: make(magnitude, height, width) for make in WARPS.values()]
    image = geometry.affine(image, jax.lax.switch(warp, warps, magnitude))
    change = jnp.maximum(operation - len(WARPS) + 1, 0)
    return jax.lax.switch(change, [lambda image, _: image, *COLORS.values()], image, magnitude)


def _magnitudes(
    shear: float, shift: tuple[float, float], degrees: float, strength: float, bits: tuple[int, int]
) -> dict[str, tuple[float, float]]:
    """Returns the least and the greatest magnitude of each operation; `shift` is downwards and to the right."""
    return {
        "identity": (0, 0),
        "shear_x": (0, shear),
        "shear_y": (0, shear),
        "translate_x": (0, shift[1]),
        "translate_y": (0, shift[0]),
        "rotate": (0, degrees),
        "brightness": (0, strength),
        "saturation": (0, strength),
        "contrast": (0, strength),
        "sharpness": (0, strength),
        "posterize": bits,
        "solarize": (255, 0),
        "autocontrast": (0, 0),
        "equalize": (0, 0),
        "invert": (0, 0),
    }


def _randomly(magnitudes: dict[str, tuple[float, float]], key: Array, image: Array, choice: Array, share: Array):
    """Applies the operation at place `choice` of `magnitudes`, at `share` of the way from its least to its greatest."""
    low, high = (jnp.asarray([pair[i] for pair in magnitudes.values()], jnp.float32)[choice] for i in range(2))
    signed = jnp.asarray([name in SIGNED for name in magnitudes])[choice]
    magnitude = low + (high - low) * share
    magnitude = jnp.where(signed & jax.random.bernoulli(key), -magnitude, magnitude)
    return apply(image, jnp.asarray([OPERATIONS.index(name) for name in magnitudes])[choice], magnitude)


def rand_augment(key: Array, images: Array, num_ops: int = 2, magnitude: int = 9) -> Array:
    """Returns images changed by operations that are drawn for each. Cubuk et al. (2019), arXiv:1909.13719.

    Args:
      key: a random key.
      images: uint8 (B, H, W, C).
      num_ops: how many operations, one after the other.
      magnitude: of each, 0 to 30.

    Raises:
      ConfigError: an argument is out of its range.
      ShapeError: images aren't uint8 (B, H, W, C).
    """
    _check(images)
    check_range("magnitude", magnitude, 0, 30)
    if num_ops < 1:
        raise ConfigError(f"num_ops: expected at least 1, got {num_ops}")
    space = _magnitudes(0.3, _shift(images, 150 / 331), 30, 0.9, (8, 4))
    del space["invert"]

    def one(key: Array, image: Array) -> Array:
        def step(image: Array, key: Array) -> tuple[Array, None]:
            choice_key, sign_key = jax.random.split(key)
            choice = jax.random.randint(choice_key, (), 0, len(space))
            return _randomly(space, sign_key, image, choice, magnitude / 30), None

        return jax.lax.scan(step, image, jax.random.split(key, num_ops))[0]

    return jax.vmap(one)(jax.random.split(key, images.shape[0]), images)


def trivial_augment(key: Array, images: Array) -> Array:
    """Returns images changed by one operation of any magnitude each. Mueller, Hutter (2021), arXiv:2103.10158, "wide".

    Args:
      key: a random key.
      images: uint8 (B, H, W, C).

    Raises:
      ShapeError: images aren't uint8 (B, H, W, C).
    """
    _check(images)
    space = _magnitudes(0.99, (32, 32), 135, 0.99, (8, 2))
    del space["invert"]

    def one(key: Array, image: Array) -> Array:
        choice_key, share_key, sign_key = jax.random.split(key, 3)
        share = jax.random.randint(share_key, (), 0, 31).astype(jnp.float32) / 30
        return _randomly(space, sign_key, image, jax.random.randint(choice_key, (), 0, len(space)), share)

    return jax.vmap(one)(jax.random.split(key, images.shape[0]), images)


# Table 9 of the paper, as (operation, probability, magnitude of 0 to 9) twice.
IMAGENET_POLICY = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("saturation", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("saturation", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("saturation", 1.0, 2)),
    (("saturation", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("saturation", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("saturation", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)


def auto_augment(key: Array, images: Array) -> Array:
    """Returns images changed by one pair of IMAGENET_POLICY each. Cubuk et al. (2018), arXiv:1805.09501.

    Args:
      key: a random key.
      images: uint8 (B, H, W, C).

    Raises:
      ShapeError: images aren't uint8 (B, H, W, C).
    """
    _check(images)
    space = _magnitudes(0.3, _shift(images, 150 / 331), 30, 0.9, (8, 4))
    choices = jnp.asarray([[[*space].index(name) for name, _, _ in pair] for pair in IMAGENET_POLICY])
    probabilities = jnp.asarray([[probability for _, probability, _ in pair] for pair in IMAGENET_POLICY])
    shares = jnp.asarray([[magnitude / 9 for _, _, magnitude in pair] for pair in IMAGENET_POLICY])

    def one(key: Array, image: Array) -> Array:
        def step(image: Array, xs: tuple[Array, ...]) -> tuple[Array, None]:
            key, choice, probability, share = xs
            sign_key, apply_key = jax.random.split(key)
            choice = jnp.where(jax.random.bernoulli(apply_key, probability), choice, [*space].index("identity"))
            return _randomly(space, sign_key, image, choice, share), None

        pair_key, key = jax.random.split(key)
        pair = jax.random.randint(pair_key, (), 0, len(IMAGENET_POLICY))
        return jax.lax.scan(step, image, (jax.random.split(key), choices[pair], probabilities[pair], shares[pair]))[0]

    return jax.vmap(one)(jax.random.split(key, images.shape[0]), images)


def aug_mix(key: Array, images: Array, severity: int = 3, width: int = 3, alpha: float = 1.0) -> Array:
    """Returns images, each a mixture of itself with chains of changes to it. Hendrycks et al. (2019), arXiv:1912.02781.

    A chain is one to three operations long. The paper's consistency loss isn't part of this.

    Args:
      key: a random key.
      images: uint8 (B, H, W, C).
      severity: magnitudes are drawn below this one, 1 to 10.
      width: number of chains.
      alpha: of the Dirichlet distributions from which the shares of the mixture are drawn.

    Raises:
      ConfigError: an argument is out of its range.
      ShapeError: images aren't uint8 (B, H, W, C).
    """
    _check(images)
    check_range("severity", severity, 1, 10)
    if width < 1:
        raise ConfigError(f"width: expected at least 1, got {width}")
    if alpha <= 0:
        raise ConfigError(f"alpha: expected a positive number, got {alpha}")
    space = _magnitudes(0.3, _shift(images, 1 / 3), 30, 0.9, (4, 0))
    del space["identity"], space["invert"]

    def chain(key: Array, image: Array) -> Array:
        def step(image: Array, xs: tuple[Array, Array]) -> tuple[Array, None]:
            choice_key, share_key, sign_key = jax.random.split(xs[1], 3)
            share = jax.random.randint(share_key, (), 0, severity).astype(jnp.float32) / 9
            choice = jax.random.randint(choice_key, (), 0, len(space))
            changed = _randomly(space, sign_key, image, choice, share)
            return jnp.where(xs[0] < depth, changed, image), None

        depth_key, key = jax.random.split(key)
        depth = jax.random.randint(depth_key, (), 1, 4)
        return jax.lax.scan(step, image, (jnp.arange(3), jax.random.split(key, 3)))[0]

    def one(key: Array, image: Array) -> Array:
        own_key, shares_key, key = jax.random.split(key, 3)
        own = jax.random.beta(own_key, alpha, alpha)
        shares = (1 - own) * jax.random.dirichlet(shares_key, jnp.full(width, alpha))
        chains = jax.vmap(chain, in_axes=(0, None))(jax.random.split(key, width), image)
        mixed = own * image.astype(jnp.float32) + jnp.einsum(
            "n,nhwc->hwc", shares, chains.astype(jnp.float32), precision="highest"
        )
        return truncated(mixed, image.dtype)

    return jax.vmap(one)(jax.random.split(key, images.shape[0]), images)


def _check(images: Array) -> None:
    check_images(images)
    check_bytes(images)


def _shift(images: Array, share: float) -> tuple[float, float]:
    return tuple(share * np.float64(side) for side in images.shape[1:3])
