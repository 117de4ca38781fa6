"""Experts against a dense reference, in which every expert computes every token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels.layers.experts import GATES, Experts, Routing, balance_loss

TOKENS, CHANNELS, SIZE, EXPERTS, CHOSEN = 11, 6, 5, 4, 2


def dense_reference(params, x, routing, gate_function, use_bias):
    def dense(name, x):
        y = jnp.einsum("EMC,ECF->EMF", x, params[name]["kernel"])
        return y + params[name]["bias"][:, None] if use_bias else y

    every = jnp.broadcast_to(x[None], (EXPERTS, *x.shape))
    y = dense("down", GATES[gate_function](dense("gate", every), dense("up", every)))
    weights = (jax.nn.one_hot(routing.chosen, EXPERTS, dtype=x.dtype) * routing.weights[..., None]).sum(1)
    return jnp.einsum("EMC,ME->MC", y, weights)


@pytest.mark.parametrize(("gate_function", "use_bias"), [("swiglu", False), ("geglu", False), ("clamped_swiglu", True)])
def test_value_and_gradients_are_those_of_the_dense_reference(gate_function, use_bias, float64):
    rng = np.random.default_rng(0)
    module = Experts(EXPERTS, SIZE, gate_function, use_bias)
    chosen = np.argsort(rng.normal(size=(TOKENS, EXPERTS)))[:, :CHOSEN].astype(np.int32)
    chosen[chosen == 3] = 0  # an expert that nobody chooses; both choices may be the same one
    chosen = jnp.asarray(chosen)
    x, weights = rng.normal(size=(TOKENS, CHANNELS)), rng.uniform(size=(TOKENS, CHOSEN))
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, Routing(chosen, weights))
    params = jax.tree.map(lambda leaf: 3 * rng.normal(size=leaf.shape), shapes)["params"]  # beyond the clamps too
    cotangent = rng.normal(size=x.shape)

    def ours(params, x, weights):
        return module.apply({"params": params}, x, Routing(chosen, weights))

    def theirs(params, x, weights):
        return dense_reference(params, x, Routing(chosen, weights), gate_function, use_bias)

    @jax.jit
    def both(*arguments):
        return [(out, pull_back(cotangent)) for out, pull_back in (jax.vjp(f, *arguments) for f in (ours, theirs))]

    (value, gradients), (expected, expected_gradients) = both(params, x, weights)
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9)
    for got, want in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-8)
    assert not np.any(gradients[0]["up"]["kernel"][3])


def test_balance_loss():
    even = jnp.full((8, 4), 0.25)
    chosen = jnp.asarray([[0, 1], [2, 3]] * 4)
    assert balance_loss(even, chosen) == pytest.approx(2)
    one = jnp.zeros((8, 4)).at[:, 1].set(1.0)
    assert balance_loss(one, jnp.ones((8, 1), jnp.int32)) == pytest.approx(4)
    # padding counts for nothing
    valid = jnp.arange(8) < 4
    mixed = jnp.where(valid[:, None], one, even)
    assert balance_loss(mixed, jnp.where(valid, 1, 2)[:, None], valid) == pytest.approx(4)
