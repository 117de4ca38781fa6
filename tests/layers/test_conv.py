"""The rewritten convolutions against XLA's own, both directions of differentiation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from deepmodels.layers.conv import Conv, ConvTranspose, convolve_rows

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
    check(Conv, *CASES[name])


ROWS = [
    dict(kernel_size=(5, 3), padding=2),
    dict(kernel_size=(3, 2), strides=(2, 3), padding="VALID"),
    dict(kernel_size=(3, 3), strides=2, padding="SAME"),
    dict(kernel_size=(2, 4), padding=((0, 1), (3, 1))),
]


@pytest.mark.parametrize("arguments", ROWS)
def test_products_of_rows_are_the_convolution(arguments, float64):
    check(partial(nn.Conv, conv_general_dilated=convolve_rows), (7, 8, 3), dict(features=4, **arguments))


def test_no_convolution_is_left_of_rows_on_a_cpu():
    rows = nn.Conv(conv_general_dilated=convolve_rows, features=4, **ROWS[0])
    assert "stablehlo.convolution" not in primitives(rows, (7, 8, 3))


def check(convolution, shape, arguments):
    rng = np.random.default_rng(0)
    x, dx = (jnp.asarray(rng.normal(size=(2, *shape))) for _ in range(2))
    theirs, ours = nn.Conv(**arguments), convolution(**arguments)
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


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "output_padding"),
    [(4, 2, 1, 0), (2, 2, 0, 0), (3, 2, 1, 1), (5, 2, 2, 1), (4, 1, 0, 0), (3, 3, 0, 2), (5, 3, 1, 0), (2, 3, 0, 1)],
)
def test_a_transposed_convolution_is_torchs(kernel, stride, padding, output_padding, float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 4, 3))
    ours = ConvTranspose(6, kernel, stride, padding, output_padding)
    abstract = jax.eval_shape(ours.init, jax.random.key(0), jax.ShapeDtypeStruct(x.shape, jnp.float32))
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), abstract)
    torch = pytest.importorskip("torch")
    theirs = torch.nn.ConvTranspose2d(3, 6, kernel, stride, padding, output_padding).double()
    weight = torch.from_numpy(np.moveaxis(variables["params"]["kernel"], (-1, -2), (0, 1)).copy())
    theirs.load_state_dict({"weight": weight, "bias": torch.from_numpy(variables["params"]["bias"])})
    given = torch.from_numpy(np.moveaxis(x, -1, 1).copy()).requires_grad_()
    expected = theirs(given)
    cotangent = rng.normal(size=np.moveaxis(expected.detach().numpy(), 1, -1).shape)
    expected.backward(torch.from_numpy(np.moveaxis(cotangent, -1, 1).copy()))
    out, pull_back = jax.jit(lambda v, x: jax.vjp(ours.apply, v, x))(variables, x)
    by_variables, by_images = jax.jit(pull_back)(cotangent)
    np.testing.assert_allclose(np.moveaxis(out, -1, 1), expected.detach().numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.moveaxis(by_images, -1, 1), given.grad.numpy(), rtol=1e-12, atol=1e-12)
    by_kernel = np.moveaxis(by_variables["params"]["kernel"], (-1, -2), (0, 1))
    np.testing.assert_allclose(by_kernel, theirs.weight.grad.numpy(), rtol=1e-12, atol=1e-12)


def test_no_zeros_are_put_between_pixels_on_a_cpu():
    assert "lhs_dilate = [2, 2]" not in primitives(ConvTranspose(4, 4, 2, padding=1), (5, 5, 3))


def test_other_back_ends_get_the_transposed_convolution(monkeypatch):
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, cpu, default: default(*x))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 3)), jnp.float32)
    ours = ConvTranspose(6, 4, 2, padding=1)
    variables = ours.init(jax.random.key(0), x)
    flax = nn.ConvTranspose(6, (4, 4), (2, 2), padding=((2, 2), (2, 2)), transpose_kernel=True).apply(variables, x)
    np.testing.assert_allclose(ours.apply(variables, x), flax, rtol=1e-5, atol=1e-5)
    monkeypatch.undo()
    np.testing.assert_allclose(ours.apply(variables, x), flax, rtol=1e-5, atol=1e-5)
