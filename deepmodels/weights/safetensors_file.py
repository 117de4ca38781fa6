"""Files in the safetensors format: a length, a header in JSON, the arrays' bytes. Nothing in them can be executed.

The format: https://huggingface.co/docs/safetensors. Beyond what its own library refuses, duplicate names are refused
here, and sizes that only a crafted file has. There is no checksum in the format: bytes that changed aren't noticed.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from deepmodels.errors import WeightsError

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": jnp.bfloat16, "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2, "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4",
    "U16": "<u2", "U8": "u1", "BOOL": "?", "C64": "<c8",
}  # fmt: skip
DTYPES: dict[str, np.dtype] = {name: np.dtype(dtype) for name, dtype in _DTYPES.items()}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER = 100_000_000  # bytes, as in the format's own library
_MAX_BYTES = 2**48  # of one array, counting an empty axis as one: numpy can't hold the shape of a larger one


class Stored(NamedTuple):
    """An array that is in a file, and is read from it by `np.asarray`, each time anew."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int  # bytes from the beginning of the file
    size: int  # bytes

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Returns it.

        Raises:
          WeightsError: the file is shorter than it was.
        """
        with open(self.path, "rb") as file:
            file.seek(self.begin)
            values = np.fromfile(file, np.uint8, self.size)
        if len(values) != self.size:
            raise WeightsError(f"{self.path} has become shorter while it was read")
        values = values.view(self.dtype).reshape(self.shape)
        return values if dtype is None else values.astype(dtype)


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name.

    Raises:
      WeightsError: the file is damaged or isn't in this format.
    """
    return {name: np.asarray(stored) for name, stored in describe(path).items()}


def describe(path: Path) -> dict[str, Stored]:
    """Returns the arrays of a file by name, none of them read.

    Raises:
      WeightsError: the file is damaged or isn't in this format.
    """
    with open(path, "rb") as file:
        try:
            header, start = _read_header(file)
            size = os.fstat(file.fileno()).st_size - start
            entries = {name: _entry(name, entry) for name, entry in header.items() if name != "__metadata__"}
            end = 0
            for name, (_, _, begin, stop) in sorted(entries.items(), key=lambda entry: entry[1][2:]):
                if begin != end:
                    raise ValueError(f"{name!r} begins at byte {begin} of the data, where {end} is free")
                end = stop
            if end != size:
                raise ValueError(f"the header describes {end:,} bytes of data, the file has {size:,}")
        except (ValueError, RecursionError) as error:
            raise WeightsError(f"{path} isn't a safetensors file that can be used: {error}") from error
    return {
        name: Stored(path, dtype, shape, start + begin, stop - begin)
        for name, (dtype, shape, begin, stop) in entries.items()
    }


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes arrays of any supported dtype to a file, each as it is.

    Raises:
      WeightsError: an array's dtype has no name in this format.
    """
    # the largest items first, so that each array is aligned
    ordered = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in ordered:
        array = arrays[name]
        if array.dtype not in _NAMES:
            raise WeightsError(f"{name} is {array.dtype}, which a safetensors file can't hold: {', '.join(DTYPES)}")
        header[name] = dict(
            dtype=_NAMES[array.dtype], shape=list(array.shape), data_offsets=[end, end := end + array.nbytes]
        )
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER):
        raise ValueError(f"its header would be {length:,} bytes, of {max(size - 8, 0):,} that there are")
    header = json.loads(file.read(length).decode(), object_pairs_hook=_without_duplicates)
    if not isinstance(header, dict):
        raise ValueError("its header isn't an object")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata isn't text by name")
    return header, 8 + length


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in values if names.count(name) > 1)!r} occurs twice")
    return values


def _entry(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """The dtype, shape, begin and end of an array that the header describes."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} needs a dtype, a shape and offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name!r} has the unknown dtype {str(dtype)[:40]!r}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2 or len(shape) > 32:
        raise ValueError(f"{name!r} has a shape or offsets that aren't lists of natural numbers")
    begin, end = offsets
    itemsize = DTYPES[dtype].itemsize
    if math.prod(shape) * itemsize != end - begin or math.prod(max(n, 1) for n in shape) * itemsize > _MAX_BYTES:
        raise ValueError(f"{name!r} is {dtype}{shape}, which isn't what {end - begin:,} bytes hold")
    return DTYPES[dtype], tuple(shape), begin, end


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
