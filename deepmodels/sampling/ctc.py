"""Decoding of connectionist temporal classification. B batch, T time, K labels with the blank.

Graves, Fernández, Gomez & Schmidhuber (2006), doi:10.1145/1143844.1143891, section 3.2: an answer is what is left of a
path of labels, one for each step, when repetitions and then blanks are left out; its probability is the sum over all
paths that come to it.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from deepmodels.errors import ConfigError, ShapeError


def ctc_greedy(logits: Array, mask: Array | None = None, *, blank: int = 0) -> tuple[Array, Array]:
    """Returns the answer that the likeliest path comes to, "best path decoding". It can be jitted.

    Args:
      logits: (B, T, K) floats.
      mask: (B, T) bools, True where a step is real; None for all.
      blank: the label that stands for none.

    Returns:
      Labels (B, T) int32, those of the answer first and the blank behind them, and their numbers (B,) int32.

    Raises:
      ConfigError: the blank isn't a label.
      ShapeError: logits or mask have other axes.
    """
    _check(logits, mask, blank)
    path = logits.argmax(-1).astype(jnp.int32)
    before = jnp.pad(path[:, :-1], ((0, 0), (1, 0)), constant_values=blank)
    kept = (path != blank) & (path != before)
    if mask is not None:
        kept &= mask
    # each label goes to the place that its number has among those that are kept, the others to one that is cut off
    steps = path.shape[1]
    places = jnp.where(kept, jnp.cumsum(kept, 1) - 1, steps)
    rows = jnp.arange(path.shape[0])[:, None]
    labels = jnp.full((path.shape[0], steps + 1), blank, jnp.int32).at[rows, places].set(path)
    return labels[:, :steps], kept.sum(1, dtype=jnp.int32)


def ctc_prefix_beam(
    logits: Array, mask: Array | None = None, *, beam_size: int = 8, blank: int = 0
) -> tuple[Array, Array, Array]:
    """Looks for the likeliest answers, of which each is many paths, by keeping the best prefixes at each step.

    Prefix search of section 3.2, in the form of Graves & Jaitly (2014), "Towards end-to-end speech recognition with
    recurrent neural networks", algorithm 1, without a language model. It can be jitted. Probabilities are summed over
    the paths whose prefixes were kept all the way, so that they are lower bounds, and exact for a beam that holds all.

    Args:
      logits: (B, T, K) floats.
      mask: (B, T) bools, True where a step is real; None for all.
      beam_size: how many prefixes are kept.
      blank: the label that stands for none.

    Returns:
      Of each example the best answers, the likeliest first: labels (B, beam_size, T) int32, with the blank behind those
      of the answer, their numbers (B, beam_size) int32, and log-probabilities (B, beam_size) in nats; -inf where there
      are no more answers.

    Raises:
      ConfigError: the blank isn't a label, or beam_size isn't positive.
      ShapeError: logits or mask have other axes.
    """
    _check(logits, mask, blank)
    if beam_size < 1:
        raise ConfigError(f"beam_size: expected 1 or more, got {beam_size}")
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    log_probs = jax.nn.log_softmax(logits.astype(dtype))
    real = jnp.ones(logits.shape[:2], bool) if mask is None else mask
    return jax.vmap(partial(_prefix_beam, beam_size=beam_size, blank=blank))(log_probs, real)


def _prefix_beam(log_probs: Array, real: Array, *, beam_size: int, blank: int) -> tuple[Array, Array, Array]:
    """One example: (T, K) and (T,). A beam's paths are kept in two parts, those that end in a blank and the others."""
    steps, classes = log_probs.shape
    never = jnp.full((beam_size,), -jnp.inf, log_probs.dtype)
    beams = jnp.arange(beam_size)

    def step(carry, xs):
        prefixes, lengths, in_blank, in_label = carry
        now, is_real = xs
        last = jnp.where(lengths > 0, prefixes[beams, lengths - 1], blank)
        both = jnp.logaddexp(in_blank, in_label)

        # a prefix stays by a blank, or by its last label once more; it grows by a label, and by its last one only if
        # a blank is between
        stay_blank, stay_label = both + now[blank], in_label + now[last]
        labels = jnp.arange(classes, dtype=last.dtype)
        grow = jnp.where(labels[None] == last[:, None], in_blank[:, None], both[:, None]) + now[None]
        grow = grow.at[:, blank].set(-jnp.inf)

        # where a prefix that grows becomes one that is there already, the two are one
        cut = jnp.where(jnp.arange(steps)[None] == lengths[:, None] - 1, blank, prefixes)
        becomes = (lengths[:, None] + 1 == lengths[None]) & (prefixes[:, None] == cut[None]).all(-1)
        becomes &= (both > -jnp.inf)[:, None] & (both > -jnp.inf)[None]  # [i, j]: i with the last label of j is j
        joins = jnp.where(becomes, grow[:, last], -jnp.inf)
        stay_label = jnp.logaddexp(stay_label, jax.nn.logsumexp(joins, axis=0))
        joined = (becomes[..., None] & (labels[None, None] == last[None, :, None])).any(1)
        grow = jnp.where(joined, -jnp.inf, grow)

        candidates = jnp.concatenate([jnp.logaddexp(stay_blank, stay_label), grow.reshape(-1)])
        _, chosen = lax.top_k(candidates, beam_size)
        grows = chosen >= beam_size
        parent = jnp.where(grows, (chosen - beam_size) // classes, chosen)
        label = ((chosen - beam_size) % classes).astype(prefixes.dtype)
        grown = prefixes[parent].at[beams, lengths[parent]].set(label, mode="drop")
        new = (
            jnp.where(grows[:, None], grown, prefixes[parent]),
            lengths[parent] + grows.astype(jnp.int32),
            jnp.where(grows, -jnp.inf, stay_blank[parent]),
            jnp.where(grows, candidates[chosen], stay_label[parent]),
        )
        return jax.tree.map(lambda n, o: jnp.where(is_real, n, o), new, carry), None

    first = (
        jnp.full((beam_size, steps), blank, jnp.int32),
        jnp.zeros((beam_size,), jnp.int32),
        never.at[0].set(0),
        never,
    )
    (prefixes, lengths, in_blank, in_label), _ = lax.scan(step, first, (log_probs, real))
    scores, order = lax.top_k(jnp.logaddexp(in_blank, in_label), beam_size)
    return prefixes[order], lengths[order], scores


def _check(logits: Array, mask: Array | None, blank: int) -> None:
    if logits.ndim != 3 or not jnp.issubdtype(logits.dtype, jnp.floating):
        got = f"{logits.dtype} {tuple(logits.shape)}"
        raise ShapeError(f"logits: expected floats of shape (batch, time, labels), got {got}")
    if mask is not None and (mask.shape != logits.shape[:2] or mask.dtype != bool):
        raise ShapeError(f"mask: expected bools of shape {logits.shape[:2]}, got {mask.dtype} {tuple(mask.shape)}")
    if not 0 <= blank < logits.shape[2]:
        raise ConfigError(f"blank: expected one of the {logits.shape[2]} labels, got {blank}")
