import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels.layers.rms_norm import RMSNorm


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_divides_by_the_root_mean_square_and_begins_as_nothing_else(offset):
    x = np.random.default_rng(0).normal(2, 3, (2, 3, 8)).astype(np.float32)
    norm = RMSNorm(1e-5, offset)
    variables = norm.init(jax.random.key(0), x)
    expected = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(norm.apply(variables, x), expected, rtol=1e-5)
    scale = np.arange(8, dtype=np.float32)
    got = norm.apply({"params": {"scale": scale}}, x)
    np.testing.assert_allclose(got, expected * (scale + offset), rtol=1e-5, atol=1e-6)


def test_half_precision_is_normalised_in_float32():
    x = jnp.full((1, 4), 300.0, jnp.bfloat16)  # whose square is exact in float32 only
    y = RMSNorm(0.0).apply({"params": {"scale": jnp.ones(4, jnp.bfloat16)}}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.astype(jnp.float32), np.ones((1, 4)))
