import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequences import check_floats, drawn, overfits, shapes, words

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.evaluation import rerank
from deepmodels.generation import generate_codes
from deepmodels.models.dalle import DALLE, PATTERNS, VARIANTS, attention_pattern
from deepmodels.tokenizers import Words

TINY = VARIANTS["dalle_tiny"].arguments


def inputs(batch=2):
    return [words(16, batch, 6), words(16, batch, 9, seed=1)]


def seen(kind, position, **sizes):
    """The codes, as (row, column), that the code at a position sees."""
    pattern = attention_pattern(kind, 6, 4, **sizes)
    row, column = position
    line = pattern[6 + 4 * row + column]
    assert line[:6].all(), "each code sees all words"
    return {divmod(int(i), 4) for i in np.flatnonzero(line[6:])}


def test_the_patterns_of_figure_11():
    """Six words and 4 x 4 codes, a kernel of 3 x 3, as in the paper's figure."""
    for kind in PATTERNS:
        pattern = attention_pattern(kind, 6, 4, kernel_size=3)
        assert pattern.shape == (22, 22)
        np.testing.assert_array_equal(pattern[:6, :6], np.tril(np.ones((6, 6), bool)))
        assert not np.triu(pattern, 1).any()
        assert np.diagonal(pattern).all()
    assert seen("row", (2, 1)) == {(1, 1), (1, 2), (1, 3), (2, 0), (2, 1)}  # the previous five
    assert seen("column", (2, 1)) == {(0, 1), (1, 1), (2, 1)}
    assert seen("convolution", (2, 1), kernel_size=3) == {(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)}
    assert seen("convolution", (2, 0), kernel_size=3) == {(0, 3), (1, 0), (1, 1), (1, 3), (2, 0)}  # wraps around
    with pytest.raises(ConfigError, match="unknown attention pattern 'rows': did you mean 'row'"):
        attention_pattern("rows", 6, 4)
    with pytest.raises(ConfigError, match="kernel_size: expected an odd number, got 2"):
        attention_pattern("convolution", 6, 4, 2)


def test_which_layer_sees_how():
    """Of the paper: the first four layers are row, column, row and row, the last of 64 is convolutional."""
    kinds = DALLE().kinds
    assert (len(kinds), kinds[:6], kinds[-1]) == (64, ("row", "column", "row", "row", "row", "column"), "convolution")
    assert kinds.count("convolution") == 1


def test_what_is_said_depends_on_what_is_seen_alone():
    """Of one layer: behind code k - 1 stands what it says of code k."""
    model, (tokens, codes) = DALLE(**TINY | dict(num_layers=1)), inputs(1)
    variables = drawn(model, tokens, codes)
    apply = jax.jit(lambda codes: model.apply(variables, tokens, codes)["image_logits"][0])
    before, pattern = apply(codes), attention_pattern("convolution", 6, 3, 3)[6:, 6:]
    for changed in range(9):
        other = codes.copy()
        other[0, changed] = (other[0, changed] + 1) % 16
        moved = np.asarray(jnp.abs(apply(other) - before).max(1) > 0)
        np.testing.assert_array_equal(moved, [False, *pattern[:-1, changed]])


class Codes(DALLE):
    """The logits of the codes alone."""

    def __call__(self, tokens, image_tokens, train=False):
        return super().__call__(tokens, image_tokens, train=train)["image_logits"]


def test_learns_the_pictures_of_texts():
    tokens, codes = inputs(4)
    assert overfits(Codes(**TINY), [tokens, codes], codes)


def test_computes_in_the_float_that_comes_in(float64):
    check_floats(DALLE(**TINY), inputs())


def test_step_by_step_it_says_what_it_says_of_the_whole():
    model, (tokens, codes) = DALLE(**TINY), inputs()
    lengths = np.array([4, 6], np.int32)
    variables = drawn(model, tokens, codes)
    mask = np.arange(6)[None] < lengths[:, None]
    whole = jax.jit(model.apply)(variables, tokens, codes, mask)
    assert whole["text_logits"].shape == (2, 5, 16)
    cache, said = model.start(2), []
    logits, cache = jax.jit(lambda t, c, n: model.apply(variables, t, c, n, method="extend"))(tokens, cache, lengths)
    step = jax.jit(lambda t, c: model.apply(variables, t, c, method="step"))
    for i in range(9):
        said.append(logits)
        if i < 8:
            logits, cache = step(codes[:, i], cache)
    np.testing.assert_allclose(jnp.stack(said, 1), whole["image_logits"], rtol=2e-5, atol=2e-6)
    other = jax.jit(model.apply)(variables, np.where(mask, tokens, 3), codes, mask)
    np.testing.assert_array_equal(other["image_logits"], whole["image_logits"])  # padding has no word


def test_pictures_of_prompts():
    tokenizer = Words("abcdef")
    model = DALLE(**TINY)
    variables = drawn(model, *inputs(), scale=0.5)
    codes = generate_codes(model, variables, ["a b", "c", "a b"], tokenizer=tokenizer, seed=3)
    assert (codes.shape, codes.dtype) == ((3, 3, 3), np.int32)
    assert 0 <= codes.min() <= codes.max() < 16
    assert np.any(codes[0] != codes[2]), "pictures of one text differ"
    again = generate_codes(model, variables, ["a b", "c", "a b"], tokenizer=tokenizer, seed=3)
    np.testing.assert_array_equal(codes, again)
    likeliest = generate_codes(model, variables, ["a b", "a b"], tokenizer=tokenizer, temperature=None)
    np.testing.assert_array_equal(likeliest[0], likeliest[1])
    tokens = np.array([tokenizer.frame("a b")[0] + [0, 0]], np.int32)
    said = jax.jit(model.apply)(variables, tokens, likeliest[:1].reshape(1, 9), np.arange(6)[None] < 4)["image_logits"]
    np.testing.assert_array_equal(said.argmax(-1), likeliest[:1].reshape(1, 9))
    with pytest.warns(UserWarning, match="the prompt 'a b c d e f' has 8 tokens, 2 more than 6, which are cut"):
        generate_codes(model, variables, ["a b c d e f"], tokenizer=tokenizer)
    best = rerank(np.eye(3), np.array([0.1, 0.3, 0.2]))
    assert codes[best].shape == codes.shape


def test_what_does_not_fit_is_named():
    model, (tokens, codes) = DALLE(**TINY), inputs()
    with pytest.raises(ShapeError, match=r"image_tokens: expected shape \(2, 9\), got \(2, 8\)"):
        shapes(model, tokens, codes[:, :8])
    with pytest.raises(ShapeError, match=r"tokens: expected shape \(2, 6\), got \(2, 5\)"):
        shapes(model, tokens[:, :5], codes)
