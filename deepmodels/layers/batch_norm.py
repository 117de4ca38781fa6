"""Batch normalisation. Ioffe & Szegedy (2015), arXiv:1502.03167."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

_AXIS: contextvars.ContextVar[str | None] = contextvars.ContextVar("axis", default=None)


@contextlib.contextmanager
def statistics_over(axis_name: str | None) -> Iterator[None]:
    """Takes batch statistics over a `jax.pmap` axis as well, for models called inside; None for the batch alone.

    Under `jax.jit` over a mesh a batch is whole, and nothing of this is needed.
    """
    token = _AXIS.set(axis_name)
    try:
        yield
    finally:
        _AXIS.reset(token)


class BatchNorm(nn.Module):
    """Normalises each channel by its statistics over the batch, or by their running averages.

    The same parameters ("scale", "bias"), statistics ("batch_stats": "mean", "var") and formula as `nn.BatchNorm`,
    which mixes dtypes where the activations are bfloat16 and the running averages float32. Here a bfloat16 input is
    normalised in float32 and returned in bfloat16, a float64 input is normalised in float64, and the running averages
    keep the dtype they are given in. The running variance is the biased one, as in Flax; torch keeps the unbiased.

    Takes (..., C) floats and returns the same shape and dtype. The defaults are torch's.

    Attributes:
      momentum: weight of the old value in a running average.
      epsilon: added to the variance.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        channels = x.shape[-1:]
        dtype = jnp.float32 if x.dtype.itemsize < 4 else x.dtype
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        values = x.astype(dtype)

        if train:
            axes = tuple(range(x.ndim - 1))
            # one pass over the activations instead of two; rounding may take the difference below zero
            mean, mean_of_squares = values.mean(axes), jnp.square(values).mean(axes)
            if _AXIS.get() is not None and not self.is_initializing():
                mean, mean_of_squares = jax.lax.pmean((mean, mean_of_squares), _AXIS.get())
            var = jnp.maximum(mean_of_squares - jnp.square(mean), 0)
            if not self.is_initializing():
                for running, batch in ((running_mean, mean), (running_var, var)):
                    old = running.value
                    average = self.momentum * old.astype(dtype) + (1 - self.momentum) * batch
                    running.value = average.astype(old.dtype)
        else:
            mean, var = running_mean.value.astype(dtype), running_var.value.astype(dtype)

        def wide(per_channel: Array) -> Array:
            return per_channel.reshape((1,) * (x.ndim - 1) + channels)

        factor = scale.astype(dtype) * jax.lax.rsqrt(var + self.epsilon)
        # not (values - mean) * factor: its gradient by the factor needs the differences, a further image to keep
        shift = bias.astype(dtype) - mean * factor
        return (values * wide(factor) + wide(shift)).astype(x.dtype)
