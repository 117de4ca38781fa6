"""Operation counts against counts by hand, and against the published ones of whole models."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from deepmodels import models
from deepmodels.analysis import example, flops, flops_by_scope

NHWC = ("NHWC", "HWIO", "NHWC")


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_a_matrix_product_counts_two_per_multiply_add():
    assert flops(jnp.matmul, array(3, 4), array(4, 5)) == 2 * 3 * 4 * 5
    assert flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), array(7, 3, 4), array(7, 4, 5)) == 7 * 2 * 3 * 4 * 5
    assert flops(jnp.add, array(3, 4), array(3, 4)) == 0


@pytest.mark.parametrize(
    ("images", "kernel", "options", "multiply_adds"),
    [
        ((2, 8, 8, 3), (3, 3, 3, 16), {"padding": "SAME"}, 2 * 8 * 8 * 16 * 9 * 3),
        ((2, 8, 8, 3), (3, 3, 3, 16), {"padding": "VALID", "window_strides": (2, 2)}, 2 * 3 * 3 * 16 * 9 * 3),
        ((2, 8, 8, 6), (3, 3, 2, 12), {"padding": "SAME", "feature_group_count": 3}, 2 * 8 * 8 * 12 * 9 * 2),
        ((2, 8, 8, 6), (3, 3, 1, 6), {"padding": "SAME", "feature_group_count": 6}, 2 * 8 * 8 * 6 * 9),
        ((4, 8, 8, 3), (3, 3, 3, 16), {"padding": "SAME", "batch_group_count": 2}, 2 * 8 * 8 * 16 * 9 * 3),
        ((2, 8, 8, 3), (3, 3, 3, 16), {"padding": "VALID", "rhs_dilation": (2, 2)}, 2 * 4 * 4 * 16 * 9 * 3),
    ],
)
def test_a_convolution_counts_output_by_taps_by_channels_of_a_group(images, kernel, options, multiply_adds):
    conv = partial(lax.conv_general_dilated, dimension_numbers=NHWC, **{"window_strides": (1, 1), **options})
    assert flops(conv, array(*images), array(*kernel)) == 2 * multiply_adds


def test_a_transposed_convolution_counts_no_holes():
    conv = partial(lax.conv_transpose, strides=(2, 2), padding="VALID")
    # each of 5 x 5 inputs meets each of 4 x 4 taps once
    assert flops(conv, array(1, 5, 5, 3), array(4, 4, 3, 8)) == 2 * 25 * 16 * 3 * 8


def test_attention_counts_its_two_products():
    query, batch, length, heads, size = array(2, 10, 3, 4), 2, 10, 3, 4
    expected = 2 * (2 * batch * heads * length * length * size)
    assert flops(jax.nn.dot_product_attention, query, query, query) == expected


def test_a_scan_counts_each_iteration_and_a_while_loop_one():
    def scanned(x, w):
        return lax.scan(lambda carry, _: (carry @ w, None), x, None, length=7)[0]

    def looped(x, w):
        return lax.while_loop(lambda carry: carry.sum() < 9, lambda carry: carry @ w, x)

    once = 2 * 4 * 4 * 4
    assert flops(scanned, array(4, 4), array(4, 4)) == 7 * once
    assert flops(looped, array(4, 4), array(4, 4)) == once


def test_a_conditional_counts_its_costliest_branch():
    def either(x):
        return lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x)

    assert flops(either, array(4, 4)) == 2 * (2 * 4 * 4 * 4)


def test_nested_programs_are_looked_into():
    @jax.custom_vjp
    def custom(x):
        return x @ x

    custom.defvjp(lambda x: (custom(x), x), lambda x, g: (g @ x.T + x.T @ g,))
    once = 2 * 4 * 4 * 4
    assert flops(jax.jit(lambda x: jax.checkpoint(custom)(x)), array(4, 4)) == once
    assert flops(jax.grad(lambda x: custom(x).sum()), array(4, 4)) == 3 * once


def test_a_sharded_body_counts_on_every_device():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    product = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec)
    assert flops(product, array(8, 4), array(4, 5)) == 2 * 8 * 4 * 5


def test_scopes_name_the_modules_and_sum_to_the_whole():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.Dense(4, name="dense")(x), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            stack = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=5)
            x, _ = stack(name="blocks")(x, None)
            return nn.Dense(3, name="head")(x)

    model, x = Net(), array(2, 4)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    found = flops_by_scope(model.apply, variables, x)
    assert found == {"Net/blocks/dense": 5 * 2 * 2 * 4 * 4, "Net/head": 2 * 2 * 4 * 3}

    backward = flops_by_scope(jax.grad(lambda v, x: model.apply(v, x).sum()), variables, x)
    assert backward["Net/head"] == 3 * found["Net/head"]  # forward, to the kernel, to the input


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    [
        ("resnet50", 4_089_184_256),  # torchvision's count
        ("lenet5", 416_520),
    ],
)
def test_published_counts(name, multiply_adds):
    model = models.create(name)
    inputs = example(models.MODELS[name])
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    assert flops(model.apply, variables, *inputs) == 2 * multiply_adds
