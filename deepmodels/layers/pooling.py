"""Pooling as torch and Caffe know it: windows that overhang the border, averages to a fixed size."""

import functools
from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

from deepmodels.errors import ShapeError
from deepmodels.layers.windows import windows

_LARGEST = 5  # height and width of windows that are taken pixel by pixel
Pads = tuple[tuple[int, int], tuple[int, int]]  # before and after, of height and of width


def max_pool(x: Array, window: int, stride: int, *, padding: int = 0, ceil: bool = False) -> Array:
    """Takes the maximum over square windows; what is beyond the border never is one.

    The gradient goes to the first of a window's largest values, row by row.

    Args:
      x: (B, H, W, C) floats.
      window: height and width of a window.
      stride: pixels from window to window, at most `window`.
      padding: pixels around the image, less than `window`.
      ceil: whether a last window that overhangs the bottom or the right counts, over what it covers. Caffe's way, and
        torch's `ceil_mode=True`; it agrees with "SAME" for some sizes only.

    Returns:
      (B, H', W', C), H' = (H + 2 padding - window) / stride + 1 rounded down, or up with `ceil`.

    Raises:
      ShapeError: not even one window fits.
    """
    _check_fits(x, window - 2 * padding - (stride - 1 if ceil else 0))
    ends = (padding + (-(size + 2 * padding - window) % stride if ceil else 0) for size in x.shape[1:3])
    pads = tuple((padding, end) for end in ends)
    general = partial(nn.max_pool, window_shape=(window, window), strides=(stride, stride), padding=pads)
    return _by_platform(general, partial(_reduce, _larger, window, stride, pads, -np.inf), window, x)


def _by_platform(general: Callable, shifted: Callable, window: int, x: Array) -> Array:
    # an operation per pixel of a large window would make a large program
    return general(x) if window > _LARGEST else lax.platform_dependent(x, cpu=shifted, default=general)


def _reduce(combine: Callable, window: int, stride: int, pads: Pads, value: float, x: Array) -> Array:
    """Combines each window's pixels, image by shifted image: XLA's CPU back end is many times slower at windows."""
    if window == stride:
        return functools.reduce(combine, windows(x, (window, window), (stride, stride), pads, value))
    # where windows overlap: the columns of each row, then the rows
    rows = functools.reduce(combine, windows(x, (1, window), (1, stride), ((0, 0), pads[1]), value))
    return functools.reduce(combine, windows(rows, (window, 1), (stride, 1), (pads[0], (0, 0)), value))


def _larger(a: Array, b: Array) -> Array:
    return jnp.where((b > a) | (b != b), b, a)  # a NaN stays one


def avg_pool(x: Array, window: int, stride: int, *, padding: int = 0) -> Array:
    """Averages over square windows; zeros beyond the border count as values, as in torch.

    `nn.avg_pool` mixes dtypes, which strict promotion refuses. A bfloat16 input is summed in float32.

    Args:
      x: (B, H, W, C) floats.
      window: height and width of a window.
      stride: pixels from window to window.
      padding: zeros on every side.

    Returns:
      (B, H', W', C), H' = (H + 2 padding - window) / stride + 1 rounded down.

    Raises:
      ShapeError: not even one window fits.
    """
    _check_fits(x, window - 2 * padding)
    dtype = jnp.float32 if x.dtype.itemsize < 4 else x.dtype
    pads = ((padding, padding), (padding, padding))

    def general(x: Array) -> Array:
        shape, strides = (1, window, window, 1), (1, stride, stride, 1)
        return lax.reduce_window(x, np.zeros((), dtype), lax.add, shape, strides, ((0, 0), *pads, (0, 0)))

    sums = _by_platform(general, partial(_reduce, jnp.add, window, stride, pads, 0.0), window, x.astype(dtype))
    return (sums / window**2).astype(x.dtype)


def adaptive_avg_pool(x: Array, size: int) -> Array:
    """Averages over windows that are chosen so that size x size of them cover the map, as in torch.

    Window i of an axis of n pixels runs from i n / size, rounded down, to (i + 1) n / size, rounded up; windows overlap
    where `size` doesn't divide n, and repeat pixels where n is smaller. A map of the wanted size comes back as it is.

    Args:
      x: (B, H, W, C) floats.
      size: height and width of the result.

    Returns:
      (B, size, size, C).
    """
    for axis in (1, 2):
        n = x.shape[axis]
        if n != size:
            spans = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
            means = [lax.slice_in_dim(x, start, end, axis=axis).mean(axis) for start, end in spans]
            x = jnp.stack(means, axis)
    return x


def _check_fits(x: Array, size: int) -> None:
    height, width = x.shape[1:3]
    if min(height, width) < size:
        raise ShapeError(
            f"images: too small for this model, expected larger ones: "
            f"a map of {size}x{size} or more is to be pooled, got {height}x{width}"
        )
