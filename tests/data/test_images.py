"""Decoding of every kind of picture, and the way from a file to what a model's weights expect."""

import importlib.util
import struct
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from deepmodels import data
from deepmodels.data.images import ORIENTATIONS, from_pixels, resize_and_crop
from deepmodels.errors import ConfigError, DataError, ShapeError
from deepmodels.models import MODELS
from deepmodels.preprocessing import IMAGENET, INCEPTION_V3, Preprocessing

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 3), np.uint8)
SMOOTH = np.clip(np.add.outer(np.arange(48) * 4, np.arange(64) * 3)[..., None] + [0, 40, 9], 0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_a_file_and_its_bytes(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    for file in (path, str(path), path.read_bytes()):
        found = data.decode_image(file)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, PIXELS)
    grey = data.decode_image(path, channels=1)
    np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(PIXELS).convert("L")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_turned_upright(orientation, kind):
    """What the camera stores is the scene, turned; undoing it, Pillow's own function is the witness."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(Image.fromarray(SMOOTH), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(stored))).convert("RGB"))
    found = data.decode_image(stored)
    np.testing.assert_array_equal(found, expected)
    assert found.shape[:2] == ((64, 48) if orientation >= 5 else (48, 64))
    assert (orientation in ORIENTATIONS) == (orientation != 1)


def test_what_is_transparent_lies_on_white():
    alpha = np.zeros((6, 9, 1), np.uint8)
    alpha[:3] = 255
    rgba = Image.fromarray(np.concatenate([PIXELS, alpha], -1))
    found = data.decode_image(encoded(rgba, "PNG"))
    np.testing.assert_array_equal(found[:3], PIXELS[:3])
    assert (found[3:] == 255).all()
    half = Image.new("RGBA", (1, 1), (0, 100, 200, 51))
    np.testing.assert_array_equal(data.decode_image(encoded(half, "PNG"))[0, 0], [204, 224, 244])
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    np.testing.assert_array_equal(data.decode_image(encoded(palette, "PNG"))[0], [[10, 20, 30], [40, 50, 60]])
    found = data.decode_image(encoded(palette, "PNG", transparency=1))
    np.testing.assert_array_equal(found[0], [[10, 20, 30], [255, 255, 255]])


def test_grey_one_bit_and_cmyk():
    grey = Image.fromarray(PIXELS[..., 0])
    np.testing.assert_array_equal(data.decode_image(encoded(grey, "PNG")), np.repeat(PIXELS[..., :1], 3, -1))
    np.testing.assert_array_equal(data.decode_image(encoded(grey, "PNG"), channels=1), PIXELS[..., :1])
    bits = encoded(Image.fromarray(PIXELS[..., 0] > 127), "PNG")
    assert set(np.unique(data.decode_image(bits))) == {0, 255}
    cmyk = encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=100)
    assert np.abs(data.decode_image(cmyk).astype(int) - SMOOTH).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight(kind):
    deep = (PIXELS[..., 0].astype(np.uint16) << 8) + 77
    found = data.decode_image(encoded(Image.fromarray(deep), kind), channels=1)
    np.testing.assert_array_equal(found[..., 0], PIXELS[..., 0])
    pgm = b"P5 2 1 65535\n" + struct.pack(">2H", 0x1234, 0xFEDC)
    np.testing.assert_array_equal(data.decode_image(pgm, channels=1)[..., 0], [[0x12, 0xFE]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no format that Pillow knows"),
        (b"not an image", "no format that Pillow knows"),
        (encoded(Image.fromarray(SMOOTH), "PNG")[:-40], "truncated|broken"),
        (encoded(Image.fromarray(SMOOTH), "JPEG")[:-60], "truncated|[Pp]remature"),
        (encoded(Image.fromarray(np.float32([[0.5]])), "TIFF"), "floats, whose range isn't known"),
        (encoded(Image.fromarray(np.int32([[70000]])), "TIFF"), "expected 16 bits .* found values 70000"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"bad.png: not a readable image: .*({message})"):
        data.decode_image(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing.png: not a readable image: .*No such file"):
        data.preprocess(tmp_path / "nothing.png", IMAGENET)


@pytest.mark.skipif(importlib.util.find_spec("simplejpeg") is None, reason="simplejpeg isn't installed")
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_simplejpeg_decodes_the_same_pixels(mode, subsampling, monkeypatch):
    noisy = np.clip(SMOOTH + RNG.normal(0, 20, SMOOTH.shape), 0, 255).astype(np.uint8)
    content = encoded(Image.fromarray(noisy).convert(mode), "JPEG", subsampling=subsampling, progressive=True)
    fast = data.decode_image(content)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)  # makes its import fail
    np.testing.assert_array_equal(fast, data.decode_image(content))


def test_preprocess_resizes_the_shorter_side_then_crops(tmp_path):
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, resize_size=24, crop_size=20)
    path = tmp_path / "picture.png"
    Image.fromarray(SMOOTH).save(path)
    expected = np.asarray(Image.fromarray(SMOOTH).resize((32, 24), Image.Resampling.BILINEAR))[2:22, 6:26]
    for image in (path, str(path), SMOOTH):
        np.testing.assert_array_equal(data.preprocess(image, preprocessing), expected)
    grey = data.preprocess(SMOOTH[..., 0], preprocessing)
    np.testing.assert_array_equal(grey, data.preprocess(SMOOTH[..., :1], preprocessing))
    np.testing.assert_array_equal(grey, np.repeat(expected[..., :1], 3, -1))
    smoother = data.preprocess(SMOOTH, preprocessing._replace(interpolation="bicubic"))
    assert (smoother != expected).any()
    with pytest.raises(ConfigError, match="unknown interpolation 'bicubik': did you mean 'bicubic'"):
        data.preprocess(SMOOTH, preprocessing._replace(interpolation="bicubik"))
    with pytest.raises(ShapeError, match=r"image: expected uint8 .* got float32 \(48, 64, 3\)"):
        data.preprocess(SMOOTH.astype(np.float32), preprocessing)
    with pytest.raises(ShapeError, match=r"got uint8 \(48, 64, 2\)"):
        from_pixels(SMOOTH[..., :2])


@pytest.mark.parametrize("size", [(4, 3), (3, 4), (7, 7), (33, 5)])
def test_every_size_gives_the_crop_that_was_asked_for(size):
    image = Image.new("RGB", size)
    for resize_size in (4, 5, 6):
        assert resize_and_crop(image, 4, resize_size).size == (4, 4)


@pytest.mark.parity
@pytest.mark.parametrize("preprocessing", [IMAGENET, INCEPTION_V3, IMAGENET._replace(interpolation="bicubic")])
@pytest.mark.parametrize("size", [(300, 301), (500, 333), (90, 260)])
def test_preprocess_is_the_preset_of_torchvision(preprocessing, size):
    import oracles

    torchvision = oracles.import_torchvision()
    from torchvision.transforms._presets import ImageClassification

    mean, std, resize_size, crop_size, interpolation = preprocessing
    mode = torchvision.transforms.InterpolationMode(interpolation)
    preset = ImageClassification(crop_size=crop_size, resize_size=resize_size, mean=mean, std=std, interpolation=mode)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = np.moveaxis(preset(Image.fromarray(image)).numpy(), 0, -1)
    found = (data.preprocess(image, preprocessing) / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parity
def test_every_rows_preprocessing_is_torchvisions():
    import oracles

    oracles.import_torchvision()
    from torchvision.models import get_model_weights

    rows = {name: variant.preprocessing for name, variant in MODELS.items() if variant.preprocessing is not None}
    assert {"resnet50", "vgg16", "alexnet", "mobilenet_v2", "efficientnet_b0", "inception_v3"} <= rows.keys()
    for name, (mean, std, *sizes) in rows.items():
        preset = get_model_weights(name)["IMAGENET1K_V1"].transforms()
        assert sizes == [*preset.resize_size, *preset.crop_size, preset.interpolation.value], name
        assert (MODELS[name].inputs["images"].shape[:2]) == (sizes[1], sizes[1])
        if name in ("googlenet", "inception_v3"):  # whose transform_input takes the place of ImageNet's constants
            assert (mean, std) == ((0.5,) * 3, (0.5,) * 3)
        else:
            assert [list(mean), list(std)] == [preset.mean, preset.std], name
