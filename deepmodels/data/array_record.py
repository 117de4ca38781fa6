"""ArrayRecord files: records that are read by number and checked by hash, and how ours are laid out.

A record is one line of JSON, {name: [dtype, shape]}, then the bytes of those arrays in that order, row by row. The
dtype is numpy's text for it ("|u1", "<f4"). Nothing in a record is run when it is read.
"""

import json
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from deepmodels.data.sources import Record, Source
from deepmodels.errors import DataError


def pack(record: Record) -> bytes:
    """Returns a record, a dict of arrays of numbers, as the bytes described at the top of this file."""
    header = {key: [value.dtype.str, list(value.shape)] for key, value in record.items()}
    return b"\n".join([json.dumps(header).encode(), b"".join(value.tobytes() for value in record.values())])


def unpack(data: bytes) -> Record:
    """Returns the record that `pack` made these bytes from; its arrays are read-only.

    Raises:
      ValueError, TypeError, AttributeError: the bytes aren't such a record.
    """
    header, separator, payload = data.partition(b"\n")
    record, offset = {}, 0
    for key, (dtype, shape) in json.loads(header).items():
        if not all(0 <= size <= len(data) for size in shape):
            raise ValueError(f"{key!r} can't have shape {shape}")
        record[key] = np.frombuffer(payload, dtype, prod(shape), offset).reshape(shape)
        offset += record[key].nbytes
    if not separator or offset != len(payload):
        raise ValueError(f"expected {offset} bytes of arrays, found {len(payload)}")
    return record


def write_array_record(path: str | Path, source: Source) -> None:
    """Writes every record of `source` to one ArrayRecord file, which appears under its name only when it is complete.

    Args:
      path: the file to write or to replace; `array_record` data sets look for "train.array_record" and the like.
      source: its records' arrays must hold numbers or bools.

    Raises:
      DataError: an array holds something else.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    writer = ArrayRecordWriter(str(partial), "group_size:1")  # one record to a chunk: made for reading in any order
    try:
        for index in range(len(source)):
            record = {key: np.asarray(value) for key, value in source[index].items()}
            for key, value in record.items():
                if value.dtype.kind not in "biuf":
                    raise DataError(f"record {index}: {key!r} has dtype {value.dtype}; only numbers can be written")
            writer.write(pack(record))
    finally:
        writer.close()
    os.replace(partial, path)


class ArrayRecordSource:
    """The records of files that `write_array_record` made, one file after the other.

    Raises:
      DataError: a file is missing, cut short, damaged or empty, or there is none.
    """

    def __init__(self, paths: Sequence[str | Path]):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.paths = [str(path) for path in paths]
        if not self.paths:
            raise DataError("no files of ArrayRecord")
        self._files = []
        for path in self.paths:
            try:
                self._files.append(ArrayRecordDataSource(path))
            except (RuntimeError, ValueError) as error:
                raise DataError(f"{path}: not readable as ArrayRecord: {error}") from error
            if not len(self._files[-1]):
                raise DataError(f"{path}: no records in it; remove the file, or make it again")
        self._ends = np.cumsum([len(file) for file in self._files])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        file, number = self._place(index)
        try:
            return unpack(self._files[file][number])
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"record {index}, {self.where_from(index)}: damaged, or not ours: {error}") from error

    def where_from(self, index: int) -> str:
        """Returns the file of a record, and its number there."""
        file, number = self._place(index)
        return f"number {number} of {self.paths[file]}"

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self):,}")
        file = int(np.searchsorted(self._ends, index, side="right"))
        return file, index - int(self._ends[file - 1]) * (file > 0)
