"""Beam search. Graves (2012), arXiv:1211.3711; Sutskever, Vinyals & Le (2014), arXiv:1409.3215, section 3.2."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from deepmodels.errors import ConfigError

PyTree = Any


class Beams(NamedTuple):
    """Sequences of a beam search, of each example the best first, and behind them those that `max_length` cut off.

    B batch, K beams, L their greatest length.
    """

    tokens: Array  # (B, K, L) int32, without the start, with the end and more of it behind
    lengths: Array  # (B, K) int32, the end counted
    scores: Array  # (B, K) log-probabilities in nats, over the length penalty; -inf where there are no more sequences


class _Search(NamedTuple):
    """Where a search is: sequences that go on, with the model's state, and those that have ended."""

    index: Array
    tokens: Array  # (B, K, L)
    log_probs: Array  # (B, K)
    state: PyTree
    ended: Beams


def beam_search(
    step: Callable[[Array, PyTree], tuple[Array, PyTree]],
    state: PyTree,
    *,
    start: int | Array,
    end: int,
    batch_size: int,
    beam_size: int = 4,
    max_length: int = 64,
    length_penalty: float = 0.6,
    batch_axis: int | PyTree = 0,
) -> Beams:
    """Looks for the likeliest sequences by keeping the best few at each step. It can be jitted.

    A sequence's score is its log-probability divided by ((5 + length) / 6) ** length_penalty, equation 14 of Wu et al.
    (2016), arXiv:1609.08144. An example's search stops when none of the sequences that go on could still overtake the
    last of those that have ended, or at `max_length`, where those that go on are kept if fewer have ended. One
    that ends counts if it is among the K best of its step, as fairseq and transformers have it.

    Args:
      step: `(tokens (N,), state) -> (logits (N, V), state)`, N = batch_size * beam_size: scores of the tokens that
        follow these.
      state: the model's before the start, arrays with `batch_size` entries along their batch axis.
      start: the token that is given to the first step, or one for each example, (batch_size,) int32.
      end: the token that ends a sequence.
      batch_size: B.
      beam_size: K; 1 is greedy decoding.
      max_length: L, tokens of a sequence with its end.
      length_penalty: 0 compares by probability, which favours short sequences; 0.6 in Vaswani et al. (2017).
      batch_axis: of the state's arrays: one for all, or a tree of them that is a prefix of the state.

    Returns:
      The best sequences of each example.

    Raises:
      ConfigError: beam_size or max_length isn't positive.
    """
    if beam_size < 1 or max_length < 1:
        raise ConfigError(f"beam_size, max_length: expected 1 or more, got {beam_size} and {max_length}")
    axes = jax.tree.broadcast(batch_axis, state)
    wide = jax.tree.map(lambda x, axis: jnp.repeat(x, beam_size, axis), state, axes)
    starts = jnp.repeat(jnp.broadcast_to(jnp.asarray(start, jnp.int32), (batch_size,)), beam_size)
    shapes, _ = jax.eval_shape(step, starts, wide)
    vocab = shapes.shape[-1]
    dtype = jnp.float32 if shapes.dtype.itemsize < 4 else shapes.dtype
    rows = jnp.arange(batch_size, dtype=jnp.int32)[:, None]

    def penalised(log_probs: Array, length: Array) -> Array:
        return log_probs / ((5 + length).astype(dtype) / 6) ** length_penalty

    def goes_on(search: _Search) -> Array:
        # log-probabilities only fall, and the penalty is mildest for the greatest length
        hope = penalised(search.log_probs[:, 0], jnp.int32(max_length))
        return (search.index < max_length) & (hope > search.ended.scores[:, -1]).any()

    def advance(search: _Search) -> _Search:
        last = lax.dynamic_index_in_dim(search.tokens, search.index - 1, 2, keepdims=False)
        last = jnp.where(search.index == 0, starts, last.reshape(-1))
        logits, state = step(last, search.state)
        logits = jax.nn.log_softmax(logits.astype(dtype)).reshape(batch_size, beam_size, vocab)
        log_probs = search.log_probs[..., None] + logits
        # twice as many as there are beams: however many of them end, enough go on
        values, where = lax.top_k(log_probs.reshape(batch_size, -1), min(2 * beam_size, beam_size * vocab))
        parents, chosen = where // vocab, (where % vocab).astype(jnp.int32)
        tokens = search.tokens[rows, parents].at[:, :, search.index].set(chosen)
        is_end = chosen == end

        length = search.index + 1
        lengths = jnp.full(where.shape, length, jnp.int32)
        # of the others none would have gone on, had they not ended: so one beam is greedy
        among_best = (jnp.arange(where.shape[1]) < beam_size)[None]
        scores = jnp.where(is_end & among_best, penalised(values, length), -jnp.inf)
        ended = _best(Beams(*map(_joined, search.ended, (tokens, lengths, scores))), beam_size)

        values, kept = lax.top_k(jnp.where(is_end, -jnp.inf, values), beam_size)
        flat = (rows * beam_size + parents[rows, kept]).reshape(-1)
        state = jax.tree.map(lambda x, axis: jnp.take(x, flat, axis, mode="clip"), state, axes)
        return _Search(length, tokens[rows, kept], values, state, ended)

    nothing = jnp.full((batch_size, beam_size, max_length), end, jnp.int32)
    search = _Search(
        jnp.int32(0),
        nothing,
        jnp.full((batch_size, beam_size), -jnp.inf, dtype).at[:, 0].set(0),  # at first all beams are one
        wide,
        Beams(
            nothing, jnp.zeros((batch_size, beam_size), jnp.int32), jnp.full((batch_size, beam_size), -jnp.inf, dtype)
        ),
    )
    search = lax.while_loop(goes_on, advance, search)
    # where too few have ended those that were cut off come behind them, whatever their score
    missing = search.ended.scores == -jnp.inf
    order = jnp.cumsum(missing, 1) - 1
    scores = penalised(search.log_probs, jnp.int32(max_length))
    return Beams(
        jnp.where(missing[..., None], search.tokens[rows, order], search.ended.tokens),
        jnp.where(missing, max_length, search.ended.lengths),
        jnp.where(missing, scores[rows, order], search.ended.scores),
    )


def _joined(first: Array, second: Array) -> Array:
    return jnp.concatenate([first, second], 1)


def _best(beams: Beams, count: int) -> Beams:
    scores, where = lax.top_k(beams.scores, count)
    rows = jnp.arange(where.shape[0])[:, None]
    return Beams(beams.tokens[rows, where], beams.lengths[rows, where], scores)
