"""Local response normalisation. Krizhevsky, Sutskever & Hinton (2012), section 3.3."""

import jax.numpy as jnp
from jax import Array

from deepmodels.errors import ConfigError


def local_response_norm(x: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> Array:
    """Divides each value by a power of the sum of squares over the channels next to it.

    The paper's equation, with its constants as defaults: y[i] = x[i] / (k + alpha * sum_j x[j]^2)^beta, where j runs
    over the `size` channels around i, those that exist. Caffe and torch divide alpha by the size, as the paper doesn't:
    theirs is this one with `alpha / size`. A bfloat16 input is normalised in float32.

    Args:
      x: (..., C) floats.
      size: n, how many channels the sum runs over, odd.
      alpha: weight of the sum.
      beta: exponent.
      k: what the sum is added to.

    Returns:
      The shape and dtype of `x`.

    Raises:
      ConfigError: the size isn't a positive odd number.
    """
    if size < 1 or size % 2 == 0:
        raise ConfigError(f"size: expected a positive odd number of channels, got {size}")
    dtype = jnp.float32 if x.dtype.itemsize < 4 else x.dtype
    values = x.astype(dtype)
    squares = jnp.pad(jnp.square(values), [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)])
    # shifted copies instead of a windowed sum: XLA fuses them, and windows over the last axis are slow on a CPU
    sums = sum(squares[..., i : i + x.shape[-1]] for i in range(size))
    return (values * (k + alpha * sums) ** -beta).astype(x.dtype)
