"""The two families with an encoder and a decoder, and a cache for writing step by step: the Transformer and T5."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError
from sequences import check_floats, drawn, overfits, shapes, words

from deepmodels import trees
from deepmodels.analysis.intermediates import intermediates
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models import t5, transformer
from deepmodels.models.t5 import T5, buckets
from deepmodels.models.transformer import Transformer, sinusoids
from deepmodels.sampling.beam import beam_search

VARIANTS = transformer.VARIANTS | t5.VARIANTS
TINY = {
    "transformer": Transformer(**VARIANTS["transformer_tiny"].arguments),
    "t5": T5(**VARIANTS["t5_tiny"].arguments),
    "t5_v1_1": T5(**VARIANTS["t5_tiny"].arguments, gated=True, num_decoder_layers=1),
}
both = pytest.mark.parametrize("name", ["transformer", "t5"])


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_to_the_unit(name):
    tokens = np.zeros((1, 4), np.int32)
    variables = shapes(VARIANTS[name].cls(**VARIANTS[name].arguments), tokens, tokens)
    assert trees.count(variables["params"]) == VARIANTS[name].parameters


@both
def test_overfits_eight_pairs(name):
    targets = words(32, 8, 5, seed=1)
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    assert overfits(TINY[name], [words(32, 8, 6), shifted], targets)


@both
def test_computes_in_the_float_that_comes_in(name, float64):
    check_floats(TINY[name], [words(32, 2, 6), words(32, 2, 5, seed=1)])


@both
def test_padding_and_what_comes_after_change_nothing(name):
    model, tokens, targets = TINY[name], words(32, 2, 6), words(32, 2, 5, seed=1)
    mask, target_mask = (np.arange(n)[None] < np.array([[n], [n - 2]]) for n in (6, 5))
    variables = drawn(model, tokens, targets)
    apply = jax.jit(model.apply)
    whole = apply(variables, tokens, targets, mask, target_mask)
    others = [np.where(m, x, 7).astype(np.int32) for m, x in ((mask, tokens), (target_mask, targets))]
    np.testing.assert_array_equal(whole[target_mask], apply(variables, *others, mask, target_mask)[target_mask])
    alone = apply(variables, tokens[1:, :4], targets[1:, :3])
    np.testing.assert_allclose(whole[1, :3], alone[0], atol=1e-5)


@both
def test_steps_are_the_rows_of_the_whole(name):
    model, tokens, targets = TINY[name], words(32, 2, 6), words(32, 2, 5, seed=1)
    mask = np.arange(6)[None] < np.array([[6], [4]])
    variables = drawn(model, tokens, targets)
    whole = jax.jit(model.apply)(variables, tokens, targets, mask)

    @jax.jit
    def start(tokens, mask):
        memory = model.apply(variables, tokens, mask, method="encode")
        return model.apply(variables, memory, mask, length=7, method="start")

    step = jax.jit(lambda tokens, cache: model.apply(variables, tokens, cache, method="step"))
    cache = start(tokens, mask)
    assert {leaf.shape[0] for leaf in cache.values()} == {2}
    for t in range(5):
        logits, cache = step(targets[:, t], cache)
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-5)
    assert step._cache_size() == 1
    swapped = jax.tree.map(lambda leaf: leaf[::-1], cache)  # rows are examples: a search may reorder them
    np.testing.assert_allclose(
        step(np.array([3, 5], np.int32), swapped)[0], step(np.array([5, 3], np.int32), cache)[0][::-1], atol=1e-6
    )


def test_a_beam_of_one_is_the_greedy_text():
    """Of each prefix that was written, the whole decoder finds the next word the likeliest."""
    model, tokens = TINY["transformer"], words(32, 2, 6)
    mask = np.arange(6)[None] < np.array([[6], [4]])
    variables = drawn(model, tokens, tokens)

    @jax.jit
    def write(tokens, mask):
        memory = model.apply(variables, tokens, mask, method="encode")
        found = beam_search(
            lambda tokens, cache: model.apply(variables, tokens, cache, method="step"),
            model.apply(variables, memory, mask, length=5, method="start"),
            start=1, end=31, batch_size=2, beam_size=1, max_length=5,
        )  # fmt: skip
        texts = found.tokens[:, 0]
        targets = jnp.pad(texts, ((0, 0), (1, 0)), constant_values=1)[:, :-1]
        return texts, found.lengths[:, 0], model.apply(variables, tokens, targets, mask).argmax(-1)

    texts, lengths, expected = write(tokens, mask)
    held = np.arange(5)[None] < np.asarray(lengths)[:, None]
    np.testing.assert_array_equal(np.asarray(texts)[held], np.asarray(expected)[held])


@both
def test_attention_of_both_stacks_by_name(name):
    model, tokens, targets = TINY[name], words(32, 2, 6), words(32, 2, 5, seed=1)
    variables = drawn(model, tokens, targets)
    found = jax.jit(lambda v: intermediates(model, v, tokens, targets, pattern="*attention/weights"))(variables)
    assert {path: x.shape for path, x in found.items()} == {
        "encoder/layers/attention/weights": (2, 2, 2, 6, 6),
        "decoder/layers/attention/weights": (2, 2, 2, 5, 5),
        "decoder/layers/cross_attention/weights": (2, 2, 2, 5, 6),
    }
    above = np.triu(np.ones((5, 5), bool), 1)
    assert not np.asarray(found["decoder/layers/attention/weights"])[..., above].any()


@pytest.mark.parametrize(("cls", "gated"), [(Transformer, {}), (T5, {}), (T5, dict(gated=True))])
def test_programs_dont_grow_with_depth(cls, gated):
    tokens = np.zeros((1, 4), np.int32)

    def size(layers):
        model = cls(20, 8, layers, 2, 16, **gated)
        variables = shapes(model, tokens, tokens)
        return jax.jit(model.apply).lower(variables, tokens, tokens).as_text().count("\n")

    assert size(2) == size(12)


@both
def test_unrolled_and_scanned_are_equal(name, float64):
    model, tokens, targets = TINY[name], words(32, 2, 6), words(32, 2, 5, seed=1)
    variables = jax.tree.map(lambda x: x.astype(np.float64), drawn(model, tokens, targets))
    unrolled = jax.jit(model.clone(unroll=2).apply)(variables, tokens, targets)
    np.testing.assert_allclose(unrolled, jax.jit(model.apply)(variables, tokens, targets), rtol=0, atol=1e-13)


def test_sinusoids_are_the_papers():
    table = sinusoids(50, 6)
    assert table.shape == (50, 6)
    for position, i in ((0, 0), (7, 1), (49, 2)):
        angle = position / 10_000 ** (2 * i / 6)
        np.testing.assert_allclose(table[position, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)])


def test_buckets_of_t5():
    """Distances up to 7 have a bucket each, then up to 128 eight more; the decoder's are for the past alone."""
    both, past = buckets(300, 300, True), buckets(300, 300, False)
    assert list(both[150, 150 - np.array([0, 1, 7, 8, 11, 12, 127, 149])]) == [0, 1, 7, 8, 8, 9, 15, 15]
    assert list(both[150, 150 + np.array([1, 7, 8, 127, 149])]) == [17, 23, 24, 31, 31]
    assert list(past[250, 250 - np.array([0, 15, 16, 18, 19, 127, 250])]) == [0, 15, 16, 16, 17, 31, 31]
    assert not past[np.triu_indices(300)].any()


def test_t5_ties_what_1_1_does_not():
    tokens = np.zeros((1, 4), np.int32)
    assert "head" not in shapes(TINY["t5"], tokens, tokens)["params"]
    assert "head" in shapes(TINY["t5_v1_1"], tokens, tokens)["params"]
    assert "head" not in shapes(TINY["t5_v1_1"].clone(tied=True), tokens, tokens)["params"]


@both
def test_draws_in_training_only(name):
    model, tokens, targets = TINY[name].clone(dropout_rate=0.3), words(32, 2, 6), words(32, 2, 5, seed=1)
    variables = shapes(model, tokens, targets)
    jax.eval_shape(model.apply, variables, tokens, targets)  # asks for no key
    with pytest.raises(InvalidRngError):
        jax.eval_shape(partial(model.apply, train=True), variables, tokens, targets)


@both
@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([np.zeros(4, np.int32), np.zeros((1, 4), np.int32)], "tokens: expected shape"),
        ([np.zeros((1, 4), np.int32), np.zeros((1, 4), np.float32)], "targets: expected integers"),
        ([np.zeros((1, 4), np.int32), np.zeros((1, 4), np.int32), np.ones((1, 5), bool)], "mask: expected bools"),
        (
            [np.zeros((1, 4), np.int32), np.zeros((1, 4), np.int32), None, np.ones((1, 4), np.int32)],
            "target_mask: expected bools",
        ),
    ],
)
def test_bad_input(name, inputs, says):
    with pytest.raises(ShapeError, match=says):
        shapes(TINY[name], *inputs)


def test_bad_arguments():
    tokens = np.zeros((1, 4), np.int32)
    with pytest.raises(ConfigError, match="hidden_size: expected an even number"):
        shapes(Transformer(20, 9, 2, 3), tokens, tokens)
    with pytest.raises(ConfigError, match="num_buckets: expected a multiple of 4, got 6"):
        shapes(T5(20, 8, 2, 2, num_buckets=6), tokens, tokens)
