"""Convolution, written as what each back end is fast at."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

_IMAGES = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # NHWC, HWIO, NHWC


def convolve(
    lhs: Array, rhs: Array, window_strides: Sequence[int], padding: str | Sequence[tuple[int, int]], **options: Any
) -> Array:
    """Computes what `lax.conv_general_dilated` does, for the same arguments.

    XLA's CPU back end takes every convolution as one of large windows and mixed channels. Where it isn't one, it's
    many times faster to say what is meant: one of windows side by side (1x1, or of patches) is a matrix product, which
    is as fast elsewhere; a depthwise one is a sum of shifted images, each times its weights, which a CPU alone is told.

    Args:
      lhs: images (B, H, W, C).
      rhs: kernel (h, w, C / groups, C').
      window_strides: of height and width.
      padding: "SAME", "VALID", or zeros before and after each of height and width.
      options: the further ones of `lax.conv_general_dilated`.

    Returns:
      (B, H', W', C').
    """
    general = partial(lax.conv_general_dilated, window_strides=window_strides, padding=padding, **options)
    groups, channels = options.get("feature_group_count", 1), lhs.shape[-1]
    dilated = any(d != 1 for name in ("lhs_dilation", "rhs_dilation") for d in options.get(name) or ())
    if options.get("dimension_numbers") != _IMAGES or dilated:
        return general(lhs, rhs)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    if rhs.shape[:2] == (1, 1) and groups == 1 and not np.any(padding):
        strided = lhs[:, :: window_strides[0], :: window_strides[1]]
        # of two dimensions: XLA copies the transpose of larger ones before the product that is the kernel's gradient
        product = lax.dot(strided.reshape(-1, channels), rhs[0, 0], precision=options.get("precision"))
        return product.reshape(*strided.shape[:3], -1)
    narrow = all(max(pad) < size for pad, size in zip(padding, rhs.shape[:2], strict=True))
    if groups == channels == rhs.shape[3] > 1 and narrow:
        depthwise = partial(_depthwise, tuple(window_strides), tuple(map(tuple, padding)))
        return lax.platform_dependent(lhs, rhs, cpu=depthwise, default=general)
    return general(lhs, rhs)


def convolve_rows(
    lhs: Array, rhs: Array, window_strides: Sequence[int], padding: str | Sequence[tuple[int, int]], **options: Any
) -> Array:
    """Computes what `lax.conv_general_dilated` does for small images of few channels, as those of digits are.

    On a CPU it is a product of the rows that an output row sees, end to end, and a matrix that is the kernel at each
    column. Most of the matrix is zeros, and still this is several times faster than XLA's convolution, whose innermost
    loop is over the channels, of which a vector register could hold more than there are.

    Args:
      lhs: images (B, H, W, C).
      rhs: kernel (h, w, C, C').
      window_strides: of height and width.
      padding: "SAME", "VALID", or zeros before and after each of height and width.
      options: the further ones of `lax.conv_general_dilated`; neither groups nor dilations on a CPU.

    Returns:
      (B, H', W', C').
    """
    general = partial(lax.conv_general_dilated, window_strides=window_strides, padding=padding, **options)
    precision = options.get("precision")

    def products(lhs: Array, rhs: Array) -> Array:
        (batch, height, width, channels), (h, w, _, features) = lhs.shape, rhs.shape
        (top, bottom), (left, right) = (
            lax.padtype_to_pads((height, width), (h, w), window_strides, padding)
            if isinstance(padding, str)
            else padding
        )
        rows = (height + top + bottom - h) // window_strides[0] + 1
        columns = (width + left + right - w) // window_strides[1] + 1
        pixels = window_strides[1] * np.arange(columns) - left + np.arange(w)[:, None, None]  # that a tap sees
        seen = jnp.asarray(pixels == np.arange(width)[:, None], rhs.dtype)  # (w, W, W')
        matrix = jnp.einsum("jxo,ijcf->ixcof", seen, rhs, precision=precision).reshape(-1, columns * features)
        padded = lax.pad(lhs, jnp.zeros((), lhs.dtype), ((0, 0, 0), (top, bottom, 0), (0, 0, 0), (0, 0, 0)))
        padded = padded.reshape(batch, height + top + bottom, width * channels)
        last = (rows - 1) * window_strides[0] + 1
        lines = jnp.concatenate([padded[:, i : i + last : window_strides[0]] for i in range(h)], -1)
        product = lax.dot(lines.reshape(-1, h * width * channels), matrix, precision=precision)
        return product.reshape(batch, rows, columns, features)

    return lax.platform_dependent(lhs, rhs, cpu=products, default=general)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _depthwise(strides: tuple[int, int], pads: tuple[tuple[int, int], ...], lhs: Array, rhs: Array) -> Array:
    size = [(n + sum(p) - k) // s + 1 for n, p, k, s in zip(lhs.shape[1:3], pads, rhs.shape[:2], strides, strict=True)]
    padded, images = _padded(lhs, pads), (0, lhs.shape[0])
    return sum(
        _tap(padded, (i, j), strides, size, images) * rhs[i, j][:, None, None] for i, j in np.ndindex(*rhs.shape[:2])
    )


@_depthwise.defjvp
def _(strides, pads, primals, tangents):
    (lhs, rhs), (lhs_dot, rhs_dot) = primals, tangents
    h, w = rhs.shape[:2]
    (top, bottom), (left, right) = pads
    taps, zero = list(np.ndindex(h, w)), jnp.zeros((), lhs_dot.dtype)
    out = _depthwise(strides, pads, lhs, rhs)
    rows, columns = out.shape[1:3]

    # The same sums, in forms whose transposes, the gradients, are fast. That of the images: each pixel times its
    # weights goes to all places of a canvas that it reaches, of which the output is a part. Transposed, the output's
    # gradient is laid on the canvas once, and shifted images of that are summed as they are in the forward pass.
    canvas = sum(
        lax.pad(lhs_dot * rhs[i, j][:, None, None], zero, ((0, 0, 0), (h - 1 - i, i, 0), (w - 1 - j, j, 0), (0, 0, 0)))
        for i, j in taps
    )
    # That of the kernel: it adds up to 16 images of the batch, tap by tap, and only then takes one sum over pixels for
    # all taps. A sum over pixels for each tap takes five times longer. Where there is one, a column of zeros is taken
    # along, on the canvas too: XLA would take what has none from before it was padded, and compute that for each tap.
    beyond = 1 if strides == (1, 1) and right < w - 1 else 0
    size, padded, count = (rows, columns + beyond), _padded(lhs, pads), math.gcd(len(lhs), 16)
    together = len(lhs) // count
    wide = (len(taps), together, *size, lhs.shape[3])
    weights = lax.split(jnp.broadcast_to(rhs_dot.reshape(len(taps), 1, 1, 1, lhs.shape[3]), wide), (1,) * len(taps))
    by_kernel = jnp.concatenate([
        sum(
            _tap(padded, tap, strides, size, (first, first + together)) * weight[0]
            for tap, weight in zip(taps, weights, strict=True)
        )
        for first in range(0, len(lhs), together)
    ])  # fmt: skip
    if beyond:
        edges = ((0, 0, 0), (h - 1 - top, h - 1 - bottom, 0), (w - 1 - left, w - 2 - right, 0), (0, 0, 0))
        canvas, by_kernel = canvas + lax.pad(by_kernel, zero, edges), 0
    return out, _tap(canvas, (h - 1 - top, w - 1 - left), strides, (rows, columns), (0, len(out))) + by_kernel


def _padded(images: Array, pads: tuple[tuple[int, int], ...]) -> Array:
    """Images with zeros around them, and one column of zeros more, which a tap may take along."""
    (top, bottom), (left, right) = pads
    edges = ((0, 0, 0), (top, bottom, 0), (left, right + 1, 0), (0, 0, 0))
    return lax.pad(images, jnp.zeros((), images.dtype), edges)


def _tap(x: Array, tap: Sequence[int], strides: Sequence[int], size: Sequence[int], images: tuple[int, int]) -> Array:
    """Every stride-th pixel of some images, from the tap on, as many as the size says."""
    limit = [start + (n - 1) * stride + 1 for start, n, stride in zip(tap, size, strides, strict=True)]
    return lax.slice(x, (images[0], *tap, 0), (images[1], *limit, x.shape[3]), (1, *strides, 1))


Conv = partial(nn.Conv, conv_general_dilated=convolve)


def convolve_transposed(x: Array, kernel: Array, stride: int, padding: int = 0, output_padding: int = 0) -> Array:
    """Computes a transposed convolution: the gradient of a convolution by its images, torch's `conv_transpose2d`.

    XLA's CPU back end takes it as a convolution of images with zeros between their pixels, most of whose products are
    with zeros; and of a convolution whose output is larger than its images it computes the kernel's gradient in plain
    loops, tens of times longer than the rest, as it turns images and gradient round to what it has nothing faster for.
    There it is said as matrix products, of each pixel and the taps of a place, and a sum of shifted maps.

    Args:
      x: images (B, H, W, C).
      kernel: (h, w, C', C), as `nn.ConvTranspose(transpose_kernel=True)` has it.
      stride: of both sides: how many times larger the result is.
      padding: pixels taken away at each border.
      output_padding: pixels added behind the last row and column.

    Returns:
      (B, H', W', C'), H' = (H - 1) stride - 2 padding + h + output_padding.
    """
    sizes = tuple(
        (n - 1) * stride - 2 * padding + k + output_padding for n, k in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    )
    taps = tuple(-(-k // stride) for k in kernel.shape[:2])  # that meet in an output

    def general(x: Array, kernel: Array) -> Array:
        pads = [(k - 1 - padding, k - 1 - padding + output_padding) for k in kernel.shape[:2]]
        return lax.conv_general_dilated(
            x, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), pads, lhs_dilation=(stride, stride), dimension_numbers=_IMAGES
        )

    def products(x: Array, kernel: Array) -> Array:
        (batch, height, width, channels), features = x.shape, kernel.shape[2]
        wide = [(0, n * stride - k) for n, k in zip(taps, kernel.shape[:2], strict=True)]
        parts = jnp.pad(kernel, (*wide, (0, 0), (0, 0))).reshape(taps[0], stride, taps[1], stride, features, channels)
        parts = parts.transpose(0, 2, 1, 3, 4, 5).reshape(-1, channels)
        more, zero = int(output_padding > padding), jnp.zeros((), x.dtype)
        y = 0
        for (i, j), part in zip(np.ndindex(*taps), jnp.split(parts, math.prod(taps)), strict=True):
            product = lax.dot_general(x.reshape(-1, channels), part, (((1,), (1,)), ((), ())))
            edges = ((0, 0, 0), (i, taps[0] - 1 - i + more, 0), (j, taps[1] - 1 - j + more, 0), (0, 0, 0))
            y += lax.pad(product.reshape(batch, height, width, -1), zero, edges)
        rows, columns = y.shape[1:3]
        y = y.reshape(batch, rows, columns, stride, stride, features).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(batch, rows * stride, columns * stride, features)
        return y[:, padding : padding + sizes[0], padding : padding + sizes[1]]

    return lax.platform_dependent(x, kernel, cpu=products, default=general)


class ConvTranspose(nn.Module):
    """A transposed convolution with torch's arguments and the parameters of `nn.ConvTranspose(transpose_kernel=True)`.

    Takes (B, H, W, C) and returns (B, H', W', features), see `convolve_transposed`.

    Attributes:
      features: channels of the result.
      kernel_size: of both sides.
      stride: how many times larger the result is.
      padding: pixels taken away at each border.
      output_padding: pixels added behind the last row and column.
      use_bias: whether each channel has one.
      kernel_init: of the kernel.
    """

    features: int
    kernel_size: int
    stride: int
    padding: int = 0
    output_padding: int = 0
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, self.features, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(x.dtype)
        y = convolve_transposed(x, kernel, self.stride, self.padding, self.output_padding)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(x.dtype)[
                None, None, None
            ]
        return y
