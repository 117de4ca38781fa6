"""A drawn data set for segmentation: discs, rectangles and triangles that overlap, under noise and uneven light."""

import numpy as np

from deepmodels.data.sources import Record
from deepmodels.errors import ConfigError

CLASSES = ("background", "disc", "rectangle", "triangle")
RECORDS = {"train": 4_000, "test": 500}
_LEAST = 24  # pixels of a side; smaller pictures have no room for several shapes
_LEAST_VISIBLE = 0.7  # of a shape's pixels; of one that is hidden further nobody could say what it is
_LEAST_CONTRAST = 0.1  # between the greys of two shapes; black is 0, white 1


class ShapesSource:
    """Grey pictures of shapes and the class of each pixel, drawn when they are asked for.

    A record is {"image": uint8 (size, size, 1), "label": uint8 (size, size)}; labels are indices of `CLASSES`. Shapes
    hide one another in part. What is light in one picture is dark in another, ground and shapes carry stripes, the
    light falls off to one side, thin lines that belong to nothing cross the picture, and each pixel has noise. The
    pictures depend on the split, the size and the index alone.

    Args:
      split: "train" or "test".
      size: height and width, in pixels.

    Raises:
      ConfigError: the size is less than 24.
    """

    class_names = CLASSES

    def __init__(self, split: str, size: int = 64):
        if size < _LEAST:
            raise ConfigError(f"size: expected {_LEAST} pixels or more, got {size}")
        self.split, self.size = split, size

    def __len__(self) -> int:
        return RECORDS[self.split]

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"the split {self.split!r} has records 0 to {len(self) - 1}, not {index}")
        return draw(_Random(list(RECORDS).index(self.split), index), self.size)


class _Random:
    """Uniform numbers from raw bits, as numpy promises no others to be the same in all its versions."""

    def __init__(self, *seed: int):
        self.bits = np.random.PCG64(np.random.SeedSequence(seed))

    def __call__(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> np.ndarray:
        raw = np.asarray(self.bits.random_raw(int(np.prod(shape)))).reshape(shape)
        return low + (high - low) * (raw >> np.uint64(11)) * 2.0**-53


def draw(random: _Random, size: int) -> Record:
    """Returns one picture and its labels.

    Args:
      random: `(low, high, shape) -> uniform numbers`.
      size: height and width, in pixels.
    """
    y, x = np.mgrid[:size, :size] / size - 0.5
    label = np.zeros((size, size), np.uint8)
    owner = np.zeros((size, size), int)
    areas, contrasts = [], [0.0]  # of the shapes drawn so far; the ground's contrast with itself is 0
    ground = random(0.35, 0.65)
    image = ground + _stripes(random, x, y)
    for _ in range(3 + int(random(0, 4))):
        kind = 1 + int(random(0, 3))
        mask = _shape(random, kind, x, y)
        contrast = random(0.2, 0.4) * (1 if random() < 0.5 else -1)
        stripes = _stripes(random, x, y)
        after = np.where(mask, len(areas) + 1, owner)
        visible = np.bincount(after.ravel(), minlength=len(areas) + 2)[1:]
        apart = np.abs(np.array(contrasts) - contrast).min() > _LEAST_CONTRAST
        if apart and np.all(visible >= _LEAST_VISIBLE * np.array([*areas, mask.sum()])):
            owner = after
            areas.append(mask.sum())
            contrasts.append(contrast)
            label[mask] = kind
            image = np.where(mask, ground + contrast + stripes, image)
    for _ in range(3):
        angle, offset, grey = random(0, np.pi), random(-0.4, 0.4), random(0, 1)
        image = np.where(np.abs(x * np.cos(angle) + y * np.sin(angle) - offset) < 0.5 / size, grey, image)
    angle = random(0, 2 * np.pi)
    light = 1 + random(0, 0.5) * (x * np.cos(angle) + y * np.sin(angle))
    noise = random(-1, 1, (3, size, size)).sum(0) * random(0.04, 0.08)  # the sum of three is nearly normal
    pixels = np.clip(255 * (image * light + noise), 0, 255)
    return {"image": pixels.round().astype(np.uint8)[..., None], "label": label}


def _shape(random: _Random, kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The pixels of a disc, a rectangle or a triangle of random place, size, proportion and angle."""
    angle, radius, ratio = random(0, 2 * np.pi), random(0.15, 0.28), random(0.6, 1)
    dx, dy = x - random(-0.3, 0.3), y - random(-0.3, 0.3)
    u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    if kind == 1:
        return u**2 + v**2 < (0.9 * radius) ** 2
    if kind == 2:
        return (np.abs(u) < radius) & (np.abs(v) < ratio * radius)
    sides = [u * np.cos(turn) + ratio * v * np.sin(turn) for turn in (0, 2 * np.pi / 3, 4 * np.pi / 3)]
    return np.max(sides, axis=0) < 0.7 * radius


def _stripes(random: _Random, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Stripes of random direction, width and strength."""
    angle, frequency, phase = random(0, np.pi), random(4, 16), random(0, 2 * np.pi)
    return random(0, 0.06) * np.sin(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)) + phase)
