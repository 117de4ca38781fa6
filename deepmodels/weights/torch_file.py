"""Files of `torch.save`, read without torch and without running anything that is in them.

Such a file is a pickle, a program for a small stack machine, and the bytes of the arrays it names. Python's own machine
imports and calls what the program says; the one here knows containers, numbers and text, and of everything that has a
name only what rebuilds a tensor. Whatever else a program names is refused before it means anything.

The formats are those of `torch.serialization`: an archive (torch 1.6 and later), and before it one stream.
"""

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from deepmodels.errors import WeightsError

_STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": jnp.bfloat16,
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?", "ComplexFloatStorage": "<c8", "ComplexDoubleStorage": "<c16",
}  # fmt: skip
STORAGES: dict[str, np.dtype] = {name: np.dtype(dtype) for name, dtype in _STORAGES.items()}
_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_PROTOCOL = 1001
_MARK = object()  # on the stack, before a run of values
# where training programs keep the weights
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module")
_DAMAGE = (  # what a program or an archive that makes no sense leads to
    *(ValueError, TypeError, AttributeError, LookupError, OverflowError, StopIteration, RuntimeError),
    *(EOFError, OSError, struct.error, zipfile.BadZipFile),
)


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dict by name, read-only.

    A state dict may stand alone or under the name "state_dict", "model_state_dict", "model_state", "model" or
    "module".

    Raises:
      WeightsError: the file is damaged, holds anything but tensors, or names anything that would have to be run.
    """
    try:
        with open(path, "rb") as file:
            archive = file.read(4) == b"PK\x03\x04"
        return _read_archive(path) if archive else _read_stream(path.read_bytes())
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise WeightsError(f"{path} is damaged, or no file of torch: {type(error).__name__}: {error}") from error


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(set(names)) != len(names):
            raise ValueError("two members have the same name")
        for member in members:
            if member.filename.startswith(("/", "\\")) or ".." in member.filename.replace("\\", "/").split("/"):
                raise WeightsError(
                    f"the member {member.filename!r} leads out of the archive; torch writes no such names"
                )
            if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
                raise WeightsError(f"the member {member.filename!r} is compressed, which torch's files never are")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members are larger than the file")
        programs = [name for name in names if name.endswith("data.pkl") and name.count("/") == 1]
        if len(programs) != 1:
            raise ValueError("it has no data.pkl")
        folder = programs[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise WeightsError("it was written on a big-endian machine; save it again on a little-endian one")
        machine = _Machine()
        content = machine.run(io.BytesIO(archive.read(programs[0])))
        data = {key: archive.read(f"{folder}data/{key}") for key in machine.storages}
    return _arrays(content, {key: np.frombuffer(values, np.uint8) for key, values in data.items()})


def _read_stream(data: bytes) -> dict[str, np.ndarray]:
    file, machine = io.BytesIO(data), _Machine()
    if machine.run(file) != _STREAM_MAGIC or machine.run(file) != _STREAM_PROTOCOL:
        raise ValueError("it doesn't begin as torch's files do")
    if machine.run(file).get("little_endian") is not True:
        raise WeightsError("it was written on a big-endian machine; save it again on a little-endian one")
    content = machine.run(file)
    storages = {}
    for key in machine.run(file):
        (count,) = struct.unpack("<q", file.read(8))
        size, start = count * machine.storages[key].dtype.itemsize, file.tell()
        if not 0 <= size <= len(data) - start:
            raise ValueError(f"storage {key!r} would have {size:,} bytes, {len(data) - start:,} are left")
        storages[key] = np.frombuffer(data, np.uint8, size, start)
        file.seek(start + size)
    return _arrays(content, storages)


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    count: int  # of elements


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _ordered_dict(pairs: Iterable[tuple[str, Any]] = ()) -> dict:
    values: dict[str, Any] = {}
    for key, value in pairs:
        _set(values, key, value)
    return values


def _set(values: dict, key: Any, value: Any) -> None:
    if not isinstance(values, dict) or not isinstance(key, str | int):  # hashing nested tuples can take for ever
        raise TypeError("it sets an item that isn't a dict's, or whose key is neither text nor a number")
    values[key] = value


# all that a program may name. What stands for a function of torch describes a tensor, and makes none
_CALLABLES: dict[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch", "Size"): lambda sizes: tuple(sizes),
    ("torch", "device"): lambda *names: ":".join(map(str, names)),
    ("torch._utils", "_rebuild_tensor"): lambda storage, offset, size, stride: _Tensor(storage, offset, size, stride),
    ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, size, stride, *_: _Tensor(
        storage, offset, size, stride
    ),
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
}
_NAMES: dict[tuple[str, str], Any] = {
    **_CALLABLES,
    **{(module, name): dtype for module in ("torch", "torch.cuda") for name, dtype in STORAGES.items()},
    **{
        ("torch", name): name
        for name in ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
    },
}


class _Machine:
    """Runs the programs of one file, and notes the storages they name."""

    def __init__(self):
        self.storages: dict[str, _Storage] = {}

    def run(self, file: io.BytesIO) -> Any:
        """Returns the value of the program that begins here, and leaves the file at its end."""
        stack, memo = [], {}

        def since_mark() -> list:
            start = len(stack) - 1 - next(i for i, value in enumerate(reversed(stack)) if value is _MARK)
            values = stack[start + 1 :]
            del stack[start:]
            return values

        for opcode, argument, _ in pickletools.genops(file):
            match opcode.name:
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case "MARK":
                    stack.append(_MARK)
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                    stack.append(argument)
                case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                    stack.append(argument)
                case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                    stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[opcode.name]())
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    values = [stack.pop() for _ in range(int(opcode.name[-1]))]
                    stack.append(tuple(reversed(values)))
                case "TUPLE":
                    stack.append(tuple(since_mark()))
                case "APPEND" | "APPENDS":
                    values = since_mark() if opcode.name == "APPENDS" else [stack.pop()]
                    if not isinstance(stack[-1], list):
                        raise TypeError("it appends to what isn't a list")
                    stack[-1].extend(values)
                case "SETITEM" | "SETITEMS":
                    values = since_mark() if opcode.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                    for key, value in zip(values[::2], values[1::2], strict=True):
                        _set(stack[-1], key, value)
                case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                    memo[len(memo) if opcode.name == "MEMOIZE" else argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL" | "INST":
                    stack.append(_named(*argument.split(" ", 1)))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    stack.append(_named(module, name))
                case "REDUCE":
                    arguments, function = stack.pop(), stack.pop()
                    if not callable(function):  # all that are callable here come from the table above
                        raise TypeError("it calls what isn't a function")
                    stack.append(function(*arguments))
                case "BUILD":  # the versions of a state dict's modules, which nothing of ours depends on
                    stack.pop()
                    if not isinstance(stack[-1], dict):
                        raise TypeError("it sets the state of what isn't a dict")
                case "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                case name:
                    raise WeightsError(f"its pickle has the instruction {name}, which no state dict needs; {_SAFE}")
        raise ValueError("its program doesn't end")

    def _storage(self, identity: Any) -> _Storage:
        kind, dtype, key, _, count, *view = identity
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str) or type(count) is not int:
            raise ValueError("it refers to something outside that isn't a storage")
        if any(part is not None for part in view):
            raise WeightsError("it has views of storages, as before torch 0.4; save it again with a newer torch")
        storage = _Storage(key, dtype, count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key!r} is described in two ways")
        return storage


_SAFE = "it was not executed, and nothing else in the file was"


def _named(module: Any, name: Any) -> Any:
    if (module, name) not in _NAMES:
        raise WeightsError(
            f"its pickle names {module}.{name}, which is neither a tensor nor a container; {_SAFE}. Only torch itself "
            "reads such a file: if you trust whoever made it, save the model's state_dict() alone"
        )
    return _NAMES[module, name]


def _arrays(content: Any, storages: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    wrapped = [content[name] for name in _WRAPPERS if isinstance(content, dict) and isinstance(content.get(name), dict)]
    tensors = wrapped[0] if len(wrapped) == 1 else content
    if not isinstance(tensors, dict):
        raise WeightsError(f"it holds a {_kind(tensors)}, not a state dict")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise WeightsError(f"a key is {name}, not text: save a state_dict() alone")
        if not isinstance(tensor, _Tensor):
            raise WeightsError(f"{name[:80]!r} is a {_kind(tensor)}, not a tensor: save a state_dict() alone")
    return {name: _array(name, tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, _Tensor) else type(value).__name__


def _array(name: str, tensor: _Tensor, data: np.ndarray) -> np.ndarray:
    storage, offset, size, stride = tensor
    numbers = (offset, *size, *stride)
    if not all(type(number) is int and number >= 0 for number in numbers) or len(size) != len(stride):
        raise ValueError(f"{name!r} has an offset, a size or strides that aren't natural numbers")
    if data.size != storage.count * storage.dtype.itemsize:
        raise ValueError(f"{name!r} needs {storage.count:,} elements, its storage has {data.size:,} bytes")
    end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if math.prod(size) and (end > storage.count or math.prod(size) > storage.count):
        raise ValueError(f"{name!r} of shape {list(size)} reaches beyond its storage of {storage.count:,} elements")
    if not math.prod(size):
        return np.empty(size, storage.dtype)
    values = data.view(storage.dtype)[offset:]
    strides = [step * storage.dtype.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(values, size, strides, writeable=False)
