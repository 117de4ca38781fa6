"""A data set for tensorflow-datasets, which finds a builder only in a module that can be imported."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def pixels(index: int) -> np.ndarray:
    """Returns image number `index`: uint8 (6, 8, 3)."""
    return np.random.default_rng(index).integers(0, 256, (6, 8, 3), np.uint8)


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """Twelve train and five test images, with a text that no array can hold."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(6, 8, 3)),
                "label": tfds.features.ClassLabel(names=["cat", "dog", "owl"]),
                "caption": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 12), "test": self._generate_examples(100, 105)}

    def _generate_examples(self, start: int, stop: int):
        for index in range(start, stop):
            file = io.BytesIO()
            Image.fromarray(pixels(index)).save(file, "PNG")
            file.seek(0)
            yield index, {"image": file, "label": index % 3, "caption": f"number {index}"}
