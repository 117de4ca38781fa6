import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels.errors import ConfigError
from deepmodels.sampling import beam_search

VOCAB, START, END, LENGTH = 4, 3, 0, 4


def bigrams(batch, seed=0):
    """Scores of a token after the last one, for each example its own."""
    return np.random.default_rng(seed).normal(size=(batch, VOCAB, VOCAB)).astype(np.float32) * 2


def step(tokens, state):
    """Scores of the next token by the last one and by how many there have been, which the state counts."""
    table, count = state["table"], state["count"]
    logits = table[jnp.arange(len(tokens)), tokens] * (1 + count[0][:, None])
    return logits, {"table": table, "count": count + 1}


def state_of(table):
    return {"table": jnp.asarray(table), "count": jnp.zeros((1, len(table)), jnp.float32)}


AXES = {"table": 0, "count": 1}


def exhaustive(table, penalty):
    """Every sequence that ends, the best first: (score, tokens)."""
    found = []
    for n in range(1, LENGTH + 1):
        for body in itertools.product(range(1, VOCAB), repeat=n - 1):
            tokens, total = (*body, END), 0.0
            for i, (last, token) in enumerate(itertools.pairwise((START, *tokens))):
                logits = table[last].astype(np.float64) * (1 + i)
                total += logits[token] - np.log(np.exp(logits).sum())
            found.append((total / ((5 + n) / 6) ** penalty, tokens))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beams_that_hold_everything_find_the_best(penalty):
    table = bigrams(3)

    @jax.jit
    def search(table):
        return beam_search(
            step, state_of(table), start=START, end=END, batch_size=3, beam_size=64, max_length=LENGTH,
            length_penalty=penalty, batch_axis=AXES,
        )  # fmt: skip

    beams = search(table)
    for i in range(3):
        for k, (score, tokens) in enumerate(exhaustive(table[i], penalty)[:5]):
            assert beams.lengths[i, k] == len(tokens)
            np.testing.assert_array_equal(beams.tokens[i, k], [*tokens, *[END] * (LENGTH - len(tokens))])
            np.testing.assert_allclose(beams.scores[i, k], score, rtol=1e-5)


def test_one_beam_is_greedy():
    table = bigrams(16, seed=1)
    beams = jax.jit(
        lambda t: beam_search(
            step, state_of(t), start=START, end=END, batch_size=16, beam_size=1, max_length=6, batch_axis=AXES
        )
    )(table)
    for i in range(16):
        token, expected = START, []
        while len(expected) < 6 and not (expected and token == END):
            token = int(table[i, token].argmax())
            expected.append(token)
        assert beams.lengths[i, 0] == len(expected)
        np.testing.assert_array_equal(beams.tokens[i, 0, : len(expected)], expected)


def test_the_length_penalty_favours_long_sequences():
    table = np.zeros((1, VOCAB, VOCAB), np.float32)  # every token is as likely as any other
    lengths = [
        jax.jit(
            lambda t, penalty=penalty: beam_search(
                step, state_of(t), start=START, end=END, batch_size=1, beam_size=4, max_length=LENGTH,
                length_penalty=penalty, batch_axis=AXES,
            ).lengths[0, 0]
        )(table)
        for penalty in (0.0, 8.0)
    ]  # fmt: skip
    assert lengths == [1, LENGTH]


def test_what_never_ends_is_cut_off():
    table = np.zeros((1, VOCAB, VOCAB), np.float32)
    table[:, :, END] = -np.inf
    table[:, :, 2] = 1
    beams = jax.jit(
        lambda t: beam_search(
            step, state_of(t), start=START, end=END, batch_size=1, beam_size=2, max_length=3, batch_axis=AXES
        )
    )(table)
    np.testing.assert_array_equal(beams.tokens[0, 0], [2, 2, 2])
    np.testing.assert_array_equal(beams.lengths, [[3, 3]])


def test_bad_arguments_are_named():
    arguments = dict(start=START, end=END, batch_size=1, batch_axis=AXES)
    with pytest.raises(ConfigError, match="beam_size, max_length: expected 1 or more, got 0 and 64"):
        beam_search(step, state_of(bigrams(1)), beam_size=0, **arguments)
    with pytest.raises(ConfigError, match="beam_size, max_length: expected 1 or more, got 4 and 0"):
        beam_search(step, state_of(bigrams(1)), max_length=0, **arguments)


@pytest.mark.parametrize(("logits", "scores"), [("bfloat16", "float32"), ("float64", "float64")])
def test_scores_are_summed_in_float32_or_what_is_wider(logits, scores, float64):
    def other(tokens, state):
        answer, state = step(tokens, state)
        return answer.astype(logits), state

    beams = beam_search(
        other, state_of(bigrams(2)), start=START, end=END, batch_size=2, max_length=LENGTH, batch_axis=AXES
    )
    assert beams.scores.dtype == scores
    assert np.isfinite(beams.scores[:, 0]).all()
