import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import trees
from deepmodels.analysis.cost import flops
from deepmodels.errors import ShapeError
from deepmodels.models import create
from deepmodels.models.convnext import ConvNeXt


def images(size):
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)


def shapes(model, size=32):
    return jax.eval_shape(model.init, jax.random.key(0), images(size))


def random_variables(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(-0.3, 0.4, leaf.shape).astype(leaf.dtype), shapes(model))


@pytest.mark.parametrize(("name", "expected"), [("convnext_tiny", 4_455_531_264), ("convnext_base", 15_354_729_472)])
def test_multiply_adds_are_torchvisions(name, expected):
    model = create(name)
    assert flops(model.apply, shapes(model), images(224)) // 2 == expected


def test_the_program_does_not_grow_with_depth():
    def equations(blocks):
        model = ConvNeXt((blocks,), (8,), unroll=1)
        return str(jax.make_jaxpr(model.apply)(shapes(model), images(32))).count(" = ")

    assert equations(40) == equations(2)


def test_blocks_of_a_stage_are_stacked():
    tree = trees.flatten(shapes(create("convnext_tiny")))
    assert tree["params/stage2_blocks/depthwise_conv/kernel"].shape == (9, 7, 7, 1, 384)
    assert tree["params/stage2_blocks/layer_scale"].shape == (9, 384)
    assert tree["params/stage2_downsample_conv/kernel"].shape == (2, 2, 192, 384)


def test_the_last_block_is_dropped_at_the_rate_and_the_first_never():
    model = ConvNeXt((2,), (4,), stochastic_depth_rate=0.999, num_classes=0)
    variables = random_variables(model)
    pixels = np.random.default_rng(1).normal(size=(6, 8, 8, 3)).astype(np.float32)

    def features(variables, **arguments):
        run = jax.jit(lambda v: model.apply(v, pixels, **arguments, method="features"))
        return run(variables)["stage0"]

    dropped = features(variables, train=True, rngs={"dropout": jax.random.key(0)})
    scale = variables["params"]["stage0_blocks"]["layer_scale"].copy()
    scale[1] = 0  # the network whose second block does nothing
    variables["params"]["stage0_blocks"]["layer_scale"] = scale
    np.testing.assert_allclose(dropped, features(variables), rtol=1e-5, atol=1e-6)


def test_images_too_small_are_an_error():
    assert shapes(create("convnext_tiny"), 32) == shapes(create("convnext_tiny"), 100)
    with pytest.raises(ShapeError, match=r"images: expected a height and width of at least 32, got \(31, 31\)"):
        shapes(create("convnext_tiny"), 31)
