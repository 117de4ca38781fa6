"""Augmentations are reproducible by key, differ by example, and equal plain numpy loops over the same draws."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from deepmodels import augment
from deepmodels.errors import ConfigError, ShapeError

ARGUMENTS = {
    "random_crop": {"padding": 2},
    "random_flip": {},
    "color_jitter": {"brightness": 0.4, "contrast": 0.4},
    "cutout": {"size": 3},
}


def batch(dtype: str = "uint8", size: int = 16) -> np.ndarray:
    """Returns images (size, 6, 8, 3), of which no pixel is 0."""
    return np.random.default_rng(0).integers(1, 256, (size, 6, 8, 3)).astype(dtype)


def same_images(size: int = 64) -> np.ndarray:
    return np.repeat(batch(size=1), size, axis=0)


def test_every_augmentation_is_tested_here():
    assert ARGUMENTS.keys() == augment.AUGMENTATIONS.keys()


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
def test_shape_and_dtype_are_kept(name, dtype):
    images = jax.ShapeDtypeStruct((5, 6, 8, 1), jnp.dtype(dtype))
    result = jax.eval_shape(augment.create({name: ARGUMENTS[name]}), jax.random.key(0), images)
    assert (result.shape, result.dtype) == (images.shape, images.dtype)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_key_decides_and_examples_differ(name):
    function = jax.jit(augment.create({name: ARGUMENTS[name]}))
    images = same_images()
    first, again, other = (np.asarray(function(jax.random.key(k), images)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(np.unique(first, axis=0)) >= 2
    assert len(np.unique(first, axis=0)) >= (2 if name == "random_flip" else 10)


def test_sharding_changes_nothing():
    function = augment.create(ARGUMENTS)
    images = jnp.asarray(batch())
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    placed = jax.device_put(images, sharding)
    whole, parts = jax.jit(function)(jax.random.key(3), images), jax.jit(function)(jax.random.key(3), placed)
    assert parts.sharding.is_equivalent_to(sharding, 4)
    np.testing.assert_array_equal(np.asarray(whole), np.asarray(parts))


def test_random_crop_is_a_window_of_the_padded_image():
    images, padding = batch(), 2
    result = np.asarray(augment.random_crop(jax.random.key(0), jnp.asarray(images), padding))
    offsets = np.asarray(jax.random.randint(jax.random.key(0), (len(images), 2), 0, 2 * padding + 1))
    for image, cropped, (top, left) in zip(images, result, offsets, strict=True):
        padded = np.zeros((6 + 2 * padding, 8 + 2 * padding, 3), np.uint8)
        padded[padding:-padding, padding:-padding] = image
        np.testing.assert_array_equal(cropped, padded[top : top + 6, left : left + 8])
    many = augment.random_crop(jax.random.key(1), jnp.asarray(same_images(512)), padding)
    assert len(np.unique(np.asarray(many), axis=0)) == 25  # every offset from -2 to 2, both ways
    np.testing.assert_array_equal(augment.random_crop(jax.random.key(0), jnp.asarray(images), 0), images)


def test_random_flip_turns_left_to_right():
    images = batch(size=64)
    result = np.asarray(augment.random_flip(jax.random.key(0), jnp.asarray(images)))
    flipped = [np.array_equal(r, image[:, ::-1]) for r, image in zip(result, images, strict=True)]
    kept = [np.array_equal(r, image) for r, image in zip(result, images, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 16 < sum(flipped) < 48
    always = augment.random_flip(jax.random.key(0), jnp.asarray(images), probability=1.0)
    np.testing.assert_array_equal(always, images[:, :, ::-1])


def test_color_jitter_scales_brightness_then_contrast():
    images = batch("float32") / 255
    key = jax.random.key(0)
    brightness, contrast = (
        np.asarray(jax.random.uniform(k, (16, 1, 1, 1), minval=1 - amount, maxval=1 + amount))
        for k, amount in zip(jax.random.split(key), (0.4, 0.2), strict=True)
    )
    expected = images * brightness
    mean = expected.mean(axis=(1, 2, 3), keepdims=True)
    expected = mean + contrast * (expected - mean)
    found = augment.color_jitter(key, jnp.asarray(images), 0.4, 0.2)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    bytes_ = augment.color_jitter(key, jnp.asarray(batch()), 0.4, 0.2)
    np.testing.assert_allclose(bytes_, np.clip(expected * 255, 0, 255), atol=0.51)
    np.testing.assert_array_equal(augment.color_jitter(key, jnp.asarray(batch())), batch())


def test_cutout_blanks_one_square():
    images = np.ones((256, 9, 9, 1), np.uint8)
    blank = np.asarray(augment.cutout(jax.random.key(0), jnp.asarray(images), size=3)) == 0
    places = set()
    for mask in blank[..., 0]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask.sum() == len(rows) * len(columns)  # a filled rectangle
        for found in (rows, columns):
            assert np.all(np.diff(found) == 1)
            assert len(found) == 3 or (len(found) == 2 and (found[0] == 0 or found[-1] == 8))
        places.add((rows[0], columns[0]))
    assert len(places) > 40
    filled = np.asarray(augment.cutout(jax.random.key(0), jnp.asarray(images), size=3, fill=7))
    np.testing.assert_array_equal(filled == 7, blank)


def test_a_recipe_is_its_steps_in_the_table_order_with_keys_of_their_own():
    images, key = jnp.asarray(batch()), jax.random.key(9)
    shuffled = {name: ARGUMENTS[name] for name in ("cutout", "random_crop", "color_jitter", "random_flip")}
    found = augment.create(shuffled)(key, images)
    expected = images
    for position, (name, function) in enumerate(augment.AUGMENTATIONS.items()):
        expected = function(jax.random.fold_in(key, position), expected, **ARGUMENTS[name])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(augment.create({})(key, images), images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"random_crpo": {}}, "unknown augmentation 'random_crpo': did you mean 'random_crop'?"),
        (
            {"random_crop": {"pading": 4}},
            "unknown argument of augmentation 'random_crop' 'pading': did you mean 'padding'?",
        ),
        ({"random_crop": {}}, "augmentation 'random_crop' needs 'padding'"),
        ({"cutout": {"key": 1, "size": 1}}, "unknown argument of augmentation 'cutout' 'key'"),
    ],
)
def test_a_wrong_recipe_is_refused_when_it_is_made(arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        augment.create(arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("random_crop", {"padding": -1}),
        ("random_flip", {"probability": 1.5}),
        ("color_jitter", {"brightness": -0.1}),
        ("color_jitter", {"contrast": 2.0}),
        ("cutout", {"size": 0}),
    ],
)
def test_arguments_out_of_range(name, arguments):
    with pytest.raises(ConfigError, match=f"{next(iter(arguments))}: expected .* got"):
        augment.AUGMENTATIONS[name](jax.random.key(0), jnp.asarray(batch()), **arguments)
    with pytest.raises(ShapeError, match=r"images: expected shape \(batch, height, width, channels\), got \(6, 8, 3\)"):
        augment.AUGMENTATIONS[name](jax.random.key(0), jnp.asarray(batch()[0]), **ARGUMENTS[name])


@pytest.mark.parametrize(("mean", "std"), [((0.49, 0.48, 0.45), (0.2, 0.3, 0.25)), ((0.5,), (0.25,))])
def test_normalize(mean, std):
    images = batch()
    found = augment.normalize(jnp.asarray(images), mean, std)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, (images / 255 - np.array(mean)) / np.array(std), atol=1e-5)


def test_normalize_refuses_what_it_cannot_do():
    images = jnp.asarray(batch())
    with pytest.raises(ShapeError, match=r"expected uint8.*got float32; normalize them once"):
        augment.normalize(augment.normalize(images, (0.5,), (0.5,)), (0.5,), (0.5,))
    with pytest.raises(ShapeError, match="std: expected 1 or 3 numbers"):
        augment.normalize(images, (0.5,), (0.5, 0.5))
