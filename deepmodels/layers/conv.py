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

from deepmodels.layers.windows import windows

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
    if groups == channels == rhs.shape[3] > 1:
        depthwise = partial(_depthwise, tuple(window_strides), tuple(map(tuple, padding)))
        return lax.platform_dependent(lhs, rhs, cpu=depthwise, default=general)
    return general(lhs, rhs)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _depthwise(strides: tuple[int, int], pads: tuple[tuple[int, int], ...], lhs: Array, rhs: Array) -> Array:
    taps = windows(lhs, rhs.shape[:2], strides, pads)
    return sum(tap * weight for tap, weight in zip(taps, rhs.reshape(-1, 1, 1, 1, rhs.shape[3]), strict=True))


@_depthwise.defjvp
def _(strides, pads, primals, tangents):
    (lhs, rhs), (lhs_dot, rhs_dot) = primals, tangents
    out = _depthwise(strides, pads, lhs, rhs)
    # The same sum, in a form whose transpose, the kernel's gradient, is fast: it adds the images of the batch, tap by
    # tap, and only then takes one sum over pixels for all taps. A sum over pixels for each tap takes five times longer.
    taps, count = list(windows(lhs, rhs.shape[:2], strides, pads)), math.gcd(len(lhs), 8)
    wide = (len(taps), len(lhs) // count, *out.shape[1:])
    weights = lax.split(jnp.broadcast_to(rhs_dot.reshape(-1, 1, 1, 1, rhs.shape[3]), wide), (1,) * len(taps))
    parts = [
        sum(part * weight[0] for part, weight in zip(parts, weights, strict=True))
        for parts in zip(*(jnp.split(tap, count) for tap in taps), strict=True)
    ]
    return out, _depthwise(strides, pads, lhs_dot, rhs) + jnp.concatenate(parts)


Conv = partial(nn.Conv, conv_general_dilated=convolve)
