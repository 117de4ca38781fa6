"""Data that goes wrong: named, or passed over by a rule and counted; and a source that changed since."""

import itertools
import json
import os

import numpy as np
import pytest
from PIL import Image

import deepmodels
from deepmodels import data
from deepmodels.errors import ConfigError, DataError
from deepmodels.training import loop


class Failing:
    """Records that are their numbers, of which some can't be read."""

    def __init__(self, length, bad, error=OSError):
        self.length, self.bad, self.error = length, set(bad), error

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.bad:
            raise self.error("no")
        return {"x": np.array(index, np.int64), "label": np.array(index % 3, np.int32)}


def epoch(source, batch_size=8, processes=1, **options):
    """The numbers of the records of an epoch, in the order of the global batches."""
    parts = [
        data.batches(source, batch_size=batch_size, seed=5, process_index=i, process_count=processes, **options)
        for i in range(processes)
    ]
    count = len(source) // batch_size
    found = [np.concatenate([batch["x"] for batch in itertools.islice(part, count)]) for part in parts]
    for part in parts:
        part.close()
    return np.stack([rows.reshape(count, -1) for rows in found], axis=1).reshape(-1)


@pytest.mark.parametrize("error", [OSError, MemoryError, SystemExit, ZeroDivisionError])
@pytest.mark.parametrize("threads", [0, 2])
def test_whatever_a_reader_dies_of_names_the_record(error, threads):
    source = data.CheckedSource(Failing(40, {11}, error), "train")
    with pytest.raises(DataError, match=rf"train: record 11: can't be read: {error.__name__}: no.*skip_damaged=N"):
        epoch(source, threads=threads)


@pytest.mark.parametrize(("processes", "threads"), [(1, 0), (1, 2), (2, 0), (2, 2), (4, 0), (4, 2)])
def test_an_epoch_has_every_record_once_but_for_the_damaged(processes, threads):
    whole = epoch(data.CheckedSource(Failing(40, ())), processes=processes, threads=threads)
    assert sorted(whole) == list(range(40))
    source = data.CheckedSource(Failing(40, {3, 11}), skip=2, seed=1)
    found = epoch(source, processes=processes, threads=threads)
    assert sorted(source.damaged) == [3, 11]
    np.testing.assert_array_equal(found[~np.isin(whole, [3, 11])], whole[~np.isin(whole, [3, 11])])
    alone = data.CheckedSource(Failing(40, {3, 11}), skip=2, seed=1)
    expected = [int(alone[int(index)]["x"]) for index in whole]  # what stands in is a function of seed and number
    np.testing.assert_array_equal(found, expected)
    assert not np.isin(found, [3, 11]).any()
    with pytest.raises(DataError, match=r"With it more than config.data.skip_damaged=1 records are damaged: (3|11) "):
        epoch(data.CheckedSource(Failing(40, {3, 11}), skip=1, seed=1), processes=processes, threads=threads)


def test_damaged_records_count_as_padding_when_a_model_is_judged():
    source = data.CheckedSource(Failing(10, {0, 7}), skip=5)
    rows = [
        batch["x"][batch["example_mask"] == 1] for batch in data.evaluation_batches(source, batch_size=4, threads=0)
    ]
    assert np.concatenate(rows).tolist() == [1, 2, 3, 4, 5, 6, 8, 9]


@pytest.mark.parametrize("in_memory", [True, False])
def test_labels_out_of_range_are_named_or_passed_over(in_memory):
    arrays = {"x": np.arange(12), "label": np.array([0, 1, 2] * 4, np.int32)}
    arrays["label"][[4, 9]] = 3, -1
    source = data.ArraySource(arrays, "numbers.npz") if in_memory else _Slow(arrays)
    where = ", numbers.npz" if in_memory else ""
    bounds = {"label": data.Bound(3), "other": data.Bound(1)}
    with pytest.raises(
        DataError, match=rf"train: record (4{where}: 'label' is 3|9{where}: 'label' is -1), expected 0 to"
    ):
        epoch(data.CheckedSource(source, "train", bounds=bounds), batch_size=4)
    checked = data.CheckedSource(source, "train", bounds=bounds, skip=2)
    found = epoch(checked, batch_size=4)
    assert sorted(checked.damaged) == [4, 9]
    assert not np.isin(found, [4, 9]).any()
    assert sorted(epoch(data.CheckedSource(source, bounds={"label": data.Bound(4, -1)}), batch_size=4)) == [*range(12)]


class _Slow(data.ArraySource):
    get_batch = property()  # it has none

    def __init__(self, arrays):
        super().__init__(arrays)

    where_from = property()


def test_a_damaged_picture_and_a_damaged_shard_are_named_with_file_and_number(tmp_path):
    for name in ("cat", "dog"):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(2):
            Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "pictures" / "dog" / "0.png").write_bytes(b"no picture")
    source = data.CheckedSource(data.ImageFolderSource(tmp_path / "pictures"))
    with pytest.raises(DataError, match=r"record 2, .*dog/0.png: not a readable image"):
        source[2]
    numbers = data.ArraySource({"x": np.arange(3), "image": np.zeros((3, 64), np.uint8)})
    paths = [tmp_path / f"train-{i}.array_record" for i in range(3)]
    for path in paths:
        data.write_array_record(path, numbers)
    raw = bytearray(paths[1].read_bytes())
    place = raw.index(b'{"x"')
    place = raw.index(b'{"x"', place + 1)
    raw[place + 10] ^= 1
    paths[1].write_bytes(raw)
    source = data.ArrayRecordSource(paths)
    assert [int(source[i]["x"]) for i in (0, 2, 3, 5, 6, 8)] == [0, 2, 0, 2, 0, 2]
    with pytest.raises(DataError, match=r"record 4, number 1 of .*train-1.array_record: damaged"):
        source[4]
    from array_record.python.array_record_module import ArrayRecordWriter

    ArrayRecordWriter(str(paths[2]), "group_size:1").close()
    with pytest.raises(DataError, match=r"train-2.array_record: no records in it"):
        data.ArrayRecordSource(paths)


def test_lines_and_arrays_are_named(tmp_path):
    (tmp_path / "table.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": \n')
    with pytest.raises(DataError, match=r"table.jsonl, line 2: not readable as .jsonl"):
        data.create("text_classification", split="train", path=tmp_path / "table.jsonl")
    (tmp_path / "text.txt").write_bytes(b"good\nbad \xff\n")
    with pytest.raises(DataError, match=r"text.txt, line 2: not readable as text in UTF-8"):
        data.create("text", split="train", path=tmp_path / "text.txt")
    np.savez(tmp_path / "a.npz", train_image=np.zeros((2, 4, 4), np.uint8), train_label=np.array([{}, {}]))
    with pytest.raises(DataError, match=r"a.npz, array 'train_label': not a readable .npz"):
        data.create("npz", split="train", path=tmp_path / "a.npz")


def test_what_changed_in_a_source_is_told(tmp_path):
    arrays = {"x": np.arange(40), "image": np.zeros((40, 8), np.uint8)}
    paths = [tmp_path / "a.array_record", tmp_path / "b.array_record"]
    for path in paths:
        data.write_array_record(path, data.ArraySource(arrays))
    before = json.loads(json.dumps(data.fingerprint(data.ArrayRecordSource(paths))))
    assert data.changes(before, data.fingerprint(data.ArrayRecordSource(paths))) == []
    data.write_array_record(paths[1], data.ArraySource(arrays | {"image": np.ones((40, 8), np.uint8)}))
    lines = data.changes(before, data.fingerprint(data.ArrayRecordSource(paths)))
    assert lines
    assert all(line.startswith("record ") and line.endswith("isn't what it was") for line in lines)
    data.write_array_record(paths[1], data.ArraySource({key: array[:39] for key, array in arrays.items()}))
    lines = data.changes(before, data.fingerprint(data.ArrayRecordSource(paths)))
    assert lines == ["79 records, there were 80"]
    os.rename(paths[1], tmp_path / "c.array_record")
    data.write_array_record(tmp_path / "c.array_record", data.ArraySource(arrays))
    lines = data.changes(before, data.fingerprint(data.ArrayRecordSource([paths[0], tmp_path / "c.array_record"])))
    assert [line.split("/")[-1] for line in lines] == ["b.array_record is gone", "c.array_record is new"]
    memory = data.fingerprint(data.SubsetSource(data.ArraySource(arrays), np.arange(30)))
    arrays["x"][7] = 8
    lines = data.changes(memory, data.fingerprint(data.SubsetSource(data.ArraySource(arrays), np.arange(30))))
    assert "array x isn't what it was" in lines


@pytest.fixture
def config(tmp_path, tiny_config, monkeypatch):
    import jax

    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])

    def make(**section):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 64)
        labels[[5, 9]] = 7
        images = rng.integers(0, 256, (64, 4, 4, 1), np.uint8)
        arrays = {"train_image": images, "train_label": labels}
        np.savez(tmp_path / "data.npz", **arrays, test_image=images[:8], test_label=labels[:8])
        where = {"name": "npz", "path": str(tmp_path / "data.npz"), "batch_size": 8}
        return tiny_config(steps=16, model={"name": "mlp_tiny", "num_classes": 3}, data=where | section)

    return make


def test_a_run_passes_over_damaged_records_and_says_so(config, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"(train|test): record \d+, .*data.npz: 'label' is 7, expected 0 to 2"):
        deepmodels.train(config(), tmp_path / "run", quiet=True)
    deepmodels.train(config(skip_damaged=3), tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [(line["split"], line["record"]) for line in lines if line["event"] == "damaged record"].count(
        ("test", 5)
    ) == 1
    assert {(line["split"], line["record"]) for line in lines} == {("train", 5), ("train", 9), ("test", 5)}
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["data/damaged_records"] == 3
    monkeypatch.setattr(loop, "_report", lambda x, workdir, *_: workdir / "report.html")
    assert len(deepmodels.train(config(skip_damaged=3), tmp_path / "run", quiet=True).metrics) == 2
    assert len((tmp_path / "run" / "events.jsonl").read_text().splitlines()) == 3  # nothing anew
    with pytest.raises(ConfigError, match="config.data.skip_damaged is a whole number, 0 or more, got -1"):
        deepmodels.train(config(skip_damaged=-1), tmp_path / "run", quiet=True)


def test_a_run_does_not_go_on_with_other_data(config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_report", lambda x, workdir, *_: workdir / "report.html")
    values = config(skip_damaged=3)
    deepmodels.train(values | {"steps": 2}, tmp_path / "run", quiet=True)
    with np.load(tmp_path / "data.npz") as file:
        arrays = dict(file)
    arrays["train_image"][3] ^= 1
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(DataError, match=r"isn't what this run began with:\n  train: array image isn't what it was"):
        deepmodels.train(values, tmp_path / "run", quiet=True)
