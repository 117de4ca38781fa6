import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels.analysis.intermediates import intermediates
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.layers import attention
from deepmodels.layers.attention import Attention, attention_weights, dot_product_attention, key_mask
from deepmodels.layers.checks import check_mask, check_tokens
from deepmodels.models import bert

TINY = dict(vocab_size=20, hidden_size=8, num_heads=2, mlp_size=16, max_length=8, dropout_rate=0.0)


def random(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def by_hand(query, key, value, scale, mask, bias, causal):
    """Section 3.2.1, one query at a time."""
    out = np.zeros_like(query)
    for b, t, n in np.ndindex(query.shape[:3]):
        logits = scale * key[b, :, n] @ query[b, t, n] + bias[0, n, t]
        seen = mask[b] & (np.arange(key.shape[1]) <= t if causal else True)
        weights = np.where(seen, np.exp(logits - logits[seen].max()), 0)
        out[b, t, n] = (weights / weights.sum()) @ value[b, :, n]
    return out


@pytest.mark.parametrize("causal", [False, True])
def test_both_ways_are_what_the_paper_says(causal):
    query, key, value = random(2, 4, 3, 5), random(2, 6, 3, 5, seed=1), random(2, 6, 3, 5, seed=2)
    bias, mask = random(1, 3, 4, 6, seed=3), np.array([[True] * 6, [True, True, False, True, False, False]])
    expected = by_hand(query, key, value, 0.7, mask, bias, causal)
    terms = dict(scale=0.7, mask=key_mask(mask), bias=bias, causal=causal)
    np.testing.assert_allclose(dot_product_attention(query, key, value, **terms), expected, atol=1e-6)
    weights = attention_weights(query, key, **terms)
    np.testing.assert_allclose(np.einsum("bnts,bsnd->btnd", weights, value), expected, atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_dtypes_in_and_out(dtype, float64):
    query, key = (jnp.asarray(random(1, 4, 2, 8, seed=i), dtype) for i in range(2))
    bias = jnp.asarray(random(1, 2, 4, 4), dtype)
    ours = jax.jit(lambda *a: dot_product_attention(*a, key, scale=1.0, bias=bias, causal=True))(query, key)
    wide = [np.asarray(x, np.float64) for x in (query, key, bias)]
    expected = by_hand(wide[0], wide[1], wide[1], 1.0, np.ones((1, 4), bool), wide[2], True)
    assert ours.dtype == dtype
    np.testing.assert_allclose(np.asarray(ours, np.float64), expected, atol=1e-12 if dtype == jnp.float64 else 0.03)


def test_a_query_that_sees_nothing_is_finite_with_finite_gradients():
    mask = np.zeros((1, 1, 1, 3), bool)

    def total(x):
        return dot_product_attention(x, x, x, scale=1.0, mask=mask).sum()

    assert np.isfinite(jax.grad(total)(random(1, 3, 2, 4))).all()


def test_weights_of_all_layers_by_name():
    model, tokens = bert.Bert(**TINY, num_layers=3), np.arange(10).reshape(2, 5).astype(np.int32)
    mask = np.array([[True] * 5, [True, True, True, False, False]])
    variables = model.init(jax.random.key(0), tokens)
    found = jax.jit(lambda v, t, m: intermediates(model, v, t, m, pattern="*attention/weights"))(
        variables, tokens, mask
    )
    weights = found["layers/attention/weights"]
    assert weights.shape == (3, 2, 2, 5, 5)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(weights[:, 1, :, :, 3:], 0)
    assert len({float(layer.sum() ** 2 + layer[0, 0, 0, 0]) for layer in weights}) == 3  # each layer's own

    queries = jax.jit(lambda v, t: intermediates(model, v, t, pattern="layers*"))(variables, tokens)
    assert queries["layers"].shape == (3, 2, 5, 8)  # hidden states as well
    rows = [np.asarray(queries[f"layers/attention/{name}"][1]).reshape(2, 5, 2, 4) for name in ("query", "key")]
    np.testing.assert_allclose(weights[1, 0], attention_weights(*rows, scale=0.5)[0], atol=1e-6)


def test_weights_cost_nothing_when_nobody_asks():
    model, x = Attention(2, 8), random(1, 5, 8)
    variables = model.init(jax.random.key(0), x)
    module = attention.AttentionWeights.__call__
    calls = []
    attention.AttentionWeights.__call__ = lambda *a, **k: calls.append(1) or module(*a, **k)
    try:
        model.apply(variables, x)
        assert not calls
        intermediates(model, variables, x, pattern="weights")
        assert calls
    finally:
        attention.AttentionWeights.__call__ = module


def test_weights_are_dropped_in_training_only():
    model, x = Attention(2, 8, dropout_rate=0.5), random(2, 6, 8)
    variables = model.init(jax.random.key(0), x)
    apply = jax.jit(lambda key: model.apply(variables, x, train=True, rngs={"dropout": key}))
    first, second = apply(jax.random.key(0)), apply(jax.random.key(1))
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(first, apply(jax.random.key(0)))
    mean = np.mean([apply(jax.random.key(i)) for i in range(400)], 0)
    np.testing.assert_allclose(mean, model.apply(variables, x), atol=0.1)


def test_steps_are_the_rows_of_the_causal_whole():
    model, x = Attention(2, 8), random(2, 5, 8)
    variables = model.init(jax.random.key(0), x)
    whole = model.apply(variables, x, causal=True)
    keys = values = jnp.zeros((2, 6, 2, 4))
    step = jax.jit(lambda *a: model.apply(variables, *a, method="step"))
    for t in range(5):
        y, keys, values = step(x[:, t : t + 1], keys, values, jnp.full(2, t))
        np.testing.assert_allclose(y[:, 0], whole[:, t], atol=1e-6)


def test_the_choice_is_xla_on_a_cpu_and_where_cudnn_refuses(monkeypatch, caplog):
    half = jnp.zeros((1, 4, 2, 8), jnp.bfloat16)
    assert attention.implementation(half, half, None, None, False) == "xla"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # here is no cuDNN, so that its probe fails
    attention._probe.cache_clear()
    with caplog.at_level(logging.INFO):
        assert attention.implementation(half, half, None, None, True) == "xla"
        assert attention.implementation(half, half, None, None, True) == "xla"
    assert caplog.text.count("XLA, as cuDNN refuses") == 1
    attention._probe.cache_clear()
    single = half.astype(jnp.float32)
    assert attention.implementation(single, single, None, None, True) == "xla"  # and nothing is compiled
    assert not attention._probe.cache_info().currsize


def test_what_cudnn_is_asked_for_is_whole():
    """It takes no mask of one row; and what is asked for gives the same as what XLA is given."""
    query, key = random(2, 4, 3, 8), random(2, 6, 3, 8, seed=1)
    mask, bias = key_mask(np.arange(6)[None] < np.array([[6], [2]])), random(1, 3, 1, 6, seed=2)
    asked = {}

    def stand_in(query, key, value, bias, mask, *, scale, is_causal, implementation):
        asked.update(implementation=implementation, shapes=(bias.shape, mask.shape))
        return original(query, key, value, bias, mask, scale=scale, is_causal=is_causal, implementation="xla")

    original, jax.nn.dot_product_attention = jax.nn.dot_product_attention, stand_in
    try:
        given = dict(scale=1.0, causal=False)
        whole = attention._attend(query, key, key, bias, mask, **given, implementation="cudnn")
    finally:
        jax.nn.dot_product_attention = original
    assert asked == dict(implementation="cudnn", shapes=((1, 3, 4, 6), (2, 1, 4, 6)))
    np.testing.assert_allclose(whole, attention._attend(query, key, key, bias, mask, **given, implementation="xla"))


def size(model, *inputs):
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)

    def loss(variables):
        return jax.tree.leaves(model.apply(variables, *inputs))[0].sum()

    return jax.jit(jax.grad(loss)).lower(variables).as_text().count("\n")


def test_programs_dont_grow_with_depth():
    tokens = np.zeros((2, 5), np.int32)
    short, long = (size(bert.Bert(**TINY, num_layers=layers), tokens) for layers in (2, 12))
    assert short == long
    assert size(bert.Bert(**TINY, num_layers=12, unroll=12), tokens) > 2 * long


def test_unrolled_and_scanned_are_equal(float64):
    tokens = np.arange(10).reshape(2, 5).astype(np.int32)
    scanned, unrolled = (bert.Bert(**TINY, num_layers=4, unroll=n) for n in (1, 4))
    variables = jax.tree.map(lambda x: x.astype(np.float64), scanned.init(jax.random.key(0), tokens))
    assert variables["params"]["layers"]["dense1"]["kernel"].shape == (4, 8, 16)
    assert not np.allclose(*variables["params"]["layers"]["dense1"]["kernel"][:2])  # each drawn by itself
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-14),
        jax.jit(scanned.apply)(variables, tokens),
        jax.jit(unrolled.apply)(variables, tokens),
    )


def test_bad_arguments():
    with pytest.raises(ConfigError, match="num_heads: 3 doesn't divide hidden_size, which is 8"):
        Attention(3, 8).init(jax.random.key(0), random(1, 2, 8))
    with pytest.raises(ConfigError, match="num_layers: expected at least 1, got 0"):
        bert.Bert(**TINY, num_layers=0).init(jax.random.key(0), np.zeros((1, 2), np.int32))
    with pytest.raises(ConfigError, match="unroll: expected at least 1, got 0"):
        bert.Bert(**TINY, num_layers=2, unroll=0).init(jax.random.key(0), np.zeros((1, 2), np.int32))


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (np.zeros(3, np.int32), r"tokens: expected shape \(batch, positions\), got \(3,\)"),
        (np.zeros((2, 3), np.float32), "tokens: expected integers, got float32"),
        (np.zeros((2, 9), np.int64), "tokens: expected at most 8 positions, got 9"),
    ],
)
def test_tokens_that_are_none(tokens, says):
    with pytest.raises(ShapeError, match=says):
        check_tokens(tokens, length=8)


def test_masks_that_are_none():
    tokens = np.zeros((2, 3), np.int32)
    check_mask(None, tokens)
    check_mask(tokens == 0, tokens)
    for mask in (np.ones((2, 4), bool), np.ones((2, 3), np.int32)):
        with pytest.raises(ShapeError, match=r"source_mask: expected bools of shape \(2, 3\)"):
            check_mask(mask, tokens, name="source_mask")


def test_heads_that_share_keys_are_heads_with_repeated_keys(float64):
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(2, 5, heads, 4)) for heads in (6, 2, 2))
    whole = [np.repeat(x, 3, axis=2) for x in (key, value)]
    terms = dict(scale=0.5, causal=True)
    np.testing.assert_allclose(
        attention_weights(query, key, **terms), attention_weights(query, whole[0], **terms), rtol=1e-12
    )
    expected = dot_product_attention(query, *whole, **terms)
    np.testing.assert_allclose(dot_product_attention(query, key, value, **terms), expected, rtol=1e-12)
    single = [jnp.asarray(x, jnp.float32) for x in (query, key, value)]
    np.testing.assert_allclose(dot_product_attention(*single, **terms), expected, rtol=1e-4, atol=1e-5)


def test_soft_cap_bounds_the_products_and_a_sink_takes_weight():
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(1, 4, 2, 4)).astype(np.float32) for _ in range(3))
    products = np.einsum("BTND,BSND->BNTS", query, key) * 100
    capped = np.exp(3 * np.tanh(products / 3))
    got = attention_weights(query, key, scale=100.0, soft_cap=3.0)
    np.testing.assert_allclose(got, capped / capped.sum(-1, keepdims=True), rtol=1e-4)

    sinks = np.array([0.5, -1.0], np.float32)
    with_sinks = attention_weights(query, key, scale=1.0, sinks=sinks)
    plain = attention_weights(query, key, scale=1.0)
    total = np.exp(np.einsum("BTND,BSND->BNTS", query, key)).sum(-1)
    left = total / (total + np.exp(sinks)[None, :, None])
    np.testing.assert_allclose(with_sinks, plain * left[..., None], rtol=1e-5)
    expected = np.einsum("BNTS,BSND->BTND", with_sinks, value)
    np.testing.assert_allclose(dot_product_attention(query, key, value, scale=1.0, sinks=sinks), expected, rtol=1e-5)
