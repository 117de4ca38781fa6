"""Files as `torch.save` writes them, put together byte by byte: whole ones, and ones that torch would never write."""

import io
import struct
import zipfile

import numpy as np

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage", "bool": "BoolStorage"}
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def program(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def many(*values: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(values) + b"t"


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + many(*arguments) + b"R"


def mapping(values: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def storage(dtype: str, key: str, count: int, kind: str = "storage", extra: bytes = b"") -> bytes:
    return many(text(kind), named("torch", STORAGES[dtype]), text(key), text("cpu"), number(count), extra) + b"Q"


def tensor(where: bytes, size: tuple, stride: tuple, offset: int = 0) -> bytes:
    numbers = [many(*map(number, values)) for values in (size, stride)]
    function = named("torch._utils", "_rebuild_tensor_v2")
    return called(function, where, number(offset), *numbers, b"\x89", called(named("collections", "OrderedDict")))


def whole(key: str, array: np.ndarray, extra: bytes = b"") -> bytes:
    stride = [step // array.itemsize for step in array.strides]
    return tensor(storage(array.dtype.name, key, array.size, extra=extra), array.shape, stride)


def archive(content: bytes, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The format of torch 1.6 and later, of a pickled value and the files beside it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        out.writestr("archive/data.pkl", program(content))
        out.writestr("archive/byteorder", b"little")
        for name, data in members.items():
            out.writestr(f"archive/{name}", data)
    return file.getvalue()


def stream(content: bytes, arrays: dict[str, np.ndarray], little_endian: bytes = b"\x88") -> bytes:
    """The format before torch 1.6, of a pickled value and its storages."""
    keys = b"](" + b"".join(map(text, arrays)) + b"e"
    head = MAGIC + program(number(1001)) + program(mapping({"little_endian": little_endian})) + program(content)
    data = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in arrays.values())
    return head + program(keys) + data


def state_dict(arrays: dict[str, np.ndarray], form: str) -> bytes:
    """A file with these arrays, as an "archive" or a "stream"."""
    extra = b"N" if form == "stream" else b""
    content = mapping({name: whole(str(i), array, extra) for i, (name, array) in enumerate(arrays.items())})
    if form == "stream":
        return stream(content, {str(i): array for i, array in enumerate(arrays.values())})
    return archive(content, {f"data/{i}": array.tobytes() for i, array in enumerate(arrays.values())})
