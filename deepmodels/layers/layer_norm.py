"""Layer normalisation. Ba, Kiros & Hinton (2016), arXiv:1607.06450."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array


def standardised(x: Array, epsilon: float) -> Array:
    """Returns each position's channels less their mean, over their standard deviation: (..., C) floats to the same.

    Args:
      x: of half precision it is computed, and returned, in float32.
      epsilon: added to the variance.
    """
    values = x.astype(jnp.float32 if x.dtype.itemsize < 4 else x.dtype)
    centred = values - values.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)


class LayerNorm(nn.Module):
    """Normalises each position by the mean and variance of its channels.

    The same parameters ("scale", "bias") and formula as `nn.LayerNorm`, which mixes dtypes where the activations are
    bfloat16. Here a bfloat16 input is normalised in float32 and returned in bfloat16; a float64 input stays float64.

    Takes (..., C) floats and returns the same shape and dtype.

    Attributes:
      epsilon: added to the variance.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        y = standardised(x, self.epsilon)
        wide = (1,) * (x.ndim - 1) + channels
        return (y * scale.astype(y.dtype).reshape(wide) + bias.astype(y.dtype).reshape(wide)).astype(x.dtype)
