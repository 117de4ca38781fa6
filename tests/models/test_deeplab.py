"""DeepLabV3; the whole of it against torchvision's in tests/weights."""

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels.models.deeplab import AtrousSpatialPyramid


def test_the_pyramid_sees_as_far_as_its_rates_and_the_whole_image_by_its_mean():
    pyramid = AtrousSpatialPyramid(channels=32, rates=(2, 5))
    images = np.random.default_rng(0).normal(size=(1, 15, 15, 3)).astype(np.float32)
    variables = pyramid.init(jax.random.key(0), images, train=False)

    def centre(variables, images):
        return pyramid.apply(variables, images, train=False)[0, 7, 7].sum()

    gradient = jax.jit(jax.grad(centre, argnums=1))
    offsets = np.argwhere(np.abs(without_mean(gradient, variables, images)) > 1e-6) - 7
    assert {tuple(offset) for offset in offsets} == {
        (rate * y, rate * x) for rate in (2, 5) for y in (-1, 0, 1) for x in (-1, 0, 1)
    }
    assert np.all(np.abs(gradient(variables, images)[0]).sum(-1) > 0)


def without_mean(gradient, variables, images):
    params = dict(variables["params"])
    params["conv_pool"] = jax.tree.map(jnp.zeros_like, params["conv_pool"])
    return np.abs(gradient({**variables, "params": params}, images)[0]).sum(-1)
