"""Tasks that only the text itself says: pairs of a key and a value, of which the value has to be given once more."""

import numpy as np

from deepmodels.data.sources import Record
from deepmodels.errors import ConfigError

RECORDS = {"train": 20_000, "test": 1_000}
_SEEDS = {"train": 0, "test": 1}


class RecallSource:
    """Rows of pairs, key value key value ..., in which each key always has the same value: in that row only.

    A record is {"tokens": int32 (2 pairs,), "loss_mask": bools (2 pairs,)}: keys are 0 to keys - 1, values are keys to
    2 keys - 1. Which value a key has is drawn anew in each row, so that nothing about it can be learned beforehand; the
    mask is True at the values of keys that were there before in the row, which can be looked up. That takes two layers
    of attention. Olsson et al. (2022), arXiv:2209.11895; Chan et al. (2022), arXiv:2205.05055.

    Args:
      split: "train" or "test".
      pairs: in a row.
      keys: how many there are, and as many values.

    Raises:
      ConfigError: there are too few pairs or keys.
    """

    def __init__(self, split: str, pairs: int, keys: int):
        if pairs < 2 or keys < 2:
            raise ConfigError(f"pairs, keys: expected 2 or more of each, got {pairs} and {keys}")
        self._seed, self._size, self._pairs, self._keys = _SEEDS[split], RECORDS[split], pairs, keys

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Record:
        bits = np.random.PCG64(np.random.SeedSequence((self._seed, index))).random_raw(self._pairs + self._keys)
        keys = (bits[: self._pairs] % self._keys).astype(np.int32)
        values = np.argsort(bits[self._pairs :], kind="stable").astype(np.int32)  # of each key
        tokens = np.stack([keys, self._keys + values[keys]], axis=1).reshape(-1)
        _, first = np.unique(keys, return_index=True)
        mask = np.zeros((self._pairs, 2), bool)
        mask[:, 1] = ~np.isin(np.arange(self._pairs), first)
        return {"tokens": tokens, "loss_mask": mask.reshape(-1)}
