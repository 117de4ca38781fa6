"""Prepared data sets of tensorflow-datasets, read without TensorFlow."""

from pathlib import Path

import numpy as np

from deepmodels.data.images import check_sizes, from_pixels, resize_and_crop
from deepmodels.data.sources import Record
from deepmodels.errors import ConfigError, DataError, nearest


class TfdsSource:
    """One split of a data set that tensorflow-datasets has prepared on disk as ArrayRecord files.

    Features that hold numbers become the record's arrays, integers as int32 except bytes of pixels; text is left out.

    Args:
      dataset: its name ("mnist", "imagenet2012:5.1.0"), or the folder of one version of it.
      split: tensorflow-datasets' own wording: "train", "test", "train[:10%]".
      data_dir: where data sets were prepared; by default ~/tensorflow_datasets.
      image_size: height and width to which each "image" is resized and cropped; None keeps each as it is.
      resize_size: length of the shorter side before the crop, by default `image_size`.
      interpolation: how it is resized: nearest, bilinear, bicubic or lanczos.

    Raises:
      DataError: the data set isn't there, or not as ArrayRecord; the message says how to prepare it.
      ConfigError: it has no such split.
    """

    def __init__(
        self,
        dataset: str,
        split: str,
        *,
        data_dir: str | Path | None = None,
        image_size: int | None = None,
        resize_size: int | None = None,
        interpolation: str = "bilinear",
    ):
        import tensorflow_datasets as tfds

        check_sizes(image_size, resize_size, interpolation=interpolation)
        self.interpolation = interpolation
        self.dataset, self.split, self.image_size, self.resize_size = dataset, split, image_size, resize_size
        try:
            if Path(dataset).is_dir():
                builder = tfds.builder_from_directory(dataset)
            else:
                builder = tfds.builder(dataset, data_dir=data_dir, try_gcs=False)
        except (tfds.core.DatasetNotFoundError, FileNotFoundError) as error:
            raise self._missing(data_dir) from error
        except (AssertionError, ValueError) as error:  # a version or a wording that it doesn't know
            raise ConfigError(f"dataset: {dataset!r} isn't one for tensorflow-datasets: {error}") from error
        if not builder.is_prepared():
            raise self._missing(data_dir)
        if (name := split.partition("[")[0]) not in builder.info.splits:
            raise ConfigError(f"tfds data set {dataset!r} has no split {name!r}: {nearest(name, builder.info.splits)}")
        if image_size is not None and "image" not in builder.info.features:
            raise ConfigError(f"image_size: tfds data set {dataset!r} has no feature named 'image'")
        features = builder.info.features
        self.class_names = getattr(features["label"], "names", None) if "label" in features else None
        try:
            self.records = builder.as_data_source(split=split)
        except (NotImplementedError, RuntimeError) as error:
            raise DataError(
                f"tfds data set {dataset!r} can't be read by record number; "
                f'prepare it again with file_format="array_record": {error}'
            ) from error

    def _missing(self, data_dir: str | Path | None) -> DataError:
        return DataError(
            f"tfds data set {self.dataset!r} isn't in {data_dir or '~/tensorflow_datasets'}. Prepare it once with "
            f'`tfds.builder("{self.dataset}", data_dir=FOLDER, file_format="array_record").download_and_prepare()` '
            "(for many data sets this step, and only this, needs TensorFlow), then give --config.data.data_dir=FOLDER"
        )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        try:
            features = {key: np.asarray(value) for key, value in self.records[index].items()}
        except Exception as error:  # a decoder of tensorflow-datasets may raise anything on damaged bytes
            raise DataError(
                f"record {index} of tfds {self.dataset!r}, {self.split!r}: can't be read: {error}"
            ) from error
        record = {
            key: value.astype(np.int32) if value.dtype.kind in "iu" and value.dtype != np.uint8 else value
            for key, value in features.items()
            if value.dtype.kind in "biuf"
        }
        if self.image_size is not None:
            image = from_pixels(record["image"])
            pixels = np.asarray(resize_and_crop(image, self.image_size, self.resize_size, self.interpolation))
            record["image"] = pixels.reshape(*pixels.shape[:2], -1)
        return record
