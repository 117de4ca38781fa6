"""The table of data sets: for each name what loads a split of it, and its classes where these are known beforehand."""

import inspect
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepmodels.data.array_record import ArrayRecordSource
from deepmodels.data.captions import captioned_by_class, load_captioned_images
from deepmodels.data.documents import load_chats, load_documents
from deepmodels.data.idx import read_idx
from deepmodels.data.images import ImageFolderSource, find_classes
from deepmodels.data.in_context import RECORDS as IN_CONTEXT
from deepmodels.data.in_context import RecallSource
from deepmodels.data.long_lag import RECORDS as LONG_LAG
from deepmodels.data.long_lag import AddingSource, CopyingSource
from deepmodels.data.shapes import CLASSES as SHAPES
from deepmodels.data.shapes import RECORDS, ShapesSource
from deepmodels.data.sources import ArraySource, Source, split_validation
from deepmodels.data.synthetic import RECORDS as SYNTHETIC
from deepmodels.data.synthetic import SyntheticSource
from deepmodels.data.text import (
    load_cmudict,
    load_english_spanish,
    load_state_of_the_union,
    load_text,
    load_text_classification,
    load_text_pairs,
)
from deepmodels.data.tfds import TfdsSource
from deepmodels.errors import ConfigError, DataError, unknown

SPLITS = ("train", "validation", "test")


class Dataset(NamedTuple):
    """A named data set: `load(split, **arguments)` returns one split as a source, or None if it has no such split."""

    load: Callable[..., Source | None]
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None


def load_npz(split: str, *, path: str | Path) -> Source | None:
    """Returns one split of an .npz file in memory: its array "train_image" becomes "image" of the train records.

    Args:
      split: which of the file's arrays to take: those whose names begin with it and "_".
      path: the file. Images (records, height, width) gain a channel axis; integers other than uint8, and every "label",
        become int32.

    Raises:
      DataError: the file is missing or damaged, holds Python objects, or its arrays differ in length.
    """
    path, where = Path(path).expanduser(), ""
    try:
        # numpy.load would leave the file open on an error, and would guess at other formats.
        with path.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as file:
            names = file.files
            arrays = {}
            for key in names:
                where = f", array {key!r}"
                if key.startswith(f"{split}_"):
                    arrays[key.removeprefix(f"{split}_")] = file[key]
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; make one with numpy.savez(path, train_image=..., train_label=..., test_image=..., "
            "test_label=...) and give it with --config.data.path="
        ) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}{where}: not a readable .npz file of plain arrays: {error}") from error
    if not any(name.startswith(f"{known}_") for name in names for known in SPLITS):
        raise DataError(f"{path}: expected arrays named train_image, train_label, test_image, found {names}")
    if damaged := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise DataError(f"{path}: not a readable .npz file of plain arrays: {damaged} hold something else")
    if not arrays:
        return None
    for key, array in arrays.items():
        if key == "image" and array.ndim == 3:
            arrays[key] = array[..., np.newaxis]
        elif array.dtype.kind in "iu" and (key == "label" or array.dtype != np.uint8):
            arrays[key] = array.astype(np.int32)
    return ArraySource(arrays, name=str(path))


def load_fashion_mnist_embedded(split: str) -> Source | None:
    """Returns one split of the part of Fashion-MNIST that ships in this package: 2,000 train and 500 test records."""
    return load_npz(split, path=Path(__file__).parent / "embedded" / "fashion_mnist_2000_500.npz")


def load_mnist_layout(split: str, path: str | Path | None, name: str, hint: str = "") -> Source | None:
    """Returns one split of a data set laid out as MNIST, in memory: 28x28 images, labels 0 to 9, four IDX files.

    Args:
      split: "train" or "test".
      path: the folder of the four files, each with or without ".gz"; None looks in the usual places for `name`.
      name: the data set's name.
      hint: one more way to get the files, for the error when they are missing.

    Raises:
      DataError: a file is missing or damaged, or images and labels don't fit together.
    """
    prefix = {"train": "train", "test": "t10k"}.get(split)
    if prefix is None:
        return None
    if path is not None:
        folders = [Path(path).expanduser()]
    else:
        roots = [os.environ.get("DEEPMODELS_DATA"), "~/.cache/deepmodels/data"]
        folders = [Path(root).expanduser() / name for root in roots if root]
        folders.append(Path("/usr/share/datasets") / name.replace("_", "-"))  # where Debian's packages put theirs

    def find(file: str) -> Path:
        for candidate in (folder / (file + suffix) for folder in folders for suffix in ("", ".gz")):
            if candidate.is_file():
                return candidate
        raise DataError(
            f"{name}: no {file} or {file}.gz in {', '.join(map(str, folders))}. {hint}Put train-images-idx3-ubyte, "
            "train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte (or each with .gz) in "
            f"{folders[0]}, or give their folder with --config.data.path="
        )

    image_file, label_file = find(f"{prefix}-images-idx3-ubyte"), find(f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(image_file, dimensions=3), read_idx(label_file, dimensions=1)
    if len(images) != len(labels):
        raise DataError(f"{image_file} holds {len(images):,} images, but {label_file} holds {len(labels):,} labels")
    if images.shape[1:] != (28, 28):
        raise DataError(f"{image_file}: expected images of 28x28 pixels, found {images.shape[1]}x{images.shape[2]}")
    if labels.max(initial=0) > 9:
        raise DataError(f"{label_file}: expected labels 0 to 9, found {labels.max()} at record {labels.argmax()}")
    return ArraySource({"image": images[..., np.newaxis], "label": labels.astype(np.int32)}, name=str(image_file))


def load_mnist(split: str, *, path: str | Path | None = None) -> Source | None:
    """Returns one split of MNIST, 60,000 and 10,000 records; LeCun, Bottou, Bengio, Haffner (1998)."""
    return load_mnist_layout(split, path, "mnist")


def load_fashion_mnist(split: str, *, path: str | Path | None = None) -> Source | None:
    """Returns one split of Fashion-MNIST, 60,000 and 10,000 records; Xiao, Rasul, Vollgraf (2017), arXiv:1708.07747."""
    return load_mnist_layout(
        split, path, "fashion_mnist", hint="On Debian or Ubuntu: `apt-get install dataset-fashion-mnist`. Or: "
    )


def load_image_folder(
    split: str,
    *,
    path: str | Path,
    image_size: int | None = None,
    resize_size: int | None = None,
    channels: int = 3,
    interpolation: str = "bilinear",
) -> Source | None:
    """Returns one split of a folder of image files: `path`/train/<class>/..., beside it test or val (or both).

    Args:
      split: "train", "validation" (the folder val) or "test" (the folder test, or val if there is no test).
      path: the folder that holds train, val and test.
      image_size, resize_size, channels, interpolation: see ImageFolderSource.

    Raises:
      DataError: the folders aren't there, or don't all have the same classes.
    """
    path = Path(path).expanduser()
    if not (path / "train").is_dir():
        raise DataError(
            f"{path / 'train'}: no such folder; expected images as {path}/train/<class>/<file>, and likewise in "
            f"{path}/val or {path}/test; give the folder with --config.data.path="
        )
    candidates = {"train": ["train"], "validation": ["val"], "test": ["test", "val"]}[split]
    folder = next((path / name for name in candidates if (path / name).is_dir()), None)
    if folder is None:
        return None
    source = ImageFolderSource(
        folder, image_size=image_size, resize_size=resize_size, channels=channels, interpolation=interpolation
    )
    if differing := set(source.class_names) ^ set(find_classes(path / "train")):
        raise DataError(f"{folder} and {path / 'train'} must have the same classes; only in one: {sorted(differing)}")
    return source


def load_array_record(split: str, *, path: str | Path) -> Source | None:
    """Returns one split of a folder of ArrayRecord files made by `write_array_record`: "train.array_record" and so on.

    Args:
      split: the files of a split are those whose names begin with it, in sorted order.
      path: the folder.

    Raises:
      DataError: the folder has no such file at all, or one of the split's is damaged.
    """
    path = Path(path).expanduser()
    if not any(path.glob("*.array_record")):
        raise DataError(
            f"{path}: no files named train.array_record, test.array_record; make them with "
            "deepmodels.data.write_array_record(path, source) and give their folder with --config.data.path="
        )
    files = sorted(path.glob(f"{split}*.array_record"))
    return ArrayRecordSource(files) if files else None


def load_tfds(
    split: str,
    *,
    dataset: str,
    data_dir: str | Path | None = None,
    splits: Mapping[str, str] | None = None,
    image_size: int | None = None,
    resize_size: int | None = None,
    interpolation: str = "bilinear",
) -> Source | None:
    """Returns one split of a data set that tensorflow-datasets has prepared; see TfdsSource.

    Args:
      split: "train", "validation" or "test".
      dataset, data_dir, image_size, resize_size, interpolation: see TfdsSource.
      splits: what tensorflow-datasets calls each split, {"test": "validation[:50%]"}; by default the same names.
    """
    name = split if splits is None else splits.get(split)
    if name is None:
        return None
    sizes = dict(image_size=image_size, resize_size=resize_size, interpolation=interpolation)
    return TfdsSource(dataset, name, data_dir=data_dir, **sizes)


def load_shapes(split: str, *, size: int = 64) -> Source | None:
    """Returns one split of the drawn pictures for segmentation, 4,000 and 500 records; see ShapesSource.

    Args:
      split: "train" or "test".
      size: height and width, in pixels.

    Raises:
      ConfigError: the size is too small.
    """
    return ShapesSource(split, size) if split in RECORDS else None


def load_adding(split: str, *, length: int = 100) -> Source | None:
    """Returns one split of the adding problem, 20,000 and 1,000 records; see AddingSource.

    Args:
      split: "train" or "test".
      length: of the rows; half of it is the least lag.

    Raises:
      ConfigError: the length is too small.
    """
    return AddingSource(split, length) if split in LONG_LAG else None


def load_copying(split: str, *, lag: int = 20, copied: int = 5) -> Source | None:
    """Returns one split of the copying problem, 20,000 and 1,000 records; see CopyingSource.

    Args:
      split: "train" or "test".
      lag: positions between the letters and their copy.
      copied: number of letters.

    Raises:
      ConfigError: `lag` or `copied` isn't positive.
    """
    return CopyingSource(split, lag, copied) if split in LONG_LAG else None


def load_recall(split: str, *, pairs: int = 24, keys: int = 16) -> Source | None:
    """Returns one split of keys and values to look up, 20,000 and 1,000 records; see RecallSource.

    Args:
      split: "train" or "test".
      pairs: in a row.
      keys: how many there are, and as many values.

    Raises:
      ConfigError: there are too few pairs or keys.
    """
    return RecallSource(split, pairs, keys) if split in IN_CONTEXT else None


def load_synthetic(
    split: str,
    *,
    image_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    length: int | None = None,
    target_length: int | None = None,
    vocab_size: int | None = None,
) -> Source | None:
    """Returns one split of records drawn at random, 65,536 and 1,024 of them; see SyntheticSource.

    Args:
      split: "train" or "test".
      image_shape, num_classes: of pictures.
      length, target_length, vocab_size: of texts.

    Raises:
      ConfigError: neither pictures nor texts are asked for, both are, or what they need is missing.
    """
    return (
        SyntheticSource(split, image_shape, num_classes, length, target_length, vocab_size)
        if split in SYNTHETIC
        else None
    )


DIGITS = tuple("0123456789")
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def load_fashion_mnist_captions(split: str, *, tokenizer: str = "words", image_size: int = 32) -> Source | None:
    """Returns one split of the part of Fashion-MNIST that ships in this package, with its classes as captions.

    Args:
      split: "train" or "test".
      tokenizer: "bytes", "characters" or "words", or what `deepmodels.tokenizers.load` reads.
      image_size: height and width, in pixels.
    """
    source = load_fashion_mnist_embedded(split)
    return None if source is None else captioned_by_class(source, FASHION, tokenizer, image_size=image_size)


DATASETS: dict[str, Dataset] = {
    "fashion_mnist_embedded": Dataset(load_fashion_mnist_embedded, 10, FASHION),
    "fashion_mnist": Dataset(load_fashion_mnist, 10, FASHION),
    "mnist": Dataset(load_mnist, 10, DIGITS),
    "adding": Dataset(load_adding),
    "copying": Dataset(load_copying),
    "recall": Dataset(load_recall),
    "synthetic": Dataset(load_synthetic),
    "shapes": Dataset(load_shapes, 4, SHAPES),
    "image_folder": Dataset(load_image_folder),
    "captioned_images": Dataset(load_captioned_images),
    "fashion_mnist_captions": Dataset(load_fashion_mnist_captions),
    "npz": Dataset(load_npz),
    "state_of_the_union": Dataset(load_state_of_the_union),
    "english_spanish": Dataset(load_english_spanish),
    "cmudict": Dataset(load_cmudict),
    "text": Dataset(load_text),
    "documents": Dataset(load_documents),
    "chats": Dataset(load_chats),
    "text_pairs": Dataset(load_text_pairs),
    "text_classification": Dataset(load_text_classification),
    "array_record": Dataset(load_array_record),
    "tfds": Dataset(load_tfds),
}


def create(name: str, *, split: str, validation_size: int = 0, **arguments: object) -> Source:
    """Returns one split of a data set of the table DATASETS.

    Args:
      name: its name in the table.
      split: "train", "validation" or "test".
      validation_size: how many records to take out of train for validation; always the same ones for one data set.
        0 leaves train whole, and validation is what the data set itself has under that name.
      arguments: those of the data set, such as `path`; see its loader in the table.

    Raises:
      ConfigError: an unknown name, split or argument, one that is missing, or a split that the data set doesn't have.
      DataError: the data set is missing or damaged; the message says how to get it.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    load = DATASETS[name].load
    parameters = dict(list(inspect.signature(load).parameters.items())[1:])
    for argument in arguments:
        if argument not in parameters:
            raise unknown(f"argument of data set {name!r}", argument, [*parameters, "validation_size"])
    missing = [key for key, p in parameters.items() if p.default is p.empty and arguments.get(key) is None]
    if missing:
        raise ConfigError(f"data set {name!r} needs {' and '.join(f'--config.data.{key}=' for key in missing)}")

    carve = validation_size != 0 and split != "test"
    source = load("train" if carve else split, **arguments)
    if source is None:
        hint = ": give validation_size=N to take N records out of train" if split == "validation" else ""
        raise ConfigError(f"data set {name!r} has no {'train' if carve else split} split{hint}")
    if carve:
        train, validation = split_validation(source, validation_size)
        return train if split == "train" else validation
    return source
