import itertools
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.sampling import ctc_greedy, ctc_prefix_beam

BATCH, TIME, LABELS = 3, 5, 3
MASK = np.arange(TIME)[None] < np.array([5, 3, 0])[:, None]


def scores(seed=0):
    return np.random.default_rng(seed).normal(size=(BATCH, TIME, LABELS)).astype(np.float32)


def collapse(path, blank):
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def answers(logits, blank):
    """The log-probability of every answer, by going through all paths."""
    log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64)
    found = defaultdict(float)
    for path in itertools.product(range(LABELS), repeat=len(logits)):
        found[collapse(path, blank)] += np.exp(sum(log_probs[t, label] for t, label in enumerate(path)))
    return sorted(((np.log(p), answer) for answer, p in found.items()), reverse=True)


@pytest.mark.parametrize("blank", [0, 2])
def test_prefix_beam_search_finds_the_likeliest_answers(blank):
    logits = scores()
    labels, lengths, log_probs = jax.jit(lambda x, m: ctc_prefix_beam(x, m, beam_size=64, blank=blank))(logits, MASK)
    for i, steps in enumerate(MASK.sum(1)):
        expected = answers(logits[i, :steps], blank)
        assert np.isfinite(log_probs[i]).sum() == len(expected)
        for k, (log_prob, answer) in enumerate(expected):
            np.testing.assert_allclose(log_probs[i, k], log_prob, rtol=1e-4, atol=1e-5)
            if k < 5:
                assert lengths[i, k] == len(answer)
                np.testing.assert_array_equal(labels[i, k], [*answer, *[blank] * (TIME - len(answer))])


def test_its_probability_is_that_of_the_loss():
    logits = scores(1)
    labels, lengths, log_probs = jax.jit(lambda x: ctc_prefix_beam(x, beam_size=64))(logits)
    padding = (np.arange(TIME)[None] >= np.asarray(lengths)[:, :1]).astype(np.float32)
    losses = jax.jit(optax.ctc_loss)(logits, np.zeros((BATCH, TIME), np.float32), labels[:, 0], padding)
    np.testing.assert_allclose(-log_probs[:, 0], losses, rtol=1e-5)


def test_a_beam_beats_the_best_path():
    # at each step the blank is likelier than the label, but the label at any one of the steps comes to one answer
    logits = jnp.log(jnp.array([[[0.6, 0.4], [0.6, 0.4]]]))
    assert ctc_greedy(logits)[1][0] == 0
    labels, lengths, log_probs = ctc_prefix_beam(logits, beam_size=2)
    assert (labels[0, 0, 0], lengths[0, 0]) == (1, 1)
    np.testing.assert_allclose(jnp.exp(log_probs[0]), [0.64, 0.36], rtol=1e-5)


@pytest.mark.parametrize("blank", [0, 2])
def test_greedy_is_the_best_path(blank):
    logits = scores(2)
    labels, lengths = jax.jit(lambda x, m: ctc_greedy(x, m, blank=blank))(logits, MASK)
    for i, steps in enumerate(MASK.sum(1)):
        answer = collapse(logits[i, :steps].argmax(-1), blank)
        assert lengths[i] == len(answer)
        np.testing.assert_array_equal(labels[i], [*answer, *[blank] * (TIME - len(answer))])


def test_repetitions_count_once_and_twice_with_a_blank_between():
    path = np.array([[1, 1, 0, 1, 2, 2, 0, 0]])
    logits = np.eye(3, dtype=np.float32)[path]
    labels, lengths = ctc_greedy(logits)
    assert lengths[0] == 3
    np.testing.assert_array_equal(labels[0], [1, 1, 2, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("decode", [ctc_greedy, ctc_prefix_beam])
def test_bad_arguments_are_named(decode):
    logits = scores()
    with pytest.raises(ConfigError, match="blank: expected one of the 3 labels, got 3"):
        decode(logits, blank=3)
    with pytest.raises(
        ShapeError, match=r"logits: expected floats of shape \(batch, time, labels\), got float32 \(5, 3\)"
    ):
        decode(logits[0])
    with pytest.raises(ShapeError, match=r"mask: expected bools of shape \(3, 5\), got float32 \(3, 5\)"):
        decode(logits, MASK.astype(np.float32))
    with pytest.raises(ConfigError, match="beam_size: expected 1 or more, got 0"):
        ctc_prefix_beam(logits, beam_size=0)
