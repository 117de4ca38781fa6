"""Attention among devices that have a part of the sequence each. Liu, Zaharia & Abbeel (2023), arXiv:2310.01889.

B batch, T queries, S keys and values, N heads, K heads of keys, D size of a head.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from deepmodels.layers.attention import attention_logits

AXIS = "sequence"


def attention_over(mesh: Mesh) -> Callable | None:
    """Returns the attention of models on a mesh with a sequence axis, see `deepmodels.layers.attention.attention_by`.

    Each device has its queries, keys and values. These go around a ring, each device passing on the block it has
    attended to, and the softmax is summed as the blocks come, so that of the products of queries and keys none has
    more than (T / n) x (S / n) for n devices. Where n divides T or S not, the compiler divides the whole attention.

    Args:
      mesh: where the model runs; None is returned if its sequence axis is 1.
    """
    count = mesh.shape[AXIS]

    def attend(query, key, value, *, scale, mask, bias, causal, soft_cap, sinks):
        if query.shape[1] % count or key.shape[1] % count:
            return None
        ring = functools.partial(_ring, count=count, scale=scale, causal=causal, soft_cap=soft_cap)
        split, whole = PartitionSpec(None, AXIS), PartitionSpec()

        def of_queries(term):  # (B, N, T, S), of which T may be 1
            return PartitionSpec(None, None, AXIS) if term is not None and term.shape[2] > 1 else whole

        mask, bias = (None if term is None else _four(term) for term in (mask, bias))
        over = jax.shard_map(
            ring,
            mesh=mesh,
            axis_names={AXIS},
            in_specs=(split, split, split, of_queries(mask), of_queries(bias), whole),
            out_specs=split,
            check_vma=False,
        )
        return over(query, key, value, mask, bias, sinks)

    return attend if count > 1 else None


def _four(term: Array) -> Array:
    return term.reshape((1,) * (4 - term.ndim) + term.shape)


def _ring(query, key, value, mask, bias, sinks, *, count, scale, causal, soft_cap):
    """One device's part: its queries (B, t, N, D), and the first of the blocks (B, s, K, D) that it will see."""
    device, rows, columns = jax.lax.axis_index(AXIS), query.shape[1], key.shape[1]
    batch, _, heads, _ = query.shape
    dtype = jnp.float32 if query.dtype.itemsize < 4 else query.dtype

    @jax.checkpoint  # what is as large as the products is computed again in the backward pass
    def attended(sums, query, key, value, mask, bias, step):
        y, total, top = sums
        first = (device - step) % count * columns  # of the block's keys, among all

        def block(term):
            if term is None or term.shape[3] == 1:
                return term
            return jax.lax.dynamic_slice_in_dim(term, first, columns, 3)

        seen, added = block(mask), block(bias)
        if causal:
            of_rows, of_columns = (jnp.arange(size, dtype=device.dtype) for size in (rows, columns))
            before = (device * rows + of_rows)[None, None, :, None] >= (first + of_columns)[None, None, None]
            seen = before if seen is None else seen & before
        logits = attention_logits(query, key, scale=scale, mask=seen, bias=added, soft_cap=soft_cap)
        higher = jnp.maximum(top, jax.lax.stop_gradient(logits.max(-1)))
        weights, shrunk = jnp.exp(logits - higher[..., None]), jnp.exp(top - higher)
        grouped = weights.astype(value.dtype).reshape(batch, value.shape[2], -1, rows, columns)
        new = jnp.einsum("BKGTS,BSKD->BKGTD", grouped, value, preferred_element_type=dtype)
        y = shrunk[..., None] * y + new.reshape(batch, heads, rows, -1)
        return y, shrunk * total + weights.sum(-1), higher

    def step(carry, number):
        sums, key, value = carry
        sums = attended(sums, query, key, value, mask, bias, number)
        key, value = (jax.lax.ppermute(x, AXIS, [(i, (i + 1) % count) for i in range(count)]) for x in (key, value))
        return (sums, key, value), None

    shape = (batch, heads, rows)
    top, total = jnp.full(shape, -jnp.inf, dtype), jnp.zeros(shape, dtype)
    if sinks is not None:  # a key of each head that was there before all others, and whose value is nothing
        logits = jnp.broadcast_to(sinks.astype(dtype)[None, :, None], shape)
        top = jax.lax.stop_gradient(logits)
        total = jnp.exp(logits - top)
    sums = (jnp.zeros((*shape, value.shape[3]), dtype), total, top)
    (sums, key, value), _ = jax.lax.scan(step, (sums, key, value), jnp.arange(count - 1, dtype=device.dtype))
    y, total, _ = attended(sums, query, key, value, mask, bias, jnp.asarray(count - 1, device.dtype))
    return (y / total[..., None]).astype(query.dtype).swapaxes(1, 2)
