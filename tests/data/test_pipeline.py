"""A batch is a function of (seed, step), whatever the number of processes and threads."""

import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from deepmodels import data
from deepmodels.errors import ConfigError, DataError


class Decoded:
    """A source that makes each record when asked, slower for some than for others."""

    def __init__(self, length: int, broken: int | None = None):
        self.length, self.broken = length, broken
        self.threads: set[str] = set()

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.threads.add(threading.current_thread().name)
        if index == self.broken:
            raise DataError(f"record {index} of x.png: not a readable image")
        time.sleep(0.0005 * (index % 3))
        return {"x": np.full((2,), index, np.int32)}


def numbers(length: int) -> data.ArraySource:
    return data.ArraySource({"x": np.stack([np.arange(length, dtype=np.int32)] * 2, axis=1)})


def take(source: data.Source, count: int, **arguments) -> np.ndarray:
    """Returns the numbers of the records of the first batches: (count, rows)."""
    iterator = data.batches(source, **arguments)
    rows = [batch["x"][:, 0] for batch in itertools.islice(iterator, count)]
    iterator.close()
    return np.stack(rows)


@pytest.mark.parametrize(("length", "batch_size"), [(12, 4), (10, 4), (7, 7), (5, 1)])
def test_every_record_comes_once_in_each_epoch(length, batch_size):
    epochs = 6
    order = take(numbers(length), epochs * length // batch_size, batch_size=batch_size, seed=0).ravel()
    order = order[: len(order) // length * length].reshape(-1, length)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(length), (len(order), 1)))
    assert len({tuple(epoch) for epoch in order}) == len(order)


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    first, again, other = (take(numbers(64), 2, batch_size=32, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.8
    # Seed and epoch must not add up: epoch 1 of seed 3 isn't epoch 0 of seed 4.
    assert (take(numbers(64), 2, batch_size=32, seed=3, start_step=2) != other).mean() > 0.8
    assert (first.ravel() != np.arange(64)).mean() > 0.8


def test_records_are_spread_evenly_by_the_shuffle():
    """Each record stands at each position about equally often: chi-square of 64 cells, 63 degrees of freedom."""
    order = take(numbers(8), 400, batch_size=8, seed=0)
    counts = np.array([[np.sum(order[:, p] == r) for r in range(8)] for p in range(8)])
    assert np.sum((counts - 50.0) ** 2 / 50.0) < 110


@pytest.mark.parametrize("source", [numbers(10), Decoded(10)])
def test_a_late_start_equals_skipping(source):
    whole = take(source, 12, batch_size=4, seed=1)
    for start in (1, 5, 11):
        np.testing.assert_array_equal(take(source, 12 - start, batch_size=4, seed=1, start_step=start), whole[start:])
    far = take(source, 1, batch_size=4, seed=1, start_step=10**12)
    assert len(set(far[0])) >= 2


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_processes_together_see_the_same_global_batches_row_by_row(process_count):
    source = numbers(10)
    whole = take(source, 6, batch_size=8, seed=5, start_step=3)
    parts = [
        take(source, 6, batch_size=8, seed=5, start_step=3, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize(("threads", "prefetch"), [(0, 0), (0, 3), (3, 0), (3, 2)])
def test_threads_and_prefetch_change_no_batch(threads, prefetch):
    source = Decoded(10)
    found = take(source, 5, batch_size=6, seed=2, threads=threads, prefetch=prefetch)
    np.testing.assert_array_equal(found, take(numbers(10), 5, batch_size=6, seed=2))
    readers = {name for name in source.threads if name.startswith("deepmodels-read")}
    assert (len(readers) >= 2) == (threads > 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected a positive multiple of the 1 processes, got 0"),
        ({"batch_size": -4}, "batch_size: expected a positive"),
        ({"batch_size": 11}, "batch_size: expected at most the 10 records of the data set, got 11"),
        ({"batch_size": 6, "process_count": 4}, "multiple of the 4 processes, got 6"),
        (
            {"batch_size": 4, "process_index": 2, "process_count": 2},
            "process_index: expected 0 to process_count - 1 = 1",
        ),
        ({"batch_size": 4, "process_index": -1}, "process_index"),
        ({"batch_size": 4, "seed": -1}, "seed: expected 0 or more, got -1"),
        ({"batch_size": 4, "start_step": -1}, "start_step: expected 0 or more, got -1"),
        ({"batch_size": 4, "threads": -1}, "threads: expected 0 or more"),
        ({"batch_size": 4, "prefetch": -1}, "prefetch: expected 0 or more"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_batch(arguments, message):
    with pytest.raises(ConfigError, match=message):
        data.batches(numbers(10), **{"seed": 0} | arguments)


@pytest.mark.parametrize(("length", "batch_size"), [(10, 4), (8, 4), (3, 8), (1, 1)])
@pytest.mark.parametrize("process_count", [1, 2])
def test_evaluation_is_one_pass_in_order_with_masked_padding(length, batch_size, process_count):
    if batch_size % process_count:
        with pytest.raises(ConfigError, match="batch_size"):
            data.evaluation_batches(numbers(length), batch_size=batch_size, process_count=process_count)
        return
    parts = [
        list(
            data.evaluation_batches(
                numbers(length), batch_size=batch_size, process_index=i, process_count=process_count
            )
        )
        for i in range(process_count)
    ]
    rows, mask = [], []
    for batches in zip(*parts, strict=True):
        assert all(batch["example_mask"].dtype == np.float32 for batch in batches)
        assert all(batch["x"].shape == (batch_size // process_count, 2) for batch in batches)
        rows += [batch["x"][:, 0] for batch in batches]
        mask += [batch["example_mask"] for batch in batches]
    rows, mask = np.concatenate(rows), np.concatenate(mask)
    assert len(rows) == -(-length // batch_size) * batch_size
    np.testing.assert_array_equal(rows[mask == 1], np.arange(length))
    np.testing.assert_array_equal(mask, np.arange(len(rows)) < length)
    assert not rows[mask == 0].any()


@pytest.mark.parametrize(("threads", "prefetch"), [(0, 0), (2, 2)])
def test_a_bad_record_is_an_error_that_names_it(threads, prefetch):
    iterator = data.evaluation_batches(Decoded(10, broken=7), batch_size=4, threads=threads, prefetch=prefetch)
    assert next(iterator)["x"][3, 0] == 3
    with pytest.raises(DataError, match=r"record 7 of x.png"):
        list(iterator)


def test_threads_stop_when_the_iterator_is_closed_or_forgotten():
    before = set(threading.enumerate())
    closed = data.batches(Decoded(10), batch_size=4, seed=0, threads=2)
    forgotten = data.batches(Decoded(10), batch_size=4, seed=0, threads=2)
    next(closed), next(forgotten)
    started = set(threading.enumerate()) - before
    assert len(started) == 6  # for each: two that read, one that makes batches
    closed.close()
    del forgotten
    for thread in started:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize("ending", ["", "iterator.close()"])
def test_a_process_ends_at_once_and_in_silence_with_batches_under_way(ending):
    code = f"""
import numpy as np
from deepmodels import data

class Source:
    def __len__(self): return 100
    def __getitem__(self, index): return {{"x": np.zeros(3)}}

iterator = data.batches(Source(), batch_size=10, seed=0, threads=2, prefetch=4)
next(iterator)
{ending}
"""
    root = Path(data.__file__).parents[2]
    run = subprocess.run([sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", code], cwd=root,
                         capture_output=True, text=True, timeout=60)  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert not [line for line in run.stderr.splitlines() if "deepmodels" in line or "Exception" in line], run.stderr
