"""Trunks and feature maps: what holds for the classifiers whose head is one dense layer on a pooled map."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import trees
from deepmodels.models import create

TINY = ["resnet_tiny", "densenet_tiny", "mobilenet_tiny", "efficientnet_tiny", "convnext_micro"]
FULL = [
    *("resnet18", "resnet50", "resnext50_32x4d", "resnet20_cifar", "preact_resnet164_cifar", "densenet121"),
    *("mobilenet_v2", "efficientnet_b0", "convnext_tiny"),
]


def images(size=64):
    return jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), images())


@pytest.mark.parametrize("name", FULL)
def test_maps_are_as_large_as_their_strides_say(name):
    model = create(name)
    order = []

    def features(variables, images):
        maps = model.apply(variables, images, method="features")
        order.extend(maps)
        return maps

    maps = jax.eval_shape(features, shapes(model), images())
    assert order == list(model.strides)  # a transformation sorts the keys of a dict
    assert {name: 64 // x.shape[1] for name, x in maps.items()} == model.strides
    assert all(x.shape[1] == x.shape[2] for x in maps.values())


@pytest.mark.parametrize("name", TINY)
def test_the_head_answers_from_the_last_map(name):
    model, trunk = create(name), create(name, num_classes=0)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.uniform(-0.2, 0.3, leaf.shape).astype(leaf.dtype), shapes(model))
    pixels = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)
    without = variables | {"params": {k: v for k, v in variables["params"].items() if k != "head"}}
    assert jax.tree.structure(without) == jax.tree.structure(shapes(trunk))  # the head alone is missing

    @jax.jit
    def run(pixels):
        maps = model.apply(variables, pixels, method="features")
        return maps, trunk.apply(without, pixels), model.apply(variables, pixels)

    maps, vector, logits = jax.tree.map(np.asarray, run(pixels))
    last = maps[list(model.strides)[-1]]
    if name != "convnext_micro":  # which normalises what it has pooled
        np.testing.assert_allclose(vector, last.mean((1, 2)), rtol=1e-5, atol=1e-6)
    head = variables["params"]["head"]
    assert vector.shape == (2, head["kernel"].shape[0])
    np.testing.assert_allclose(logits, vector @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5)


def test_the_trunk_trains_without_its_head():
    model = create("mobilenet_v2", num_classes=0)
    variables = shapes(model)
    train = partial(model.apply, train=True, mutable=["batch_stats"])  # and needs no key, as nothing is dropped
    vector, updated = jax.eval_shape(train, variables, images())
    assert vector.shape == (2, 1280)
    assert trees.count(updated) == trees.count(variables["batch_stats"])
