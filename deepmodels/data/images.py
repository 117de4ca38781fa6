"""Folders of image files, one sub-folder for each class, and the decoding, resizing and cropping of an image."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepmodels.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB"}


def resize_and_crop(image: "Image", image_size: int, resize_size: int | None = None) -> "Image":
    """Returns a Pillow image whose shorter side was resized to `resize_size` and whose centre was cut out.

    Args:
      image: of any size.
      image_size: height and width of the result, in pixels.
      resize_size: length of the shorter side before the crop, by default `image_size`; ImageNet's custom is 256.
    """
    from PIL.Image import Resampling

    shorter = resize_size or image_size
    width, height = (int(shorter * side / min(image.size)) for side in image.size)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    resized = image.resize((width, height), Resampling.BILINEAR)
    return resized.crop((left, top, left + image_size, top + image_size))


def check_sizes(image_size: int | None, resize_size: int | None, channels: int = 3) -> None:
    """Raises ConfigError unless the arguments of an image source make sense together."""
    if image_size is not None and image_size < 1:
        raise ConfigError(f"image_size: expected at least 1 pixel, got {image_size}")
    if resize_size is not None and (image_size is None or resize_size < image_size):
        raise ConfigError(f"resize_size: expected at least image_size, which is {image_size}, got {resize_size}")
    if channels not in MODES:
        raise ConfigError(f"channels: expected 1 (grey) or 3 (red, green, blue), got {channels}")


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
    ):
        check_sizes(image_size, resize_size, channels)
        self.image_size, self.resize_size, self.mode = image_size, resize_size, MODES[channels]
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
        from PIL import Image

        try:
            with Image.open(self.files[index]) as file:
                image = file.convert(self.mode)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"record {index}, {self.files[index]}: not a readable image: {error}") from error
        if self.image_size is not None:
            image = resize_and_crop(image, self.image_size, self.resize_size)
        pixels = np.asarray(image, np.uint8)
        return {"image": pixels.reshape(*pixels.shape[:2], -1), "label": np.asarray(self.labels[index])}
