"""Augmentations are reproducible by key, differ by example, and have the distributions their docstrings promise."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from deepmodels import augment
from deepmodels.augment import adaptive, geometry, policies
from deepmodels.errors import ConfigError, ShapeError

ARGUMENTS = {
    "random_crop": {"padding": 2},
    "random_flip": {},
    "random_resized_crop": {"size": 6},
    "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2},
    "pca_lighting": {"std": 0.5},
    "auto_augment": {},
    "rand_augment": {},
    "trivial_augment": {},
    "aug_mix": {"width": 2},
    "random_erasing": {"value": "random"},
    "cutout": {"size": 3},
}
POLICIES = ("auto_augment", "rand_augment", "trivial_augment", "aug_mix")  # of bytes only
MIXES = {"mixup": {"num_classes": 4}, "cutmix": {"num_classes": 4}}


apply_operation = jax.jit(policies.apply)


def batch(dtype: str = "uint8", size: int = 16) -> np.ndarray:
    """Returns images (size, 6, 8, 3), of which no pixel is 0."""
    return np.random.default_rng(0).integers(1, 256, (size, 6, 8, 3)).astype(dtype)


def same_images(size: int = 64) -> np.ndarray:
    return np.repeat(batch(size=1), size, axis=0)


def test_every_augmentation_is_tested_here():
    assert ARGUMENTS.keys() == augment.AUGMENTATIONS.keys()
    assert MIXES.keys() == augment.MIXES.keys()


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
def test_shape_and_dtype_are_kept(name, dtype):
    function = partial(augment.AUGMENTATIONS[name], **ARGUMENTS[name])
    images = jax.ShapeDtypeStruct((5, 6, 8, 3), jnp.dtype(dtype))
    if name in POLICIES and dtype != "uint8":
        with pytest.raises(ShapeError, match=f"images: expected uint8, 0 to 255, got {dtype}"):
            jax.eval_shape(function, jax.random.key(0), images)
        return
    result = jax.eval_shape(function, jax.random.key(0), images)
    shape = (5, 6, 6, 3) if name == "random_resized_crop" else images.shape
    assert (result.shape, result.dtype) == (shape, images.dtype)


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name != "pca_lighting"])
def test_grey_images_are_welcome(name):
    images = jax.ShapeDtypeStruct((5, 6, 8, 1), jnp.uint8)
    function = partial(augment.AUGMENTATIONS[name], **ARGUMENTS[name])
    assert jax.eval_shape(function, jax.random.key(0), images).shape[-1] == 1


@pytest.mark.parametrize("name", ["pca_lighting", "color_jitter", "rand_augment"])
def test_two_channels_are_refused(name):
    images = jax.ShapeDtypeStruct((5, 6, 8, 2), jnp.uint8)
    with pytest.raises(ShapeError, match="expected 3 channels, red, green and blue, got 2"):
        jax.eval_shape(partial(augment.AUGMENTATIONS[name], **ARGUMENTS[name]), jax.random.key(0), images)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_key_decides_and_examples_differ(name):
    function = jax.jit(partial(augment.AUGMENTATIONS[name], **ARGUMENTS[name]))
    images = same_images()
    first, again, other = (np.asarray(function(jax.random.key(k), images)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(np.unique(first, axis=0)) >= 2
    assert len(np.unique(first, axis=0)) >= (2 if name == "random_flip" else 10)


@pytest.mark.parametrize("name", ["random_crop", "random_resized_crop", "color_jitter", "rand_augment", "cutmix"])
def test_sharding_changes_nothing(name):
    function = jax.jit(augment.create({name: (ARGUMENTS | MIXES)[name]}))
    given = {"image": batch(), "label": np.arange(16, dtype=np.int32) % 4}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    placed = jax.device_put(given, NamedSharding(mesh, PartitionSpec("data")))
    whole, parts = function(jax.random.key(3), given), function(jax.random.key(3), placed)
    assert parts["image"].sharding.is_equivalent_to(placed["image"].sharding, 4)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(parts))


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


def test_random_crop_of_a_smaller_window():
    images = batch()
    result = np.asarray(augment.random_crop(jax.random.key(0), jnp.asarray(images), size=5))
    assert result.shape == (16, 5, 5, 3)
    places = set()
    for image, window in zip(images, result, strict=True):
        found = [(i, j) for i in range(2) for j in range(4) if np.array_equal(image[i : i + 5, j : j + 5], window)]
        assert len(found) == 1
        places.update(found)
    assert len(places) > 4


def test_random_resized_crop_draws_boxes_of_the_given_scale_and_ratio():
    key, scale, ratio = jax.random.key(0), (0.1, 0.4), (0.5, 1.5)
    boxes = geometry._random_boxes(key, jnp.zeros((2000, 80, 100, 1)), scale, ratio)
    top, left, height, width, found = np.asarray(boxes).T
    assert found.all()
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == 80
    assert (left + width).max() == 100
    area, shape = height * width / 8000, width / height
    for values, (low, high) in ((area, scale), (shape, ratio)):
        assert low * 0.95 < values.min() < low * 1.1
        assert high * 0.9 < values.max() < high * 1.05
    assert abs(area.mean() - 0.25) < 0.01
    assert abs(np.median(np.log(shape)) - np.log(0.75) / 2) < 0.05
    assert abs(np.mean((top + 0.5) / (81 - height)) - 0.5) < 0.03
    assert abs(np.mean((left + 0.5) / (101 - width)) - 0.5) < 0.03

    images = jnp.asarray(batch())
    cropped = augment.random_resized_crop(key, images, 5)
    boxes = geometry._random_boxes(key, images, (0.08, 1.0), (3 / 4, 4 / 3))
    for i in (0, 7):
        np.testing.assert_array_equal(cropped[i], augment.resized_crop(images[i], *boxes[i, :4], (5, 5)))


def test_random_resized_crop_that_nothing_fits_is_the_largest_at_the_centre():
    images = np.arange(60, dtype=np.uint8).reshape(1, 6, 10, 1)
    found = augment.random_resized_crop(jax.random.key(0), jnp.asarray(images), 6, scale=(2.0, 3.0), ratio=(1.0, 1.0))
    np.testing.assert_array_equal(found, images[:, :, 2:8])


def test_a_resized_crop_of_the_same_size_is_a_crop():
    image = jnp.asarray(batch()[0])
    np.testing.assert_array_equal(augment.resized_crop(image, 1, 2, 4, 5, (4, 5)), image[1:5, 2:7])


def test_color_jitter_changes_in_order_by_its_draws():
    images, key = jnp.asarray(batch()), jax.random.key(0)
    amounts = {"brightness": 0.4, "contrast": 0.2, "saturation": 0.7, "hue": 0.1}
    expected = images
    for (name, amount), own in zip(amounts.items(), jax.random.split(key, 4), strict=True):
        center = 0 if name == "hue" else 1
        drawn = jax.random.uniform(own, (16,), minval=center - amount, maxval=center + amount)
        expected = jax.vmap(getattr(augment, name))(expected, drawn)
    np.testing.assert_allclose(augment.color_jitter(key, images, **amounts), np.float32(expected), atol=1)
    np.testing.assert_array_equal(augment.color_jitter(key, images), images)
    floats = np.asarray(augment.color_jitter(key, images.astype(jnp.float32) / 255, **amounts))
    assert floats.max() > 1.1, "floats aren't clipped"


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness", "hue"])
def test_colors_of_floats_scale_with_them(name):
    """What changes bytes changes floats alike, on any scale."""
    image, amount = jnp.asarray(batch("float32")[0]), 0.3
    function = getattr(augment, name)
    np.testing.assert_allclose(function(image / 255, amount) * 255, function(image, amount), atol=1e-3)
    neutral = 0.0 if name == "hue" else 1.0
    np.testing.assert_allclose(function(image, neutral), image, atol=1e-3)


def test_hue_turns_the_circle():
    red, green, blue = np.eye(3, dtype=np.float32)
    third = augment.hue(jnp.asarray([[red, green, blue]]), 1 / 3)
    np.testing.assert_allclose(third[0], [green, blue, red], atol=1e-5)
    np.testing.assert_allclose(augment.hue(jnp.asarray([[red]]), 0.5)[0, 0], 1 - red, atol=1e-5)


def test_pca_lighting_adds_one_colour_to_an_image():
    images = np.full((2000, 2, 2, 3), 100.0, np.float32)
    added = np.asarray(augment.pca_lighting(jax.random.key(0), jnp.asarray(images), std=0.1)) - 100
    np.testing.assert_array_equal(added, np.broadcast_to(added[:, :1, :1], added.shape))
    values, vectors = np.linalg.eigh(np.cov(added[:, 0, 0].T / 255))
    np.testing.assert_allclose(np.sqrt(values[::-1]), 0.1 * np.array([0.2175, 0.0188, 0.0045]), rtol=0.06)
    np.testing.assert_allclose(np.abs(vectors[:, -1]), [0.5675, 0.5808, 0.5836], atol=0.01)


def test_random_erasing_blanks_boxes_in_a_share_of_the_images():
    images = np.full((1000, 20, 30, 3), 9, np.uint8)
    found = augment.random_erasing(jax.random.key(0), jnp.asarray(images), 0.3, (0.1, 0.2), (0.5, 2.0), (1, 2, 3))
    found = np.asarray(found)
    blank = found[..., 0] == 1
    np.testing.assert_array_equal(found[blank], np.broadcast_to([1, 2, 3], (blank.sum(), 3)))
    assert (found[~blank] == 9).all()
    sizes = []
    for mask in blank[blank.any((1, 2))]:
        height, width = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == height * width
        sizes.append((height * width / 600, width / height))
    assert 0.25 < len(sizes) / 1000 < 0.35
    area, ratio = np.transpose(sizes)
    assert 0.09 < area.min() < 0.12
    assert 0.18 < area.max() < 0.23
    assert 0.4 < ratio.min() < 0.7
    assert 1.6 < ratio.max() < 2.4
    noise = np.asarray(augment.random_erasing(jax.random.key(0), jnp.asarray(images), 1.0, value="random"))
    assert noise[noise != 9].std() > 60


@pytest.mark.parametrize("name", policies.OPERATIONS)
def test_each_operation_of_the_policies_is_its_own(name):
    """The switch picks the operation of that place, and a warp leaves colours alone."""
    image = jnp.asarray(np.random.default_rng(0).integers(9, 200, (20, 30, 3)), jnp.uint8)
    magnitude = {"posterize": 3.0, "solarize": 100.0, "translate_x": 2.0, "translate_y": 2.0}.get(name, 0.3)
    found = apply_operation(image, policies.OPERATIONS.index(name), magnitude)
    if name in policies.WARPS:
        expected = augment.affine(image, policies.WARPS[name](jnp.float32(magnitude), 20, 30))
    else:
        expected = policies.COLORS[name](image, jnp.float32(magnitude))
    np.testing.assert_allclose(np.float32(found), np.float32(expected), atol=1)  # compiled together, sums may differ
    assert (np.asarray(found) != np.asarray(image)).any() == (name != "identity")


def test_translations_go_right_and_down():
    image = jnp.asarray(batch()[0])
    right = apply_operation(image, policies.OPERATIONS.index("translate_x"), 3.9)
    np.testing.assert_array_equal(right[:, 3:], image[:, :-3])
    assert not np.asarray(right[:, :3]).any()
    down = apply_operation(image, policies.OPERATIONS.index("translate_y"), -1.0)
    np.testing.assert_array_equal(down[:-1], image[1:])


def test_policies_draw_every_operation_evenly(monkeypatch):
    """With the operations replaced by the number of the one that is drawn, the histogram of a policy is seen."""

    def mark(image, operation, magnitude):
        return image.at[0, 0, 0].set(operation.astype(jnp.uint8)).at[0, 0, 1].set((magnitude < 0).astype(jnp.uint8))

    monkeypatch.setattr(policies, "apply", mark)
    images = jnp.zeros((3000, 2, 2, 3), jnp.uint8)
    invert = policies.OPERATIONS.index("invert")
    for function, absent in ((augment.rand_augment, {invert}), (augment.trivial_augment, {invert})):
        found = np.asarray(function(jax.random.key(0), images))[:, 0, 0]
        counts = np.bincount(found[:, 0], minlength=15)
        assert set(np.flatnonzero(counts == 0)) == absent
        assert counts[counts > 0].min() > 150
        signed = found[found[:, 0] == policies.OPERATIONS.index("rotate"), 1]
        assert 0.35 < signed.mean() < 0.65
        unsigned = np.isin(found[:, 0], [policies.OPERATIONS.index(n) for n in ("posterize", "solarize")])
        assert not found[unsigned, 1].any()
    last = np.asarray(augment.auto_augment(jax.random.key(0), images))[:, 0, 0, 0]
    seen = np.bincount(last, minlength=15) / 3000
    expected = np.zeros(15)
    for _, (name, probability, _) in policies.IMAGENET_POLICY:
        expected[policies.OPERATIONS.index(name)] += probability / 25
        expected[0] += (1 - probability) / 25
    np.testing.assert_allclose(seen, expected, atol=0.03)


def test_policies_are_as_long_and_as_strong_as_asked(monkeypatch):
    images, key = jnp.zeros((200, 2, 2, 3), jnp.uint8), jax.random.key(0)
    monkeypatch.setattr(policies, "apply", lambda image, operation, magnitude: image + 1)
    assert (augment.rand_augment(key, images, num_ops=5) == 5).all()
    depth = np.asarray(augment.aug_mix(key, images + 100, width=1)) - 100
    assert set(np.unique(depth)) == {0, 1, 2}, "between the image and a chain of one to three, without the fraction"

    def degrees(image, operation, magnitude):
        turned = jnp.where(operation == policies.OPERATIONS.index("rotate"), jnp.abs(magnitude), 0)
        return jnp.maximum(image, jnp.round(turned).astype(jnp.uint8))

    monkeypatch.setattr(policies, "apply", degrees)
    assert augment.rand_augment(key, images, magnitude=12).max() == 12
    assert 5 < augment.aug_mix(key, images, severity=4).max() <= 10
    assert augment.auto_augment(key, images).max() == 30
    assert augment.trivial_augment(key, images).max() > 60


def test_mixup_is_a_weighted_mean_of_partners():
    images, labels = batch("float32"), np.arange(16, dtype=np.int32) % 4
    mixed, targets = augment.mixup(jax.random.key(0), jnp.asarray(images), jnp.asarray(labels), 4, alpha=1.0)
    share = float(jax.random.beta(jax.random.key(0), 1.0, 1.0))
    assert 0.05 < share < 0.95
    one_hot = np.eye(4)[labels]
    np.testing.assert_allclose(mixed, share * images + (1 - share) * np.roll(images, 1, 0), rtol=1e-4)
    np.testing.assert_allclose(targets, share * one_hot + (1 - share) * np.roll(one_hot, 1, 0), rtol=1e-5)
    whole, _ = augment.mixup(jax.random.key(0), jnp.asarray(batch()), jnp.asarray(labels), 4, alpha=1.0)
    assert np.abs(np.asarray(mixed) - np.asarray(whole)).max() <= 0.5001


def test_cutmix_takes_a_box_and_its_share_of_the_label():
    images = np.repeat(np.arange(4, dtype=np.uint8), 20 * 30).reshape(4, 20, 30, 1)
    labels = jnp.arange(4, dtype=jnp.int32)
    kept = []
    for key in range(12):
        mixed, targets = map(np.asarray, augment.cutmix(jax.random.key(key), jnp.asarray(images), labels, 4))
        for i in range(4):
            box = mixed[i, ..., 0] == (i - 1) % 4
            assert (mixed[i, ..., 0][~box] == i).all()
            assert box.sum() == box.any(1).sum() * box.any(0).sum()
            np.testing.assert_allclose(targets[i, i], 1 - box.mean(), atol=1e-6)
            np.testing.assert_allclose(targets[i, (i - 1) % 4], box.mean(), atol=1e-6)
        kept.append(targets[0, 0])
    assert np.ptp(kept) > 0.5


def test_of_several_mixes_each_batch_gets_one():
    images, labels = jnp.asarray(batch()), jnp.arange(16, dtype=jnp.int32) % 4
    both = jax.jit(augment.create(MIXES))
    single = {name: jax.jit(augment.create({name: MIXES[name]})) for name in MIXES}
    chosen = []
    for k in range(8):
        given = (jax.random.key(k), {"image": images, "label": labels, "id": labels})
        found = both(*given)
        assert found["label"].shape == (16, 4)
        np.testing.assert_allclose(found["label"].sum(1), 1, rtol=1e-5)
        np.testing.assert_array_equal(found["id"], labels)
        alone = {name: np.array_equal(function(*given)["image"], found["image"]) for name, function in single.items()}
        chosen += [name for name, equal in alone.items() if equal]
    assert len(chosen) == 8
    assert set(chosen) == {"mixup", "cutmix"}


def test_mixes_need_classes():
    images = jnp.asarray(batch())
    with pytest.raises(ShapeError, match=r"labels: expected integers of shape \(batch,\), got float32 \(16, 4\)"):
        augment.mixup(jax.random.key(0), images, jnp.zeros((16, 4)), 4)
    with pytest.raises(ConfigError, match="alpha: expected a positive number, got 0"):
        augment.cutmix(jax.random.key(0), images, jnp.zeros(16, jnp.int32), 4, alpha=0)


def test_a_recipe_is_its_steps_in_the_table_order_with_keys_of_their_own():
    images, key = jnp.asarray(batch()), jax.random.key(9)
    names = ("cutout", "random_crop", "color_jitter", "random_flip")
    found = augment.create({name: ARGUMENTS[name] for name in names})(key, {"image": images, "label": 3})
    expected = images
    for position, (name, function) in enumerate(augment.AUGMENTATIONS.items()):
        if name in names:
            expected = function(jax.random.fold_in(key, position), expected, **ARGUMENTS[name])
    np.testing.assert_array_equal(found["image"], expected)
    assert found["label"] == 3
    np.testing.assert_array_equal(augment.create({})(key, {"image": images})["image"], images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"random_crpo": {}}, "unknown augmentation 'random_crpo': did you mean 'random_crop'?"),
        ({"mixpu": {}}, "unknown augmentation 'mixpu': did you mean 'mixup'?"),
        (
            {"random_crop": {"pading": 4}},
            "unknown argument of augmentation 'random_crop' 'pading': did you mean 'padding'?",
        ),
        ({"random_resized_crop": {}}, "augmentation 'random_resized_crop' needs 'size'"),
        ({"mixup": {}}, "augmentation 'mixup' needs 'num_classes'"),
        ({"mixup": {"num_classes": 3, "labels": 1}}, "unknown argument of augmentation 'mixup' 'labels'"),
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
        ("random_crop", {"size": 7}),
        ("random_flip", {"probability": 1.5}),
        ("random_resized_crop", {"size": 0}),
        ("random_resized_crop", {"scale": (0.5, 0.2), "size": 4}),
        ("random_resized_crop", {"ratio": (0.0, 0.2), "size": 4}),
        ("color_jitter", {"brightness": -0.1}),
        ("color_jitter", {"contrast": 2.0}),
        ("color_jitter", {"hue": 0.6}),
        ("rand_augment", {"magnitude": 31}),
        ("rand_augment", {"num_ops": 0}),
        ("aug_mix", {"severity": 11}),
        ("aug_mix", {"width": 0}),
        ("aug_mix", {"alpha": 0.0}),
        ("random_erasing", {"probability": -1}),
        ("random_erasing", {"value": "noise"}),
        ("random_erasing", {"value": (1, 2)}),
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


def test_what_a_discriminator_sees_is_changed_as_often_as_the_probability_says():
    images = np.random.default_rng(0).normal(size=(400, 8, 8, 3)).astype(np.float32)
    see = jax.jit(augment.discriminator_augment)
    np.testing.assert_array_equal(see(jax.random.key(0), images, jnp.float32(0)), images)  # to the bit
    changed = np.abs(see(jax.random.key(0), images, jnp.float32(0.05)) - images).max((1, 2, 3)) > 1e-6
    assert abs(changed.mean() - (1 - 0.95**8)) < 4 * 0.5 / np.sqrt(400)  # by one of eight
    assert (np.abs(see(jax.random.key(0), images, jnp.float32(1)) - images).max((1, 2, 3)) > 1e-3).all()
    grey = see(jax.random.key(0), images[..., :1], jnp.float32(0.05))
    changed = np.abs(grey - images[..., :1]).max((1, 2, 3)) > 1e-6
    assert abs(changed.mean() - (1 - 0.95**7)) < 4 * 0.5 / np.sqrt(400)  # there is no saturation


def test_the_gradient_of_what_a_discriminator_sees_is_that_of_finite_differences():
    rng = np.random.default_rng(1)
    images, weights, other = (jnp.asarray(rng.normal(size=(6, 8, 6, 3)), jnp.float32) for _ in range(3))
    see = lambda x: augment.discriminator_augment(jax.random.key(2), x, jnp.float32(0.7))  # noqa: E731
    slope = (jax.jit(jax.grad(lambda x: (weights * see(x)).sum()))(images) * other).sum((1, 2, 3))
    see = jax.jit(see)
    difference = (weights * (see(images + other) - see(images))).sum((1, 2, 3))  # which is linear in the pictures
    np.testing.assert_allclose(slope, difference, rtol=1e-3, atol=1e-3)
    assert (np.abs(slope) > 1e-2).all()


@pytest.mark.parametrize(
    ("matrix", "wanted"),
    [
        ([[-1, 0, 0], [0, 1, 0]], lambda x: x[:, ::-1]),
        ([[0, 1, 0], [-1, 0, 0]], lambda x: np.rot90(x, -1)),
        ([[1, 0, 1], [0, 1, -2]], lambda x: np.pad(x, ((2, 0), (0, 1), (0, 0)), mode="reflect")[:-2, 1:]),
        ([[1, 0, 0.5], [0, 1, 0]], lambda x: (x + np.pad(x, ((0, 0), (0, 1), (0, 0)), mode="reflect")[:, 1:]) / 2),
    ],
)
def test_warps_by_known_matrices(matrix, wanted):
    image = np.random.default_rng(2).normal(size=(5, 5, 2)).astype(np.float32)
    whole = jnp.asarray([*matrix, [0, 0, 1]], jnp.float32)
    np.testing.assert_allclose(adaptive._warp(jnp.asarray(image), whole), wanted(image), atol=1e-6)
