"""IDX files, the layout of MNIST and of the data sets made after it: http://yann.lecun.com/exdb/mnist/."""

import zlib
from math import prod
from pathlib import Path

import numpy as np

from deepmodels.errors import DataError

_EXPANSION = 100  # times a packed file's size that it may unpack to; MNIST's pictures take five times theirs
_ALWAYS_ALLOWED = 64 * 2**20  # bytes that a small one may unpack to all the same


def read_idx(path: str | Path, dimensions: int) -> np.ndarray:
    """Returns the uint8 array with `dimensions` axes that an IDX file holds; a name ending in `.gz` is unpacked.

    Raises:
      DataError: the file can't be read, isn't IDX, holds another type or rank, or is shorter or longer than it says.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    if path.suffix == ".gz":
        unpacker = zlib.decompressobj(wbits=31)  # 31: gzip, with its checksum verified
        limit = max(_EXPANSION * len(data), _ALWAYS_ALLOWED)
        try:
            data = unpacker.decompress(data, limit)
        except zlib.error as error:
            raise DataError(f"{path}: damaged gzip file: {error}") from error
        if unpacker.unconsumed_tail and not unpacker.eof:
            raise DataError(f"{path}: unpacks to more than {limit:,} bytes: it isn't read")
        ending = "" if unpacker.eof else " after unpacking: the gzip file ends early"
    else:
        ending = ""

    magic = bytes([0, 0, 0x08, dimensions])  # 0x08: unsigned bytes
    if data[:4] != magic:
        raise DataError(
            f"{path}: not an IDX file of unsigned bytes with {dimensions} axes: "
            f"expected it to begin with bytes {magic.hex(' ')}, found {data[:4].hex(' ') or 'none'}{ending}"
        )
    header = 4 + 4 * dimensions
    if len(data) < header:
        raise DataError(f"{path}: expected a header of {header} bytes, found {len(data)} bytes{ending}")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, offset=4))
    if len(data) != header + prod(shape) or ending:
        raise DataError(
            f"{path}: expected {header + prod(shape):,} bytes for shape {shape}, found {len(data):,} bytes{ending}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
