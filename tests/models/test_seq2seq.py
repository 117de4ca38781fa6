import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels.analysis.intermediates import intermediates
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.loading import load
from deepmodels.models.seq2seq import SCORES, VARIANTS, LuongAttention, RNNSearch, Seq2Seq
from deepmodels.sampling import beam_search

TINY = ["seq2seq_tiny", "bahdanau_tiny", "luong_tiny"]
BATCH, SOURCE, TARGET, HIDDEN = 3, 5, 4, 6
LENGTHS = np.array([5, 3, 1])
MASK = np.arange(SOURCE)[None] < LENGTHS[:, None]
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 10, (BATCH, SOURCE), np.int32)
TARGETS = RNG.integers(0, 10, (BATCH, TARGET), np.int32)


def create(name, **overrides):
    return VARIANTS[name].cls(**VARIANTS[name].arguments | overrides)


def random_variables(model, scale=0.5):
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS, TARGETS)
    return jax.tree.map(lambda leaf: (scale * rng.normal(size=leaf.shape)).astype(np.float32), shapes)


def test_a_reversed_source_is_read_from_its_last_token():
    model = create("seq2seq_tiny")
    variables = random_variables(model)
    reversed_rows = TOKENS.copy()
    for row, length in zip(reversed_rows, LENGTHS, strict=True):
        row[:length] = row[:length][::-1]
    ours = jax.jit(model.apply)(variables, TOKENS, TARGETS, MASK)
    plain = jax.jit(create("seq2seq_tiny", reverse_source=False).apply)(variables, reversed_rows, TARGETS, MASK)
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TINY)
def test_step_by_step_is_the_whole(name):
    model = create(name)
    variables = random_variables(model)

    @jax.jit
    def run(variables):
        state = model.apply(variables, TOKENS, MASK, method="encode")
        steps = []
        for t in range(TARGET):
            logits, state = model.apply(variables, TARGETS[:, t : t + 1], state, method="decode")
            steps.append(logits)
        return model.apply(variables, TOKENS, TARGETS, MASK), jnp.concatenate(steps, 1)

    np.testing.assert_allclose(*run(variables), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_beam_search_decodes(name):
    model = create(name)
    variables = random_variables(model, 1.0)

    @jax.jit
    def run(variables):
        def step(tokens, state):
            logits, state = model.apply(variables, tokens[:, None], state, method="decode")
            return logits[:, 0], state

        state = model.apply(variables, TOKENS, MASK, method="encode")
        beams = beam_search(
            step, state, start=1, end=0, batch_size=BATCH, beam_size=3, max_length=TARGET, length_penalty=0.0
        )
        best = beams.tokens[:, 0]
        read = jnp.concatenate([jnp.ones_like(best[:, :1]), best[:, :-1]], 1)
        logits = jax.nn.log_softmax(model.apply(variables, TOKENS, read, MASK))
        own = jnp.take_along_axis(logits, best[..., None], 2)[..., 0]
        return beams, own.sum(1, where=jnp.arange(TARGET)[None] < beams.lengths[:, :1])

    beams, log_probs = run(variables)
    np.testing.assert_allclose(beams.scores[:, 0], log_probs, rtol=1e-4)


def logistic(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def test_rnnsearch_is_the_papers_equations():
    """Appendix A, example by example and step by step, in numpy."""
    model = RNNSearch(10, 10, hidden_size=HIDDEN, embed_size=4, maxout_size=3, attention_size=5)
    variables = random_variables(model)
    p = jax.tree.map(np.float64, variables["params"])

    def dense(p, x):
        return x @ p["kernel"] + p.get("bias", 0)

    def gru(p, x, h):
        w, u, b = (np.split(p[name], 3, -1) for name in ("kernel", "recurrent_kernel", "bias"))
        r, z = (logistic(x @ w[k] + h @ u[k] + b[k]) for k in (0, 1))
        return (1 - z) * np.tanh(x @ w[2] + (r * h) @ u[2] + b[2]) + z * h

    expected, weights = [], np.zeros((TARGET, BATCH, SOURCE))
    for row, (tokens, targets, length) in enumerate(zip(TOKENS, TARGETS, LENGTHS, strict=True)):
        x, h = p["token_embed"]["embedding"][tokens[:length]], np.zeros(HIDDEN)
        forward, backward = [], []
        for t in range(length):
            h = gru(p["encoder"]["layer0"], x[t], h)
            forward.append(h)
        h = np.zeros(HIDDEN)
        for t in reversed(range(length)):
            h = gru(p["encoder"]["layer0_reverse"], x[t], h)
            backward.insert(0, h)
        memory = np.concatenate([forward, backward], 1)
        s, logits, attention = np.tanh(dense(p["initial"], backward[0])), [], p["decoder"]["attention"]
        for t, y in enumerate(p["target_embed"]["embedding"][targets]):
            energies = np.tanh(dense(attention["query"], s) + memory @ p["memory_keys"]["key"]["kernel"])
            alpha = softmax((energies @ attention["vector"])[:, 0])
            weights[t, row, :length] = alpha
            c = alpha @ memory
            s = gru(p["decoder"]["stack"]["layer0"], np.concatenate([y, c]), s)
            pairs = dense(p["maxout"], np.concatenate([s, y, c]))
            logits.append(dense(p["head"], pairs.reshape(-1, 2).max(1)))
        expected.append(logits)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, TOKENS, TARGETS, MASK), expected, rtol=1e-4, atol=1e-5)
    looked = jax.jit(lambda v: intermediates(model, v, TOKENS, TARGETS, MASK, pattern="*attention/weights"))(variables)
    assert list(looked) == ["decoder/attention/weights"]
    everything = jax.eval_shape(lambda: intermediates(model, variables, TOKENS, TARGETS, MASK))
    assert everything["decoder/attention/weights"].shape == weights.shape
    assert everything["memory_keys/key"].shape == (BATCH, SOURCE, 5)
    np.testing.assert_allclose(looked["decoder/attention/weights"], weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("input_feeding", [False, True])
@pytest.mark.parametrize("score", SCORES)
def test_luongs_attention_is_the_papers_equations(score, input_feeding):
    """Equations 5 to 8, and input feeding as in figure 4, with ours for the encoder alone."""
    model = LuongAttention(10, 10, hidden_size=HIDDEN, num_layers=1, score=score, input_feeding=input_feeding)
    variables = random_variables(model)
    state = jax.jit(lambda v: model.apply(v, TOKENS, MASK, method="encode"))(variables)
    p = jax.tree.map(np.float64, variables["params"])
    layer, attention = p["decoder"]["stack"]["layer0"], p["decoder"].get("attention", {})
    expected = []
    for row in range(BATCH):
        memory = np.float64(state.memory.states)[row, : LENGTHS[row]]
        h, c = (np.float64(array)[row, 0] for array in state.recurrent)
        logits, seen = [], np.zeros(HIDDEN)
        for y in p["target_embed"]["embedding"][TARGETS[row]]:
            x = np.concatenate([y, seen]) if input_feeding else y
            i, f, g, o = np.split(x @ layer["kernel"] + h @ layer["recurrent_kernel"] + layer["bias"], 4)
            c = logistic(f) * c + logistic(i) * np.tanh(g)
            h = logistic(o) * np.tanh(c)
            if score == "dot":
                scores = memory @ h
            elif score == "general":
                scores = memory @ p["memory_keys"]["key"]["kernel"] @ h
            else:
                w = np.concatenate([attention["query"]["kernel"], p["memory_keys"]["key"]["kernel"]])  # of [h; memory]
                both = np.concatenate([np.tile(h, (len(memory), 1)), memory], 1)
                scores = (np.tanh(both @ w + attention["query"]["bias"]) @ attention["vector"])[:, 0]
            average = softmax(scores) @ memory
            seen = np.tanh(np.concatenate([average, h]) @ p["decoder"]["combine"]["kernel"])
            logits.append(seen @ p["head"]["kernel"])
        expected.append(logits)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, TOKENS, TARGETS, MASK), expected, rtol=1e-4, atol=1e-5)


def test_counts_are_closed_forms():
    n, m, alignment, maxout, words = 1_000, 620, 1_000, 500, 30_000
    gru = lambda inputs: 3 * n * (inputs + n + 1)  # noqa: E731
    attention = n * alignment + alignment + 2 * n * alignment + alignment
    output = (n + m + 2 * n + 1) * 2 * maxout + (maxout + 1) * words
    total = 2 * words * m + 2 * gru(m) + n * n + n + gru(m + 2 * n) + attention + output
    assert VARIANTS["bahdanau_2014"].parameters == total
    lstm = lambda inputs: 4 * n * (inputs + n + 1)  # noqa: E731
    words = 50_000
    assert VARIANTS["luong_2015"].parameters == 3 * words * n + 7 * lstm(n) + lstm(2 * n) + n * n + 2 * n * n


def test_bad_arguments_are_named():
    def call(model, *arguments):
        return jax.eval_shape(lambda: model.init(jax.random.key(0), *arguments))

    with pytest.raises(ConfigError, match="unknown score 'concat'"):
        call(LuongAttention(10, 10, HIDDEN, 1, score="concat"), TOKENS, TARGETS)
    for name in TINY:
        model = create(name)
        with pytest.raises(ShapeError, match=r"tokens: expected shape \(batch, positions\), got \(5,\)"):
            call(model, TOKENS[0], TARGETS)
        with pytest.raises(ShapeError, match=r"targets: expected integers, got float32"):
            call(model, TOKENS, TARGETS.astype(np.float32))
        with pytest.raises(ShapeError, match=r"mask: expected bools of shape \(3, 5\)"):
            call(model, TOKENS, TARGETS, MASK[:, 1:])
        with pytest.raises(ShapeError, match=r"target_mask: expected bools of shape \(3, 4\)"):
            call(model, TOKENS, TARGETS, MASK, MASK)
    with pytest.raises(ConfigError, match="unknown cell 'lstm': did you mean 'lstm_"):
        call(Seq2Seq(10, 10, HIDDEN, cell="lstm"), TOKENS, TARGETS)


def test_real_weights_spell_the_golden_phonemes():
    """The network reads letters up to an end, token 2, and writes phonemes from token 2 to an end, token 3."""
    folder = os.environ.get("DEEPMODELS_TEST_DATA")
    path = next(Path(folder).rglob("g2p_en/checkpoint20.npz"), None) if folder else None
    if path is None:
        pytest.skip("DEEPMODELS_TEST_DATA names no folder with g2p_en/checkpoint20.npz in it")
    model, variables = load("g2p_gru", path)
    golden = np.load(Path(__file__).parent.parent / "golden" / "g2p_en.npz")
    tokens, phonemes = golden["tokens"], golden["phonemes"]
    targets = np.concatenate([np.full_like(phonemes[:, :1], 2), phonemes[:, :-1]], 1)

    @jax.jit
    def run(variables):
        def step(tokens, state):
            logits, state = model.apply(variables, tokens[:, None], state, method="decode")
            return logits[:, 0], state

        state = model.apply(variables, tokens, tokens != 0, method="encode")
        beams = beam_search(step, state, start=2, end=3, batch_size=len(tokens), beam_size=1, max_length=20)
        return model.apply(variables, tokens, targets, tokens != 0), beams

    logits, beams = run(variables)
    np.testing.assert_array_equal(beams.tokens[:, 0], phonemes)
    written = (golden["logits"] != 0).any(-1)
    np.testing.assert_allclose(np.asarray(logits)[written], golden["logits"][written], rtol=0, atol=1e-4)
