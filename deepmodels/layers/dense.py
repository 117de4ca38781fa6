"""Dense layers of sequences, as products of two dimensions.

Of more dimensions XLA's CPU back end copies the transpose of a gradient before the product that is the kernel's, with
whatever made the gradient in it: of the logits of a large vocabulary that copy takes longer than the products.
"""

from typing import Any

from flax import linen as nn
from jax import Array, lax


def product(x: Array, kernel: Array, precision: Any = None) -> Array:
    """Returns the product (..., K) of x (..., C) and a kernel (C, K)."""
    flat = lax.dot(x.reshape(-1, x.shape[-1]), kernel, precision=precision)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def attend(embed: nn.Embed, x: Array) -> Array:
    """Returns `embed.attend(x)`, the products (..., V) of x (..., C) and each of the V embeddings."""
    x, embedding = embed.promote_dtype(x, embed.embedding, dtype=embed.dtype)
    return product(x, embedding.T)


class Dense(nn.Dense):
    """`nn.Dense` with the same parameters and results."""

    dot_general: Any = lambda x, kernel, dimensions, precision=None: product(x, kernel, precision)
