"""The rewritten convolutions against XLA's own, both directions of differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from deepmodels.layers.conv import Conv

CASES = {
    "1x1": ((5, 6, 3), dict(features=4, kernel_size=(1, 1), padding=0)),
    "1x1 strided": ((5, 6, 3), dict(features=4, kernel_size=(1, 1), strides=2, padding="SAME")),
    "1x1 padded": ((5, 6, 3), dict(features=4, kernel_size=(1, 1), padding=1)),
    "1x1 grouped": ((5, 6, 4), dict(features=6, kernel_size=(1, 1), feature_group_count=2)),
    "depthwise": ((5, 6, 3), dict(features=3, kernel_size=(3, 3), padding=1, feature_group_count=3)),
    "depthwise strided": ((6, 9, 3), dict(features=3, kernel_size=(3, 3), strides=2, padding=1, feature_group_count=3)),
    "depthwise same": ((6, 7, 2), dict(features=2, kernel_size=(5, 3), strides=(2, 3), feature_group_count=2)),
    "depthwise dilated": (
        (7, 7, 2),
        dict(features=2, kernel_size=(3, 3), padding=2, kernel_dilation=2, feature_group_count=2),
    ),
    "two for each channel": ((5, 6, 3), dict(features=6, kernel_size=(3, 3), feature_group_count=3)),
    "3x3": ((5, 6, 3), dict(features=4, kernel_size=(3, 3), strides=2, padding=1)),
    "one dimension": ((9, 3), dict(features=4, kernel_size=(1,))),
}


@pytest.mark.parametrize("name", CASES)
def test_is_the_convolution_that_xla_computes(name, float64):
    shape, arguments = CASES[name]
    rng = np.random.default_rng(0)
    x, dx = (jnp.asarray(rng.normal(size=(2, *shape))) for _ in range(2))
    theirs, ours = nn.Conv(**arguments), Conv(**arguments)
    single = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    abstract = jax.eval_shape(theirs.init, jax.random.key(0), single)
    assert jax.eval_shape(ours.init, jax.random.key(0), single) == abstract
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), abstract)

    def both_ways(module):
        def run(variables, x):
            out, out_dot = jax.jvp(module.apply, (variables, x), (jax.tree.map(jnp.sin, variables), dx))
            _, pull = jax.vjp(module.apply, variables, x)
            return out, out_dot, pull(jnp.cos(out))

        return jax.jit(run)(variables, x)

    for a, b in zip(*(jax.tree.leaves(both_ways(module)) for module in (ours, theirs)), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def primitives(module, shape):
    x = jnp.zeros((2, *shape))
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return str(jax.jit(module.apply).lower(variables, x).as_text())


@pytest.mark.parametrize("name", ["1x1", "1x1 strided", "depthwise", "depthwise strided", "depthwise same"])
def test_no_convolution_is_left_on_a_cpu(name):
    shape, arguments = CASES[name]
    assert "stablehlo.convolution" in primitives(nn.Conv(**arguments), shape)
    assert "stablehlo.convolution" not in primitives(Conv(**arguments), shape)
