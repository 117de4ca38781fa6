import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import trees
from deepmodels.analysis.cost import flops
from deepmodels.errors import ShapeError
from deepmodels.models import create


def images(size):
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)


def shapes(model, size):
    return jax.eval_shape(model.init, jax.random.key(0), images(size))


@pytest.mark.parametrize(("name", "expected"), [("densenet121", 2_834_161_664), ("densenet161", 7_727_907_072)])
def test_multiply_adds_are_torchvisions(name, expected):
    model = create(name)
    assert flops(model.apply, shapes(model, 224), images(224)) // 2 == expected


def test_a_layer_sees_all_the_maps_before_it():
    names = trees.flatten(shapes(create("densenet121"), 32))
    inputs = [names[f"params/stage1_layer{j}/conv1/kernel"].shape[2] for j in range(12)]
    assert inputs == [128 + 32 * j for j in range(12)]
    assert names["params/stage1_transition/conv/kernel"].shape == (1, 1, 512, 256)


def test_what_a_layer_took_stands_first():
    model = create("densenet_tiny")
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype), shapes(model, 16))
    pixels = rng.normal(size=(1, 16, 16, 3)).astype(np.float32)
    maps = jax.jit(lambda x: model.apply(variables, x, method="features"))(pixels)
    assert maps["stage0"].shape == (1, 4, 4, 16)
    padded = jnp.pad(maps["stem"], ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    windows = [padded[:, i : i + 8 : 2, j : j + 8 : 2] for i in range(3) for j in range(3)]
    np.testing.assert_array_equal(maps["stage0"][..., :8], jnp.stack(windows).max(0))


def test_images_too_small_to_be_halved_are_an_error():
    model = create("densenet121")
    assert shapes(model, 29) == shapes(model, 224)
    with pytest.raises(ShapeError, match="images: too small for this model"):
        shapes(model, 28)
