"""Every format that is read gives the arrays that went in, whatever its name; what is written is read back bitwise."""

import json
import os
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pickles
import pytest
from flax import serialization

from deepmodels import trees
from deepmodels.errors import WeightsError
from deepmodels.training.checkpoint import Checkpoints
from deepmodels.training.step import TrainState
from deepmodels.weights import files, safetensors_file

TREE = {
    "params": {"conv1": {"kernel": np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)}, "scale": np.float32([[2]])},
    "batch_stats": {"mean": np.float32([1, np.nan, np.inf])},
}
ARRAYS = trees.flatten(TREE)
DTYPES = [np.float64, np.float32, np.float16, jnp.bfloat16, jnp.float8_e4m3fn, np.int64, np.int8, np.uint16, np.bool_]


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_safetensors_of_every_dtype(tmp_path):
    arrays = {np.dtype(dtype).name: np.arange(6).reshape(2, 3).astype(dtype) for dtype in DTYPES}
    arrays |= {"number": np.float32(3), "none": np.zeros((0, 4), np.float32), "turned": np.eye(3, 2).T}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    files.write(tmp_path / "a.safetensors", arrays, {"format": "pt"})
    same(files.read(tmp_path / "a.safetensors"), arrays)


@pytest.mark.parity
def test_safetensors_are_those_of_its_own_library(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    arrays = {"b": np.arange(3, dtype=np.int8), "a": np.eye(3, dtype=np.float32), "c": np.float16([1, 2])}
    files.write(tmp_path / "ours.safetensors", arrays, {"format": "pt"})
    same(library.load_file(tmp_path / "ours.safetensors"), arrays)
    library.save_file(arrays, tmp_path / "theirs.safetensors", {"format": "pt"})
    same(files.read(tmp_path / "theirs.safetensors"), arrays)
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


@pytest.mark.parametrize("form", ["archive", "stream"])
def test_torch_files(tmp_path, form):
    arrays = {
        "layer.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "turned": np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
        "count": np.asarray(np.int64(7)),
        "mask": np.array([True, False]),
    }
    # a transposed tensor keeps its storage as it was
    content = pickles.mapping(
        {
            name: pickles.tensor(
                pickles.storage(array.dtype.name, name, array.size, extra=b"N" if form == "stream" else b""),
                array.shape,
                tuple(step // array.itemsize for step in array.strides),
            )
            for name, array in arrays.items()
        }
    )
    stored = {name: array.ravel(order="K") for name, array in arrays.items()}
    if form == "stream":
        data = pickles.stream(content, stored)
    else:
        data = pickles.archive(content, {f"data/{name}": array.tobytes() for name, array in stored.items()})
    (tmp_path / "model.anything").write_bytes(data)
    same(files.read(tmp_path / "model.anything"), arrays)


def test_tensors_that_share_a_storage(tmp_path):
    storage = pickles.storage("float32", "0", 6)
    content = pickles.mapping(
        {"all": pickles.tensor(storage, (2, 3), (3, 1)), "column": pickles.tensor(storage, (2,), (3,), offset=2)}
    )
    data = pickles.archive(content, {"data/0": np.arange(6, dtype=np.float32).tobytes()})
    (tmp_path / "a.pth").write_bytes(data)
    np.testing.assert_array_equal(files.read(tmp_path / "a.pth")["column"], [2, 5])


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_the_state_dict_in_a_training_programs_file(tmp_path, wrapper):
    weight = np.ones(3, np.float32)
    content = pickles.mapping(
        {"epoch": pickles.number(3), wrapper: pickles.mapping({"w": pickles.whole("0", weight)}), "lr": b"N"}
    )
    (tmp_path / "a.pth").write_bytes(pickles.archive(content, {"data/0": weight.tobytes()}))
    same(files.read(tmp_path / "a.pth"), {"w": weight})


@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_torch_files_are_those_of_torch(tmp_path, zipped, protocol):
    torch = pytest.importorskip("torch")
    storage = torch.randn(24)
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    tensors = {
        **module.state_dict(),
        "turned": storage.view(4, 6).t()[1:],
        "tied": storage.view(2, 12),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "half": torch.randn(3).half(),
        "complex": torch.randn(3, dtype=torch.complex64),
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(3),
    }
    path = tmp_path / "a.pth"
    for saved in (tensors, {"state_dict": tensors, "device": torch.device("cpu"), "dtype": torch.float32}):
        torch.save(saved, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
        found = files.read(path)
        same(found, {name: np.asarray(tensor.detach().numpy()) for name, tensor in tensors.items()})
    torch.save({"w": torch.randn(3).bfloat16()}, path, _use_new_zipfile_serialization=zipped)
    assert files.read(path)["w"].dtype == jnp.bfloat16
    torch.save(module, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.container\.Sequential.*not executed"):
        files.read(path)


@pytest.mark.parametrize("compressed", [True, False])
def test_npz(tmp_path, compressed):
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", **ARRAYS)
    same(files.read(tmp_path / "a.npz"), ARRAYS)
    os.rename(tmp_path / "a.npz", tmp_path / "a.weights")
    same(files.read(tmp_path / "a.weights"), ARRAYS)
    np.savez(tmp_path / "turned.npz", a=np.eye(3, 2).T)
    np.testing.assert_array_equal(files.read(tmp_path / "turned.npz")["a"], np.eye(2, 3))


def test_msgpack(tmp_path, monkeypatch):
    tree = jax.tree.map(jnp.asarray, TREE) | {"half": jnp.ones(3, jnp.bfloat16)}
    (tmp_path / "a.msgpack").write_bytes(serialization.to_bytes(tree))
    same(files.read(tmp_path / "a.msgpack"), {k: np.asarray(v) for k, v in trees.flatten(tree).items()})
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 16)
    (tmp_path / "a.msgpack").write_bytes(serialization.to_bytes(TREE))
    same(files.read(tmp_path / "a.msgpack"), ARRAYS)


@pytest.mark.parametrize("name", ["weights.npz", "weights.safetensors", "weights"])
def test_written_files_are_read_back(tmp_path, name):
    files.write(tmp_path / name, ARRAYS)
    same(files.read(tmp_path / name), ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    first = files.sha256(tmp_path / name)
    assert len(first) == 64
    if name != "weights":  # orbax writes the time into its folders
        files.write(tmp_path / name, ARRAYS)
        assert files.sha256(tmp_path / name) == first
    else:
        with pytest.raises(WeightsError, match="is there already"):
            files.write(tmp_path / name, ARRAYS)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    files.write(path, ARRAYS)

    def fails(path, arrays, metadata):
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors_file, "write", fails)
    with pytest.raises(WeightsError, match="no space left"):
        files.write(path, {})
    same(files.read(path), ARRAYS)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "arrays", "said"),
    [
        ("a.safetensors", {"../x": np.ones(1)}, "isn't the name of an array but of a path"),
        ("a.safetensors", {"x": np.array(["text"])}, "can't hold"),
        ("a.npz", {"x": np.ones(1, jnp.bfloat16)}, "x is bfloat16, which an npz file can't hold"),
        ("nowhere/a.safetensors", ARRAYS, "can't be written"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, arrays, said):
    with pytest.raises(WeightsError, match=said):
        files.write(tmp_path / name, arrays)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_folder_in_parts(tmp_path, suffix):
    stem = {".safetensors": "model", ".bin": "pytorch_model"}[suffix]
    parts = {f"{stem}-{i}-of-3{suffix}": {name: array} for i, (name, array) in enumerate(ARRAYS.items())}
    for name, arrays in parts.items():
        if suffix == ".bin":
            (tmp_path / name).write_bytes(pickles.state_dict(arrays, "archive"))
        else:
            files.write(tmp_path / name, arrays)
    index = {"metadata": {}, "weight_map": {key: name for name, arrays in parts.items() for key in arrays}}
    (tmp_path / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    same(files.read(tmp_path), ARRAYS)
    same(files.read(tmp_path / f"{stem}{suffix}.index.json"), ARRAYS)
    assert {path.name for path in files.locate(tmp_path)} == {f"{stem}{suffix}.index.json", *parts}


def test_a_folder_with_one_file(tmp_path):
    with pytest.raises(WeightsError, match="has no orbax checkpoint"):
        files.read(tmp_path)
    files.write(tmp_path / "anything.safetensors", ARRAYS)
    same(files.read(tmp_path), ARRAYS)
    files.write(tmp_path / "other.safetensors", {})
    with pytest.raises(WeightsError, match="no single"):
        files.read(tmp_path)
    files.write(tmp_path / "model.safetensors", {"w": np.ones(1)})
    same(files.read(tmp_path), {"w": np.ones(1)})


def test_a_training_runs_checkpoint(tmp_path):
    params = {"w": jnp.arange(3.0), "b": jnp.ones(2)}
    statistics = {"batch_stats": {"mean": jnp.zeros(2)}}
    checkpoints = Checkpoints(tmp_path)
    state = TrainState(jnp.int32(4), params, statistics, optax.adam(1e-3).init(params))
    checkpoints.save(4, state, {"note": "x"})
    checkpoints.close()
    expected = {k: np.asarray(v) for k, v in trees.flatten({"params": params, **statistics}).items()}
    same(files.read(tmp_path / "checkpoints" / "4"), expected)


def test_float64_of_an_orbax_folder_is_not_rounded_silently(tmp_path):
    files.write(tmp_path / "a", {"params/w": np.ones(3)})
    with pytest.raises(WeightsError, match="params/w is float64, which needs JAX_ENABLE_X64=1"):
        files.read(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"plain text, and no weights"])
def test_an_unknown_format_names_the_known_ones(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"in no format that can be read: safetensors, torch"):
        files.read(tmp_path / "a.pth")


def test_no_file(tmp_path):
    with pytest.raises(WeightsError, match=r"a\.pth: there is no such file or folder"):
        files.read(tmp_path / "a.pth")


def test_an_archive_of_neither_kind(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "")
    with pytest.raises(WeightsError, match=r"no data\.pkl"):
        files.read(tmp_path / "a.zip")
