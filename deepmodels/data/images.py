"""Image files: decoding, resizing and cropping on the host, and folders with one sub-folder for each class."""

import os
import struct
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepmodels.errors import ConfigError, DataError, ShapeError, unknown
from deepmodels.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB"}
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")

# EXIF tag 0x0112 -> what puts the picture upright, by the name of Pillow's constant
ORIENTATIONS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def decode_image(file: str | Path | bytes, channels: int = 3) -> np.ndarray:
    """Returns the pixels of an image file, upright, as uint8 (H, W, channels).

    Any colour model becomes red, green and blue, or grey; 16 bits become 8; what is transparent lies on white; the
    camera's orientation (EXIF) is applied. JPEG files are decoded by simplejpeg where it is installed, all others by
    Pillow; the pixels are the same.

    Args:
      file: its path or its bytes.
      channels: 1 for grey, 3 for red, green and blue.

    Raises:
      DataError: the file, which is named, is missing, damaged, or holds pixels of no known range.
    """
    image = _decode(file, str(file) if isinstance(file, str | Path) else f"{len(file):,} bytes")
    return _pixels(image.convert(MODES[channels]))


def preprocess(image: str | Path | np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Returns an image ready to be normalised, uint8 (crop_size, crop_size, 3): the shorter side resized, then cropped.

    Args:
      image: a file's path, or pixels: uint8 (H, W), (H, W, 1) or (H, W, 3).
      preprocessing: of the model, `deepmodels.models.MODELS[name].preprocessing`.

    Raises:
      DataError: the file can't be read.
      ShapeError: the array is no such image.
      ConfigError: the preprocessing names an unknown interpolation.
    """
    if isinstance(image, np.ndarray):
        loaded = from_pixels(image)
    else:
        loaded = _decode(image, str(image))
    _, _, resize_size, crop_size, interpolation = preprocessing
    return _pixels(resize_and_crop(loaded.convert("RGB"), crop_size, resize_size, interpolation))


def from_pixels(pixels: np.ndarray) -> "Image":
    """Returns a Pillow image of uint8 pixels (H, W), (H, W, 1) or (H, W, 3).

    Raises:
      ShapeError: they have another shape or dtype.
    """
    from PIL import Image

    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,)):
        raise ShapeError(
            f"image: expected uint8 (height, width) with no, one or three channels, got {pixels.dtype} {pixels.shape}"
        )
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def resize_and_crop(
    image: "Image", image_size: int, resize_size: int | None = None, interpolation: str = "bilinear"
) -> "Image":
    """Returns a Pillow image whose shorter side was resized to `resize_size` and whose centre was cut out.

    Args:
      image: of any size.
      image_size: height and width of the result, in pixels.
      resize_size: length of the shorter side before the crop, by default `image_size`; ImageNet's custom is 256.
      interpolation: one of INTERPOLATIONS; shrinking averages.

    Raises:
      ConfigError: the interpolation is unknown.
    """
    from PIL.Image import Resampling

    if interpolation not in INTERPOLATIONS:
        raise unknown("interpolation", interpolation, INTERPOLATIONS)
    shorter = resize_size or image_size
    width, height = (int(shorter * side / min(image.size)) for side in image.size)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    resized = image.resize((width, height), Resampling[interpolation.upper()])
    return resized.crop((left, top, left + image_size, top + image_size))


def _pixels(image: "Image") -> np.ndarray:
    pixels = np.asarray(image, np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)


def _decode(file: str | Path | bytes, name: str) -> "Image":
    """Returns a file's picture, upright, opaque and of 8 bits, in a mode that Pillow converts faithfully."""
    from PIL import Image, UnidentifiedImageError

    try:
        data = file if isinstance(file, bytes) else Path(file).read_bytes()
        opened = Image.open(BytesIO(data))
        image = _load(opened, data)
        if upright := ORIENTATIONS.get(opened.getexif().get(0x0112)):
            image = image.transpose(Image.Transpose[upright])
        if image.mode.startswith("I"):
            numbers = np.asarray(image)
            if numbers.min() < 0 or numbers.max() > 65535:
                raise ValueError(f"expected 16 bits per pixel, found values {numbers.min()} to {numbers.max()}")
            image = Image.fromarray((numbers >> 8).astype(np.uint8))
        elif image.mode == "F":
            raise ValueError("its pixels are floats, whose range isn't known")
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not a readable image: no format that Pillow knows") from error
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: not a readable image: {error}") from error


def _load(opened: "Image", data: bytes) -> "Image":
    """Returns an opened file's picture, decoded by simplejpeg if that is here and can."""
    if opened.format == "JPEG" and opened.mode in ("L", "RGB"):
        try:
            import simplejpeg
        except ImportError:
            pass
        else:
            return from_pixels(simplejpeg.decode_jpeg(data, "GRAY" if opened.mode == "L" else "RGB"))
    opened.load()
    return opened


def check_sizes(
    image_size: int | None, resize_size: int | None, channels: int = 3, interpolation: str = "bilinear"
) -> None:
    """Raises ConfigError unless the arguments of an image source make sense together."""
    if image_size is not None and image_size < 1:
        raise ConfigError(f"image_size: expected at least 1 pixel, got {image_size}")
    if resize_size is not None and (image_size is None or resize_size < image_size):
        raise ConfigError(f"resize_size: expected at least image_size, which is {image_size}, got {resize_size}")
    if channels not in MODES:
        raise ConfigError(f"channels: expected 1 (grey) or 3 (red, green, blue), got {channels}")
    if interpolation not in INTERPOLATIONS:
        raise unknown("interpolation", interpolation, INTERPOLATIONS)


def find_classes(path: str | Path) -> tuple[str, ...]:
    """Returns the names of the classes under `path`: its sub-folders, sorted, as in torchvision's ImageFolder."""
    return tuple(sorted(entry.name for entry in Path(path).iterdir() if entry.is_dir()))


class ImageFolderSource:
    """Image files in one folder for each class; labels and order are those of torchvision's ImageFolder.

    Args:
      path: the folder that holds the folders of the classes; images may lie deeper in those.
      image_size: height and width to which each image is resized and cropped; None keeps each as it is.
      resize_size: length of the shorter side before the crop, by default `image_size`.
      channels: 1 for grey, 3 for red, green and blue.
      interpolation: how it is resized: nearest, bilinear, bicubic or lanczos.

    Raises:
      DataError: there is no such folder, it has no sub-folder, or one of these has no image.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        image_size: int | None = None,
        resize_size: int | None = None,
        channels: int = 3,
        interpolation: str = "bilinear",
    ):
        check_sizes(image_size, resize_size, channels, interpolation)
        self.image_size, self.resize_size, self.mode = image_size, resize_size, MODES[channels]
        self.interpolation = interpolation
        path = Path(path)
        self.class_names = find_classes(path) if path.is_dir() else ()
        if not self.class_names:
            raise DataError(f"{path}: expected a folder with one sub-folder of images for each class")
        self.files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(self.class_names):
            folders = sorted(os.walk(path / name, followlinks=True))
            files = [Path(folder, file) for folder, _, inside in folders for file in sorted(inside)]
            files = [file for file in files if file.suffix.lower() in SUFFIXES]
            if not files:
                raise DataError(f"{path / name}: no images in this class; known endings: {', '.join(SUFFIXES)}")
            self.files += files
            labels += [label] * len(files)
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = _decode(self.files[index], f"record {index}, {self.where_from(index)}").convert(self.mode)
        if self.image_size is not None:
            image = resize_and_crop(image, self.image_size, self.resize_size, self.interpolation)
        return {"image": _pixels(image), "label": np.asarray(self.labels[index])}

    def where_from(self, index: int) -> str:
        """Returns the file of a record."""
        return str(self.files[index])
