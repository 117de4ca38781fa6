"""The pixels of a sliding window one by one, each as an image: for back ends that are slow at windows themselves."""

from collections.abc import Iterator

import jax.numpy as jnp
from jax import Array, lax


def windows(
    x: Array,
    window: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[tuple[int, int], tuple[int, int]],
    value: float = 0.0,
) -> Iterator[Array]:
    """Yields, row by row, what each pixel of a window sees while the window slides: window[0] * window[1] images.

    Args:
      x: (B, H, W, C).
      window: height and width.
      strides: pixels from window to window.
      pads: pixels around the image, before and after each of height and width.
      value: of these pixels.

    Yields:
      (B, H', W', C), H' = (H + pads - window) / stride + 1 rounded down.
    """
    if any(map(any, pads)):
        x = lax.pad(x, jnp.asarray(value, x.dtype), ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
    sizes = [(n - w) // s + 1 for n, w, s in zip(x.shape[1:3], window, strides, strict=True)]
    # one strided image for each phase of the window, and slices of these: the gradient then spreads an image out once
    # for each phase, not once for each pixel of the window
    phases = {(i, j): x[:, i :: strides[0], j :: strides[1]] for i in range(strides[0]) for j in range(strides[1])}
    for i in range(window[0]):
        for j in range(window[1]):
            (top, row), (left, column) = divmod(i, strides[0]), divmod(j, strides[1])
            yield phases[row, column][:, top : top + sizes[0], left : left + sizes[1]]
