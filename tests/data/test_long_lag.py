import numpy as np
import pytest

from deepmodels import data
from deepmodels.errors import ConfigError


def test_adding_marks_two_numbers_far_from_the_end():
    source = data.create("adding", split="train", length=40)
    assert len(source) == 20_000
    records = [source[i] for i in range(200)]
    marks = np.stack([np.flatnonzero(r["inputs"][:, 1]) for r in records])
    assert (marks[:, 0].min(), marks[:, 0].max(), marks[:, 1].min(), marks[:, 1].max()) == (0, 3, 4, 19)
    for record, marked in zip(records, marks, strict=True):
        assert record["inputs"].dtype == record["target"].dtype == np.float32
        np.testing.assert_array_equal(record["target"], record["inputs"][marked, 0].sum(keepdims=True) / 2)
    targets = np.stack([r["target"] for r in records])
    np.testing.assert_allclose(targets.var(), 1 / 24, rtol=0.3)  # what always answering the mean costs


def test_copying_asks_for_the_letters_at_the_end():
    source = data.create("copying", split="test", lag=7, copied=3)
    assert len(source) == 1_000
    record = source[5]
    letters = record["tokens"][:3]
    assert ((letters >= 1) & (letters <= 8)).all()
    np.testing.assert_array_equal(record["tokens"][3:], [0, 0, 0, 0, 0, 0, 9, 0, 0, 0])
    np.testing.assert_array_equal(record["label"], [*[-100] * 10, *letters])
    first = np.array([source[i]["tokens"][0] for i in range(100)])
    assert set(first) == set(range(1, 9))


@pytest.mark.parametrize(("name", "arguments"), [("adding", {"length": 20}), ("copying", {"lag": 4})])
def test_records_depend_on_split_and_index_alone(name, arguments):
    train, test = (data.create(name, split=split, **arguments) for split in ("train", "test"))
    key = "inputs" if name == "adding" else "tokens"
    np.testing.assert_array_equal(train[3][key], data.create(name, split="train", **arguments)[3][key])
    assert not np.array_equal(train[3][key], train[4][key])
    assert not np.array_equal(train[3][key], test[3][key])
    with pytest.raises(IndexError, match="0 to 999, not 1000"):
        test[1000]


def test_bad_arguments_are_named():
    with pytest.raises(ConfigError, match="length: expected 10 or more, got 9"):
        data.create("adding", split="train", length=9)
    with pytest.raises(ConfigError, match="lag, copied: expected 1 or more, got 0 and 5"):
        data.create("copying", split="train", lag=0)
