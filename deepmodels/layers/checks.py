"""Checks of a model's arguments: a wrong shape is an error that names the argument and what would be right."""

import jax
import jax.numpy as jnp

from deepmodels.errors import ShapeError


def check_images(
    images: jax.Array,
    *,
    height: int | None = None,
    width: int | None = None,
    channels: int | None = None,
    unit: int | None = None,
    unit_name: str | None = None,
) -> None:
    """Checks that images are floats with axes (batch, height, width, channels), of the sizes that are given.

    Args:
      images: what is checked.
      height, width, channels: what they have to be, if they are given.
      unit: of which the height and width have to be multiples, one or more.
      unit_name: what it is, for the message: "the patch".

    Raises:
      ShapeError: they aren't.
    """
    want = ("batch", height or "height", width or "width", channels or "channels")
    fits = images.ndim == 4 and all(
        not isinstance(w, int) or w == size for w, size in zip(want, images.shape, strict=True)
    )
    expected = f"images: expected shape ({', '.join(map(str, want))})"
    if not fits:
        raise ShapeError(f"{expected}, got {tuple(images.shape)}")
    if unit is not None and any(side % unit or not side for side in images.shape[1:3]):
        wanted = f"divisible by {unit}" if unit_name is None else f"that are multiples of {unit_name}, {unit}"
        raise ShapeError(f"{expected} with a height and width {wanted}, got {tuple(images.shape)}")
    _check_float(images)


def check_flattened(images: jax.Array) -> None:
    """Checks that images are floats with a batch axis and at least one more: what a model that flattens them takes.

    Raises:
      ShapeError: they aren't.
    """
    if images.ndim < 2:
        raise ShapeError(f"images: expected shape (batch, ...) with two axes or more, got {tuple(images.shape)}")
    _check_float(images)


def check_tokens(tokens: jax.Array, *, length: int | None = None, name: str = "tokens") -> None:
    """Checks that tokens are integers with axes (batch, position), at most `length` positions if that is given.

    Raises:
      ShapeError: they aren't; it calls them `name`.
    """
    if tokens.ndim != 2:
        raise ShapeError(f"{name}: expected shape (batch, positions), got {tuple(tokens.shape)}")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ShapeError(f"{name}: expected integers, got {tokens.dtype}")
    if length is not None and tokens.shape[1] > length:
        raise ShapeError(f"{name}: expected at most {length} positions, got {tokens.shape[1]}")


def check_mask(mask: jax.Array | None, tokens: jax.Array, *, name: str = "mask") -> None:
    """Checks that a mask, unless it is None, has a bool for each of the tokens.

    Raises:
      ShapeError: it hasn't; it calls it `name`.
    """
    if mask is not None and (mask.shape != tokens.shape or mask.dtype != bool):
        raise ShapeError(
            f"{name}: expected bools of shape {tuple(tokens.shape)}, True where a position holds something, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )


def _check_float(images: jax.Array) -> None:
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ShapeError(f"images: expected floats, as normalised pixels are, got {images.dtype}")
