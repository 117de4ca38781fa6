"""Data sets of text: embedded and from disk, their splits, and batches of records of about one length."""

import gzip
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from deepmodels import data
from deepmodels.data.pipeline import bucketed_indices, record_indices
from deepmodels.errors import ConfigError, DataError

EMBEDDED = Path(data.__file__).parent / "embedded"


def source(name, split="train", **arguments):
    return data.create(name, split=split, **arguments)


def test_state_of_the_union():
    train, test = source("state_of_the_union"), source("state_of_the_union", "test")
    assert (len(train), len(test)) == (3_515, 395)
    record = train[1]
    assert record.keys() == {"tokens"}
    assert (record["tokens"].shape, record["tokens"].dtype) == ((256,), np.int32)
    text = gzip.decompress((EMBEDDED / "state_of_the_union.txt.gz").read_bytes()).decode()
    assert train.tokenizer.decode(train[0]["tokens"]) in text
    assert test.tokenizer.decode(test[0]["tokens"]) in text[int(0.9 * len(text)) - 1 :]
    validation = source("state_of_the_union", "validation", validation_size=100)
    assert len(validation) == 100
    assert validation.tokenizer.vocab_size == 260
    with pytest.raises(ConfigError, match="no validation split: give validation_size"):
        source("state_of_the_union", "validation")


def test_english_spanish():
    train, test = (source("english_spanish", split, max_length=128) for split in ("train", "test"))
    record = test[0]
    assert {key: (v.shape, v.dtype.name) for key, v in record.items()} == {
        "tokens": ((128,), "int32"), "mask": ((128,), "bool"),
        "targets": ((128,), "int32"), "target_mask": ((128,), "bool"),
    }  # fmt: skip
    table = gzip.decompress((EMBEDDED / "english_spanish.tsv.gz").read_bytes()).decode()
    pairs = {tuple(line.split("\t")[1:]) for line in table.splitlines()[1:]}
    texts = {
        split: {tuple(part.tokenizer.decode(part[i][key]) for key in ("tokens", "targets")) for i in range(len(part))}
        for split, part in {"train": train, "test": test}.items()
    }
    assert texts["train"] | texts["test"] <= pairs
    assert len(texts["train"] & texts["test"]) <= 2, "some verses are in the book more than once"
    assert 1_000 < len(train) < 2_700, "pairs that are too long are left out"
    assert (record["targets"][0], record["targets"][record["target_mask"]][-1]) == (1, 2)
    np.testing.assert_array_equal(train.lengths[:3], [max(train[i][k].sum() for k in ("mask", "target_mask"))
                                                      for i in range(3)])  # fmt: skip
    other = source("english_spanish", "test", max_length=128, tokenizer="characters")
    assert other.tokenizer.vocab_size < 110
    with pytest.raises(DataError, match="no pair of its split 'train' fits into max_length=8"):
        source("english_spanish", max_length=8)


def test_cmudict():
    train, test = source("cmudict"), source("cmudict", "test")
    assert (len(train), len(test)) == (9_000, 1_000)
    assert (train.tokenizer.vocab_size, train.target_tokenizer.vocab_size) == (31, 74)
    record = train[0]
    assert train.tokenizer.decode(record["tokens"]) == "aaker"
    assert train.target_tokenizer.decode(record["targets"]) == "AA1 K ER0"


def test_the_embedded_texts_come_with_their_licences():
    for name, words in {
        "state-of-the-union": "public domain", "english-spanish": "public domain", "cmudict": "Carnegie Mellon",
    }.items():  # fmt: skip
        assert words in (EMBEDDED / f"LICENSE-{name}").read_text()
    assert sum(file.stat().st_size for file in EMBEDDED.iterdir()) < 2_000_000


def test_text_from_disk(tmp_path):
    (tmp_path / "one.txt").write_text("abcdefghij" * 10)
    one = source("text", path=tmp_path / "one.txt", max_length=8, tokenizer="characters", test_share=0.2)
    assert len(one) == 80 // 8
    assert one.tokenizer.decode(one[1]["tokens"]) == "ijabcdef"
    folder = tmp_path / "parts"
    folder.mkdir()
    with gzip.open(folder / "train.txt.gz", "wt") as file:
        file.write("aab" * 20)
    (folder / "test.txt").write_text("abc" * 20)
    test = source("text", "test", path=folder, max_length=6, tokenizer="characters")
    assert len(test) == 10
    assert len(source("text", path=folder, max_length=6)) == 10
    assert test[0]["tokens"].tolist()[2] == test.tokenizer.special["unk"], "the training text has no c"
    (folder / "validation.txt").write_text("b" * 12)
    assert len(source("text", "validation", path=folder, max_length=6)) == 2


def test_pairs_of_sentences():
    test = source("state_of_the_union", "test", max_length=33, sentence_pairs=True)
    windows = source("state_of_the_union", "test", max_length=30)
    records = test.get_batch(np.arange(len(test)))
    assert (records["tokens"][:, 0] == 1).all()
    assert (records["tokens"][:, [16, 32]] == 2).all()
    np.testing.assert_array_equal(records["segments"], np.tile([0] * 17 + [1] * 16, (len(test), 1)))
    assert abs(records["label"].mean() - 0.5) < 0.01
    halves = windows.get_batch(np.arange(len(windows)))["tokens"]
    np.testing.assert_array_equal(records["tokens"][:, 1:16], halves[:, :15])
    follows = (records["tokens"][:, 17:32] == halves[:, 15:]).all(1)
    np.testing.assert_array_equal(follows, records["label"] == 0)


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl"])
def test_labelled_texts_from_disk(tmp_path, suffix):
    rows = [(f'text, "{n}"', ["good", "bad"][n % 2]) for n in range(20)]
    path = tmp_path / f"data.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows))
    elif suffix == "tsv":
        path.write_text("label\ttext\n" + "".join(f"{label}\t{text}\n" for text, label in rows))
    else:
        quoted = ((text.replace('"', '""'), label) for text, label in rows)
        path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in quoted))
    train, test = (source("text_classification", split, path=path, max_length=9) for split in ("train", "test"))
    assert (len(train), len(test)) == (18, 2)
    assert train.class_names == ("bad", "good")
    texts = {part.tokenizer.decode(part[i]["tokens"]) for part in (train, test) for i in range(len(part))}
    assert texts == {text[:7] for text, _ in rows}, "cut to max_length with their special ids"
    for i in range(18):
        number = int(rows[train_index(i)][0].split('"')[1])
        assert train[i]["label"] == (number + 1) % 2
    assert train[0].keys() == {"tokens", "mask", "label"}


def train_index(i):
    """The row of the i-th training record, of 20 rows of which two are for the test."""
    from deepmodels.data.sources import permutation

    return np.sort(permutation(20, 1)[2:])[i]


def test_labelled_pairs_of_texts(tmp_path):
    (tmp_path / "train.csv").write_text("a,b,y\nx,yz,10\nu,v,9\n")
    (tmp_path / "test.csv").write_text("a,b,y\nx,y,9\n")
    options = dict(path=tmp_path, columns=("a", "b", "y"), max_length=8)
    train = source("text_classification", **options)
    assert train.class_names == ("9", "10"), "numbers are sorted as numbers"
    assert train[0]["segments"].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert source("text_classification", "test", **options)[0]["label"] == 0
    (tmp_path / "test.csv").write_text("a,b,y\nx,y,11\n")
    with pytest.raises(DataError, match="'11' isn't a label of the train split: did you mean '10'"):
        source("text_classification", "test", **options)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (None, "", "expected a file, or a folder with train.tsv"),
        ("x.tsv", "source\ttarget\na\tb\n", "expected rows for a train and a test split, found 1"),
        ("x.tsv", "source\tmarget\na\tb\nc\td\n", "row 1 has no column 'target': did you mean 'margets?'"),
        ("x.tsv", "source\ttarget\na\n", "row 1 has no column 'target'"),
        ("x.jsonl", '{"source": "a"\n', "not readable as .jsonl"),
        ("x.jsonl", "[1]\n", "row 1 has no column 'source'"),
        ("x.xml", "<a/>", "expected a name that ends in .tsv, .csv, .jsonl"),
        ("x.csv.gz", "not gzip", "not readable as text in UTF-8"),
    ],
)
def test_damaged_files_are_named(tmp_path, file, content, message):
    path = tmp_path / (file or "missing")
    if file:
        path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        source("text_pairs", path=path)
    assert str(path) in str(caught.value)


def test_arguments_that_arent_right(tmp_path):
    with pytest.raises(DataError, match="don't fill a window of max_length=2000000"):
        source("state_of_the_union", max_length=2_000_000)
    with pytest.raises(ConfigError, match="max_length: expected 2 or more, got 1"):
        source("state_of_the_union", max_length=1)
    with pytest.raises(ConfigError, match="'byte': no such file, and not a name: did you mean 'bytes'"):
        source("state_of_the_union", tokenizer="byte")
    (tmp_path / "x.txt").write_text("abc" * 9)
    with pytest.raises(ConfigError, match="test_share: expected a share between 0 and 1, got 2"):
        source("text", path=tmp_path / "x.txt", test_share=2)


def test_buckets_hold_every_record_once_and_records_of_one_length_together():
    lengths = np.random.default_rng(0).integers(1, 100, 1_000)
    order = bucketed_indices(lengths, 7, 2, 16)
    assert order.shape == (64, 16)
    plain = record_indices(1_000, 7, 2 * 1_024 + np.arange(1_024))
    np.testing.assert_array_equal(np.sort(order, None), np.sort(plain))
    spread = np.ptp(lengths[order], axis=1)
    assert spread.max() < 10
    assert not (np.diff(lengths[order].max(1)) >= 0).all(), "short batches don't come first"
    assert (order != bucketed_indices(lengths, 8, 2, 16)).any()


def test_batches_end_where_their_longest_record_does():
    pairs = source("english_spanish", validation_size=100)
    buckets = (64, 128, 192, 256)

    def batches(**options):
        made = data.batches(pairs, batch_size=16, seed=3, buckets=buckets, **options)
        found = list(islice(made, 5))
        made.close()
        return found

    one = batches(start_step=62)
    for batch in one:
        width = batch["tokens"].shape[1]
        assert all(array.shape == (16, width) for array in batch.values())
        longest = max(batch["mask"].sum(1).max(), batch["target_mask"].sum(1).max())
        assert width == min(size for size in buckets if size >= longest)
    assert len({batch["tokens"].shape for batch in one}) > 1
    for batch, same in zip(one[3:], batches(start_step=65), strict=False):
        np.testing.assert_array_equal(batch["tokens"], same["tokens"])
    halves = [batches(start_step=62, process_index=i, process_count=2) for i in range(2)]
    for batch, *parts in zip(one, *halves, strict=True):
        np.testing.assert_array_equal(batch["targets"], np.concatenate([part["targets"] for part in parts]))


@pytest.mark.parametrize(
    ("name", "buckets", "message"),
    [
        ("cmudict", (4, 8), "the longest record fills 20 positions, the last is 8"),
        ("cmudict", (8, 4, 20), "expected ascending lengths"),
        ("state_of_the_union", (64,), "the records of this data set all have one length"),
    ],
)
def test_buckets_that_dont_fit(name, buckets, message):
    with pytest.raises(ConfigError, match=f"buckets: {message}"):
        data.batches(source(name), batch_size=8, seed=0, buckets=buckets)
