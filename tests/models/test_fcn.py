"""The fully convolutional networks; against torchvision's in tests/weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import trees
from deepmodels.models import MODELS, create
from deepmodels.models.fcn import upsample


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("fcn_resnet50", 35_322_218), ("fcn_resnet101", 54_314_346), ("deeplabv3_resnet101", 60_996_202)],
)
def test_parameters_with_the_auxiliary_head_to_the_unit(name, parameters):
    model, images = create(name, aux_head=True), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert trees.count(variables["params"]) == parameters


@pytest.mark.parametrize("name", ["fcn_tiny", "deeplab_tiny"])
def test_logits_are_of_the_images_size_and_training_adds_the_auxiliary_ones(name):
    model = create(name, aux_head=True, aux_dropout_rate=0.0, num_classes=3)
    images = jax.ShapeDtypeStruct((2, 37, 50, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.eval_shape(model.apply, variables, images).shape == (2, 37, 50, 3)
    train = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]), variables, images)
    logits, (auxiliary,) = train[0]
    assert logits.shape == auxiliary.shape == (2, 37, 50, 3)


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_feature_maps_stop_shrinking_at_an_eighth(name):
    model, images = create(name), jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), variables, images)
    assert list(model.strides.values()) == [2, 4, 8, 8, 8]
    assert model.strides.keys() == maps.keys()
    for stage, stride in model.strides.items():
        assert maps[stage].shape[1:3] == (64 // stride, 96 // stride)


def test_upsampling_is_bilinear_between_the_pixels_centres():
    """Written out: a pixel's centre is at i + 1/2, and beyond the outermost centres nothing changes."""
    small = np.random.default_rng(0).normal(size=(1, 3, 4, 2)).astype(np.float32)

    def along(values, size):
        at = np.clip((np.arange(size) + 0.5) * len(values) / size - 0.5, 0, len(values) - 1)
        low = np.minimum(at.astype(int), len(values) - 2)
        share = (at - low)[:, None, None]
        return values[low] * (1 - share) + values[low + 1] * share

    expected = along(along(small[0], 7).transpose(1, 0, 2), 10).transpose(1, 0, 2)
    np.testing.assert_allclose(upsample(jnp.asarray(small), 7, 10)[0], expected, atol=1e-6)


def test_rows():
    assert {name for name, row in MODELS.items() if row.family in ("fcn", "deeplab")} == {
        *("fcn_resnet50", "fcn_resnet101", "fcn_tiny"),
        *("deeplabv3_resnet50", "deeplabv3_resnet101", "deeplab_tiny"),
    }
