"""Pictures with captions: files that a table names, and pictures of classes whose names are their captions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deepmodels import tokenizers
from deepmodels.data.images import check_sizes, decode_image, from_pixels, resize_and_crop
from deepmodels.data.sources import Source
from deepmodels.data.text import check_numbers, make_tokenizer, read_rows
from deepmodels.errors import DataError
from deepmodels.tokenizers import Tokenizer


class CaptionedSource:
    """Pictures and their captions: {"image": uint8 (H, W, C), "tokens": int32 (T,), "mask": bool (T,)}.

    Args:
      pictures: what has the pictures: paths of files, or a source of records with an "image".
      captions: of each.
      tokenizer: what encodes them.
      max_length: T; longer captions are cut.
      image_size, resize_size, channels, interpolation: of files, see ImageFolderSource.
    """

    def __init__(
        self,
        pictures: Sequence[Path] | Source,
        captions: Sequence[str],
        tokenizer: Tokenizer,
        max_length: int,
        *,
        image_size: int | None = None,
        resize_size: int | None = None,
        channels: int = 3,
        interpolation: str = "bilinear",
    ):
        check_sizes(image_size, resize_size, channels, interpolation)
        encoded = tokenizers.encode_batch(tokenizer, captions, max_length=max_length, width=max_length)
        self.pictures, self.captions, self.tokenizer = pictures, tuple(captions), tokenizer
        self.target_tokenizer = tokenizer
        self._tokens, self._mask, self._channels = encoded.tokens, encoded.mask, channels
        self._sizes = None if image_size is None else (image_size, resize_size, interpolation)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Mapping[str, np.ndarray]:
        found = self.pictures[index]
        image = decode_image(found, self._channels) if isinstance(found, Path) else found["image"]
        if self._sizes is not None:
            image = np.asarray(resize_and_crop(from_pixels(image), *self._sizes), np.uint8)
            image = image.reshape(*image.shape[:2], -1)
        return {"image": image, "tokens": self._tokens[index], "mask": self._mask[index]}


def load_captioned_images(
    split: str,
    *,
    path: str | Path,
    columns: Sequence[str] = ("image", "caption"),
    tokenizer: str = "words",
    max_length: int = 77,
    image_size: int | None = None,
    resize_size: int | None = None,
    channels: int = 3,
    interpolation: str = "bilinear",
) -> Source | None:
    """Returns one split of pictures with captions, see CaptionedSource.

    Args:
      split: "train", "validation" or "test".
      path: a folder with train.tsv and so on (or .csv, .jsonl), and the pictures.
      columns: the names of the column of the pictures' files, as paths inside `path`, and of that of the captions.
      tokenizer: "bytes", "characters" or "words" (those of the train split), or what `deepmodels.tokenizers.load`
        reads.
      max_length: positions of a caption; longer ones are cut.
      image_size, resize_size, channels, interpolation: see ImageFolderSource.

    Raises:
      DataError: the folder or a file isn't there, or isn't as its name says.
      ConfigError: the tokenizer can't be made, or a number is out of range.
    """
    check_numbers(max_length, 0.5)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with train.tsv, of pictures and captions, and the pictures")
    found = read_rows(folder, columns, split, 0.5)
    if found is None:
        return None
    (_, train_captions), (files, captions), name = found
    paths = [folder / file for file in files]
    if missing := next((file for file in paths if not file.is_file()), None):
        raise DataError(f"{name}: there is no picture {missing}")
    sizes = dict(image_size=image_size, resize_size=resize_size, channels=channels, interpolation=interpolation)
    return CaptionedSource(paths, captions, make_tokenizer(tokenizer, train_captions), max_length, **sizes)


def captioned_by_class(
    source: Source, class_names: Sequence[str], tokenizer: str = "words", max_length: int = 8, image_size: int = 32
) -> CaptionedSource:
    """Returns pictures whose captions are the names of their classes, "a picture of a dress".

    Args:
      source: records of an "image" and a "label".
      class_names: by label.
      tokenizer: as `load_captioned_images` takes it.
      max_length: positions of a caption.
      image_size: height and width, in pixels.
    """
    names = [f"a picture of a {name}" for name in class_names]
    captions = [names[int(source[i]["label"])] for i in range(len(source))]
    return CaptionedSource(source, captions, make_tokenizer(tokenizer, names), max_length, image_size=image_size)
