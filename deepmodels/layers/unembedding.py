"""From hidden states to the scores of words, in two steps, so that a loss can take the second one in chunks.

B batch, T positions, C channels, V words of the vocabulary.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Unprojected(NamedTuple):
    """What a language model would multiply for its logits: a model's call with `project=False` returns it.

    Exactly one of `kernel` and `embedding` is given.
    """

    hidden: Array  # (B, T, C)
    kernel: Array | None = None  # (C, V), of a head of its own
    embedding: Array | None = None  # (V, C), of a model whose embedding also gives the logits
    bias: Array | None = None  # (V,)
    soft_cap: float | None = None  # c of c * tanh(logits / c), Gemma 2's

    def logits(self, hidden: Array | None = None) -> Array:
        """Returns logits (..., V) of hidden states (..., C), by default of all, in their dtype."""
        hidden = self.hidden if hidden is None else hidden
        if self.kernel is not None:
            logits = jnp.einsum("...C,CV->...V", hidden, self.kernel.astype(hidden.dtype))
        else:
            logits = jnp.einsum("...C,VC->...V", hidden, self.embedding.astype(hidden.dtype))
        if self.bias is not None:
            logits += self.bias.astype(logits.dtype).reshape((1,) * (logits.ndim - 1) + self.bias.shape)
        if self.soft_cap is not None:
            logits = jnp.tanh(logits / self.soft_cap) * self.soft_cap
        return logits
