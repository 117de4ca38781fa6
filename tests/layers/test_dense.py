import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from deepmodels.layers.dense import Dense, attend


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5), (2, 3, 4, 5)])
def test_it_is_linens(shape, float64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    ours, theirs = Dense(7, param_dtype=jnp.float64), nn.Dense(7, param_dtype=jnp.float64)
    variables = theirs.init(jax.random.key(0), x)

    def gradients(layer):
        return jax.value_and_grad(lambda v, x: jnp.square(layer.apply(v, x)).sum(), argnums=(0, 1))(variables, x)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), gradients(ours), gradients(theirs))
    assert ours.apply(variables, x).shape == (*shape[:-1], 7)


def test_attend_is_linens():
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    embed = nn.Embed(11, 5)
    variables = embed.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    ours = embed.apply(variables, x, method=attend)
    np.testing.assert_allclose(ours, embed.apply(variables, x, method="attend"), rtol=1e-6)
    assert ours.shape == (2, 3, 11)
