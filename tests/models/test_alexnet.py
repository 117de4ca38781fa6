import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import trees
from deepmodels.analysis.cost import flops
from deepmodels.errors import ShapeError
from deepmodels.models import create


def images(size, batch=1):
    return jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)


def shapes(model, size):
    return jax.eval_shape(model.init, jax.random.key(0), images(size))


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [("alexnet_paper", 227, 724_406_816), ("alexnet", 224, 714_188_480)],
)
def test_multiply_adds(name, size, expected):
    model = create(name)
    assert flops(model.apply, shapes(model, size), images(size)) // 2 == expected


@pytest.mark.parametrize(
    ("name", "size", "widths"), [("alexnet_paper", 227, (96, 256, 256)), ("alexnet", 224, (64, 192, 256))]
)
def test_features_are_the_pooled_maps(name, size, widths):
    model = create(name)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), shapes(model, size), images(size))
    assert [x.shape for x in maps.values()] == [(1, n, n, c) for n, c in zip((27, 13, 6), widths, strict=True)]
    assert list(maps) == list(model.strides)


@pytest.mark.parametrize(("name", "size"), [("alexnet_paper", 67), ("alexnet", 63)])
def test_without_classes_the_last_hidden_layer_comes_back(name, size):
    model = create(name, num_classes=0)
    variables = shapes(model, size)
    assert jax.eval_shape(model.apply, variables, images(size)).shape == (1, 4096)
    whole = trees.flatten(shapes(create(name), size))
    assert set(whole) - set(trees.flatten(variables)) == {"params/head/kernel", "params/head/bias"}


@pytest.mark.parametrize(("name", "size"), [("alexnet_paper", 66), ("alexnet", 62)])
def test_too_small_images_are_an_error(name, size):
    with pytest.raises(ShapeError, match="images: too small for this model"):
        shapes(create(name), size)


def test_the_form_of_2014_takes_images_of_any_size_with_the_same_parameters():
    model = create("alexnet")
    assert shapes(model, 63) == shapes(model, 300)


def test_the_form_of_2012_starts_some_biases_at_one():
    """Section 5: convolutions 2, 4 and 5 and the hidden layers; the head and the others at zero."""
    model = create("alexnet_paper", hidden_size=8, num_classes=4)

    @jax.jit
    def start():
        params = model.init(jax.random.key(0), jnp.zeros((1, 67, 67, 3)))["params"]
        return {name: layer["bias"] for name, layer in params.items()}, params["conv1"]["kernel"]

    biases, kernel = start()
    ones = ("conv2", "conv4", "conv5", "dense1", "dense2")
    assert {name: np.unique(bias).tolist() for name, bias in biases.items()} == {
        name: [1.0] if name in ones else [0.0] for name in biases
    }
    assert kernel.std() == pytest.approx(0.01, rel=0.02)


def test_the_two_groups_of_2012_meet_in_the_third_convolution():
    params = shapes(create("alexnet_paper"), 67)["params"]
    seen = {name: layer["kernel"].shape[2] for name, layer in params.items() if name.startswith("conv")}
    assert seen == {"conv1": 3, "conv2": 96 / 2, "conv3": 256, "conv4": 384 / 2, "conv5": 384 / 2}


def test_dropout_is_for_training():
    model, without = create("alexnet_tiny", dropout_rate=0.5), create("alexnet_tiny")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes(model, 64))

    @jax.jit
    def run(key):
        dropped = model.apply(variables, x, train=True, rngs={"dropout": key})
        return dropped, model.apply(variables, x), without.apply(variables, x, train=True)

    (first, evaluated, plain), (second, _, _) = run(jax.random.key(0)), run(jax.random.key(1))
    assert not np.allclose(first, second)
    assert not np.allclose(first, plain)
    np.testing.assert_allclose(evaluated, plain, rtol=1e-5)
