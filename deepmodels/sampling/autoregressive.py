"""Writing texts token by token: the whole loop is one program on the device.

B batch, T tokens of the prompt, N tokens to write at most, V words of the vocabulary.

A model is given by its functions: `extend(tokens (B, T), cache, lengths, last) -> (logits, cache)` and
`step(tokens (B,), cache) -> (logits (B, V), cache)`, see `deepmodels.models.gpt.GPT`. A cache is arrays whose first
axis is the batch, with "position" (B,) int32, the tokens that it holds of each row: setting it back forgets.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from deepmodels.sampling.processors import Sampling, choose, process

Cache = dict[str, Any]
Extend = Callable[[Array, Cache, Array | None, bool], tuple[Array, Cache]]
Step = Callable[[Array, Cache], tuple[Array, Cache]]


class Decoding(NamedTuple):
    """Where the writing of texts is."""

    tokens: Array  # (B, N) int32, what is written
    count: Array  # (B,) int32, how much of it
    last: Array  # (B,) int32, the last token of each text, which the cache doesn't hold yet
    done: Array  # (B,) bool, whether the text has ended
    cache: Cache
    draft: Cache | None  # of a draft model
    seen: Array | None  # (B, V) bool, the tokens of the texts, where a penalty needs them
    rounds: Array  # () int32, how often the model was called
    key: Array


def begin(
    extend: Extend,
    cache: Cache,
    tokens: Array,
    lengths: Array,
    *,
    length: int,
    ends: Array,
    sampling: Sampling,
    key: Array,
    draft: tuple[Extend, Cache] | None = None,
) -> Decoding:
    """Reads the prompts and writes the first token of each text.

    Args:
      extend: of the model.
      cache: empty, with room for the prompts and what will be written.
      tokens: prompts, (B, T) int32, padded at their right.
      lengths: of the prompts, (B,) int32, at least 1.
      length: N.
      ends: tokens that end a text, (E,) int32.
      sampling: how tokens are chosen.
      key: of all random choices; a row's depend on its number in the batch, not on the other rows.
      draft: `extend` and cache of a draft model.
    """
    logits, cache = extend(tokens, cache, lengths, True)
    batch, vocab = logits.shape
    seen = None
    if sampling.repetition_penalty is not None:
        real = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
        seen = jnp.zeros((batch, vocab), bool).at[_rows(tokens), jnp.where(real, tokens, vocab)].set(True, mode="drop")
    held = None
    if draft is not None:
        draft_extend, held = draft
        _, held = draft_extend(tokens, held, lengths, True)
    state = Decoding(
        jnp.zeros((batch, length), jnp.int32),
        jnp.zeros(batch, jnp.int32),
        jnp.zeros(batch, jnp.int32),
        jnp.zeros(batch, bool),
        cache,
        held,
        seen,
        jnp.int32(0),
        key,
    )
    return _written(state, logits, ends, sampling)


def decode(step: Step, state: Decoding, limit: Array, *, ends: Array, sampling: Sampling) -> Decoding:
    """Goes on until each text has ended or has `limit` tokens.

    Args:
      step: of the model.
      state: from `begin`, or from the last call.
      limit: tokens of a text, () int32, at most N.
      ends: as `begin` took it.
      sampling: likewise.
    """

    def write(state: Decoding) -> Decoding:
        logits, cache = step(state.last, state.cache)
        return _written(state._replace(cache=cache), logits, ends, sampling)

    return lax.while_loop(lambda state: _goes_on(state, limit), write, state)


def decode_speculatively(
    extend: Extend,
    draft_step: Step,
    state: Decoding,
    limit: Array,
    *,
    ends: Array,
    sampling: Sampling,
    draft_tokens: int,
) -> Decoding:
    """Does what `decode` does, several tokens for each call of the model, which judges what a draft model proposes.

    The likeliest tokens are the same as without a draft; drawn ones have the same distribution. Leviathan, Kalman &
    Matias (2022), arXiv:2211.17192, algorithm 1.

    Args:
      extend: of the model.
      draft_step: `step` of the draft model, which has the same vocabulary.
      state: from `begin` with a draft.
      limit: as in `decode`.
      ends: likewise.
      sampling: likewise; without a penalty of repetition.
      draft_tokens: proposed at a time. Buffers of sliding windows must be able to forget as many.
    """
    batch, room = state.tokens.shape
    index = jnp.arange(draft_tokens + 1, dtype=jnp.int32)[None]
    rows = jnp.arange(batch)

    def write(state: Decoding) -> Decoding:
        position = state.cache["position"]
        keys = _keys(state, 3)  # for the draft's choices, whether they are accepted, and what replaces them

        def propose(carry: tuple[Array, Cache], number: Array) -> tuple[tuple[Array, Cache], tuple[Array, Array]]:
            logits, draft = draft_step(*carry)
            logits = process(logits, sampling)
            token = choose(logits, sampling, jax.vmap(jax.random.fold_in, (0, None))(keys[0], number))
            return (token, draft), (token, logits)

        # once more than there are proposals, so that the draft's cache holds them all
        (_, draft), (proposed, guesses) = lax.scan(propose, (state.last, state.draft), index[0])
        proposed, guesses = proposed[:-1].T, guesses[:-1].transpose(1, 0, 2)
        logits, cache = extend(jnp.concatenate([state.last[:, None], proposed], 1), state.cache, None, False)
        vocab = logits.shape[-1]
        logits = process(logits.reshape(-1, vocab), sampling).reshape(batch, -1, vocab)
        if sampling.temperature is None:
            best = logits.argmax(-1).astype(jnp.int32)
            accepted = _leading(best[:, :-1] == proposed)
            following = best[rows, accepted]
        else:
            ours, theirs = jax.nn.softmax(logits), jax.nn.softmax(guesses)
            at = proposed[..., None]
            p, q = (jnp.take_along_axis(x, at, 2)[..., 0] for x in (ours[:, :-1], theirs))
            chance = jax.vmap(lambda key: jax.random.uniform(key, (draft_tokens,), q.dtype))(keys[1])
            accepted = _leading(chance * q < p)
            # what the draft has too much of is taken off; behind its last proposal it has nothing
            theirs = jnp.concatenate([theirs, jnp.zeros_like(theirs[:, :1])], 1)
            left = ours[rows, accepted]
            rest = jnp.maximum(left - theirs[rows, accepted], 0)
            rest = jnp.where(rest.max(1, keepdims=True) > 0, rest, left)  # equal up to rounding
            following = choose(jnp.log(rest), sampling, keys[2])

        new = jnp.concatenate([proposed, following[:, None]], 1)
        new = jnp.where(index == accepted[:, None], following[:, None], new)
        is_end = (new[..., None] == ends[None, None]).any(-1)
        first_end = jnp.where(is_end.any(1), is_end.argmax(1).astype(jnp.int32), draft_tokens)
        written = jnp.minimum(jnp.minimum(accepted, first_end) + 1, limit - state.count)
        written = jnp.where(state.done, 0, written)
        slots = jnp.where(index < written[:, None], state.count[:, None] + index, room)
        ended = is_end & (index < written[:, None])
        kept = {"position": position + written}  # all but the last, which isn't read yet
        return state._replace(
            tokens=state.tokens.at[rows[:, None], slots].set(new, mode="drop"),
            count=state.count + written,
            last=jnp.where(written > 0, new[rows, jnp.maximum(written - 1, 0)], state.last),
            done=state.done | ended.any(1),
            cache=cache | kept,
            draft=draft | kept,
            rounds=state.rounds + 1,
        )

    return lax.while_loop(lambda state: _goes_on(state, limit), write, state)


def _goes_on(state: Decoding, limit: Array) -> Array:
    return (~state.done & (state.count < limit)).any()


def _written(state: Decoding, logits: Array, ends: Array, sampling: Sampling) -> Decoding:
    """The state with one more token in each text that hasn't ended, chosen by the logits (B, V)."""
    (keys,) = _keys(state, 1)
    token = choose(process(logits, sampling, state.seen), sampling, keys)
    rows = jnp.arange(len(token))
    slots = jnp.where(state.done, state.tokens.shape[1], state.count)
    seen = state.seen
    return state._replace(
        tokens=state.tokens.at[rows, slots].set(token, mode="drop"),
        count=state.count + (~state.done).astype(jnp.int32),
        last=token,
        done=state.done | (token[:, None] == ends[None]).any(1),
        seen=seen if seen is None else seen.at[rows, token].set(True),
        rounds=state.rounds + 1,
    )


def _keys(state: Decoding, count: int) -> Array:
    """Keys (count, B) of this round."""
    key = jax.random.fold_in(state.key, state.rounds)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    rows = jnp.arange(len(state.last))
    return jax.vmap(fold, (0, None))(fold(key, jnp.arange(count)), rows)


def _leading(accepted: Array) -> Array:
    """How many of the first columns of (B, n) are True, (B,) int32."""
    return jnp.cumprod(accepted.astype(jnp.int32), 1).sum(1, dtype=jnp.int32)


def _rows(x: Array) -> Array:
    return jnp.arange(x.shape[0])[:, None]
