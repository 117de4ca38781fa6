"""The weights inside an ONNX file, without the package: of its protocol buffers, what holds arrays and names."""

from pathlib import Path

import numpy as np

_GRAPH, _NODE, _INITIALIZER = 7, 1, 5  # numbers of fields in onnx.proto
_FLOAT = 1  # the data type


def read(path: Path) -> dict[str, np.ndarray]:
    """The float32 arrays of a graph by name. One that only multiplies has the name of the module that multiplies by it.

    An exporter of torch names such a node "/encoder/layer.0/mlp/fc1/MatMul"; its array, (in, out) and nameless, comes
    back as "encoder.layer.0.mlp.fc1.weight", (out, in).
    """
    graph = next(value for field, value in _fields(memoryview(path.read_bytes())) if field == _GRAPH)
    arrays, names = {}, {}
    for field, value in _fields(graph):
        if field == _INITIALIZER:
            name, array = _tensor(value)
            if array is not None:
                arrays[name] = array
        elif field == _NODE:
            node = [(number, bytes(text).decode()) for number, text in _fields(value) if number in (1, 3, 4)]
            inputs, name, kind = ([text for number, text in node if number == n] for n in (1, 3, 4))
            if kind == ["MatMul"] and name:
                names |= {given: name[0].strip("/").removesuffix("/MatMul").replace("/", ".") for given in inputs}
    return {
        f"{names[name]}.weight" if name in names else name: array.T if name in names else array
        for name, array in arrays.items()
    }


def _tensor(message: memoryview) -> tuple[str, np.ndarray | None]:
    shape, name, data, kind = [], "", b"", None
    for field, value in _fields(message):
        if field == 1:
            shape += [value] if isinstance(value, int) else list(_varints(value))
        elif field == 2:
            kind = value
        elif field == 8:
            name = bytes(value).decode()
        elif field in (4, 9):
            data = value
    return name, np.frombuffer(data, np.float32).reshape(shape) if kind == _FLOAT else None


def _fields(message: memoryview):
    """The number and the value of each field: an integer, or bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            value, at = _varint(message, at)
        else:
            size, at = _varint(message, at) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], at)
            value, at = message[at : at + size], at + size
        yield tag >> 3, value


def _varints(message: memoryview):
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte, at = message[at], at + 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
