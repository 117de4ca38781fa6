"""Attention. Vaswani et al. (2017), arXiv:1706.03762.

B batch, T queries, S keys and values, N heads, D size of a head, C channels.
"""

import contextlib
import contextvars
import functools
import logging
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError
from deepmodels.layers.dense import Dense


class Attention(nn.Module):
    """Multi-head attention, section 3.2.2: project to queries, keys and values, attend, project what comes out.

    The call takes `x` (B, T, hidden_size) and attends to `source` (B, S, C), or to itself, and returns
    (B, T, hidden_size) in the dtype of its input. With `train` it drops attention weights, by the "dropout" stream.

    The weights (B, N, T, S) are the output of a submodule "weights", for `deepmodels.analysis.intermediates` with a
    pattern such as "*attention/weights"; nothing else computes them.

    Attributes:
      num_heads: N.
      hidden_size: channels of what comes in and goes out.
      head_size: D; by default hidden_size / num_heads.
      use_bias: whether the four projections have one.
      out_bias: whether the last one has, if given.
      scale: of the products of queries and keys; by default 1 / sqrt(D).
      dropout_rate: of the weights.
      kernel_init: of the four projections.
      query_init: of the queries' instead, if given.
      out_init: of the last one's instead, if given.
    """

    num_heads: int
    hidden_size: int
    head_size: int | None = None
    use_bias: bool = True
    out_bias: bool | None = None
    scale: float | None = None
    dropout_rate: float = 0.0
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    query_init: nn.initializers.Initializer | None = None
    out_init: nn.initializers.Initializer | None = None

    def setup(self) -> None:
        if self.head_size is None and self.hidden_size % self.num_heads:
            raise ConfigError(f"num_heads: {self.num_heads} doesn't divide hidden_size, which is {self.hidden_size}")
        inner = self.num_heads * (self.head_size or self.hidden_size // self.num_heads)
        dense = functools.partial(Dense, use_bias=self.use_bias)
        out_bias = self.use_bias if self.out_bias is None else self.out_bias
        self.query = dense(inner, kernel_init=self.query_init or self.kernel_init)
        self.key = dense(inner, kernel_init=self.kernel_init)
        self.value = dense(inner, kernel_init=self.kernel_init)
        self.out = dense(self.hidden_size, use_bias=out_bias, kernel_init=self.out_init or self.kernel_init)
        self.weights = AttentionWeights()
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(
        self,
        x: Array,
        source: Array | None = None,
        *,
        mask: Array | None = None,
        bias: Array | None = None,
        causal: bool = False,
        train: bool = False,
    ) -> Array:
        """See the class. `mask` and `bias` are those of `attend`; `causal` hides the keys that come after a query."""
        key, value = self.keys_and_values(x if source is None else source)
        return self.attend(x, key, value, mask=mask, bias=bias, causal=causal, train=train)

    def keys_and_values(self, source: Array) -> tuple[Array, Array]:
        """Returns the keys and the values (B, S, N, D) of (B, S, C)."""
        return self._split(self.key(source)), self._split(self.value(source))

    def attend(
        self,
        x: Array,
        key: Array,
        value: Array,
        *,
        mask: Array | None = None,
        bias: Array | None = None,
        causal: bool = False,
        train: bool = False,
    ) -> Array:
        """Returns (B, T, hidden_size) from x (B, T, hidden_size) and keys and values (B, S, N, D).

        Args:
          x: what the queries are made of.
          key: as `keys_and_values` returns them.
          value: likewise.
          mask: bools that broadcast to (B, N, T, S), True where a query may see a key.
          bias: floats that broadcast to (B, N, T, S), added to the scaled products.
          causal: whether keys that come after a query are hidden from it.
          train: whether weights are dropped.
        """
        query = self._split(self.query(x))
        scale = 1 / math.sqrt(query.shape[-1]) if self.scale is None else self.scale
        terms = dict(scale=scale, mask=mask, bias=bias, causal=causal)
        dropped = train and self.dropout_rate > 0
        if dropped or self.is_mutable_collection("intermediates"):
            weights = self.weights(query, key, **terms)
        if dropped:
            y = average(self.dropout(weights, deterministic=False), value)
        else:
            y = dot_product_attention(query, key, value, **terms)
        return self.out(y.reshape(*y.shape[:2], -1))

    def step(self, x: Array, keys: Array, values: Array, position: Array, bias: Array | None = None) -> tuple:
        """Attends from one more position to itself and those before it, of which keys and values are kept.

        Args:
          x: (B, 1, hidden_size).
          keys: (B, S, N, D), filled before `position`.
          values: likewise.
          position: (B,) int32.
          bias: as `attend` takes it.

        Returns:
          (B, 1, hidden_size), and the keys and the values with those of x at `position`.
        """
        rows = jnp.arange(x.shape[0])
        key, value = self.keys_and_values(x)
        keys = keys.at[rows, position].set(key[:, 0])
        values = values.at[rows, position].set(value[:, 0])
        seen = jnp.arange(keys.shape[1])[None] <= position[:, None]
        return self.attend(x, keys, values, mask=key_mask(seen), bias=bias), keys, values

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.num_heads, -1)


def decoder_cache(memory_keys: Array, memory_values: Array, mask: Array | None, length: int) -> dict[str, Array]:
    """Returns what the steps of a decoder begin with: room for its positions, and keys and values of the source.

    Args:
      memory_keys: of the source in each of L layers, (B, L, S, N, D).
      memory_values: likewise.
      mask: of the source, (B, S) of bools, True where a position holds something; by default all do.
      length: positions that the decoder will write at most.

    Returns:
      Arrays by name, each with the batch as its first axis, so that a search may repeat and reorder their rows:
      "position" (B,) int32, "keys" and "values" (B, L, length, N, D), "memory_keys", "memory_values", "memory_mask".
    """
    batch, layers, positions, *rest = memory_keys.shape
    room = jnp.zeros((batch, layers, length, *rest), memory_keys.dtype)
    return {
        "position": jnp.zeros(batch, jnp.int32),
        "keys": room,
        "values": room,
        "memory_keys": memory_keys,
        "memory_values": memory_values,
        "memory_mask": jnp.ones((batch, positions), bool) if mask is None else mask,
    }


class AttentionWeights(nn.Module):
    """The weights with which values are averaged: a module without parameters, whose output has a name."""

    @nn.compact
    def __call__(self, query: Array, key: Array, **terms) -> Array:
        """Returns what `attention_weights` does."""
        return attention_weights(query, key, **terms)


def key_mask(mask: Array) -> Array:
    """Returns a mask of positions (B, S) as one of keys, (B, 1, 1, S), that broadcasts over heads and queries."""
    return mask[:, None, None, :]


def attention_weights(
    query: Array,
    key: Array,
    *,
    scale: float,
    mask: Array | None = None,
    bias: Array | None = None,
    causal: bool = False,
    soft_cap: float | None = None,
    sinks: Array | None = None,
) -> Array:
    """Returns softmax(scale * query key^T + bias), equation 1, as (B, N, T, S) in the dtype of the queries.

    Products and softmax are in float32 for bfloat16. A query that sees no key has equal weights for all.

    Args:
      query: (B, T, N, D).
      key: (B, S, N, D), or with a divisor of N, so that neighbouring heads of the queries share one of the keys:
        Ainslie et al. (2023), arXiv:2305.13245.
      scale: of the products.
      mask: bools that broadcast to (B, N, T, S), True where a query may see a key.
      bias: floats that broadcast to (B, N, T, S).
      causal: whether keys that come after a query are hidden from it.
      soft_cap: what products approach but don't reach: they become soft_cap * tanh(products / soft_cap).
      sinks: (N,), a logit of each head that takes weight from the keys and gives nothing: the weights sum to less
        than 1. Xiao et al. (2023), arXiv:2309.17453, section 3.3.
    """
    if causal:
        before = jnp.tril(jnp.ones((query.shape[1], key.shape[1]), bool))[None, None]
        mask = before if mask is None else mask & before
    logits = attention_logits(query, key, scale=scale, mask=mask, bias=bias, soft_cap=soft_cap)
    if sinks is None:
        return jax.nn.softmax(logits).astype(query.dtype)
    column = jnp.broadcast_to(sinks.astype(logits.dtype).reshape(1, -1, 1, 1), (*logits.shape[:3], 1))
    return jax.nn.softmax(jnp.concatenate([logits, column], -1))[..., :-1].astype(query.dtype)


def attention_logits(
    query: Array, key: Array, *, scale: float, mask: Array | None, bias: Array | None, soft_cap: float | None
) -> Array:
    """Returns what `attention_weights` takes the softmax of, (B, N, T, S) in float32 for bfloat16; its arguments."""
    dtype = jnp.float32 if query.dtype.itemsize < 4 else query.dtype
    grouped = query.reshape(*query.shape[:2], key.shape[2], -1, query.shape[3])
    products = jnp.einsum("BTKGD,BSKD->BKGTS", grouped, key, preferred_element_type=dtype)
    logits = scale * products.reshape(query.shape[0], query.shape[2], query.shape[1], key.shape[1])
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    if bias is not None:
        logits += bias.astype(dtype)
    return logits if mask is None else jnp.where(mask, logits, jnp.finfo(dtype).min)


_ATTEND: contextvars.ContextVar[Callable | None] = contextvars.ContextVar("attend", default=None)


@contextlib.contextmanager
def attention_by(attend: Callable | None) -> Iterator[None]:
    """Has models called inside attend by another function, which takes what `dot_product_attention` takes.

    Args:
      attend: returns the averages, or None where `dot_product_attention` should compute them itself. None for none.
    """
    token = _ATTEND.set(attend)
    try:
        yield
    finally:
        _ATTEND.reset(token)


def dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    scale: float,
    mask: Array | None = None,
    bias: Array | None = None,
    causal: bool = False,
    soft_cap: float | None = None,
    sinks: Array | None = None,
) -> Array:
    """Returns the averages of values (B, T, N, D) by the weights of `attention_weights`, without keeping those.

    It is `jax.nn.dot_product_attention`, by cuDNN where that works and by XLA elsewhere. What that hasn't is computed
    here: float64, in which JAX's has no softmax, soft caps and sinks, and values of another size than the keys.
    """
    other = soft_cap is not None or sinks is not None or key.shape[-1] != value.shape[-1]
    terms = dict(scale=scale, mask=mask, bias=bias, causal=causal, soft_cap=soft_cap, sinks=sinks)
    attend = _ATTEND.get()
    if attend is not None and (y := attend(query, key, value, **terms)) is not None:
        return y
    if query.dtype.itemsize == 8 or other:
        return average(attention_weights(query, key, **terms), value)
    chosen = implementation(query, key, mask, bias, causal)
    return _attend(query, key, value, bias, mask, scale=scale, causal=causal, implementation=chosen)


def _attend(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    mask: Array | None,
    *,
    scale: float,
    causal: bool,
    implementation: str,
) -> Array:
    if bias is not None:
        bias = bias.astype(query.dtype if implementation == "cudnn" else jnp.float32)
    if implementation == "cudnn":  # which wants them whole
        whole = (query.shape[1], key.shape[1])
        bias, mask = (x if x is None else jnp.broadcast_to(x, (*x.shape[:2], *whole)) for x in (bias, mask))
    with jax.numpy_dtype_promotion("standard"):  # which it needs for bfloat16
        return jax.nn.dot_product_attention(
            query, key, value, bias, mask, scale=scale, is_causal=causal, implementation=implementation
        )


def average(weights: Array, value: Array) -> Array:
    """Returns values (B, S, N, D), or of fewer heads that neighbours share, averaged by weights (B, N, T, S)."""
    batch, heads, queries, keys = weights.shape
    grouped = weights.reshape(batch, value.shape[2], -1, queries, keys)
    return jnp.einsum("BKGTS,BSKD->BTKGD", grouped, value).reshape(batch, queries, heads, -1)


def implementation(query: Array, key: Array, mask: Array | None, bias: Array | None, causal: bool) -> str:
    """Returns how `jax.nn.dot_product_attention` should compute this: "cudnn" or "xla".

    cuDNN's takes half precision only, and some shapes. Whether it takes these is found by compiling the forward and
    the backward pass by themselves, once per process and shape, and logged.
    """
    if jax.default_backend() != "gpu" or query.dtype.itemsize != 2:
        return "xla"
    terms = [None if x is None else (x.shape, x.dtype.name) for x in (bias, mask)]
    return _probe(query.dtype.name, query.shape, key.shape, *terms, causal)


@functools.cache
def _probe(dtype: str, queries: tuple, keys: tuple, bias: tuple | None, mask: tuple | None, causal: bool) -> str:
    query, key = (jax.ShapeDtypeStruct(shape, dtype) for shape in (queries, keys))
    bias, mask = (None if x is None else jax.ShapeDtypeStruct(*x) for x in (bias, mask))

    def total(query, key, value, bias, mask):
        return _attend(query, key, value, bias, mask, scale=1.0, causal=causal, implementation="cudnn").sum()

    described = f"attention of {queries} to {keys} in {dtype}"
    arguments = (0, 1, 2) if bias is None else (0, 1, 2, 3)
    try:
        jax.jit(jax.grad(total, arguments)).lower(query, key, key, bias, mask).compile()
    except Exception as error:  # whatever cuDNN, its plugin or the compiler has against it, XLA does the same sum
        _LOGGER.warning("%s: XLA, as cuDNN refuses: %s", described, " ".join(str(error).split())[:200])
        return "xla"
    _LOGGER.info("%s: cuDNN", described)
    return "cudnn"


_LOGGER = logging.getLogger(__name__)
