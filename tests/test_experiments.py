"""The experiments that need data which isn't here: all that their full configs name, made abstractly."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import augment, config, data
from deepmodels.models import MODELS
from deepmodels.training import experiment
from deepmodels.training.step import make_train_step

FILES = sorted((Path(__file__).parent.parent / "experiments").glob("*_imagenet.py"))


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
