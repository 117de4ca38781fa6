"""Records drawn at random: for the time and the memory of a run, when what it learns is no matter."""

import numpy as np

from deepmodels.data.sources import Record
from deepmodels.errors import ConfigError

RECORDS = {"train": 65_536, "test": 1_024}
_SEEDS = {"train": 0, "test": 1}


class SyntheticSource:
    """Pictures with a label, or tokens, all drawn at random; the same each time.

    A record is {"image": uint8 `image_shape`, "label": int32 ()}, or {"tokens": int32 (length,)}, beside it with a
    `target_length` {"targets": int32 (target_length,)}.

    Args:
      split: "train" or "test".
      image_shape: (height, width, channels) of pictures.
      num_classes: the labels are below.
      length: of texts, in tokens.
      target_length: of the texts to write for them.
      vocab_size: the tokens are below.

    Raises:
      ConfigError: neither pictures nor texts are asked for, both are, or what they need is missing.
    """

    def __init__(
        self,
        split: str,
        image_shape: tuple[int, int, int] | None = None,
        num_classes: int | None = None,
        length: int | None = None,
        target_length: int | None = None,
        vocab_size: int | None = None,
    ):
        pictures, texts = image_shape is not None, length is not None
        if pictures == texts or (texts and vocab_size is None) or (pictures and num_classes is None):
            raise ConfigError(
                "data set 'synthetic' needs image_shape and num_classes, or length and vocab_size, and not both"
            )
        self._seed, self._size = _SEEDS[split], RECORDS[split]
        self._fields = (
            {"image": (tuple(image_shape), 256, np.uint8), "label": ((), num_classes, np.int32)}
            if pictures
            else {"tokens": ((length,), vocab_size, np.int32)}
        )
        if target_length is not None:
            self._fields["targets"] = ((target_length,), vocab_size, np.int32)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Record:
        rng = np.random.default_rng((self._seed, index))
        return {
            name: rng.integers(0, below, shape, dtype) if shape else np.asarray(rng.integers(0, below), dtype)
            for name, (shape, below, dtype) in self._fields.items()
        }
