"""From a source to batches: endless and reshuffled for training, one padded pass for evaluation.

Record r of global batch k stands at position k * batch_size + r of an order that is computed, not stored. So a batch
is a function of (seed, step): a run resumes at any step at once, and any number of processes sees the same batches.
"""

import functools
import os
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from deepmodels.data.sources import Record, Source, gather, permutation
from deepmodels.errors import ConfigError

# At the border of two epochs a batch needs both orders; batches read ahead need no third one.
epoch_order = functools.lru_cache(maxsize=2)(permutation)


def record_indices(length: int, seed: int, positions: np.ndarray) -> np.ndarray:
    """Returns which record stands at each of `positions` (int64) of the endless order of `length` records.

    Epoch e is positions e * length to (e + 1) * length - 1: every record once, in an order that depends on (seed, e).
    """
    epochs, offsets = np.divmod(positions, length)
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        indices[chosen] = epoch_order(length, seed, int(epoch))[offsets[chosen]]
    return indices


_SORTED_TOGETHER = 64  # batches; more would make those of one length still more alike, and their order less random


def bucketed_indices(lengths: np.ndarray, seed: int, window: int, batch_size: int) -> np.ndarray:
    """Returns the records of 64 batches, int64 (64, batch_size), of which each has records of about one length.

    They are those that stand at these batches' positions of the endless order, sorted by length, cut into batches, and
    these put into an order that depends on (seed, window).

    Args:
      lengths: positions that each record of the source fills.
      seed: of the orders.
      window: which 64 batches: number `window` begins with batch 64 * `window`.
      batch_size: rows of a global batch.
    """
    size = _SORTED_TOGETHER * batch_size
    indices = record_indices(len(lengths), seed, window * size + np.arange(size))
    indices = indices[np.argsort(lengths[indices], kind="stable")].reshape(_SORTED_TOGETHER, batch_size)
    return indices[permutation(_SORTED_TOGETHER, seed, window, 1)]


def position(step: int, windows: Sequence[Sequence[int]]) -> int:
    """Returns the number of the batch that a step takes: its own, and more where batches have been passed over.

    Args:
      step: how many steps came before.
      windows: [[step, count], ...]: from that step on, `count` batches more are passed over.
    """
    return step + sum(count for begin, count in windows if step >= begin)


def batch_records(
    source: Source, *, batch_size: int, seed: int, number: int, buckets: Sequence[int] = ()
) -> np.ndarray:
    """Returns which records the global batch `number` of `batches` has, int64 (batch_size,); the rest is as there."""
    if not len(buckets):
        return record_indices(len(source), seed, number * batch_size + np.arange(batch_size))
    window, place = divmod(number, _SORTED_TOGETHER)
    return bucketed_indices(np.asarray(source.lengths), seed, window, batch_size)[place]


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    windows: Sequence[Sequence[int]] = (),
    buckets: Sequence[int] = (),
    process_index: int = 0,
    process_count: int = 1,
    threads: int | None = None,
    prefetch: int = 2,
) -> Generator[Record, None, None]:
    """Returns endless training batches, from batch `start_step` on: name -> array (rows of this process, ...).

    Args:
      source: the records.
      batch_size: rows of a global batch, over all processes.
      seed: with the step, decides which records a batch holds. It isn't negative.
      start_step: the number of the first batch; it costs nothing to begin late.
      windows: batches that are passed over, see `position`.
      buckets: the lengths that batches of a source of sequences may have, ascending. Records of about one length come
        together, and a batch has the least of these lengths that its longest record fits. Each costs a compilation.
      process_index: process i of N gets rows i * batch_size / N to (i + 1) * batch_size / N - 1 of each global batch.
      process_count: N.
      threads: how many threads read records of a batch; by default one for each core. A source in memory needs none.
      prefetch: how many batches are made ahead of their use, in the background; 0 makes each when it is asked for.

    Returns:
      A generator; its `close()` stops the threads, as does the end of the last reference to it.

    Raises:
      ConfigError: an argument is out of range, or `batch_size` doesn't divide by `process_count`.
      DataError: while iterating: a record can't be read.
    """
    rows = _process_rows(batch_size, process_index, process_count)
    length = len(source)
    if batch_size > length:
        raise ConfigError(f"batch_size: expected at most the {length:,} records of the data set, got {batch_size}")
    for name, value in {"seed": seed, "start_step": start_step}.items():
        if value < 0:
            raise ConfigError(f"{name}: expected 0 or more, got {value}")

    def make_batch(step: int, map_function: Callable) -> Record:
        first = position(step, windows) * batch_size
        return gather(source, record_indices(length, seed, first + rows), map_function)

    if len(buckets):
        lengths = _check_buckets(source, buckets)
        window_indices = functools.lru_cache(maxsize=1)(functools.partial(bucketed_indices, lengths, seed))

        def make_batch(step: int, map_function: Callable) -> Record:
            window, number = divmod(position(step, windows), _SORTED_TOGETHER)
            indices = window_indices(window, batch_size)[number]
            width = buckets[int(np.searchsorted(buckets, lengths[indices].max()))]
            batch = gather(source, indices[rows], map_function)
            return {name: array[:, :width] if array.ndim > 1 else array for name, array in batch.items()}

    return _generate(source, make_batch, range(start_step, sys.maxsize // batch_size), threads, prefetch)


def evaluation_batches(
    source: Source,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int | None = None,
    prefetch: int = 2,
) -> Generator[Record, None, None]:
    """Returns the batches of one pass in order, all of one shape: name -> array (rows of this process, ...).

    Each has one more array, "example_mask" float32 (rows,): 1 for a record, 0 for padding. Padding is record 0 again;
    damaged records that a CheckedSource passes over count as padding.
    The arguments and the errors are those of `batches`, but `batch_size` may exceed the number of records.
    """
    rows = _process_rows(batch_size, process_index, process_count)
    length = len(source)

    def make_batch(step: int, map_function: Callable) -> Record:
        positions = step * batch_size + rows
        real = positions < length
        batch = gather(source, np.where(real, positions, 0), map_function)
        real &= ~np.isin(positions, list(getattr(source, "damaged", ())))
        return batch | {"example_mask": real.astype(np.float32)}

    return _generate(source, make_batch, range(-(-length // batch_size)), threads, prefetch)


def _process_rows(batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """Returns which rows of a global batch belong to this process."""
    if not 0 <= process_index < process_count:
        raise ConfigError(f"process_index: expected 0 to process_count - 1 = {process_count - 1}, got {process_index}")
    if batch_size < 1 or batch_size % process_count:
        raise ConfigError(
            f"batch_size: expected a positive multiple of the {process_count} processes, got {batch_size}"
        )
    size = batch_size // process_count
    return np.arange(process_index * size, (process_index + 1) * size)


def _check_buckets(source: Source, buckets: Sequence[int]) -> np.ndarray:
    """Returns the lengths of a source's records, if the buckets hold them all."""
    lengths = getattr(source, "lengths", None)
    if lengths is None:
        raise ConfigError("buckets: the records of this data set all have one length")
    if list(buckets) != sorted(set(buckets)) or buckets[0] < 1:
        raise ConfigError(f"buckets: expected ascending lengths, got {tuple(buckets)}")
    if lengths.max() > buckets[-1]:
        raise ConfigError(f"buckets: the longest record fills {lengths.max()} positions, the last is {buckets[-1]}")
    return np.asarray(lengths)


def _generate(
    source: Source, make_batch: Callable[[int, Callable], Record], steps: range, threads: int | None, prefetch: int
) -> Generator[Record, None, None]:
    """Returns `make_batch(step, map)` for each step, made ahead by a thread, its records read by a pool of threads."""
    for name, value in {"threads": threads, "prefetch": prefetch}.items():
        if value is not None and value < 0:
            raise ConfigError(f"{name}: expected 0 or more, got {value}")
    if hasattr(source, "get_batch"):
        threads = 0
    elif threads is None:
        threads = os.cpu_count() or 1

    def generate() -> Generator[Record, None, None]:
        import grain

        pool = ThreadPoolExecutor(threads, "deepmodels-read") if threads else None
        map_function = pool.map if pool else map
        made = grain.MapDataset.range(steps.start, steps.stop).map(lambda step: make_batch(int(step), map_function))
        iterator = iter(made.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)))
        try:
            yield from iterator
        finally:
            iterator.close()
            if pool:
                pool.shutdown(wait=False, cancel_futures=True)

    return generate()
