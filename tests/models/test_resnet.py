from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import trees
from deepmodels.analysis.cost import flops
from deepmodels.errors import ConfigError
from deepmodels.models import create
from deepmodels.models.resnet import BasicBlock, Bottleneck, CifarPreactResNet, CifarResNet, PreactBottleneck


def images(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def shapes(model, *shape):
    return jax.eval_shape(model.init, jax.random.key(0), images(*shape))


def multiply_adds(model, *shape):
    return flops(model.apply, shapes(model, *shape), images(*shape)) // 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("resnet18", 1_814_073_344), ("resnet34", 3_663_761_408), ("resnet50", 4_089_184_256)),
        *(("resnext50_32x4d", 4_230_479_872), ("wide_resnet50_2", 11_398_021_120)),
    ],
)
def test_multiply_adds_are_torchvisions(name, expected):
    assert multiply_adds(create(name), 1, 224, 224, 3) == expected


def test_version_one_strides_a_convolution_earlier():
    paper = multiply_adds(create("resnet50", version="v1"), 1, 224, 224, 3)
    assert paper == pytest.approx(3.86e9, rel=2e-3)  # table 1 prints 3.8
    assert shapes(create("resnet50", version="v1"), 1, 64, 64, 3) == shapes(create("resnet50"), 1, 64, 64, 3)


def test_an_unknown_version_is_an_error():
    with pytest.raises(ConfigError, match=r"unknown version 'v1.6': did you mean 'v1.5'"):
        shapes(create("resnet50", version="v1.6"), 1, 64, 64, 3)


def test_an_output_stride_dilates_instead_of_striding():
    model = create("resnet50", output_stride=8)
    assert model.strides == {"stem": 2, "stage0": 4, "stage1": 8, "stage2": 8, "stage3": 8}
    variables = shapes(model, 1, 64, 64, 3)
    assert variables == shapes(create("resnet50"), 1, 64, 64, 3)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), variables, images(1, 64, 64, 3))
    assert {name: 64 // x.shape[1] for name, x in maps.items()} == model.strides
    text = str(jax.make_jaxpr(model.apply)(variables, images(1, 64, 64, 3)))
    # torchvision's: the first block of a stage dilates as the stage before it, 3 + 4 blocks don't dilate
    assert [text.count(f"rhs_dilation=({d}, {d})") for d in (2, 4)] == [6, 2]


def test_blocks_that_cannot_be_are_errors():
    with pytest.raises(ConfigError, match="output_stride: expected 8, 16 or 32, got 4"):
        shapes(create("resnet50", output_stride=4), 1, 64, 64, 3)
    with pytest.raises(ConfigError, match="groups, width_per_group: BasicBlock has 1 and 64 only"):
        shapes(create("resnet18", groups=32), 1, 64, 64, 3)


def test_leaves_of_a_stage_are_stacked_and_named():
    tree = trees.flatten(shapes(create("resnet20_cifar"), 1, 28, 28, 1))
    assert tree["params/stem_conv/kernel"].shape == (3, 3, 1, 16)
    assert tree["params/stage0_blocks/conv1/kernel"].shape == (3, 3, 3, 16, 16)  # three blocks, none changes the shape
    assert tree["params/stage1_block0/conv1/kernel"].shape == (3, 3, 16, 32)
    assert tree["params/stage1_blocks/conv1/kernel"].shape == (2, 3, 3, 32, 32)
    assert tree["batch_stats/stage2_blocks/norm2/var"].shape == (2, 64)
    assert not any("skip" in name for name in tree)  # option A has no parameters
    names = trees.flatten(shapes(create("resnet50"), 1, 64, 64, 3))
    assert names["params/stage3_block0/conv_skip/kernel"].shape == (1, 1, 1024, 2048)
    assert "params/stage0_block1/norm3/scale" in names


def randomised(tree):
    """Variables away from the ones and zeros they start with; variances stay positive."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: (0.5 * np.abs(rng.normal(size=x.shape)) + 0.1).astype(np.float32), tree)


@pytest.mark.parametrize("model", [CifarResNet(3, (2, 4)), CifarPreactResNet(3, (2, 4))], ids=["post", "pre"])
def test_unrolling_changes_nothing(model):
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
    variables = randomised(jax.eval_shape(model.init, jax.random.key(0), x))

    def run(unroll):
        unrolled = model.clone(unroll=unroll)
        return jax.jit(lambda v, x: unrolled.apply(v, x, train=True, mutable=["batch_stats"]))(variables, x)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), run(1), run(9))


@pytest.mark.parametrize(
    ("model", "block", "kinds"),
    [
        (CifarResNet(3, (2, 4)), BasicBlock, {"shortcut": "padding"}),
        (CifarPreactResNet(3, (2, 4)), PreactBottleneck, {}),
    ],
    ids=["post", "pre"],
)
def test_a_scanned_stage_is_its_blocks_in_order(model, block, kinds):
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    variables = randomised(jax.eval_shape(model.init, jax.random.key(0), x))
    _, seen = jax.jit(partial(model.apply, capture_intermediates=True, mutable=["intermediates"]))(variables, x)
    value = seen["intermediates"]["stage1_block0"]["__call__"][0]
    for i in range(2):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], {c: v["stage1_blocks"] for c, v in variables.items()})
        value = block(4, **kinds).apply(layer, value, False)
        np.testing.assert_allclose(seen["intermediates"]["stage1_blocks"]["__call__"][0][i], value, rtol=1e-5)


def zero_variables(block, x):
    like = jax.eval_shape(lambda key: block.init(key, x, False), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like)


def test_option_a_takes_every_second_pixel_and_pads_channels_on_both_sides():
    x = jnp.arange(2 * 4 * 4 * 2, dtype=jnp.float32).reshape(2, 4, 4, 2)
    block = BasicBlock(4, stride=2, shortcut="padding")
    zeros = zero_variables(block, x)  # leave the shortcut alone
    y = block.apply(zeros, x, False)
    np.testing.assert_array_equal(y[..., 1:3], x[:, ::2, ::2])
    np.testing.assert_array_equal(y[..., [0, 3]], 0)


def test_a_preactivated_block_leaves_its_shortcut_clean():
    x = -jnp.ones((1, 2, 2, 8))
    block = PreactBottleneck(2)
    zeros = zero_variables(block, x)
    np.testing.assert_array_equal(block.apply(zeros, x, False), x)  # a ReLU after the sum would have cut it off


@pytest.mark.parametrize("shape", [(2, 28, 28, 1), (2, 15, 9, 5), (2, 1, 1, 3)])
@pytest.mark.parametrize("name", ["resnet_tiny", "resnet20_cifar", "preact_resnet164_cifar", "resnet18"])
def test_any_size_and_channels(name, shape):
    model = create(name, num_classes=10)
    assert jax.eval_shape(model.apply, shapes(model, *shape), images(*shape)).shape == (2, 10)


def test_the_program_does_not_grow_with_depth():
    def equations(blocks):
        model = CifarResNet(blocks, unroll=1)
        variables = shapes(model, 1, 32, 32, 3)
        return str(jax.make_jaxpr(model.apply)(variables, images(1, 32, 32, 3))).count(" = ")

    assert equations(200) == equations(4)


def test_convolutions_start_with_he_variance_over_the_fan_out():
    init = jax.jit(lambda key: Bottleneck(64).init(key, jnp.zeros((1, 2, 2, 256)), False))
    kernel = init(jax.random.key(0))["params"]["conv2"]["kernel"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert np.abs(kernel).max() > 3 * kernel.std()  # normal, not cut off at two deviations
