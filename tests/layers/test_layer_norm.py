import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from deepmodels.layers.layer_norm import LayerNorm
from deepmodels.layers.stochastic_depth import StochasticDepth


def test_is_flaxs_in_float32_and_keeps_bfloat16():
    rng = np.random.default_rng(0)
    x = (3 + 2 * rng.normal(size=(2, 3, 8))).astype(np.float32)
    variables = {"params": {name: rng.normal(size=8).astype(np.float32) for name in ("scale", "bias")}}
    expected = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False).apply(variables, x)
    np.testing.assert_allclose(LayerNorm().apply(variables, x), expected, rtol=1e-5, atol=1e-5)
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), variables)
    low = LayerNorm().apply(half, jnp.asarray(x, jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), expected, atol=0.1)


def test_stochastic_depth_keeps_the_mean_and_drops_whole_examples():
    x = jnp.ones((4000, 2, 3))
    run = jax.jit(lambda rate, key: StochasticDepth().apply({}, x, rate, True, rngs={"dropout": key}))
    y = run(0.25, jax.random.key(0))
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:, :1, :1], x.shape))
    np.testing.assert_allclose(sorted(set(np.unique(y))), [0, 1 / 0.75], rtol=1e-6)
    assert abs(float(y.mean()) - 1) < 0.05
    for rate, train in ((0.25, False), (0.0, True)):
        np.testing.assert_array_equal(StochasticDepth().apply({}, x, rate, train), x)  # and asks for no key
