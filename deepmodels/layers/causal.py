"""Which token sees which, and the position of each, in texts that are read from left to right. B batch, T positions."""

import jax.numpy as jnp
from jax import Array, lax
from jax.export import is_symbolic_dim

from deepmodels.errors import ShapeError


def text_positions(tokens: Array, mask: Array | None = None, documents: Array | None = None) -> Array:
    """Returns the position of each token in its text, (B, T) or (1, T) int32.

    Padding isn't counted, wherever it stands, and has the position of the token before it.

    Args:
      tokens: (B, T).
      mask: (B, T) of bools, True where a token is; by default all are.
      documents: (B, T) integers, as `visible` takes them; each document begins at 0.

    Raises:
      ShapeError: documents don't have the form of the tokens.
    """
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    if mask is None and documents is None:
        return index
    count = jnp.broadcast_to(index, tokens.shape) if mask is None else jnp.cumsum(mask.astype(jnp.int32), 1) - 1
    if documents is not None:
        _check_documents(documents, tokens)
        first = jnp.concatenate([jnp.ones_like(documents[:, :1], bool), documents[:, 1:] != documents[:, :-1]], 1)
        # what is counted where a document begins, without its own first token
        before = count if mask is None else count + 1 - mask.astype(jnp.int32)
        count -= lax.cummax(jnp.where(first, before, -1), axis=1)
    return jnp.maximum(count, 0)


def visible(
    tokens: Array, mask: Array | None = None, documents: Array | None = None, window: int | None = None
) -> Array | None:
    """Returns which of the keys before it a query may see, bools that broadcast to (B, 1, T, T); None if it is all.

    Args:
      tokens: (B, T).
      mask: (B, T) of bools, True where a token is.
      documents: (B, T) integers: tokens see only those of their own number.
      window: keys that a query sees, itself included; itself and those right before it.

    Raises:
      ShapeError: documents don't have the form of the tokens.
    """
    seen = None
    if documents is not None:
        _check_documents(documents, tokens)
        seen = (documents[:, :, None] == documents[:, None])[:, None]
    if mask is not None:
        seen = mask[:, None, None] if seen is None else seen & mask[:, None, None]
    if window is not None and (is_symbolic_dim(tokens.shape[1]) or window < tokens.shape[1]):
        near = band(tokens.shape[1], window)[None, None]
        seen = near if seen is None else seen & near
    return seen


def band(length: int, window: int) -> Array:
    """Returns (length, length) bools, True where a key is among the `window` last ones up to the query itself."""
    index = jnp.arange(length)
    distance = index[:, None] - index[None]
    return (distance >= 0) & (distance < window)


def _check_documents(documents: Array, tokens: Array) -> None:
    if documents.shape != tokens.shape or not jnp.issubdtype(documents.dtype, jnp.integer):
        raise ShapeError(
            f"documents: expected integers of shape {tuple(tokens.shape)}, "
            f"got {documents.dtype} of shape {tuple(documents.shape)}"
        )
