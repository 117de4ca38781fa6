"""Sources: records by number, as numpy arrays, and how a batch is gathered from one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from deepmodels.errors import ConfigError, DataError

Record = dict[str, np.ndarray]


@runtime_checkable
class Source(Protocol):
    """Records by number: `source[i]` is a dict of arrays for 0 <= i < len(source), the same each time, from any thread.

    A record of an image classification source is {"image": uint8 (height, width, channels), "label": int32 ()}.
    A source whose records are in memory may also offer `get_batch(indices) -> dict of stacked arrays`, which is used
    in place of one call per record. A record that can't be read raises DataError naming its number and its file.
    A source of sequences may offer `lengths`, integers (records,): the positions that each fills, for batches that end
    where their longest record does; every array with an axis in its records must have positions there.
    It may offer `where_from(index)`, a text that says in which file a record is.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class ArraySource:
    """A source in memory.

    Args:
      arrays: name -> array (records, ...); record i is entry i of each. They aren't copied.
      name: what an error calls this source.

    Raises:
      DataError: no arrays or no records, or arrays of different lengths.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str = "arrays"):
        self.arrays, self.name = {key: np.asarray(array) for key, array in arrays.items()}, name
        lengths = {key: len(array) if array.ndim else 0 for key, array in self.arrays.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            found = ", ".join(f"{key} {length:,}" for key, length in lengths.items()) or "no arrays"
            raise DataError(f"{name}: every array needs one entry per record, and at least one; found {found}")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> Record:
        return {key: np.asarray(array[index]) for key, array in self.arrays.items()}

    def get_batch(self, indices: np.ndarray) -> Record:
        """Returns the records `indices` stacked: name -> array (len(indices), ...)."""
        return {key: array[indices] for key, array in self.arrays.items()}

    def where_from(self, index: int) -> str:
        """Returns what this source is called, mostly its file."""
        return self.name


class SubsetSource:
    """The records `indices` of another source, in that order; what else the other offers, it does too."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source, self.indices = source, np.asarray(indices)
        if hasattr(source, "get_batch"):
            self.get_batch = self._get_batch
        if getattr(source, "lengths", None) is not None:
            self.lengths = source.lengths[self.indices]
        for name in ("class_names", "tokenizer", "target_tokenizer"):
            if hasattr(source, name):
                setattr(self, name, getattr(source, name))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.indices[index])]

    def _get_batch(self, indices: np.ndarray) -> Record:
        return self.source.get_batch(self.indices[indices])

    def where_from(self, index: int) -> str:
        """Returns a record's number in the other source, and its file where that knows it."""
        number = int(self.indices[index])
        place = f"{number} of the whole data set"
        return f"{place}, {self.source.where_from(number)}" if hasattr(self.source, "where_from") else place


def permutation(length: int, *seed: int) -> np.ndarray:
    """Returns an int64 permutation of range(length) that depends on nothing but `length` and `seed`.

    It sorts raw random bits: numpy promises that these never change between versions, but not so its own `permutation`.
    """
    bits = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(length)
    return np.argsort(bits, kind="stable")


def split_validation(source: Source, size: int) -> tuple[SubsetSource, SubsetSource]:
    """Returns `source` in two parts: (train, validation), with `size` records in the second.

    Which records they are depends on the length of `source` and on `size` alone, never on a run's seed.

    Raises:
      ConfigError: `size` isn't between 1 and the length of `source` - 1.
    """
    if not 1 <= size < len(source):
        raise ConfigError(
            f"validation_size: expected 1 to {len(source) - 1:,} of the {len(source):,} training records, got {size}"
        )
    order = permutation(len(source), 0)
    return SubsetSource(source, np.sort(order[size:])), SubsetSource(source, np.sort(order[:size]))


def without(source: Source, labels: Sequence[int]) -> SubsetSource:
    """Returns the records of `source` whose "label" isn't among `labels`.

    Raises:
      ConfigError: records have no label, one of the labels is on none of them, or no record is left.
    """
    found = _labels("held_out", source, labels)
    kept = np.flatnonzero(~np.isin(found, list(labels)))
    if not len(kept):
        raise ConfigError(f"held_out: no record is left without the labels {list(labels)}")
    return SubsetSource(source, kept)


class UnpairedSource:
    """Pictures of one class beside pictures of another, any of any: records of "image" and "other".

    Args:
      source: records with an "image" and a "label" each.
      labels: those of the two classes.
      every: True puts each picture of the first class beside up to 64 of the second, which with a random order of the
        records is as good as drawing both at random; False puts each beside one.

    Raises:
      ConfigError: there aren't two labels, records have none, or one of the labels is on none of them.
    """

    def __init__(self, source: Source, labels: Sequence[int], every: bool):
        if len(labels) != 2 or labels[0] == labels[1]:
            raise ConfigError(f"unpaired: expected two labels, got {list(labels)}")
        found = _labels("unpaired", source, labels)
        self._source = source
        self._places = [np.flatnonzero(found == label) for label in labels]
        self._turns = min(64, len(self._places[1])) if every else 1

    def __len__(self) -> int:
        return len(self._places[0]) * self._turns

    def __getitem__(self, index: int) -> Record:
        first, second = self._places
        turn, number = divmod(index, len(first))
        other = second[(number + turn) % len(second)]
        return {"image": self._source[int(first[number])]["image"], "other": self._source[int(other)]["image"]}


class StyledSource:
    """The records of another source, and in each one more picture, the same in all: "style".

    Args:
      source: records with an "image" each.
      style: uint8 (H, W, C).
    """

    def __init__(self, source: Source, style: np.ndarray):
        self._source, self._style = source, style

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._source[index] | {"style": self._style}


def _labels(what: str, source: Source, wanted: Sequence[int]) -> np.ndarray:
    """The label of each record."""
    if "label" not in source[0] or np.ndim(source[0]["label"]):
        raise ConfigError(f"{what}: the records of this data set have no label each")
    if hasattr(source, "get_batch"):
        found = source.get_batch(np.arange(len(source)))["label"]
    elif hasattr(source, "labels"):
        found = source.labels
    else:
        found = np.array([source[i]["label"] for i in range(len(source))])
    if missing := sorted(set(wanted) - set(found.tolist())):
        raise ConfigError(f"{what}: no record has the label {missing[0]}; there are {sorted(set(found.tolist()))}")
    return found


def gather(source: Source, indices: np.ndarray, map_function: Callable = map) -> Record:
    """Returns the records `indices` stacked: name -> array (len(indices), ...).

    Args:
      source: the records; its `get_batch` is used if it has one.
      indices: integers (batch,).
      map_function: what reads the records otherwise, in order: `map`, or that of a thread pool.

    Raises:
      DataError: the records can't be stacked: their names, shapes or dtypes differ.
    """
    if hasattr(source, "get_batch"):
        return source.get_batch(indices)
    records = list(map_function(source.__getitem__, indices.tolist()))
    layouts = [{key: (value.dtype.name, value.shape) for key, value in record.items()} for record in records]
    for index, layout in zip(indices, layouts, strict=True):
        if layout != layouts[0]:
            raise DataError(
                f"record {index} doesn't stack with record {indices[0]}: {layout} against {layouts[0]}; "
                "give every record the same shapes, for images with `image_size`"
            )
    return {key: np.stack([record[key] for record in records]) for key in layouts[0]}
