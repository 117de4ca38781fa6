"""Checks of a model's arguments: a wrong shape is an error that names the argument and what would be right."""

import jax

from deepmodels.errors import ShapeError


def check_images(
    images: jax.Array, *, height: int | None = None, width: int | None = None, channels: int | None = None
) -> None:
    """Raises ShapeError unless `images` has axes (batch, height, width, channels) of the sizes that are given."""
    want = ("batch", height or "height", width or "width", channels or "channels")
    fits = images.ndim == 4 and all(
        not isinstance(w, int) or w == size for w, size in zip(want, images.shape, strict=True)
    )
    if not fits:
        text = ", ".join(map(str, want))
        raise ShapeError(f"images: expected shape ({text}), got {tuple(images.shape)}")


def check_vectors(inputs: jax.Array, *, size: int | None = None) -> None:
    """Raises ShapeError unless `inputs` has axes (batch, features), with `size` features where that is given."""
    if inputs.ndim != 2 or (size is not None and inputs.shape[1] != size):
        raise ShapeError(f"inputs: expected shape (batch, {size or 'features'}), got {tuple(inputs.shape)}")
