"""How images were prepared for the weights that circulate: constants that belong to a model's row, not to its code."""

from typing import NamedTuple


class Preprocessing(NamedTuple):
    """What an image goes through on its way to a model: resize the shorter side, crop the centre, normalise.

    `deepmodels.data.preprocess(image, preprocessing)` does the first two on the host, and
    `deepmodels.augment.normalize(images, preprocessing.mean, preprocessing.std)` the last on the device.

    Attributes:
      mean: of each channel, for pixels scaled to 0 to 1.
      std: deviation of each channel, likewise.
      resize_size: length of the shorter side after resizing, in pixels.
      crop_size: height and width of the centre that is cut out, in pixels.
      interpolation: "nearest", "bilinear", "bicubic" or "lanczos"; shrinking averages, as Pillow does.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_size: int
    crop_size: int
    interpolation: str = "bilinear"


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# What most models of torchvision are evaluated with.
IMAGENET = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, resize_size=256, crop_size=224)

# torchvision's Inception networks turn ImageNet's normalisation into this one inside the model.
GOOGLENET = IMAGENET._replace(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
INCEPTION_V3 = GOOGLENET._replace(resize_size=342, crop_size=299)
