import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import trees
from deepmodels.analysis.cost import flops
from deepmodels.models import create
from deepmodels.models.mobilenet import InvertedResidual, round_channels


def images(size, batch=1):
    return jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)


def shapes(model, size=32):
    return jax.eval_shape(model.init, jax.random.key(0), images(size))


def test_multiply_adds_are_torchvisions():
    model = create("mobilenet_v2")
    assert flops(model.apply, shapes(model), images(224)) // 2 == 300_774_272


@pytest.mark.parametrize(
    ("width", "parameters"), [(0.35, 1_677_128), (0.5, 1_968_680), (0.75, 2_636_424), (1.4, 6_108_776)]
)
def test_width_multipliers(width, parameters):
    """The counts of torchvision's class, built with the same multiplier."""
    assert trees.count(shapes(create("mobilenet_v2", width_multiplier=width))["params"]) == parameters


def test_channels_round_to_eights_and_never_far_down():
    assert [round_channels(c) for c in (1, 11, 12, 16, 18, 19.2, 22.4, 44.8)] == [8, 16, 16, 16, 24, 24, 24, 48]


@pytest.mark.parametrize(("stride", "features", "adds"), [(1, 8, True), (2, 8, False), (1, 16, False)])
def test_the_shortcut_is_where_shapes_agree(stride, features, adds):
    block, x = InvertedResidual(features, stride, 6), jnp.full((1, 1, 1, 8), 7.0)
    like = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, False), x)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like)
    np.testing.assert_array_equal(block.apply(zeros, x, False), jnp.full((1, 1, 1, features), 7.0 * adds))


def test_dropout_drops_in_training_only():
    model = create("mobilenet_tiny", dropout_rate=0.5, num_classes=3)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype), shapes(model))

    @jax.jit
    def train(key):
        return model.apply(variables, pixels, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0]

    first, second = train(jax.random.key(0)), train(jax.random.key(1))
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(first, train(jax.random.key(0)))
    assert jax.jit(model.apply)(variables, pixels).shape == (2, 3)  # and asks for no key
