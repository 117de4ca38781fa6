"""What a GGUF file says of itself: its metadata, and where its tensors are. Nothing in it is executed.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A file is never trusted: what it claims to hold
is compared with its size before memory is taken for it.
"""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from deepmodels.errors import WeightsError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4  # as in ggml
_MAX_NAME = 65_535  # bytes


class Tensor(NamedTuple):
    """Where a tensor is.

    Attributes:
      shape: as numpy has it, the last axis contiguous.
      kind: ggml's number of its type.
      begin: bytes from the beginning of the file.
    """

    shape: tuple[int, ...]
    kind: int
    begin: int


class Header(NamedTuple):
    """What stands before the tensors: numbers, texts and lists of them by name, and where each tensor is."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read(path: Path) -> Header:
    """Returns the header of a GGUF file.

    Raises:
      WeightsError: it is none, it is damaged, or its version or order of bytes isn't one that is read.
    """
    try:
        with open(path, "rb") as file:
            return _header(_Reader(file))
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except (OSError, ValueError, struct.error) as error:
        raise WeightsError(f"{path} isn't a GGUF file that can be used: {error}") from error


class _Reader:
    """Numbers and texts from a file, none of which may be longer than what is left of it."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.left = file.seek(0, 2)
        file.seek(0)

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError(f"{size:,} bytes are claimed where {self.left:,} are left")
        self.left -= size
        return self.file.read(size)

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self, limit: int | None = None) -> str:
        size = self.number("Q")
        if limit is not None and size > limit:
            raise ValueError(f"a name of {size:,} bytes")
        return self.take(size).decode()  # UnicodeDecodeError is a ValueError

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"a value of the unknown type {kind}")
        item, count = self.number("I"), self.number("Q")
        if item in _SCALARS:
            code = _SCALARS[item]
            data = self.take(count * struct.calcsize(code))
            return list(struct.unpack(f"<{count}{code}", data))
        if item != _STRING:
            raise ValueError(f"a list of values of type {item}")
        if 8 * count > self.left:
            raise ValueError(f"a list of {count:,} texts in {self.left:,} bytes")
        return [self.text() for _ in range(count)]


def _header(reader: _Reader) -> Header:
    if reader.take(4) != MAGIC:
        raise ValueError("it doesn't begin with GGUF")
    version = reader.number("I")
    if version not in _VERSIONS:
        raise ValueError(f"its version is {version}, {' and '.join(map(str, _VERSIONS))} are read, little-endian")
    size = reader.left + 8
    count, entries = reader.number("Q"), reader.number("Q")
    if 24 * count + 12 * entries > reader.left:
        raise ValueError(f"{count:,} tensors and {entries:,} entries are claimed in {reader.left:,} bytes")
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        name = reader.text(_MAX_NAME)
        if name in metadata:
            raise ValueError(f"{name[:80]!r} occurs twice")
        metadata[name] = reader.value(reader.number("I"))
    tensors = {}
    for _ in range(count):
        name = reader.text(_MAX_NAME)
        dimensions = reader.number("I")
        if dimensions > _MAX_DIMENSIONS or name in tensors:
            raise ValueError(f"{name[:80]!r} has {dimensions} axes or occurs twice")
        shape = tuple(reader.number("Q") for _ in range(dimensions))[::-1]
        tensors[name] = Tensor(shape, reader.number("I"), reader.number("Q"))
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 2**20:
        raise ValueError(f"its alignment is {alignment!r}")
    start = math.ceil((size - reader.left) / alignment) * alignment
    return Header(metadata, {name: tensor._replace(begin=start + tensor.begin) for name, tensor in tensors.items()})
