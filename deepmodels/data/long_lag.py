"""Made-up tasks whose answer depends on what came long before it."""

import numpy as np

from deepmodels.data.sources import Record
from deepmodels.errors import ConfigError

RECORDS = {"train": 20_000, "test": 1_000}
ALPHABET = 8  # of what is to be copied: tokens 1 to 8
BLANK, RECALL = 0, 9  # tokens that hold nothing, and that ask for the copy
IGNORED = -100  # the label of a position that counts for nothing


class AddingSource:
    """The adding problem: a row of numbers of which two are marked, and their sum. Hochreiter & Schmidhuber (1997),
    doi:10.1162/neco.1997.9.8.1735, section 5.4.

    A record is {"inputs": float32 (length, 2), "target": float32 (1,)}: numbers from [0, 1) and their marks, 1 for two
    of them and 0 for the others, one in the first tenth and one in the rest of the first half; the target is half the
    sum of the two. So what is asked at the end came at least half the length before. Records depend on the split, the
    length and the index alone.

    Args:
      split: "train" or "test".
      length: of the row.

    Raises:
      ConfigError: the length is less than 10.
    """

    def __init__(self, split: str, length: int):
        if length < 10:
            raise ConfigError(f"length: expected 10 or more, got {length}")
        self.length, self._seed = length, (list(RECORDS).index(split), length)
        self._count = RECORDS[split]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        _check_index(index, self._count)
        random = _Random(*self._seed, index)
        inputs = np.zeros((self.length, 2), np.float32)
        inputs[:, 0] = random(self.length)
        first, second = random(2)
        tenth, half = self.length // 10, self.length // 2
        marked = [int(first * tenth), tenth + int(second * (half - tenth))]
        inputs[marked, 1] = 1
        return {"inputs": inputs, "target": inputs[marked, 0].sum(keepdims=True) / 2}


class CopyingSource:
    """The copying problem: letters, a long pause, and then the letters again. Arjovsky, Shah & Bengio (2015),
    arXiv:1511.06464, section 5.1.

    A record is {"tokens": int32 (length,), "label": int32 (length,)}, where length is lag + 2 copied: `copied` letters,
    of tokens 1 to 8; blanks, token 0; one token 9, which asks for the copy, behind `lag` - 1 of them; and blanks. The
    labels of the last `copied` positions are the letters, the others are -100. Records depend on the split, the
    arguments and the index alone.

    Args:
      split: "train" or "test".
      lag: positions between the last letter and the first of the copy, less one.
      copied: number of letters.

    Raises:
      ConfigError: `lag` or `copied` isn't positive.
    """

    def __init__(self, split: str, lag: int, copied: int = 5):
        if lag < 1 or copied < 1:
            raise ConfigError(f"lag, copied: expected 1 or more, got {lag} and {copied}")
        self.lag, self.copied = lag, copied
        self._seed = (list(RECORDS).index(split), lag, copied)
        self._count = RECORDS[split]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        _check_index(index, self._count)
        letters = 1 + (_Random(*self._seed, index)(self.copied) * ALPHABET).astype(np.int32)
        tokens = np.full(self.lag + 2 * self.copied, BLANK, np.int32)
        label = np.full(tokens.shape, IGNORED, np.int32)
        tokens[: self.copied], tokens[-self.copied - 1] = letters, RECALL
        label[-self.copied :] = letters
        return {"tokens": tokens, "label": label}


class _Random:
    """Uniform numbers of [0, 1) from raw bits, as numpy promises no others to be the same in all its versions."""

    def __init__(self, *seed: int):
        self.bits = np.random.PCG64(np.random.SeedSequence(seed))

    def __call__(self, count: int) -> np.ndarray:
        return (np.asarray(self.bits.random_raw(count)) >> np.uint64(40)) * 2.0**-24  # exact in float32


def _check_index(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise IndexError(f"the records are 0 to {count - 1}, not {index}")
