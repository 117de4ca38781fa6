"""Means that know their weight, so that the means of parts add up to the mean of the whole."""

import math
from collections.abc import Mapping

import jax
from flax import struct


@struct.dataclass
class Mean:
    """A weighted mean, kept as its two sums: those of parts are added, or averaged, before one is divided by the other.

    An objective returns a number for what it averages over examples, and a Mean for what it averages over anything
    else: over tokens, of which one batch has more than the next.
    """

    total: jax.Array  # the sum of weight times value
    weight: jax.Array

    @classmethod
    def of(cls, values: jax.Array, weights: jax.Array) -> "Mean":
        """Returns the mean of `values` with `weights` of the same shape and dtype; what has no weight may be NaN."""
        return cls((values * weights).sum(where=weights > 0), weights.sum())

    @property
    def value(self) -> jax.Array:
        """The mean; 0 where there is no weight."""
        return self.total / self.weight.clip(1e-9)


@struct.dataclass
class Perplexity(Mean):
    """The exponential of a mean in nats; of parts, that of the whole mean, which the mean of perplexities is not."""

    @property
    def value(self) -> jax.Array:
        """The exponential of the mean."""
        return math.e ** super().value


def values(metrics: Mapping[str, jax.Array | Mean]) -> dict[str, jax.Array]:
    """Returns an objective's metrics as numbers."""
    return {name: metric.value if isinstance(metric, Mean) else metric for name, metric in metrics.items()}
