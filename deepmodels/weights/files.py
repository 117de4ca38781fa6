"""Reading any file or folder of weights by what is in it, and writing one.

A file is never trusted: nothing in it is executed, no name in it becomes a path outside its folder, and what it claims
to hold is compared with its size before memory is taken for it.
"""

import ast
import functools
import hashlib
import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels import integrity, trees
from deepmodels.errors import WeightsError
from deepmodels.weights import safetensors_file, torch_file

KNOWN = "safetensors, torch (.pth, .pt, .bin), npz, Flax msgpack, or a folder of these or of orbax"
_IN_FOLDERS = (  # in this order, where a folder has several
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
)
_MAX_INDEX = 64 * 2**20  # bytes of the list of a model's parts
_EXPANSION = 20  # times a compressed file's size that its arrays may take; weights don't compress to a twentieth
_ALWAYS_ALLOWED = 64 * 2**20  # bytes that a small compressed file may expand to all the same
_DAMAGE = (  # what an archive, or an array in one, that makes no sense leads to
    *(ValueError, TypeError, LookupError, SyntaxError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error),
)
_RUNS_OWN = ("variables/frozen/", "variables/augmentation/")  # what a run's checkpoint has beside its model
_MAX_DIMENSIONS = 32
_MAX_NPY_HEADER = 10_000  # characters, as in numpy


def read(path: str | os.PathLike, *, stored: bool = False) -> dict[str, Any]:
    """Returns the arrays of a file or folder by the names they have there.

    The format is found by content: safetensors, torch's `.pth`, `.pt` and `.bin`, npz, Flax msgpack; a folder with one
    of these under its usual name, or in parts with an index; an orbax checkpoint. Names inside trees are joined by
    slashes ("params/conv1/kernel"). Of a training run's checkpoint, only the model's variables are read. Arrays may
    be read-only.

    Args:
      path: the file or folder.
      stored: whether arrays of safetensors stay in their files: they come as what has their shape and dtype, and is
        read by `np.asarray`.

    Raises:
      WeightsError: there is no such file, its format isn't known, it is damaged, or it isn't safe to read.
    """
    path = Path(path)
    try:
        arrays = _read_folder(path, stored) if path.is_dir() else _reader(path, stored)(path)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file or folder") from None
    except (OSError, MemoryError) as error:
        raise WeightsError(f"{path} can't be read: {type(error).__name__}: {error}") from error
    for name in arrays:
        _check_name(path, name)
    return arrays


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays to a safetensors or npz file, by its suffix, or else to an orbax folder; at once or not at all.

    Args:
      path: an existing file is replaced; a folder must not exist.
      arrays: by name; in an orbax folder, slashes in names make a tree.
      metadata: text by name, kept in safetensors only; torch's libraries expect {"format": "pt"}.

    Raises:
      WeightsError: the place can't be written to, or a name or dtype can't be held.
    """
    path = Path(path)
    for name in arrays:
        _check_name(path, name)
    try:
        if path.suffix not in (".safetensors", ".npz"):
            _write_orbax(path, arrays)
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            if path.suffix == ".npz":
                _write_npz(temporary, arrays)
            else:
                safetensors_file.write(temporary, arrays, metadata or {})
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"{path} can't be written: {error}") from error


def write_parts(folder: Path, name: str, arrays: Mapping[str, np.ndarray], largest: int) -> None:
    """Writes arrays to NAME.safetensors, or to parts of at most `largest` bytes, or of one array, and their index.

    What an earlier writing in the other form left is removed: a file, or an index.

    Args:
      folder: an existing one.
      name: of the file, without its suffix.
      arrays: by name.
      largest: bytes of a part.

    Raises:
      WeightsError: as `write` does.
    """
    parts: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for key, array in arrays.items():
        if parts[-1] and size + array.nbytes > largest:
            parts.append({})
            size = 0
        parts[-1][key] = array
        size += array.nbytes
    whole, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
    try:
        (index if len(parts) == 1 else whole).unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"{folder} can't be written to: {error}") from error
    if len(parts) == 1:
        write(whole, arrays, {"format": "pt"})
        return
    places = {}
    for number, part in enumerate(parts, 1):
        file = f"{name}-{number:05}-of-{len(parts):05}.safetensors"
        write(folder / file, part, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    total = sum(array.nbytes for array in arrays.values())
    try:
        index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2) + "\n")
    except OSError as error:
        raise WeightsError(f"{folder} can't be written to: {error}") from error


def locate(folder: Path) -> list[Path]:
    """Returns the files that a folder's weights are in: one, or an index and the parts it names.

    Raises:
      WeightsError: there are none, or a part is missing.
    """
    for name in _IN_FOLDERS:
        if (folder / name).is_file():
            return [folder / name, *(_parts(folder / name) if name.endswith(".json") else ())]
    single = sorted(folder.glob("*.safetensors"))
    if len(single) != 1:
        raise WeightsError(
            f"{folder} has no orbax checkpoint, none of {', '.join(_IN_FOLDERS)}, and no single .safetensors"
        )
    return single


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file, or of a folder's files and their names in order, in hexadecimal digits."""
    path = Path(path)
    if not path.is_dir():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = sorted(part for part in path.rglob("*") if part.is_file())
    text = "".join(f"{sha256(part)}  {part.relative_to(path).as_posix()}\n" for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()


def _reader(path: Path, stored: bool = False) -> Callable[[Path], dict[str, Any]]:
    if path.name.endswith(".index.json"):
        return functools.partial(_read_parts, stored=stored)
    with open(path, "rb") as file:
        head = file.read(16)
    if path.suffix == ".safetensors" or (head[8:9] == b"{" and head[5:8] == bytes(3)):
        return safetensors_file.describe if stored else safetensors_file.read
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                arrays = all(name.endswith(".npy") for name in archive.namelist())
        except (ValueError, zipfile.BadZipFile, NotImplementedError):
            arrays = path.suffix == ".npz"
        return _read_npz if arrays else torch_file.read
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return torch_file.read
    if _is_msgpack(head):
        return _read_msgpack
    raise WeightsError(f"{path} is in no format that can be read: {KNOWN}")


def _is_msgpack(head: bytes) -> bool:
    """Whether a file begins with a map, and that with a text."""
    head = head.ljust(16, b"\0")
    if not (0x80 < head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        return False
    first = head[{0xDE: 3, 0xDF: 5}.get(head[0], 1)]
    return 0xA0 <= first <= 0xBF or first == 0xD9


def _read_folder(path: Path, stored: bool) -> dict[str, Any]:
    if (path / "_CHECKPOINT_METADATA").is_file() or (path / "_METADATA").is_file():
        return _read_orbax(path)
    main, *_ = locate(path)
    return _reader(main, stored)(main)


def _read_parts(path: Path, stored: bool) -> dict[str, Any]:
    """The arrays of a model in parts, from the index that says in which part each is."""
    arrays: dict[str, Any] = {}
    for part, names in _parts(path).items():
        own = _reader(part, stored)(part)
        if own.keys() != names:
            odd = sorted(own.keys() ^ names)
            raise WeightsError(f"{path}: {part.name} hasn't the arrays that are listed for it: {', '.join(odd[:5])}")
        arrays |= own
    return arrays


def _parts(path: Path) -> dict[Path, set[str]]:
    """The files that an index names, all of them beside it, and the names of the arrays in each."""
    try:
        if path.stat().st_size > _MAX_INDEX:
            raise ValueError("it is too large for a list of names")
        places = json.loads(path.read_bytes().decode())["weight_map"]
        if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
            raise ValueError("its weight_map isn't a file's name for each array")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise WeightsError(f"{path} isn't an index of parts: {type(error).__name__}: {error}") from error
    parts: dict[Path, set[str]] = {}
    for name, place in places.items():
        if place in ("", ".", "..") or not place.isprintable() or set(place) & set("/\\") or place.endswith(".json"):
            raise WeightsError(f"{path}: {place!r} isn't the name of a file of weights beside it")
        parts.setdefault(path.parent / place, set()).add(name)
    absent = [part.name for part in parts if not part.is_file()]
    if absent:
        raise WeightsError(f"{path}: {len(absent)} of {len(parts)} parts are missing: {', '.join(absent[:5])}")
    return parts


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            members, size = archive.infolist(), path.stat().st_size
            _check_expansion(path, size, sum(member.file_size for member in members))
            if any(member.compress_size > size for member in members):  # which memory is taken for
                raise ValueError("an array is larger than the file")
            if len({member.filename for member in members}) != len(members):
                raise ValueError("two arrays have the same name")
            return {member.filename.removesuffix(".npy"): _npy(archive.read(member)) for member in members}
    except _DAMAGE as error:
        raise WeightsError(f"{path} isn't an npz file that can be used: {error}") from error


def _npy(data: bytes) -> np.ndarray:
    """One array of an npz file. Its header is a dict of literals; numpy's own reader accepts more than numpy writes."""
    if data[:6] != b"\x93NUMPY" or data[6:8] not in (b"\x01\0", b"\x02\0"):
        raise ValueError("an array that doesn't begin as an array of numbers does")
    start = 10 if data[6] == 1 else 12
    end = start + int.from_bytes(data[8:start], "little")
    if end - start > _MAX_NPY_HEADER:
        raise ValueError(f"an array with a header of {end - start:,} bytes")
    header = ast.literal_eval(data[start:end].decode("latin-1").strip())
    dtype = np.dtype(header["descr"]) if isinstance(header["descr"], str) else np.dtype(object)
    if dtype.kind not in "biufc":
        raise ValueError(f"an array of {dtype}, which isn't a number: it might hold anything, and isn't loaded")
    return _from_bytes(data[end:], dtype, header["shape"], "F" if header["fortran_order"] else "C")


def _from_bytes(data: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
    if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"an array of shape {shape}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of {dtype}{list(shape)} in {len(data):,} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            raise WeightsError(f"{name} is {array.dtype}, which an npz file can't hold; a safetensors file can")
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)


def _read_msgpack(path: Path) -> dict[str, np.ndarray]:
    import msgpack

    data = path.read_bytes()
    try:
        tree = msgpack.unpackb(data, ext_hook=_msgpack_value, max_array_len=_MAX_DIMENSIONS, strict_map_key=True)
        arrays: dict[str, np.ndarray] = {}
        _collect(arrays, "", tree)
        return arrays
    except (ValueError, TypeError, LookupError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise WeightsError(f"{path} isn't a msgpack file of Flax that can be used: {error}") from error


def _msgpack_value(code: int, data: bytes) -> np.ndarray:
    """What Flax writes for an array (1) and a number of numpy (3): shape, dtype, bytes."""
    import msgpack

    if code not in (1, 3):
        raise ValueError(f"a value of the unknown type {code}")
    shape, name, values = msgpack.unpackb(data, raw=True, max_array_len=_MAX_DIMENSIONS)
    dtype = np.dtype(jnp.bfloat16 if name == b"bfloat16" else name.decode())
    if dtype != jnp.bfloat16 and dtype.kind not in "biufc":
        raise ValueError(f"an array of {dtype}, which isn't a number")
    return _from_bytes(values, dtype, tuple(shape))


def _collect(arrays: dict[str, np.ndarray], prefix: str, tree: Any) -> None:
    if isinstance(tree, dict) and tree.get("__msgpack_chunked_array__"):
        shape, chunks = ([part[str(i)] for i in range(len(part))] for part in (tree["shape"], tree["chunks"]))
        arrays[prefix] = np.concatenate(chunks).reshape(shape)  # Flax cuts arrays of more than 2^30 bytes
    elif isinstance(tree, dict):
        for name, entry in tree.items():
            _collect(arrays, f"{prefix}/{name}" if prefix else str(name), entry)
    elif isinstance(tree, np.ndarray):
        arrays[prefix] = tree
    else:
        raise ValueError(f"{prefix or 'the whole'} is a {type(tree).__name__}, not an array")


def _read_orbax(path: Path) -> dict[str, np.ndarray]:
    from orbax.checkpoint import v1 as ocp

    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    try:
        checkpoint = ocp.metadata(path.absolute())
        saved, digests = checkpoint.metadata, (checkpoint.custom_metadata or {}).get("digests")
        state = isinstance(saved, Mapping) and {"params", "variables", "opt_state"} <= saved.keys()
        # of what a training run saves, only the model's variables: neither its optimizer's nor the run's own
        wanted = {
            name: leaf
            for name, leaf in trees.flatten(saved).items()
            if not state or (name.startswith(("params/", "variables/")) and not name.startswith(_RUNS_OWN))
        }
        abstract = trees.map_named(
            lambda name, leaf: (
                jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place) if name in wanted else ocp.PLACEHOLDER
            ),
            saved,
        )
        size = sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
        claimed = trees.size_bytes([leaf for name, leaf in trees.flatten(abstract).items() if name in wanted])
        _check_expansion(path, size, claimed)
        tree = ocp.load(path.absolute(), abstract)
        leaves = {name: leaf for name, leaf in trees.flatten(tree).items() if name in wanted}
        if digests is not None and (wrong := integrity.differing(leaves, {n: digests[n] for n in wanted})):
            raise ValueError(f"not what was saved: {', '.join(wrong[:3])}")
    except WeightsError:
        raise
    except Exception as error:  # orbax raises whatever its layers do
        while error.__cause__ is not None:
            error = error.__cause__
        text = " ".join(str(error).split())
        raise WeightsError(f"{path} isn't an orbax checkpoint that can be used: {text[:300]}") from error
    arrays = {}
    for name, leaf in wanted.items():
        array = np.asarray(leaves[name])
        if array.dtype != leaf.dtype:
            raise WeightsError(f"{path}: {name} is {leaf.dtype}, which needs JAX_ENABLE_X64=1 in the environment")
        arrays[name.removeprefix("variables/") if state else name] = array
    return arrays


def _write_orbax(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    from orbax.checkpoint import v1 as ocp

    if path.exists():
        raise WeightsError(f"{path} is there already; a folder of weights is not replaced")
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = array
    ocp.save(path.absolute(), tree)


def _check_expansion(path: Path, size: int, claimed: int) -> None:
    if claimed > max(_EXPANSION * size, _ALWAYS_ALLOWED):
        raise WeightsError(f"{path} would take {claimed:,} bytes of memory, from a file of {size:,}: it isn't loaded")


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not name or name.startswith(("/", "\\")) or ".." in parts or not name.isprintable():
        raise WeightsError(f"{path}: {name[:80]!r} isn't the name of an array but of a path, or can't be printed")
