"""What a run asks of its data beyond reading it: sound records, or a count of those passed over; no change meanwhile.

Whatever goes wrong with a record becomes a DataError that names it. Up to so many damaged records may be passed over
instead: in place of record i stands another, drawn by (seed, i) alone, so that neither the order of reading nor the
number of processes and threads changes a batch.
"""

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deepmodels.data.sources import ArraySource, Record, Source
from deepmodels.errors import DataError

_SAMPLED = 16  # records of which a fingerprint has the digest
_FILES = 64  # files that a fingerprint names one by one
_STATED = 1_024  # files of more, whose sizes it looks at
_WHOLE = 2**26  # bytes in memory that it digests whole


class Bound(NamedTuple):
    """Integers that an array of a record may hold: 0 to `count` - 1, and one more."""

    count: int
    also: int | None = None

    def broken(self, values: np.ndarray) -> np.ndarray:
        """Returns which values are none of these, bool of the same shape; none of an array of floats."""
        if values.dtype.kind not in "iu":
            return np.zeros(values.shape, bool)
        wrong = (values < 0) | (values >= self.count)
        return wrong if self.also is None else wrong & (values != self.also)


class CheckedSource:
    """The records of another source, each checked; what else the other offers, it does too.

    Args:
      source: the records.
      name: of the split, for errors.
      bounds: array's name -> the integers that it may hold.
      skip: how many damaged records are passed over; one more is an error.
      seed: with a record's number, decides which takes its place.

    Attributes:
      damaged: the records found damaged so far, each with what is wrong with it.
    """

    def __init__(
        self,
        source: Source,
        name: str = "data",
        *,
        bounds: Mapping[str, Bound] | None = None,
        skip: int = 0,
        seed: int = 0,
    ):
        self.source, self.skip, self.damaged = source, skip, {}
        self._name, self._bounds, self._seed, self._lock = name, dict(bounds or {}), seed, threading.Lock()
        if hasattr(source, "get_batch"):
            self.get_batch = self._get_batch

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("source", "get_batch"):
            raise AttributeError(name)
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        if index not in self.damaged:
            try:
                return self._sound(index)
            except DataError as error:
                self._note(index, error)
        return self._substitute(index)

    def known(self, indices: Mapping[int, str]) -> None:
        """Takes records as damaged that were found so by another process, or before this one began.

        Raises:
          DataError: they are more than `skip`.
        """
        for index, error in indices.items():
            if index not in self.damaged:
                self._note(index, DataError(error))

    def _get_batch(self, indices: np.ndarray) -> Record:
        batch = self.source.get_batch(indices)
        broken = [bound.broken(batch[key]) for key, bound in self._bounds.items() if key in batch]
        wrong = np.zeros(len(indices), bool)
        for values in broken:
            wrong |= values.reshape(len(indices), -1).any(1)
        if self.damaged:
            wrong |= np.isin(indices, list(self.damaged))
        if wrong.any():
            batch = {key: array.copy() for key, array in batch.items()}
            for row in np.flatnonzero(wrong):
                for key, value in self[int(indices[row])].items():
                    batch[key][row] = value
        return batch

    def _sound(self, index: int) -> Record:
        try:
            record = self.source[index]
        except DataError:
            raise
        except (Exception, SystemExit) as error:  # a decoder may raise anything, and no thread may end unheard
            raise DataError(f"record {index}: can't be read: {type(error).__name__}: {error}") from error
        for key, bound in self._bounds.items():
            if key in record and (broken := bound.broken(np.asarray(record[key]))).any():
                value = np.asarray(record[key])[broken].flat[0]
                also = "" if bound.also is None else f" or {bound.also}"
                where = where_from(self.source, index)
                raise DataError(f"{where}: {key!r} is {value}, expected 0 to {bound.count - 1}{also}")
        return record

    def _note(self, index: int, error: DataError) -> None:
        with self._lock:
            if index not in self.damaged and len(self.damaged) >= self.skip:
                if not self.skip:
                    raise DataError(
                        f"{self._name}: {error}. Mend or remove it, or pass over up to N damaged records with "
                        "--config.data.skip_damaged=N"
                    ) from error
                raise DataError(
                    f"{self._name}: {error}. With it more than config.data.skip_damaged={self.skip} records are "
                    f"damaged: {', '.join(map(str, sorted(self.damaged)[:20]))} ..."
                ) from error
            self.damaged[index] = str(error)

    def _substitute(self, index: int) -> Record:
        attempt = 0
        while len(self.damaged) < len(self.source):
            bits = np.random.PCG64(np.random.SeedSequence((self._seed, index, attempt))).random_raw()
            other, attempt = int(bits % len(self.source)), attempt + 1
            if other not in self.damaged:
                try:
                    return self._sound(other)
                except DataError as error:
                    self._note(other, error)
        raise DataError(f"{self._name}: all {len(self.source):,} records are damaged")


def where_from(source: Source, index: int) -> str:
    """Returns what an error calls a record: its number, and its file where the source knows that."""
    places = getattr(source, "where_from", None)
    return f"record {index}" if places is None else f"record {index}, {places(index)}"


def fingerprint(source: Source) -> dict[str, Any]:
    """Returns what tells a source from a later state of it, as JSON holds it.

    That is the number of records; its files with their sizes, of more than 64 a digest over 1,024 of them; and the
    digests of arrays in memory up to 64 MiB, and of 16 records. What changes in other records, and in no file's size,
    isn't noticed.

    Raises:
      DataError: one of the 16 records can't be read, or a file is gone.
    """
    found: dict[str, Any] = {"records": len(source)}
    base = source
    while (inner := getattr(base, "source", None) or getattr(base, "_source", None)) is not None:
        base = inner
    if files := [Path(file) for file in getattr(base, "paths", None) or getattr(base, "files", None) or ()]:
        some = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, _STATED).astype(int))]
        try:
            sizes = {f"{file.parent.name}/{file.name}": file.stat().st_size for file in some}
        except OSError as error:
            raise DataError(f"{error.filename}: can't be found any more: {error.strerror}") from error
        found["files"] = sizes if len(files) <= _FILES else {f"{len(files):,} files": _digest(repr(sizes).encode())}
    if isinstance(base, ArraySource) and sum(array.nbytes for array in base.arrays.values()) <= _WHOLE:
        found["arrays"] = {key: _digest(_bytes(array)) for key, array in base.arrays.items()}
    sample = np.random.PCG64(np.random.SeedSequence(len(source))).random_raw(_SAMPLED) % len(source)
    records = {int(index): source[int(index)] for index in np.unique(sample)}
    damaged = getattr(source, "damaged", {})
    found["sample"] = {
        str(index): _digest(*(part for key in sorted(record) for part in (key.encode(), _bytes(record[key]))))
        for index, record in records.items()
        if index not in damaged
    }
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a line for each thing in which two fingerprints of a source differ."""
    if before["records"] != now["records"]:
        return [f"{now['records']:,} records, there were {before['records']:,}"]
    lines = []
    for kind, what in {"files": "file", "arrays": "array", "sample": "record"}.items():
        old, new = before.get(kind, {}), now.get(kind, {})
        if kind == "files":
            lines += [f"{what} {name} is gone" for name in old.keys() - new.keys()]
            lines += [f"{what} {name} is new" for name in new.keys() - old.keys()]
        for name in old.keys() & new.keys():
            if old[name] != new[name]:
                sizes = isinstance(new[name], int)
                lines.append(
                    f"{what} {name} has {new[name]:,} bytes, it had {old[name]:,}"
                    if sizes
                    else f"{what} {name} isn't what it was"
                )
    return sorted(lines)


def _bytes(value: np.ndarray) -> bytes:
    value = np.asarray(value)
    return f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()


def _digest(*parts: bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:16]
