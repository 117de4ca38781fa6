"""Every kind of source gives the records that were put in, and says what is wrong with damaged ones."""

import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepmodels import data
from deepmodels.data.array_record import pack, unpack
from deepmodels.data.sources import gather, permutation
from deepmodels.errors import ConfigError, DataError, DeepModelsError


def small_source(length: int = 10) -> data.ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (length, 4, 5, 3), np.uint8)
    return data.ArraySource({"image": images, "label": np.arange(length, dtype=np.int32) % 3})


def assert_same_records(source: data.Source, expected: data.Source) -> None:
    assert len(source) == len(expected)
    for index in range(len(expected)):
        found, wanted = source[index], expected[index]
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert found[key].dtype == wanted[key].dtype, key
            np.testing.assert_array_equal(found[key], wanted[key])


# arrays, subsets, batches of records


def test_arrays_must_have_one_entry_for_each_record():
    with pytest.raises(DataError, match=r"mine: .* found image 3, label 2"):
        data.ArraySource({"image": np.zeros((3, 2)), "label": np.zeros(2)}, name="mine")
    with pytest.raises(DataError, match="no arrays"):
        data.ArraySource({})
    with pytest.raises(DataError, match="at least one"):
        data.ArraySource({"image": np.zeros((0, 2))})


@pytest.mark.parametrize("source", [small_source(), data.SubsetSource(small_source(), np.array([7, 3, 3]))])
def test_a_gathered_batch_equals_stacked_records(source):
    class RecordByRecord:
        __len__, __getitem__ = source.__len__, source.__getitem__

        def __init__(self):
            pass

    indices = np.array([2, 0, 2, 1])
    fast, slow = gather(source, indices), gather(RecordByRecord.__new__(RecordByRecord), indices)
    for key in ("image", "label"):
        assert fast[key].dtype == slow[key].dtype
        np.testing.assert_array_equal(fast[key], slow[key])
    assert isinstance(source, data.Source)


def test_records_that_do_not_stack_are_named():
    class Ragged:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"image": np.zeros((2 + index // 2, 2), np.uint8)}

    with pytest.raises(DataError, match=r"record 2 doesn't stack with record 0.*image_size"):
        gather(Ragged(), np.arange(3))


def test_the_permutation_is_frozen():
    """A change of these numbers would change every run's data order, and every validation split."""
    assert permutation(8, 0, 1).tolist() == [7, 4, 5, 1, 6, 2, 0, 3]


@pytest.mark.parametrize("size", [1, 7, 19])
def test_train_and_validation_partition_the_train_set(size):
    source = small_source(20)
    train, validation = data.split_validation(source, size)
    assert len(validation) == size
    assert sorted([*train.indices, *validation.indices]) == list(range(20))
    again = data.split_validation(data.ArraySource({"x": np.zeros(20)}), size)[1]
    np.testing.assert_array_equal(validation.indices, again.indices)  # of the length and the size alone
    np.testing.assert_array_equal(validation[0]["image"], source[int(validation.indices[0])]["image"])


@pytest.mark.parametrize("size", [-1, 20, 21])
def test_a_validation_size_out_of_range_is_refused(size):
    with pytest.raises(ConfigError, match="validation_size: expected 1 to 19"):
        data.split_validation(small_source(20), size)


# the table


def test_the_embedded_data_set():
    train = data.create("fashion_mnist_embedded", split="train")
    test = data.create("fashion_mnist_embedded", split="test")
    assert (len(train), len(test)) == (2000, 500)
    record = train[0]
    assert (record["image"].shape, record["image"].dtype) == ((28, 28, 1), np.uint8)
    assert (record["label"].shape, record["label"].dtype) == ((), np.int32)
    assert np.bincount(train.arrays["label"]).min() > 150
    row = data.DATASETS["fashion_mnist_embedded"]
    assert row.num_classes == len(row.class_names) == 10
    parts = [data.create("fashion_mnist_embedded", split=s, validation_size=200) for s in ("train", "validation")]
    assert [len(part) for part in parts] == [1800, 200]
    assert len(data.create("fashion_mnist_embedded", split="test", validation_size=200)) == 500
    embedded = Path(data.__file__).parent / "embedded"
    assert "Zalando" in (embedded / "LICENSE-fashion-mnist").read_text()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("fashion_mnits", {"split": "train"}, "did you mean 'fashion_mnist'"),
        ("mnist", {"split": "tets"}, "did you mean 'test'"),
        ("mnist", {"split": "train", "pth": "x"}, "did you mean 'path'"),
        ("npz", {"split": "train"}, "needs --config.data.path="),
        ("tfds", {"split": "train", "data_dir": "x"}, "needs --config.data.dataset="),
        ("fashion_mnist_embedded", {"split": "validation"}, "no validation split: give validation_size"),
        ("image_folder", {"split": "train", "path": "x", "load": 1}, "unknown argument of data set 'image_folder'"),
    ],
)
def test_a_wrong_name_or_argument_is_named(name, arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        data.create(name, **arguments)


# IDX


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist_folder(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, length in {"train": 6, "t10k": 4}.items():
        images, labels = rng.integers(0, 256, (length, 28, 28), np.uint8), np.arange(length, dtype=np.uint8)
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        with gzip.open(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(idx_bytes(labels))
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_plain_or_packed(mnist_folder, name, monkeypatch):
    train = data.create(name, split="train", path=mnist_folder)
    raw = (mnist_folder / "train-images-idx3-ubyte").read_bytes()
    assert train[5]["image"].tobytes() == raw[-784:]
    assert train[5]["image"].shape == (28, 28, 1)
    assert train[5]["label"] == 5
    assert train[5]["label"].dtype == np.int32
    assert len(data.create(name, split="test", path=str(mnist_folder))) == 4
    (mnist_folder / name).mkdir()
    for file in mnist_folder.glob("*ubyte*"):
        file.rename(mnist_folder / name / file.name)
    monkeypatch.setenv("DEEPMODELS_DATA", str(mnist_folder))
    assert len(data.create(name, split="train")) == 6


def damage(folder: Path, kind: str) -> None:
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte.gz"
    raw = images.read_bytes()
    match kind:
        case "short":
            images.write_bytes(raw[:-10])
        case "long":
            images.write_bytes(raw + b"\0")
        case "header":
            images.write_bytes(raw[:7])
        case "empty":
            images.write_bytes(b"")
        case "magic":
            images.write_bytes(b"\x89PNG" + raw[4:])
        case "dtype":
            images.write_bytes(raw[:2] + b"\x0d" + raw[3:])
        case "axes":
            images.write_bytes(idx_bytes(np.zeros((6, 784), np.uint8)))
        case "pixels":
            images.write_bytes(idx_bytes(np.zeros((6, 32, 32), np.uint8)))
        case "huge":
            images.write_bytes(raw[:4] + b"\xff" * 12 + raw[16:])
        case "count":
            labels.write_bytes(gzip.compress(idx_bytes(np.zeros(5, np.uint8))))
        case "label":
            labels.write_bytes(gzip.compress(idx_bytes(np.array([0, 1, 77, 0, 0, 0], np.uint8))))
        case "packed short":
            labels.write_bytes(labels.read_bytes()[:-12])
        case "packed end":
            labels.write_bytes(labels.read_bytes()[:-1])
        case "checksum":
            packed = bytearray(labels.read_bytes())
            packed[-6] ^= 1
            labels.write_bytes(packed)
        case "missing":
            labels.unlink()


def test_a_small_packed_file_does_not_unpack_to_gigabytes(tmp_path):
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1]) + (2**27).to_bytes(4, "big") + bytes(2**27), 1))
    with pytest.raises(DataError, match="unpacks to more than 67,108,864 bytes"):
        data.read_idx(path, 1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("short", r"train-images-idx3-ubyte: expected 4,720 bytes for shape \(6, 28, 28\), found 4,710 bytes"),
        ("long", "expected 4,720 bytes .* found 4,721 bytes"),
        ("header", "expected a header of 16 bytes, found 7 bytes"),
        ("empty", "found none"),
        ("magic", "begin with bytes 00 00 08 03, found 89 50 4e 47"),
        ("dtype", "begin with bytes 00 00 08 03, found 00 00 0d 03"),
        ("axes", "with 3 axes.*found 00 00 08 02"),
        ("pixels", "expected images of 28x28 pixels, found 32x32"),
        ("huge", "found 4,720 bytes"),
        ("count", "holds 6 images, but .*train-labels-idx1-ubyte.gz holds 5 labels"),
        ("label", "expected labels 0 to 9, found 77 at record 2"),
        ("packed short", "train-labels-idx1-ubyte.gz: .*ends early"),
        ("packed end", "expected 14 bytes .* found 14 bytes after unpacking: the gzip file ends early"),
        ("checksum", "train-labels-idx1-ubyte.gz: damaged gzip file"),
        ("missing", "no train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz in "),
    ],
)
def test_a_damaged_idx_file_is_named_with_what_was_expected_and_found(mnist_folder, kind, message):
    damage(mnist_folder, kind)
    with pytest.raises(DataError, match=message):
        data.create("mnist", split="train", path=mnist_folder)


def test_missing_mnist_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPMODELS_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError) as caught:
        data.create("mnist", split="test")
    for part in ("t10k-labels-idx1-ubyte", f"{tmp_path}/mnist", "--config.data.path=", "/.cache/deepmodels/data/mnist"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="`apt-get install dataset-fashion-mnist`"):
        data.create("fashion_mnist", split="test", path=tmp_path)


# npz


def test_npz(tmp_path):
    path = tmp_path / "set.npz"
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6), np.uint8)
    np.savez(path, train_image=images, train_label=np.arange(4), test_tokens=np.zeros((2, 7), np.int64))
    train = data.create("npz", split="train", path=path)
    assert_same_records(train, data.ArraySource({"image": images[..., None], "label": np.arange(4, dtype=np.int32)}))
    assert data.create("npz", split="test", path=path)[1]["tokens"].dtype == np.int32
    with pytest.raises(ConfigError, match="no validation split"):
        data.create("npz", split="validation", path=path)


def test_bad_npz_files(tmp_path):
    path = tmp_path / "set.npz"
    with pytest.raises(DataError, match=r"no such file; make one with numpy.savez"):
        data.create("npz", split="train", path=path)
    np.savez(path, train_image=np.zeros((3, 2, 2), np.uint8), train_label=np.zeros(2, np.int32))
    with pytest.raises(DataError, match="found image 3, label 2"):
        data.create("npz", split="train", path=path)
    raw = path.read_bytes()
    for damaged in (raw[: len(raw) // 2], b"not a zip file", b"", raw.replace(b"NUMPY", b"NUMPI")):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"set.npz.*: not a readable .npz file"):
            data.create("npz", split="train", path=path)
    np.savez(path, x=np.zeros(3))
    with pytest.raises(DataError, match=r"expected arrays named train_image.*found \['x'\]"):
        data.create("npz", split="train", path=path)
    np.savez(path, train_image=np.array([{"run": "me"}], object))
    with pytest.raises(DataError, match=r"not a readable .npz file of plain arrays"):
        data.create("npz", split="train", path=path)


# folders of images


@pytest.fixture
def image_folder(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("b_dog", "A_cat", "10"):
            for file in ("2.png", "10.PNG", "deeper/0.png"):
                path = tmp_path / split / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(path)
    (tmp_path / "train" / "A_cat" / "notes.txt").write_text("no image")
    return tmp_path


def test_an_image_folder_has_the_order_of_torchvision(image_folder):
    source = data.create("image_folder", split="train", path=image_folder)
    assert source.class_names == ("10", "A_cat", "b_dog")
    files = [str(file.relative_to(image_folder / "train")) for file in source.files]
    assert files[:4] == ["10/10.PNG", "10/2.png", "10/deeper/0.png", "A_cat/10.PNG"]
    assert [int(source[i]["label"]) for i in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    with Image.open(source.files[1]) as image:
        np.testing.assert_array_equal(source[1]["image"], np.asarray(image))
    assert len(data.create("image_folder", split="test", path=image_folder)) == 9  # val stands in for test
    assert len(data.create("image_folder", split="validation", path=image_folder)) == 9


def test_an_image_is_resized_then_cropped_at_its_centre(image_folder):
    source = data.create("image_folder", split="train", path=image_folder, image_size=4, resize_size=6)
    with Image.open(source.files[0]) as image:
        resized = np.asarray(image.resize((8, 6), Image.Resampling.BILINEAR))  # 12 wide, 9 high
    np.testing.assert_array_equal(source[0]["image"], resized[1:5, 2:6])
    grey = data.create("image_folder", split="train", path=image_folder, image_size=5, channels=1)
    assert grey[0]["image"].shape == (5, 5, 1)
    batch = next(data.batches(grey, batch_size=4, seed=0))
    assert batch["image"].shape == (4, 5, 5, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size: expected at least 1"),
        ({"image_size": 8, "resize_size": 7}, "resize_size: expected at least image_size"),
        ({"resize_size": 7}, "resize_size: expected at least image_size"),
        ({"channels": 2}, "channels: expected 1"),
    ],
)
def test_sizes_that_make_no_sense(image_folder, arguments, message):
    with pytest.raises(ConfigError, match=message):
        data.create("image_folder", split="train", path=image_folder, **arguments)


def test_a_bad_image_is_named_with_its_number_and_file(image_folder):
    file = image_folder / "train" / "A_cat" / "10.PNG"
    raw = file.read_bytes()
    for damaged in (b"no image at all", raw[:-60], raw[:20]):
        file.write_bytes(damaged)
        source = data.create("image_folder", split="train", path=image_folder, image_size=4)
        with pytest.raises(DataError, match=r"record 3, .*A_cat/10.PNG: not a readable image"):
            source[3]
    with pytest.raises(DataError, match="record 3, "):  # and the error crosses the pipeline's threads as it is
        for _, _ in zip(range(9), data.batches(source, batch_size=1, seed=0), strict=False):
            pass


def test_wrong_image_folders(image_folder):
    with pytest.raises(DataError, match=r"nowhere/train: no such folder; expected images as .*/train/<class>/<file>"):
        data.create("image_folder", split="train", path=image_folder / "nowhere")
    (image_folder / "val" / "extra").mkdir()
    with pytest.raises(DataError, match="extra: no images in this class"):
        data.create("image_folder", split="test", path=image_folder)
    Image.new("RGB", (3, 3)).save(image_folder / "val" / "extra" / "1.png")
    with pytest.raises(DataError, match=r"must have the same classes; only in one: \['extra'\]"):
        data.create("image_folder", split="test", path=image_folder)
    with pytest.raises(DataError, match="one sub-folder of images for each class"):
        data.ImageFolderSource(image_folder / "val" / "extra")


# ArrayRecord


def test_array_record_gives_back_what_was_written(tmp_path):
    rng = np.random.default_rng(0)

    class Mixed:
        """Shapes differ between records, as those of images of a folder."""

        def __len__(self):
            return 7

        def __getitem__(self, index):
            image = np.random.default_rng(index).integers(0, 256, (2 + index, 3, 3), np.uint8)
            return {
                "image": image,
                "label": np.int32(index),
                "weight": np.float32(0.5 + index),
                "none": np.zeros((0, 2)),
            }

    expected = Mixed()
    data.write_array_record(tmp_path / "train.array_record", expected)
    assert_same_records(data.create("array_record", split="train", path=tmp_path), expected)
    order = rng.permutation(7)
    source = data.ArrayRecordSource([tmp_path / "train.array_record"] * 2)
    assert [int(source[7 + int(i)]["label"]) for i in order] == order.tolist()
    with pytest.raises(ConfigError, match="no test split"):
        data.create("array_record", split="test", path=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["train.array_record"]


def test_array_record_refuses_objects(tmp_path):
    source = data.ArraySource({"image": np.array([{"run": "me"}], object)})
    with pytest.raises(DataError, match="record 0: 'image' has dtype object; only numbers"):
        data.write_array_record(tmp_path / "train.array_record", source)
    assert not (tmp_path / "train.array_record").exists()


def test_damaged_array_records_are_errors_never_wrong_records(tmp_path):
    path = tmp_path / "train.array_record"
    images = np.random.default_rng(0).integers(0, 256, (40, 30, 30, 1), np.uint8)
    expected = data.ArraySource({"image": images, "label": np.arange(40, dtype=np.int32)})
    data.write_array_record(path, expected)
    raw = path.read_bytes()
    for length in (0, 10, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:length])
        with pytest.raises(DataError, match=r"train.array_record: not readable as ArrayRecord"):
            data.create("array_record", split="train", path=tmp_path)
    caught = 0
    for place in np.random.default_rng(1).integers(0, len(raw), 10):
        flipped = bytearray(raw)
        flipped[place] ^= 0x10
        path.write_bytes(flipped)
        try:
            assert_same_records(data.create("array_record", split="train", path=tmp_path), expected)
        except DataError:  # an AssertionError, a wrong record, would pass on
            caught += 1
    assert caught >= 3
    with pytest.raises(DataError, match=r"no files named train.array_record"):
        data.create("array_record", split="train", path=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{}",
        b"[]\n",
        b"1\n",
        b'{"x": ["|O", [1]]}\n12345678',
        b'{"x": ["<f4", [2]]}\n1234',
        b'{"x": ["<f4", [1]]}\n12345',
        b'{"x": ["<f4", [-1]]}\n1234',
        b'{"x": ["<f4", [1e99]]}\n1234',
        b'{"x": ["<f4"]}\n1234',
        b'{"x": 4}\n1234',
        b'{"x": ["nonsense", [1]]}\n1234',
        b'{"x": ["<f4", [99999999999999999999]]}\n1234',
        b"\x80\x04K\x01.\n",
    ],
)
def test_a_record_that_is_not_ours_is_refused(tmp_path, record):
    from array_record.python.array_record_module import ArrayRecordWriter

    path = str(tmp_path / "train.array_record")
    writer = ArrayRecordWriter(path, "group_size:1")
    writer.write(record)
    writer.close()
    with pytest.raises(DataError, match=r"record 0 of .*train.array_record: damaged, or not ours"):
        data.ArrayRecordSource([path])[0]


def test_a_record_is_a_line_of_json_and_bytes():
    packed = pack({"x": np.array([[1, 2]], np.dtype("<i2"))})
    header, payload = packed.split(b"\n")
    assert json.loads(header) == {"x": ["<i2", [1, 2]]}
    assert payload == b"\1\0\2\0"
    assert unpack(packed)["x"].tolist() == [[1, 2]]


# tensorflow-datasets


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The tiny data set, prepared in a process of its own, so that this one finds files and no builder."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    code = (
        "import sys, tfds_tiny\n"
        "from tensorflow_datasets import core\n"
        "builder = tfds_tiny.TinyImages(data_dir=sys.argv[1], file_format='array_record')\n"
        "builder.download_and_prepare()\n"
        "assert not {'tensorflow', 'torch'} & sys.modules.keys()\n"
    )
    run = [sys.executable, "-c", code, str(folder)]
    result = subprocess.run(run, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return folder


def test_a_prepared_tfds_data_set_is_read_without_tensorflow(prepared):
    code = """
import sys
import numpy as np
from deepmodels import data
from tfds_tiny import pixels

arguments = dict(dataset="tiny_images", data_dir=sys.argv[1])
train, test = (data.create("tfds", split=split, **arguments) for split in ("train", "test"))
assert (len(train), len(test)) == (12, 5)
assert train.class_names == ["cat", "dog", "owl"]
assert train[0].keys() == {"image", "label"}
assert train[0]["label"].dtype == np.int32
expected = {pixels(i).tobytes(): i % 3 for i in range(12)}
for i in range(12):
    assert train[i]["image"].dtype == np.uint8
    assert expected.pop(train[i]["image"].tobytes()) == train[i]["label"]
half = data.create("tfds", split="validation", splits={"validation": "train[50%:]"}, **arguments)
assert len(half) == 6
assert np.array_equal(half[0]["image"], train[6]["image"])
small = data.create("tfds", split="train", image_size=4, **arguments)
batch = next(data.batches(small, batch_size=12, seed=0))
assert batch["image"].shape == (12, 4, 4, 3)
assert data.TfdsSource(sys.argv[1] + "/tiny_images/1.0.0", "test")[0]["image"].shape == (6, 8, 3)
assert not {"tensorflow", "torch"} & sys.modules.keys()
"""
    run = [sys.executable, "-W", "error::ResourceWarning", "-c", code, str(prepared)]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(data.__file__).parents[2])])
    result = subprocess.run(run, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorflow-datasets' own, when it is imported
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"dataset": "tiny_imagse"}, DataError, "isn't in .* Prepare it once with .*tiny_imagse.*array_record"),
        ({"dataset": "mnist"}, DataError, "isn't in .* Prepare it once"),
        ({"dataset": "mnist:99.0.0"}, ConfigError, "'mnist:99.0.0' isn't one for tensorflow-datasets"),
        ({"dataset": "tiny_images", "splits": {"train": "trian[:5]"}}, ConfigError, "did you mean 'train'"),
        ({"dataset": "tiny_images", "splits": {"test": "test"}}, ConfigError, "no train split"),
    ],
)
def test_tfds_data_sets_that_are_not_there(prepared, arguments, kind, message):
    with pytest.raises(DeepModelsError, match=message) as caught:
        data.create("tfds", split="train", data_dir=prepared, **arguments)
    assert type(caught.value) is kind


def test_a_damaged_tfds_record_is_named(prepared, tmp_path):
    folder = shutil.copytree(prepared / "tiny_images" / "1.0.0", tmp_path / "tiny_images" / "1.0.0")
    (file,) = folder.glob("*train*array_record*")
    raw = bytearray(file.read_bytes())
    middle = raw.find(b"\x89PNG", 2000)
    raw[middle : middle + 8] = bytes(8)
    file.write_bytes(raw)
    source = data.TfdsSource("tiny_images", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"record \d+ of tfds 'tiny_images', 'train': can't be read"):
        list(map(source.__getitem__, range(12)))


def test_importing_the_package_is_light():
    code = (
        "import sys, deepmodels.data\n"
        "heavy = {'jax', 'grain', 'tensorflow_datasets', 'PIL', 'array_record'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(data.__file__).parents[2])
