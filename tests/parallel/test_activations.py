"""Attention as a ring and experts among devices, against the layers themselves, in float64.

    pytest -m slow tests/parallel/test_activations.py

runs the cases that aren't part of the default suite.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import parallel
from deepmodels.layers.attention import attention_by, dot_product_attention
from deepmodels.layers.causal import visible
from deepmodels.layers.experts import GATES, Layer, Routing, experts_by, routed
from deepmodels.parallel.experts import experts_over
from deepmodels.parallel.ring import attention_over

BATCH, LENGTH, HEADS = 4, 16, 4
TOKENS = np.zeros((BATCH, LENGTH), np.int32)
DOCUMENTS = np.repeat([[1] * 5 + [2] * 9 + [0] * 2, [1] * 16], 2, axis=0).astype(np.int32)
HELD = np.arange(LENGTH) < np.array([[16], [11], [3], [1]])
TERMS = {
    "all": {},
    "causal, with shared keys": dict(causal=True, keys=2),
    "padding": dict(mask=HELD[:, None, None]),
    "a window of packed documents": dict(causal=True, mask=visible(TOKENS, HELD, DOCUMENTS, 6)),
    "a bias": dict(bias=(1, HEADS, LENGTH, LENGTH)),
    "a bias of keys": dict(bias=(BATCH, 1, 1, LENGTH)),
    "a cap and sinks": dict(causal=True, soft_cap=2.0, sinks=(HEADS,)),
    "another length of keys": dict(length=24),
}


def everything(function, *arguments):
    """What a function returns, and all gradients of a sum of it that tells each element from all others."""

    def total(*arguments):
        y = function(*arguments)
        return (y * jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)).sum(), y

    return jax.jit(jax.grad(total, range(len(arguments)), has_aux=True))(*arguments)


def assert_equal(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


DEFAULT = ("a window of packed documents", "a cap and sinks")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in DEFAULT)) for name in TERMS]
)
def test_a_ring_attends_as_one_device_does(name, float64):
    terms, rng = dict(TERMS[name]), np.random.default_rng(0)
    keys, length = terms.pop("keys", HEADS), terms.pop("length", LENGTH)
    arrays = {key: rng.normal(size=terms.pop(key)) for key in ("bias", "sinks") if key in terms}
    shapes = (BATCH, LENGTH, HEADS, 6), (BATCH, length, keys, 6), (BATCH, length, keys, 5)
    query, key, value = (rng.normal(size=shape) for shape in shapes)

    def attend(query, key, value, arrays):
        return dot_product_attention(query, key, value, scale=0.7, **terms, **arrays)

    expected = everything(attend, query, key, value, arrays)
    mesh = parallel.make_mesh({"data": 2, "sequence": 4})
    with attention_by(attention_over(mesh)):
        found = everything(attend, query, key, value, arrays)
        program = jax.jit(attend).lower(query, key, value, arrays).as_text()
    assert "collective_permute" in program
    assert_equal(found, expected)


MESHES = [{"data": 8}, {"data": 2, "expert": 4}, {"expert": 2, "sequence": 2, "tensor": 2}]


@pytest.mark.slow
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("axes", MESHES)
def test_experts_among_devices_compute_what_one_does(axes, use_bias, float64):
    rng, (tokens, channels, inner, experts, k) = np.random.default_rng(0), (16, 6, 8, 4, 2)
    x, weights = rng.normal(size=(tokens, channels)), rng.uniform(size=(tokens, k))
    chosen = np.argsort(rng.normal(size=(tokens, experts)))[:, :k].astype(np.int32)
    chosen[chosen == 3] = 0  # an expert that nobody chooses
    layers = {
        name: Layer(rng.normal(size=(experts, a, b)), rng.normal(size=(experts, b)) if use_bias else None)
        for name, a, b in (("gate", channels, inner), ("up", channels, inner), ("down", inner, channels))
    }

    def compute(function):
        def call(x, weights, layers):
            return function(x, Routing(jnp.asarray(chosen), weights), layers, GATES["swiglu"])

        return everything(call, x, weights, layers)

    assert_equal(compute(experts_over(parallel.make_mesh(axes))), compute(routed))


def test_what_contexts_change_ends_with_them():
    def never(*_, **__):
        raise AssertionError

    with attention_by(never), experts_by(never):
        pass
    x = jnp.ones((1, 2, 1, 2))
    assert dot_product_attention(x, x, x, scale=1.0).shape == x.shape
