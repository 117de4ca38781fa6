"""Keys and values to look up: what a row says, and that nothing else does."""

import numpy as np
import pytest

from deepmodels import data
from deepmodels.errors import ConfigError


def test_a_key_has_one_value_in_a_row_and_others_in_others():
    source = data.create("recall", split="train", pairs=24, keys=16)
    seen = {key: set() for key in range(16)}
    for index in range(50):
        record = source[index]
        keys, values = record["tokens"].reshape(-1, 2).T
        mask = record["loss_mask"].reshape(-1, 2)
        assert not mask[:, 0].any()
        for i, (key, value) in enumerate(zip(keys, values, strict=True)):
            assert mask[i, 1] == (key in keys[:i])
            assert set(values[keys == key]) == {value}
            assert 16 <= value < 32
            seen[key].add(value)
        assert len(set(values)) == len(set(keys)), "no two keys have the same"
    assert min(map(len, seen.values())) > 8


def test_records_are_the_same_each_time_and_splits_differ():
    train, test = (data.create("recall", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (20_000, 1_000)
    np.testing.assert_array_equal(train[7]["tokens"], train[7]["tokens"])
    assert not np.array_equal(train[7]["tokens"], test[7]["tokens"])
    with pytest.raises(ConfigError, match="has no validation split"):
        data.create("recall", split="validation")
    with pytest.raises(ConfigError, match="pairs, keys: expected 2 or more"):
        data.create("recall", split="train", pairs=1)
