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
    ("name", "expected"),
    [
        ("vgg11", 7_609_090_048),
        ("vgg13", 11_308_466_176),
        ("vgg16", 15_470_264_320),
        ("vgg19", 19_632_062_464),
        ("vgg16_bn", 15_470_264_320),
    ],
)
def test_multiply_adds_are_torchvisions(name, expected):
    model = create(name)
    assert flops(model.apply, shapes(model, 224), images(224)) // 2 == expected


def test_features_halve_from_stage_to_stage():
    model = create("vgg16")
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), shapes(model, 64), images(64))
    assert model.strides == {name: 64 // x.shape[1] for name, x in maps.items()}
    assert [x.shape[-1] for x in maps.values()] == [64, 128, 256, 512, 512]


def test_without_classes_the_last_hidden_layer_comes_back():
    model = create("vgg11", num_classes=0)
    variables = shapes(model, 32)
    assert jax.eval_shape(model.apply, variables, images(32)).shape == (1, 4096)
    whole = trees.flatten(shapes(create("vgg11"), 32))
    assert set(whole) - set(trees.flatten(variables)) == {"params/head/kernel", "params/head/bias"}


def test_images_of_other_sizes_take_the_same_parameters():
    model = create("vgg11")
    assert shapes(model, 32) == shapes(model, 250)
    with pytest.raises(ShapeError, match="images: too small for this model"):
        shapes(model, 31)


def test_convolutions_are_named_by_stage():
    names = trees.flatten(shapes(create("vgg19_bn"), 32))
    assert names["params/stage4_conv3/kernel"].shape == (3, 3, 512, 512)
    assert names["batch_stats/stage0_norm1/var"].shape == (64,)


def test_dropout_is_for_training():
    model, without = create("vgg_tiny", dropout_rate=0.5), create("vgg_tiny")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes(model, 8))

    @jax.jit
    def run(key):
        dropped = model.apply(variables, x, train=True, rngs={"dropout": key})
        return dropped, model.apply(variables, x), without.apply(variables, x, train=True)

    (first, evaluated, plain), (second, _, _) = run(jax.random.key(0)), run(jax.random.key(1))
    assert not np.allclose(first, second)
    assert not np.allclose(first, plain)
    np.testing.assert_allclose(evaluated, plain, rtol=1e-5)
