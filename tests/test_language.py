"""Objectives of text: what is counted, what is hidden, what is taken out; and means that know their weight."""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from deepmodels import metrics, objectives, tokenizers, trees
from deepmodels.errors import ConfigError
from deepmodels.evaluation import bleu, edit_distance, error_rate, evaluate
from deepmodels.metrics import Mean, Perplexity
from deepmodels.objectives.language import corrupt_spans, hide_tokens
from deepmodels.training.step import bind

RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.integers(5, 12, (4, 6)), jnp.int32)
MASK = jnp.arange(6)[None] < jnp.array([6, 4, 3, 5])[:, None]
LOGITS = jnp.asarray(RNG.normal(size=(4, 6, 12)), jnp.float32)


@functools.partial(jax.jit, static_argnames=("name", "options"))
def compiled(name, options, batch, outputs, key):
    given = {}

    def forward(*inputs, key=None, **named):
        given.update(inputs=inputs, named=named, key=key)
        return outputs, {}

    loss, (found, _) = objectives.create(name, **dict(options))(forward, batch, key)
    return loss, found, given


def call(name, batch, outputs, key=None, **options):
    """An objective's numbers, and what it gave the model."""
    return compiled(name, tuple(options.items()), batch, outputs, key)


def surprise(logits, targets):
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, np.asarray(targets)[..., None], -1)[..., 0]


def test_language_modelling_counts_what_has_a_token_before_and_is_one():
    loss, found, given = call("language_modelling", {"tokens": TOKENS, "mask": MASK}, LOGITS)
    counts = np.asarray(MASK)[:, 1:]
    want = (surprise(LOGITS[:, :-1], TOKENS[:, 1:]) * counts).sum() / counts.sum()
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(found["perplexity"].value, np.exp(want), rtol=1e-6)
    assert float(found["loss"].weight) == counts.sum() == 14
    right = (np.asarray(LOGITS[:, :-1]).argmax(-1) == np.asarray(TOKENS[:, 1:])) & counts
    np.testing.assert_allclose(found["accuracy"].value, right.sum() / 14, rtol=1e-6)
    assert given["named"].keys() == {"mask"}, "a model that takes no segments isn't given any"


def test_only_the_tokens_to_learn_count():
    learn = jnp.asarray(RNG.random((4, 6)) < 0.5)
    loss, found, given = call("language_modelling", {"tokens": TOKENS, "mask": MASK, "loss_mask": learn}, LOGITS)
    counts = np.asarray(MASK & learn)[:, 1:]
    assert 0 < counts.sum() < 14
    np.testing.assert_allclose(loss, (surprise(LOGITS[:, :-1], TOKENS[:, 1:]) * counts).sum() / counts.sum(), rtol=1e-6)
    assert float(found["loss"].weight) == counts.sum()
    assert given["named"].keys() == {"mask"}


class Reader(nn.Module):
    """A small causal model that can be packed: one attention, whose positions begin anew in each document."""

    vocab_size: int = 12
    hidden_size: int = 8

    @nn.compact
    def __call__(self, tokens, documents=None, project=True, train=False):
        row = jnp.zeros_like(tokens) if documents is None else documents
        sees = (row[:, :, None] == row[:, None]) & jnp.tril(jnp.ones((1, *[tokens.shape[1]] * 2), bool))
        x = nn.Embed(self.vocab_size, self.hidden_size, name="token_embed")(tokens)
        x += nn.Embed(16, self.hidden_size, name="position_embed")(sees.sum(-1) - 1)
        scores = jnp.where(sees, jnp.einsum("btc,bsc->bts", nn.Dense(self.hidden_size, name="query")(x), x), -1e9)
        x = nn.tanh(jnp.einsum("bts,bsc->btc", nn.softmax(scores), x))
        head = self.param("head", nn.initializers.normal(1), (self.hidden_size, self.vocab_size))
        self.sow("losses", "load_balancing", jnp.square(x).mean())
        self.sow("losses", "load_balancing", jnp.full(3, 2.0))
        outputs = Unprojected(x, head)
        return outputs.logits(x) if project else outputs


class Unprojected(NamedTuple):
    hidden: jax.Array
    kernel: jax.Array

    def logits(self, hidden):
        return hidden @ self.kernel


def read(variables, batch, options=(), train=False, key=None, model=None):
    params = variables["params"]
    forward = bind(model or Reader(), params, {}, train=train)
    loss, (found, left) = objectives.create("language_modelling", **dict(options))(forward, batch, key)
    assert not left
    return loss, found


def test_a_packed_batch_has_the_losses_of_its_documents():
    documents = [RNG.integers(0, 12, length) for length in (5, 2, 7, 1, 4)]
    packed = np.zeros((2, 10), np.int32)
    numbers = np.zeros((2, 10), np.int32)
    for row, parts in enumerate(((0, 1, 3), (2,))):
        ends = np.cumsum([0, *(len(documents[i]) for i in parts)])
        for i, start in zip(parts, ends, strict=False):
            packed[row, start : start + len(documents[i])] = documents[i]
            numbers[row, start : start + len(documents[i])] = 1 + i
    variables = jax.jit(Reader().init)(jax.random.key(0), jnp.asarray(packed))
    losses = jax.jit(lambda batch: read(variables, batch)[1]["loss"])
    together = losses({"tokens": jnp.asarray(packed), "documents": jnp.asarray(numbers)})
    alone, held = tokenizers.pad(documents, 0)
    apart = losses({"tokens": jnp.asarray(alone), "loss_mask": jnp.asarray(held & (np.arange(5) < 4)[:, None])})
    assert float(together.weight) == float(apart.weight) == 4 + 1 + 6
    np.testing.assert_allclose(together.total, apart.total, rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 4, 5, 100])
def test_chunks_of_logits_change_neither_value_nor_gradient(chunk_size):
    tokens = jnp.asarray(RNG.integers(0, 12, (3, 10)), jnp.int32)
    batch = {"tokens": tokens, "documents": jnp.asarray(np.arange(10) // 4 + 1, jnp.int32)[None].repeat(3, 0)}
    variables = jax.jit(Reader().init)(jax.random.key(0), tokens)

    @functools.partial(jax.jit, static_argnums=0)
    def run(chunk_size):
        options = dict(chunk_size=chunk_size, z_loss=0.1)
        return jax.value_and_grad(lambda v: read(v, batch, options.items()), has_aux=True)(variables)

    plain, chunked = trees.flatten(run(None)), trees.flatten(run(chunk_size))
    assert plain.keys() == chunked.keys()
    for name, leaf in plain.items():
        np.testing.assert_allclose(chunked[name], leaf, rtol=2e-5, atol=1e-6, err_msg=name)


def test_in_chunks_the_logits_of_a_large_vocabulary_never_exist():
    rows, length, words = 4, 64, 4_096
    model = Reader(words)
    tokens = jnp.zeros((rows, length), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)

    def compiled_with(**options):
        def loss(variables, tokens):
            return read(variables, {"tokens": tokens}, options.items(), model=model)[0]

        return jax.jit(jax.grad(loss)).lower(variables, tokens).compile()

    whole, chunked = compiled_with(), compiled_with(chunk_size=4)
    logits = 4 * rows * length * words
    assert whole.memory_analysis().temp_size_in_bytes > logits
    assert chunked.memory_analysis().temp_size_in_bytes < logits / 4
    shapes = {tuple(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", chunked.as_text())}
    assert max(map(np.prod, shapes)) == rows * 4 * words


def test_z_loss_is_the_squared_logarithm_of_the_denominator():
    batch = {"tokens": TOKENS, "mask": MASK}
    plain, _, _ = call("language_modelling", batch, LOGITS)
    loss, found, _ = call("language_modelling", batch, LOGITS, z_loss=0.5)
    counts = np.asarray(MASK)[:, 1:]
    squares = np.log(np.exp(np.asarray(LOGITS, np.float64)).sum(-1))[:, :-1] ** 2
    np.testing.assert_allclose(loss - plain, 0.5 * (squares * counts).sum() / counts.sum(), rtol=1e-5)
    np.testing.assert_allclose(found["perplexity"].value, np.exp(plain), rtol=1e-6)


def test_auxiliary_losses_are_what_the_model_sows():
    variables = jax.jit(Reader().init)(jax.random.key(0), TOKENS)
    assert "losses" in variables
    plain, found = read(variables, {"tokens": TOKENS}, train=True, key=jax.random.key(0))
    assert float(found["load_balancing"]) == pytest.approx((6 + float(variables["losses"]["load_balancing"][0])) / 4)
    options = {"auxiliary_losses": {"load_balancing": 0.3}}
    loss, weighted = read(variables, {"tokens": TOKENS}, options.items(), train=True, key=jax.random.key(0))
    np.testing.assert_allclose(loss - plain, 0.3 * found["load_balancing"], rtol=1e-5)
    np.testing.assert_allclose(weighted["loss"].value, loss, rtol=1e-6)
    evaluated, _ = read(variables, {"tokens": TOKENS}, options.items())
    np.testing.assert_allclose(evaluated, plain, rtol=1e-6)
    with pytest.raises(ConfigError, match="auxiliary loss 'load_balance': did you mean 'load_balancing'"):
        read(variables, {"tokens": TOKENS}, [("auxiliary_losses", {"load_balance": 1.0})], True, jax.random.key(0))
    with pytest.raises(ConfigError, match="chunk_size: expected at least 1, got 0"):
        read(variables, {"tokens": TOKENS}, [("chunk_size", 0)])


PADDED = {
    "language_modelling": ({"tokens": TOKENS, "mask": MASK}, LOGITS, {}),
    "masked_lm": ({"tokens": TOKENS, "mask": MASK}, LOGITS, dict(mask_id=3, special_ids=(5,), vocab_size=12)),
    "pretraining": (
        {"tokens": TOKENS, "mask": MASK, "label": jnp.array([0, 1, 1, 0])},
        {"masked_lm": LOGITS, "next_sentence": LOGITS[:, 0, :2]},
        dict(mask_id=3, special_ids=(5,), vocab_size=12, mask_rate=0.5),
    ),
    "sequence_to_sequence": (
        {"tokens": TOKENS, "mask": MASK, "targets": TOKENS, "target_mask": MASK}, LOGITS[:, 1:],
        dict(label_smoothing=0.1),
    ),
    "token_classification": ({"tokens": TOKENS, "label": TOKENS}, LOGITS, {}),
    "span_extraction": (
        {"tokens": TOKENS, "mask": MASK, "start": jnp.array([1, 0, 2, 3]), "end": jnp.array([1, 3, 2, 4])},
        LOGITS[..., :2], {},
    ),
    "span_corruption": (
        {"tokens": TOKENS}, LOGITS[:, :3], dict(sentinels=(10, 11), start_id=0, end_id=1, noise_density=0.2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PADDED)
def test_examples_that_are_padding_count_for_nothing(name):
    """Whatever a padded row holds, loss and metrics stay."""
    batch, outputs, options = PADDED[name]
    batch = batch | {"example_mask": jnp.array([1.0, 1, 1, 0])}
    loss, found, _ = call(name, batch, outputs, **options)
    padded = jax.tree.map(lambda x: np.concatenate([x[:3], x[3:] + 50 * RNG.normal(size=x[3:].shape)]), outputs)
    cases = [(batch, jax.tree.map(lambda x: x.astype(np.float32), padded))]
    if name not in ("masked_lm", "pretraining", "span_corruption"):  # which draw for all rows of a batch at once
        cases.append(jax.tree.map(lambda x: x[:3], (batch, outputs)))
    for case in cases:
        other, same, _ = call(name, *case, **options)
        assert np.isfinite(loss)
        assert loss > 0
        np.testing.assert_allclose(other, loss, rtol=1e-6)
        for key, value in metrics.values(found).items():
            np.testing.assert_allclose(metrics.values(same)[key], value, rtol=1e-6)


def test_half_precision_logits_are_summed_in_float32():
    loss, _, _ = call("language_modelling", {"tokens": TOKENS}, LOGITS.astype(jnp.bfloat16))
    assert loss.dtype == jnp.float32


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sequence_to_sequence(smoothing):
    batch = {"tokens": TOKENS, "mask": MASK, "targets": TOKENS, "target_mask": MASK}
    right = LOGITS[:, 1:].at[1, :3].set(40 * jax.nn.one_hot(TOKENS[1, 1:4], 12))  # of an example with four targets
    loss, found, given = call("sequence_to_sequence", batch, right, label_smoothing=smoothing)
    tokens, targets = given["inputs"]
    np.testing.assert_array_equal(tokens, TOKENS)
    np.testing.assert_array_equal(targets, TOKENS[:, :-1])
    np.testing.assert_array_equal(given["named"]["target_mask"], MASK[:, :-1])
    counts = np.asarray(MASK)[:, 1:]
    log_p = np.asarray(jax.nn.log_softmax(right.astype(jnp.float32)), np.float64)
    truth = (1 - smoothing) * np.eye(12)[np.asarray(TOKENS[:, 1:])] + smoothing / 12
    np.testing.assert_allclose(loss, (-(truth * log_p).sum(-1) * counts).sum() / counts.sum(), rtol=1e-5)
    plain = (surprise(right, TOKENS[:, 1:]) * counts).sum() / counts.sum()
    np.testing.assert_allclose(found["perplexity"].value, np.exp(plain), rtol=1e-5)
    np.testing.assert_allclose(found["sequence_accuracy"], 1 / 4)


def test_which_tokens_are_hidden():
    """15 % of the candidates; of these 80 % as the mask, 10 % at random, 10 % as they were; no others change."""
    tokens = jnp.asarray(RNG.integers(0, 1000, (200, 500)), jnp.int32)
    candidates = (tokens >= 10) & (jnp.arange(500) < 450)[None]
    hidden, chosen = jax.jit(hide_tokens, static_argnames=("mask_id", "vocab_size"))(
        jax.random.key(0), tokens, candidates, mask_id=4, vocab_size=1000
    )
    tokens, hidden, chosen, candidates = map(np.asarray, (tokens, hidden, chosen, candidates))
    assert not chosen[~candidates].any()
    np.testing.assert_array_equal(hidden[~chosen], tokens[~chosen])
    count = chosen.sum()
    assert abs(count / candidates.sum() - 0.15) < 5 * np.sqrt(0.15 * 0.85 / candidates.sum())
    masked, same = (hidden[chosen] == 4).mean(), (hidden[chosen] == tokens[chosen]).mean()
    # a random word is the mask, or the word itself, once in a thousand
    assert abs(masked - 0.8001) < 5 * np.sqrt(0.16 / count)
    assert abs(same - 0.1001) < 5 * np.sqrt(0.09 / count)
    words = hidden[chosen & (hidden != 4) & (hidden != tokens)]
    assert len(np.unique(words)) > 700, "random words are from the whole vocabulary"


def test_masked_lm_hides_others_in_each_step_and_always_the_same_in_evaluation():
    options = dict(mask_id=3, special_ids=(5, 6), vocab_size=12, mask_rate=0.5)
    batch = {"tokens": jnp.tile(TOKENS, (8, 8)), "segments": jnp.zeros((32, 48), jnp.int32)}
    logits = jnp.tile(LOGITS, (8, 8, 1))
    given = [call("masked_lm", batch, logits, key, **options)[2] for key in (None, None, *map(jax.random.key, (1, 2)))]
    one, same, other, another = (call["inputs"][0] for call in given)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (other != another).any()
    assert (one == 3).any()
    assert given[0]["key"] is None
    assert given[2]["key"] is not None
    assert given[0]["named"].keys() == {"segments"}
    special = (batch["tokens"] == 5) | (batch["tokens"] == 6)
    np.testing.assert_array_equal(other[special], batch["tokens"][special])
    loss, found, _ = call("masked_lm", batch, logits, **options)
    assert float(found["loss"].weight) < 0.6 * np.asarray(~special).sum()
    np.testing.assert_allclose(loss, found["loss"].value)


def test_pretraining_adds_both_losses():
    batch, outputs, options = PADDED["pretraining"]
    loss, found, _ = call("pretraining", batch, outputs, jax.random.key(0), **options)
    np.testing.assert_allclose(loss, found["masked_lm_loss"].value + found["next_sentence_loss"], rtol=1e-6)
    assert found.keys() == {
        "loss", "masked_lm_loss", "masked_lm_accuracy", "masked_lm_perplexity", "next_sentence_loss",
        "next_sentence_accuracy",
    }  # fmt: skip


def test_spans_are_taken_out_and_can_be_put_back():
    tokens = jnp.asarray(RNG.integers(100, 200, (16, 40)), jnp.int32)
    sentinels = (9, 8, 7)
    inputs, targets = corrupt_spans(jax.random.key(0), tokens, sentinels, 1, noise_density=0.2, mean_span_length=3.0)
    # 8 of 40 tokens in 3 spans
    assert inputs.shape == (16, 40 - 8 + 3 + 1)
    assert targets.shape == (16, 8 + 3 + 1)
    layouts = set()
    for row, given, taken in zip(*map(np.asarray, (tokens, inputs, targets)), strict=True):
        assert given[-1] == taken[-1] == 1
        assert taken[0] == 9
        assert given[0] >= 100, "a text begins with a token that is kept"
        starts = [int(np.flatnonzero(taken == s)[0]) for s in sentinels] + [len(taken) - 1]
        spans = {s: taken[a + 1 : b] for s, a, b in zip(sentinels, starts, starts[1:], strict=False)}
        assert all(len(span) for span in spans.values())
        whole = np.concatenate([spans.get(int(token), np.array([token])) for token in given[:-1]])
        np.testing.assert_array_equal(whole, row)
        layouts.add(tuple(np.flatnonzero(given < 10)))
    assert len(layouts) > 10, "the spans of each row are drawn on their own"
    with pytest.raises(ConfigError, match="sentinels: 40 tokens lose 2 spans, and the tokenizer has 1 sentinels"):
        corrupt_spans(jax.random.key(0), tokens, (9,), 1)


def test_span_corruption_shifts_the_targets():
    batch, outputs, options = PADDED["span_corruption"]
    given = call("span_corruption", batch, outputs, **options)[2]
    inputs, targets = given["inputs"]
    _, whole = corrupt_spans(jax.random.key(0), TOKENS, (10, 11), 1, noise_density=0.2)
    np.testing.assert_array_equal(targets, np.concatenate([np.zeros((4, 1)), whole[:, :-1]], axis=1))
    assert inputs.shape == (4, 7)


def test_token_classification_ignores_a_label():
    label = jnp.where(MASK, TOKENS - 5, -100)
    loss, found, _ = call("token_classification", {"tokens": TOKENS, "label": label}, LOGITS[..., :7])
    counts = np.asarray(MASK)
    want = surprise(LOGITS[..., :7], np.where(counts, label, 0))
    np.testing.assert_allclose(loss, (want * counts).sum() / counts.sum(), rtol=1e-6)
    assert found.keys() == {"loss", "accuracy"}


def test_span_extraction_never_points_at_padding():
    batch = {"tokens": TOKENS, "mask": MASK, "start": jnp.array([0, 1, 1, 2]), "end": jnp.array([5, 3, 2, 2])}
    loss, found, _ = call("span_extraction", batch, LOGITS[..., :2])
    logits = np.where(np.asarray(MASK)[..., None], np.asarray(LOGITS[..., :2], np.float64), -np.inf)
    with np.errstate(over="ignore"):
        want = [surprise(logits[..., i], batch[name]) for i, name in enumerate(("start", "end"))]
    np.testing.assert_allclose(loss, np.mean(want), rtol=1e-6)
    best = logits.argmax(1)
    both = (best == np.stack([batch["start"], batch["end"]], 1)).all(1)
    np.testing.assert_allclose(found["accuracy"], both.mean())


def test_classification_takes_texts():
    batch = {"tokens": TOKENS, "mask": MASK, "label": jnp.array([0, 1, 2, 1])}
    _, _, given = call("classification", batch, LOGITS[:, 0, :3])
    np.testing.assert_array_equal(given["inputs"][0], TOKENS)
    np.testing.assert_array_equal(given["named"]["mask"], MASK)


def test_means_of_parts_add_up():
    values, weights = jnp.array([1.0, 2, 3, jnp.nan]), jnp.array([1.0, 1, 2, 0])
    whole, parts = Mean.of(values, weights), [Mean.of(values[i : i + 2], weights[i : i + 2]) for i in (0, 2)]
    np.testing.assert_allclose(whole.value, 9 / 4)
    np.testing.assert_allclose(jax.tree.map(lambda a, b: (a + b) / 2, *parts).value, 9 / 4, rtol=1e-6)
    assert Mean.of(values[3:], weights[3:]).value == 0
    np.testing.assert_allclose(Perplexity(jnp.log(8.0) * 4, jnp.array(4.0)).value, 8, rtol=1e-6)
    assert metrics.values({"loss": whole, "other": 1.5}) == {"loss": whole.value, "other": 1.5}


def test_evaluation_weighs_tokens_not_batches():
    """Batches with 3 and 1 tokens, of 2 and 1 examples."""

    def step(params, variables, batch):
        loss = Mean.of(batch["losses"], batch["weights"])
        return {"loss": loss, "perplexity": Perplexity(loss.total, loss.weight), "right": batch["right"]}

    batches = [
        {"losses": jnp.array([1.0, 2, 3]), "weights": jnp.ones(3), "right": 1.0, "example_mask": jnp.ones(2)},
        {"losses": jnp.array([6.0, 9, 9]), "weights": jnp.eye(3)[0], "right": 0.0, "example_mask": jnp.eye(2)[0]},
    ]
    found = evaluate(step, {}, {}, batches)
    np.testing.assert_allclose(found["loss"], 3.0)
    np.testing.assert_allclose(found["perplexity"], np.exp(3.0), rtol=1e-6)
    np.testing.assert_allclose(found["right"], 2 / 3)


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("flaw", "lawn", 2), ("same", "same", 0),
     (["AH0", "B"], ["AH0", "P", "B"], 1), ("intention", "execution", 5)],
)  # fmt: skip
def test_edit_distance(one, other, distance):
    assert edit_distance(one, other) == edit_distance(other, one) == distance


def test_error_rate():
    assert error_rate([["HH", "AH0"], ["W"]], [["HH", "AH0", "L"], ["W"]]) == 1 / 4
    with pytest.raises(ConfigError, match="expected one for each of 1 sequences, got 2"):
        error_rate(["a"], ["a", "b"])
    with pytest.raises(ConfigError, match="at least one entry"):
        error_rate(["a"], [""])


def test_bleu():
    pytest.importorskip("sacrebleu")
    reference = "the cat is sitting on the mat"
    np.testing.assert_allclose(bleu([reference], [reference]), 100)
    # precisions 6/7, 4/6, 2/5 and 1/4 of one to four words, and as many words as the reference
    want = 100 * np.exp(np.log([6 / 7, 4 / 6, 2 / 5, 1 / 4]).mean())
    np.testing.assert_allclose(bleu(["the cat was sitting on the mat"], [reference]), want, rtol=1e-6)
    with pytest.raises(ConfigError, match="one for each of 1 translations, got 0"):
        bleu(["a"], [])


def test_bleu_needs_a_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu", None)
    with pytest.raises(ConfigError, match=r"pip install 'deepmodels-jax\[text\]'"):
        bleu(["a"], ["a"])
