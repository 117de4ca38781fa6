"""What is done to logits before a token is drawn: pure functions of (B, V), equal to those of transformers.

A token that can't be drawn has the logit -inf.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array, lax

from deepmodels.errors import ConfigError


@struct.dataclass
class Sampling:
    """How the next token is chosen; a None leaves its step out. Only which are None, and `top_k`, shape a program.

    Attributes:
      temperature: by which logits are divided; None takes the likeliest token, whatever the others say.
      top_k: how many of the likeliest tokens are left.
      top_p: the probability that those left have together, at least. Holtzman et al. (2019), arXiv:1904.09751.
      min_p: of the likeliest token's probability, what one needs to be left. Nguyen et al. (2024), arXiv:2407.01082.
      repetition_penalty: see `penalise_repetition`; it counts for the likeliest token too.
    """

    temperature: float | None = None
    top_k: int | None = struct.field(pytree_node=False, default=None)
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def check(self) -> None:
        """Raises ConfigError if a value is outside of where it means something."""
        if self.temperature is not None and not self.temperature > 0:
            raise ConfigError(
                f"temperature: expected a positive number, or None for the likeliest token, got {self.temperature}"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k: expected 1 or more, got {self.top_k}")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name}: expected a probability, got {value}")
        if self.repetition_penalty is not None and not self.repetition_penalty > 0:
            raise ConfigError(f"repetition_penalty: expected a positive number, got {self.repetition_penalty}")
        if self.temperature is None and any(v is not None for v in (self.top_k, self.top_p, self.min_p)):
            raise ConfigError("top_k, top_p, min_p: these are for drawing tokens: give a temperature, 1.0 for none")


def process(logits: Array, sampling: Sampling, seen: Array | None = None) -> Array:
    """Returns logits (B, V), float32 or wider, after all steps, in the order of transformers.

    Args:
      logits: (B, V).
      sampling: the steps.
      seen: (B, V) of bools, True for the tokens of the text so far; for the penalty of repetition only.
    """
    logits = logits.astype(jnp.float32 if logits.dtype.itemsize < 4 else logits.dtype)
    if sampling.repetition_penalty is not None:
        logits = penalise_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.temperature is None:
        return logits
    logits = logits / jnp.asarray(sampling.temperature, logits.dtype)
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    return logits


def choose(logits: Array, sampling: Sampling, keys: Array) -> Array:
    """Returns a token (B,) int32 of each row of processed logits (B, V): the likeliest, or drawn with the row's key."""
    if sampling.temperature is None:
        return logits.argmax(-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def penalise_repetition(logits: Array, seen: Array, penalty: float | Array) -> Array:
    """Returns logits with those of tokens that were seen divided by the penalty, or multiplied where negative.

    Keskar et al. (2019), arXiv:1909.05858, section 4.1.

    Args:
      logits: (B, V).
      seen: (B, V) of bools.
      penalty: above 1 against repetition.
    """
    penalty = jnp.asarray(penalty, logits.dtype)
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Array, k: int) -> Array:
    """Returns logits (B, V) with all but the k largest, and those that equal the last of them, at -inf."""
    k = min(k, logits.shape[-1])
    return jnp.where(logits < lax.top_k(logits, k)[0][:, -1:], -jnp.inf, logits)


def keep_top_p(logits: Array, p: float | Array) -> Array:
    """Returns logits (B, V) with the likeliest tokens left that have at least probability p together, and one at least.

    Fan, Lewis & Dauphin's top-k with k by the distribution. Holtzman et al. (2019), arXiv:1904.09751.
    """
    order = logits.argsort(-1)  # ascending, as the sum from below decides
    ascending = jnp.take_along_axis(logits, order, -1)
    below = jnp.cumsum(jax.nn.softmax(ascending), -1) <= 1 - jnp.asarray(p, logits.dtype)
    below = below.at[:, -1].set(False)
    rows = jnp.arange(len(logits))[:, None]
    return jnp.where(jnp.zeros_like(below).at[rows, order].set(below), -jnp.inf, logits)


def keep_min_p(logits: Array, p: float | Array) -> Array:
    """Returns logits (B, V) with tokens at -inf whose probability is below p times the likeliest's."""
    probs = jax.nn.softmax(logits)
    largest = probs.max(-1, keepdims=True)
    return jnp.where((probs < jnp.asarray(p, logits.dtype) * largest) & (probs < largest), -jnp.inf, logits)
