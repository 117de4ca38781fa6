import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import trees
from deepmodels.analysis.cost import flops
from deepmodels.models import MODELS, create
from deepmodels.models.efficientnet import SqueezeExcitation


def images(size):
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)


def shapes(model, size=32):
    return jax.eval_shape(model.init, jax.random.key(0), images(size))


@pytest.mark.parametrize(("name", "expected"), [("efficientnet_b0", 385_814_752), ("efficientnet_b2", 1_087_529_456)])
def test_multiply_adds_are_torchvisions(name, expected):
    model, (size, *_) = create(name), MODELS[name].inputs["images"].shape
    assert flops(model.apply, shapes(model), images(size)) // 2 == expected


def test_depth_rounds_up():
    names = trees.flatten(shapes(create("efficientnet_b1")))
    sizes = [sum(f"params/stage{i}_block{j}/project_conv/kernel" in names for j in range(9)) for i in range(7)]
    assert sizes == [2, 3, 3, 4, 4, 5, 2]  # 1.1 times 1, 2, 2, 3, 3, 4, 1


def test_the_gate_sees_the_mean_of_all_channels():
    layer, rng = SqueezeExcitation(2), np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 3, 4)).astype(np.float32)
    like = jax.eval_shape(layer.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), like)
    reduce, expand = (variables["params"][name] for name in ("reduce", "expand"))
    hidden = x.mean((1, 2)) @ reduce["kernel"][0, 0] + reduce["bias"]
    gate = hidden / (1 + np.exp(-hidden)) @ expand["kernel"][0, 0] + expand["bias"]
    expected = x / (1 + np.exp(-gate))[:, None, None]
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-5, atol=1e-6)


def test_branches_are_dropped_whole_and_by_example():
    model = create("efficientnet_tiny", stochastic_depth_rate=0.999, num_classes=0)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(4, 8, 8, 3)).astype(np.float32)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype), shapes(model))

    @jax.jit
    def train(key):
        arguments = dict(train=True, mutable=["batch_stats", "intermediates"], rngs={"dropout": key})
        _, seen = model.apply(variables, pixels, capture_intermediates=True, **arguments)
        return seen["intermediates"]["stage1_block1"]["stochastic_depth"]["__call__"][0]

    kept = jnp.concatenate([jnp.any(train(jax.random.key(i)) != 0, (1, 2, 3)) for i in range(8)])
    # block 2 of 3, so at a rate of 2/3 of 0.999
    assert 0 < kept.mean() < 0.7
