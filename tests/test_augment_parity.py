"""Deterministic augmentations against torchvision.transforms.v2, on bytes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from deepmodels import augment
from deepmodels.augment import policies

pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (23, 30, 3), np.uint8)
SMOOTH = np.clip(np.add.outer(np.arange(23) * 4, np.arange(30) * 3)[..., None] + [0, 40, 9], 20, 190).astype(np.uint8)
GREY = NOISE[..., :1]
IMAGES = {"noise": NOISE, "smooth": SMOOTH, "grey": GREY, "flat": np.full((5, 6, 3), 77, np.uint8)}


def theirs(function: str, image: np.ndarray, *args, **kwargs) -> np.ndarray:
    """What torchvision's function of that name makes of an image (H, W, C)."""
    oracles.import_torchvision()
    import torch
    from torchvision.transforms import v2

    pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))
    return np.moveaxis(getattr(v2.functional, function)(pixels, *args, **kwargs).numpy(), 0, -1)


def assert_close(found, expected: np.ndarray, levels: int, share: float = 1.0) -> None:
    """At most `levels` grey levels apart, and apart at all in at most `share` of the pixels."""
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    apart = np.abs(np.asarray(found).astype(int) - expected)
    assert apart.max() <= levels
    assert (apart > 0).mean() <= share


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
@pytest.mark.parametrize(
    ("function", "name", "values"),
    [
        (augment.posterize, "posterize", (0, 1, 4, 7, 8)),
        (augment.solarize, "solarize", (0.0, 100.0, 127.5, 255.0)),
        (augment.invert, "invert", ()),
        (augment.equalize, "equalize", ()),
        (augment.autocontrast, "autocontrast", ()),
        (augment.brightness, "adjust_brightness", (0.0, 0.3, 1.0, 1.7)),
        (augment.contrast, "adjust_contrast", (0.0, 0.3, 1.0, 1.7)),
        (augment.saturation, "adjust_saturation", (0.0, 0.3, 1.0, 1.7)),
        (augment.sharpness, "adjust_sharpness", (0.0, 0.3, 1.0, 1.7)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_colors(function, name, values, image):
    """Equal to the grey level, but for sums of floats that land on either side of a whole number."""
    exact = name in ("posterize", "solarize", "invert", "equalize")
    jitted = jax.jit(function)
    for value in values:
        assert_close(jitted(image, value), theirs(name, image, value), 0 if exact else 1, 0.02)
    if not values:
        assert_close(jitted(image), theirs(name, image), 0 if exact else 1, 0.02)


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
@pytest.mark.parametrize("shift", [-0.5, -0.13, 0.0, 0.31])
def test_hue(image, shift):
    assert_close(augment.hue(image, shift), theirs("adjust_hue", image, shift), 1, 0.02)


def test_equalize_of_few_and_many_pixels():
    large = RNG.integers(0, 40, (70, 90, 3), np.uint8) ** 2 // 7
    for image in (large, large[:3, :4], large // 200):
        assert_close(augment.equalize(image), theirs("equalize", image), 0)


def degrees(slope: float) -> float:
    return float(np.rad2deg(np.arctan(slope)))


PLAIN = dict(angle=0.0, translate=[0, 0], scale=1.0, shear=[0.0, 0.0])
WARPS = {
    "shear_x": lambda m: PLAIN | dict(shear=[degrees(m), 0.0], center=[0, 0]),
    "shear_y": lambda m: PLAIN | dict(shear=[0.0, degrees(m)], center=[0, 0]),
    "translate_x": lambda m: PLAIN | dict(translate=[int(m), 0]),
    "translate_y": lambda m: PLAIN | dict(translate=[0, int(m)]),
    "rotate": None,
}


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("image", [NOISE, SMOOTH, GREY], ids=["noise", "smooth", "grey"])
def test_warps(name, image):
    """Within one grey level: their coordinates are floats of another scale."""
    height, width, _ = image.shape
    amounts = {"shear": (-0.3, 0.17, 0.99), "trans": (-7.6, 3.0, 40.0), "rotat": (-135.0, -11.0, 29.5, 90.0)}[name[:5]]
    warp = jax.jit(lambda image, m: augment.affine(image, policies.WARPS[name](m, height, width)))
    for m in amounts:
        if name == "rotate":
            expected = theirs("rotate", image, m, interpolation="bilinear")
        else:
            expected = theirs("affine", image, interpolation="bilinear", **WARPS[name](m))
        assert_close(warp(image, jnp.float32(m)), expected, 1, 0.1)


@pytest.mark.parametrize("size", [(8, 8), (40, 33), (23, 9)])
@pytest.mark.parametrize("box", [(0, 0, 23, 30), (3, 5, 11, 7), (12, 1, 2, 29), (22, 29, 1, 1)])
def test_resized_crop(box, size):
    """Within one grey level: theirs is in whole numbers, rows after columns, and rounds in between."""
    crop = jax.jit(partial(augment.resized_crop, size=size))
    for image in (NOISE, SMOOTH, GREY):
        assert_close(crop(image, *box), theirs("resized_crop", image, *box, size=list(size), antialias=True), 1)


@pytest.mark.parametrize("size", [4, 5, 22, 23, 24, 30, 31, 40])
def test_center_crop(size):
    found = np.asarray(augment.center_crop(jnp.asarray(NOISE)[None], size)[0])
    np.testing.assert_array_equal(found, theirs("center_crop", NOISE, [size, size]))


def test_normalize():
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = theirs("normalize", np.float32(NOISE) / 255, mean, std)
    np.testing.assert_allclose(augment.normalize(jnp.asarray(NOISE)[None], mean, std)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "theirs_name", "bins"),
    [
        ("rand", "RandAugment", 31),
        ("trivial", "TrivialAugmentWide", 31),
        ("auto", "AutoAugment", 10),
        ("mix", "AugMix", 10),
    ],
)
def test_magnitudes_of_the_policies(name, theirs_name, bins):
    """The tables say what torchvision's private ones say, at both ends and in the middle."""
    oracles.import_torchvision()
    from torchvision.transforms import v2

    height, width = 200, 300
    spaces = {
        "rand": policies._magnitudes(0.3, (150 / 331 * height, 150 / 331 * width), 30, 0.9, (8, 4)),
        "trivial": policies._magnitudes(0.99, (32, 32), 135, 0.99, (8, 2)),
        "mix": policies._magnitudes(0.3, (height / 3, width / 3), 30, 0.9, (4, 0)),
    }
    ours = spaces["rand" if name == "auto" else name]
    names = {"Color": "saturation", "AutoContrast": "autocontrast"}
    for key, (magnitudes, signed) in getattr(v2, theirs_name)._AUGMENTATION_SPACE.items():
        own = names.get(key, "".join("_" * (i > 0 and c.isupper()) + c.lower() for i, c in enumerate(key)))
        expected = magnitudes(bins, height, width)
        if expected is None:
            assert ours[own] == (0, 0)
            continue
        assert signed == (own in policies.SIGNED)
        low, high = ours[own]
        found = np.linspace(low, high, bins)
        if own == "posterize":
            found = np.round(found)
        scale = 255 if own == "solarize" else 1
        np.testing.assert_allclose(found, expected.numpy() * scale, atol=1e-4)


def test_the_policy_of_auto_augment():
    oracles.import_torchvision()
    from torchvision.transforms import v2

    names = {"Color": "saturation", "ShearX": "shear_x"}
    expected = tuple(
        tuple((names.get(name, name.lower()), probability, magnitude or 0) for name, probability, magnitude in pair)
        for pair in v2.AutoAugment()._policies
    )
    assert expected == policies.IMAGENET_POLICY
