import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels.layers.unembedding import Unprojected


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_the_product_its_bias_and_its_cap(tied):
    rng = np.random.default_rng(0)
    hidden, kernel, bias = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 4), (4, 4), (4,)))
    matrix = dict(embedding=kernel.T) if tied else dict(kernel=kernel)  # square: only its name tells which it is
    expected = 5 * np.tanh((hidden @ kernel + bias) / 5)
    given = Unprojected(jnp.asarray(hidden), **jax.tree.map(jnp.asarray, matrix), bias=jnp.asarray(bias), soft_cap=5.0)
    np.testing.assert_allclose(given.logits(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(given.logits(given.hidden[:, 1]), expected[:, 1], rtol=1e-5, atol=1e-6)
    plain = Unprojected(given.hidden, given.kernel, given.embedding)
    np.testing.assert_allclose(plain.logits(), hidden @ kernel, rtol=1e-5, atol=1e-6)
    half = plain._replace(hidden=given.hidden.astype(jnp.bfloat16))
    assert half.logits().dtype == jnp.bfloat16
