from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from deepmodels.analysis.intermediates import before_head, hidden, intermediates
from deepmodels.errors import ConfigError
from deepmodels.models import create


def made(name, **overrides):
    model = create(name, **overrides)
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    rng = np.random.default_rng(0)
    like = jax.eval_shape(model.init, jax.random.key(0), images)
    return model, jax.tree.map(lambda leaf: rng.uniform(0.1, 0.3, leaf.shape).astype(leaf.dtype), like), images


def test_a_path_gives_the_modules_output():
    model, variables, images = made("mobilenet_tiny")
    found = jax.jit(partial(intermediates, model, pattern="stem*"))(variables, images)
    assert set(found) == {"stem_conv", "stem_norm"}
    kernel = variables["params"]["stem_conv"]["kernel"]
    conv = nn.Conv(kernel.shape[-1], (3, 3), 2, padding=1, use_bias=False)
    np.testing.assert_allclose(
        found["stem_conv"], conv.apply({"params": {"kernel": kernel}}, images), rtol=1e-5, atol=1e-5
    )


def test_the_pattern_chooses_by_path():
    model, variables, images = made("mobilenet_tiny")
    shapes = partial(jax.eval_shape, partial(intermediates, model, pattern="*/project_norm"), variables)
    found = shapes(images)
    assert list(found) == ["stage0_block0/project_norm", "stage1_block0/project_norm", "stage1_block1/project_norm"]
    assert found["stage1_block0/project_norm"].shape == (2, 4, 4, 8)
    every = jax.eval_shape(partial(intermediates, model), variables, images)
    assert {"head", "final_norm", "stage1_block1", "stage1_block1/depthwise_conv"} < set(every)
    assert "" not in every  # the model's own output isn't an intermediate


def test_a_scanned_stack_gives_all_its_layers():
    model, variables, images = made("convnext_micro")
    run = jax.jit(partial(intermediates, model, pattern="stage1_blocks*"))
    found = run(variables, images)
    assert found["stage1_blocks/norm"].shape == (2, 2, 2, 2, 16)
    maps = jax.jit(partial(model.apply, method="features"))(variables, images)
    np.testing.assert_allclose(found["stage1_blocks"][-1], maps["stage1"], rtol=1e-6)
    assert not np.allclose(found["stage1_blocks/dense2"][0], found["stage1_blocks/dense2"][1])


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(3, name="dense")
        split = Pair(name="pair")(dense(dense(x)))
        return split["sum"]


class Pair(nn.Module):
    def __call__(self, x):
        return {"sum": x.sum(-1), "max": x.max(-1)}


def test_several_calls_and_several_outputs_have_names_of_their_own():
    model, x = Twice(), jnp.ones((2, 3))
    variables = model.init(jax.random.key(0), x)
    found = intermediates(model, variables, x)
    assert set(found) == {"dense", "dense#2", "pair/sum", "pair/max"}
    np.testing.assert_array_equal(found["pair/max"], found["dense#2"].max(-1))
    assert not np.array_equal(found["dense"], found["dense#2"])


def test_a_pattern_that_matches_nothing_names_the_nearest():
    model, variables, images = made("mobilenet_tiny")
    with pytest.raises(ConfigError, match=r"'stem_cnov' matches no module, the nearest are stem_conv, "):
        intermediates(model, variables, images, pattern="stem_cnov")


def test_layers_by_name_are_maps_of_features_or_outputs_of_modules():
    model, variables, images = made("mobilenet_tiny")
    found = jax.jit(partial(hidden, model, layers=("stage1", "stem_conv")))(variables, images)
    assert found.keys() == {"stage1", "stem_conv"}
    maps = jax.jit(partial(model.apply, method="features"))(variables, images)
    np.testing.assert_array_equal(found["stage1"], maps["stage1"])
    np.testing.assert_array_equal(
        found["stem_conv"], jax.jit(partial(intermediates, model, pattern="stem_conv"))(variables, images)["stem_conv"]
    )
    with pytest.raises(ConfigError, match=r"no layer 'stage9', the nearest are .*stage1"):
        hidden(model, variables, images, layers=("stage1", "stage9"))


def test_what_the_head_sees():
    model, variables, images = made("mobilenet_tiny")
    seen, logits = jax.jit(partial(before_head, model))(variables, images)
    head = variables["params"]["head"]
    np.testing.assert_allclose(seen @ head["kernel"] + head["bias"][None], logits, rtol=1e-5)
    trunk = create("mobilenet_tiny", num_classes=0)
    without = variables | {"params": {name: tree for name, tree in variables["params"].items() if name != "head"}}
    for output in jax.jit(partial(before_head, trunk))(without, images):
        np.testing.assert_allclose(output, seen, rtol=1e-5)
