"""What a decoder keeps of the tokens that it has read: keys and values, or whatever a layer attends to.

B batch, L layers, S slots, T new tokens, N heads, D size of a head.

A buffer has room for S tokens of each row. Each row has a position of its own, the number of tokens it holds, so texts
of different lengths share a batch. All but the buffers of sliding windows have a slot for each position; those have
`SLACK` more than the window and begin anew at their end. A row forgets its last tokens when its position is set back,
by up to `SLACK` tokens where a buffer may have begun anew.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

SLACK = 16
_SCALE = "_scale"

Buffers = dict[str, Array]


class Plan(NamedTuple):
    """Where new tokens go and what each of them sees: the same in all layers with buffers of one form."""

    slots: Array  # (B, T) int32, S where nothing is written
    mask: Array  # (B, 1, T, keys) bool, True where a token may see a key
    joined: bool  # whether the keys are the buffer as it was and the new ones behind it, or the buffer with them in it


def make(
    batch_size: int,
    num_layers: int,
    length: int,
    entries: Mapping[str, tuple[int, ...]],
    dtype: jnp.dtype = jnp.float32,
    *,
    window: int | None = None,
    quantized: bool = False,
) -> Buffers:
    """Returns empty buffers (B, L, S, ...) by name.

    Args:
      batch_size: B.
      num_layers: L.
      length: the most tokens that a row will hold.
      entries: what a layer keeps of a token, by name: {"keys": (N, D), "values": (N, D)}.
      dtype: of what is kept.
      window: tokens that a token sees, itself included, where the layers have a sliding window; S is then no more than
        this and `SLACK`.
      quantized: whether int8 is kept, and a float32 scale beside each vector, under the name with "_scale" behind it:
        a value is off by at most 1/254 of the largest of its vector.
    """
    size = length if window is None else min(length, window + SLACK)
    buffers = {}
    for name, shape in entries.items():
        buffers[name] = jnp.zeros((batch_size, num_layers, size, *shape), jnp.int8 if quantized else dtype)
        if quantized:
            buffers[name + _SCALE] = jnp.zeros((batch_size, num_layers, size, *shape[:-1]), jnp.float32)
    return buffers


def plan(
    buffers: Buffers, position: Array, count: int, lengths: Array | None = None, window: int | None = None
) -> Plan:
    """Returns where the next tokens of each row go, and which keys they see: those before them, and themselves.

    Args:
      buffers: as `make` returns them.
      position: of the first new token of each row, (B,) int32.
      count: T, new tokens of each row.
      lengths: how many of these are real, (B,) int32; the others, behind them, are padding, which isn't kept.
      window: as `make` took it.
    """
    size = next(iter(buffers.values())).shape[2]
    lengths = jnp.full_like(position, count) if lengths is None else lengths
    index = jnp.arange(count, dtype=jnp.int32)[None]
    queries = position[:, None] + index
    real = index < lengths[:, None]
    rolls = window is not None and size == window + SLACK
    slots = queries
    if rolls:  # of tokens that would share a slot the last is kept
        slots = jnp.where(index >= lengths[:, None] - size, queries % size, size)
    slots = jnp.where(real, slots, size)
    joined = rolls and count > SLACK + 1
    if joined:  # the last tokens overwrite what the first ones see
        keys = jnp.concatenate([_held(position, size), jnp.where(real, queries, -1)], 1)
    else:
        keys = _held(position + lengths, size)
    keys, queries = keys[:, None], queries[:, :, None]
    mask = (keys >= 0) & (keys <= queries)
    if window is not None:
        mask &= keys > queries - window
    return Plan(slots, mask[:, None], joined)


def extend(
    buffers: Buffers, layer: int | Array, new: Mapping[str, Array], plan: Plan
) -> tuple[Buffers, dict[str, Array]]:
    """Writes what a layer keeps of new tokens, and returns the buffers and what the plan's mask is of.

    Args:
      buffers: as `make` returns them.
      layer: its number.
      new: what it keeps, (B, T, ...) by name.
      plan: as `plan` returns it for these buffers and tokens.

    Returns:
      The buffers, and all that the layer attends to, (B, keys, ...) by name in the dtype of what is new.
    """
    before = read(buffers, layer, new) if plan.joined else {}
    buffers = dict(buffers)
    rows = jnp.arange(plan.slots.shape[0])[:, None]
    for name, value in new.items():
        if name + _SCALE in buffers:
            value, scale = quantize(value)
            buffers[name + _SCALE] = buffers[name + _SCALE].at[rows, layer, plan.slots].set(scale, mode="drop")
        value = value.astype(buffers[name].dtype)
        buffers[name] = buffers[name].at[rows, layer, plan.slots].set(value, mode="drop")
    if plan.joined:
        return buffers, {name: jnp.concatenate([before[name], value], 1) for name, value in new.items()}
    return buffers, read(buffers, layer, new)


def read(buffers: Buffers, layer: int | Array, like: Mapping[str, Array]) -> dict[str, Array]:
    """Returns what a layer's buffers hold, (B, S, ...) by name, in the dtypes of `like`."""
    held = {}
    for name, array in like.items():
        value = _layer(buffers[name], layer).astype(array.dtype)
        if name + _SCALE in buffers:
            value *= _layer(buffers[name + _SCALE], layer)[..., None].astype(array.dtype)
        held[name] = value
    return held


def quantize(x: Array) -> tuple[Array, Array]:
    """Returns vectors (..., D) as int8 and their scales (...) float32: x is about their product."""
    wide = x.astype(jnp.float32)
    scale = jnp.abs(wide).max(-1) / 127
    return jnp.round(wide / jnp.where(scale == 0, 1, scale)[..., None]).astype(jnp.int8), scale


def _layer(buffer: Array, layer: int | Array) -> Array:
    return lax.dynamic_index_in_dim(buffer, layer, 1, keepdims=False)


def _held(end: Array, size: int) -> Array:
    """The position (B, S) that each slot holds when a row has `end` tokens; negative where it holds none."""
    last = end[:, None] - 1
    return last - (last - jnp.arange(size, dtype=jnp.int32)[None]) % size
