import numpy as np
import pytest
from PIL import Image

from deepmodels import data
from deepmodels.errors import DataError


def folder(path):
    for number in range(3):
        pixels = np.full((6, 8, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.png")
    (path / "train.tsv").write_text("image\tcaption\n0.png\ta red cat\n1.png\ta dog\n")
    (path / "test.tsv").write_text("image\tcaption\n2.png\ta red dog that barks\n")
    return path


def test_pictures_and_captions(tmp_path):
    options = dict(path=folder(tmp_path), max_length=5, image_size=4)
    train, test = (data.create("captioned_images", split=split, **options) for split in ("train", "test"))
    assert (len(train), len(test)) == (2, 1)
    record = train[1]
    assert (record["image"].shape, record["image"].dtype, int(record["image"].mean())) == ((4, 4, 3), np.uint8, 40)
    assert train.tokenizer.decode(record["tokens"]) == "a dog"
    assert record["mask"].tolist() == [True] * 4 + [False]
    # cut to five ids, of which two are the ends; a word that doesn't train would be unknown
    assert train.tokenizer.decode(test[0]["tokens"]) == "a red dog"
    assert test[0]["tokens"][-1] == test.tokenizer.end_id


def test_classes_as_captions():
    source = data.create("fashion_mnist_captions", split="test")
    record = source[0]
    assert record["image"].shape == (32, 32, 1)
    label = data.create("fashion_mnist_embedded", split="test")[0]["label"]
    assert source.captions[0] == f"a picture of a {data.datasets.FASHION[label]}"


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match="expected a folder with train.tsv"):
        data.create("captioned_images", split="train", path=tmp_path / "nowhere")
    folder(tmp_path)
    (tmp_path / "1.png").unlink()
    with pytest.raises(DataError, match=r"train.tsv: there is no picture .*1.png"):
        data.create("captioned_images", split="train", path=tmp_path)
