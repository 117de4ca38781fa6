"""Evaluation of language models: against sums written out, n-grams against a plain one, and in-context learning."""

import collections
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import models
from deepmodels.errors import ConfigError
from deepmodels.evaluation import (
    NGram,
    Question,
    exact_match,
    few_shot,
    multiple_choice,
    perplexity,
    score_continuations,
)

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def gpt():
    """A gpt_tiny, bound, and the log-likelihood of each token of a text, taken one text at a time."""
    model = models.create("gpt_tiny")
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    variables = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(1), leaf.shape), variables)
    logits = jax.jit(lambda tokens: model.apply(variables, tokens))

    def alone(tokens):
        padded = np.zeros((1, 16), np.int32)
        padded[0, : len(tokens)] = tokens
        found = jax.nn.log_softmax(logits(jnp.asarray(padded))[0])
        return np.array([found[i, token] for i, token in enumerate(tokens[1:])], np.float64)

    return lambda tokens, mask: model.apply(variables, tokens, mask), alone


@pytest.mark.parametrize(("length", "stride"), [(5, 3), (8, 8), (30, 8), (30, 3), (30, 1), (23, 7)])
def test_perplexity_counts_each_token_but_the_first_once(gpt, length, stride):
    forward, alone = gpt
    tokens, window = RNG.integers(0, 32, length), 8
    expected, begin, reached = [], 0, 1
    while reached < length:
        end = min(begin + window, length)
        expected += alone(tokens[begin:end])[reached - begin - 1 :].tolist()
        begin, reached = min(begin + stride, end - 1), end
    found, count = perplexity(forward, tokens, window=window, stride=stride, batch_size=3)
    assert count == len(expected) == length - 1
    np.testing.assert_allclose(found, math.exp(-np.mean(expected)), rtol=1e-5)


def test_a_smaller_stride_gives_more_to_go_on(gpt):
    forward, alone = gpt
    tokens = RNG.integers(0, 32, 12)
    found, _ = perplexity(forward, tokens, window=8, stride=1)
    last = alone(tokens[4:])[-1]
    before, _ = perplexity(forward, tokens[:-1], window=8, stride=1)
    np.testing.assert_allclose(11 * math.log(found) - 10 * math.log(before), -last, rtol=1e-4)


def test_continuations_are_scored_as_if_alone(gpt):
    forward, alone = gpt
    contexts = [RNG.integers(0, 32, n).tolist() for n in (1, 5, 3, 9, 2)]
    continuations = [RNG.integers(0, 32, n).tolist() for n in (2, 1, 6, 4, 3)]
    scores = score_continuations(forward, contexts, continuations, batch_size=2)
    assert scores.tokens.tolist() == [2, 1, 6, 4, 3]
    for context, rest, score in zip(contexts, continuations, scores.log_likelihood, strict=True):
        np.testing.assert_allclose(score, alone(context + rest)[-len(rest) :].sum(), rtol=1e-4)
    cut = score_continuations(forward, contexts, continuations, max_length=8).log_likelihood
    np.testing.assert_allclose(cut[3], alone((contexts[3] + continuations[3])[-8:])[-4:].sum(), rtol=1e-4)


def test_choices(gpt):
    """Of a model that says "b" after "a" and else prefers "c" by little."""
    letters = " abcdefg:"

    def encode(text):
        return [0, *(1 + letters.index(letter) for letter in text)]

    def forward(tokens, mask):
        follows = jnp.zeros((32, 32)).at[2, 3].set(9.0).at[:, 4].add(1.0)
        return follows[tokens]

    questions = [
        Question("d:a", ("b", "c"), 0),
        Question("d:", ("c", "e"), 0),
        Question("d:", ("cc", "e"), 0),  # likelier by the token, less likely as a whole
        Question("d:", ("e", "c"), 0),
    ]
    found = multiple_choice(forward, encode, questions)
    assert found == {"accuracy": 0.5, "accuracy_per_token": 0.75, "accuracy_per_character": 0.75}
    spaced = multiple_choice(forward, encode, [Question("d: ", ("c", "e"), 0)])
    assert spaced["accuracy"] == 1.0
    with pytest.raises(ConfigError, match="answer: expected 0 to 1, got 2"):
        multiple_choice(forward, encode, [Question("d", ("a", "b"), 2)])


def test_prompts_with_examples():
    examples = [("2+2?", "4"), ("1+2?", "3")]
    assert few_shot(examples, "3+3?") == "Q: 2+2?\nA: 4\n\nQ: 1+2?\nA: 3\n\nQ: 3+3?\nA:"
    assert few_shot([], "cat", form="{} ->") == "cat ->"


def test_exact_match():
    assert exact_match(["The  answer.", "4", "no"], ["answer", ["four", "4"], "yes"]) == pytest.approx(2 / 3)
    assert exact_match(["a b"], ["ab"]) == 0
    with pytest.raises(ConfigError, match="expected one for each of 1 predictions, got 2"):
        exact_match(["a"], ["a", "b"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: perplexity(f, [1, 2], window=8, stride=9), "stride: expected 1 to window=8"),
        (lambda f: perplexity(f, [1], window=8), "a perplexity is of two or more, got 1"),
        (lambda f: score_continuations(f, [[1]], [[]]), "expected one token or more in each"),
        (lambda f: score_continuations(f, [[1], [2]], [[1]]), "expected one for each of 2 contexts, got 1"),
        (lambda f: score_continuations(f, [[1]], [[1, 2]], max_length=2), "leaves no room for what is before it"),
    ],
)
def test_what_cant_be_scored(gpt, call, message):
    with pytest.raises(ConfigError, match=message):
        call(gpt[0])


def plain_kneser_ney(documents, words, order):
    """The same sums by dictionaries, one n-gram at a time."""
    padded = [[words] * (order - 1) + list(document) for document in documents]
    counts = {order: collections.Counter(
        tuple(document[i : i + order]) for document in padded for i in range(len(document) - order + 1)
    )}  # fmt: skip
    for length in range(order - 1, 0, -1):
        counts[length] = collections.Counter(gram[1:] for gram in counts[length + 1])

    def probability(gram):
        if not gram:
            return 1 / words
        table = counts[len(gram)]
        once, twice = (sum(count == n for count in table.values()) for n in (1, 2))
        discount = once / max(once + 2 * twice, 1)
        behind = {other: count for other, count in table.items() if other[:-1] == gram[:-1]}
        shorter = probability(gram[1:])
        if not behind:
            return shorter
        own = max(table.get(gram, 0) - discount, 0) + discount * len(behind) * shorter
        return own / sum(behind.values())

    return probability


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngrams_are_those_of_kneser_and_ney(order):
    documents = [RNG.zipf(1.6, n) % 6 for n in (40, 3, 25)]
    model, plain = NGram(documents, 6, order), plain_kneser_ney([d.tolist() for d in documents], 6, order)
    text = RNG.integers(0, 6, 12).tolist()
    padded = [6] * (order - 1) + text
    expected = [math.log(plain(tuple(padded[i : i + order]))) for i in range(len(text))]
    np.testing.assert_allclose(model.log_probabilities(text), expected, rtol=1e-12)
    everything = [np.exp(model.log_probabilities([*text[:4], word])[-1]) for word in range(6)]
    assert sum(everything) == pytest.approx(1)
    found, count = model.perplexity([text, text[:3]])
    assert count == 13
    np.testing.assert_allclose(math.log(found), -(sum(expected[1:]) + sum(expected[1:3])) / 13, rtol=1e-12)


def test_too_many_ngrams_to_number():
    with pytest.raises(ConfigError, match="below 2 \\*\\* 63, got 5"):
        NGram([[1, 2]], 50_000, 5)
