"""Stochastic depth. Huang et al. (2016), arXiv:1603.09382."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, random


class StochasticDepth(nn.Module):
    """Drops a residual branch whole, for each example by itself, and scales the ones that stay to keep the mean.

    Takes a branch (B, ...) and returns the same shape and dtype. Randomness is the "dropout" stream; without `train`,
    or at a rate of 0.0, nothing is drawn and the branch is returned as it is.
    """

    @nn.compact
    def __call__(self, branch: Array, rate: float | Array, train: bool) -> Array:
        if not train or (isinstance(rate, float) and rate == 0.0):
            return branch
        keep = 1 - jnp.asarray(rate, jnp.float32)
        kept = random.bernoulli(self.make_rng("dropout"), keep, (branch.shape[0],) + (1,) * (branch.ndim - 1))
        return jnp.where(kept, branch / keep.astype(branch.dtype), jnp.zeros_like(branch))
