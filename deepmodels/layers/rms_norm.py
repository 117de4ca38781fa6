"""Normalisation by the root mean square. Zhang & Sennrich (2019), arXiv:1910.07467."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array


class RMSNorm(nn.Module):
    """Divides each position by the root mean square of its channels.

    Takes (..., C) floats and returns the same shape and dtype; the mean is in float32 for bfloat16.

    Attributes:
      epsilon: added to the mean square.
      offset: added to the parameter "scale", which then begins so that the sum is 1: Gemma's is 1.
    """

    epsilon: float = 1e-6
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        begin = nn.initializers.constant(1.0 - self.offset)
        scale = self.param("scale", begin, x.shape[-1:], jnp.float32)
        wide = x.astype(jnp.float32 if x.dtype.itemsize < 4 else x.dtype)
        y = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        scale = scale.astype(y.dtype)
        scale = scale + self.offset if self.offset else scale
        return (y * scale.reshape((1,) * (x.ndim - 1) + x.shape[-1:])).astype(x.dtype)
