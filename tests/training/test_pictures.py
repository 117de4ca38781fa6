import jax
import numpy as np
import pytest
from PIL import Image

import deepmodels
from deepmodels.errors import ConfigError
from deepmodels.training import experiment
from deepmodels.training.pictures import grid, make_pictures

VAE = {"name": "vae_tiny", "image_shape": (28, 28, 1)}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])


@pytest.fixture
def config(tiny_config):
    def make(**values):
        data = {"name": "fashion_mnist_embedded", "batch_size": 16, "validation_size": 100}
        return tiny_config(**{"data": data} | values)

    return make


def test_a_grid_has_white_between_its_pictures():
    page = grid(np.stack([np.full((2, 3, 1), value) for value in (0.0, 0.5, 2.0)]), 2)
    assert page.shape == (6, 8, 1)
    np.testing.assert_array_equal(page[:2, :, 0], [[0, 0, 0, 255, 255, 128, 128, 128]] * 2)
    assert (page[2:] == 255).all()


def test_what_a_variational_autoencoder_shows(config, tmp_path):
    values = config(model=VAE, objective={"name": "elbo"}, steps=3)
    result = deepmodels.train(values, tmp_path, quiet=True)
    names = {path.stem.partition("-")[0] for path in (tmp_path / "pictures").iterdir()}
    assert names == {"samples", "reconstructions", "walk", "traversal"}
    text = result.report.read_text()
    assert all(f'alt="{name}"' in text for name in names)
    assert "First-layer filters" in text
    x = experiment.make(values)
    rows = np.asarray(Image.open(tmp_path / "pictures" / "reconstructions-0000003.png")).reshape(88, -1)
    first = x.sources["test"][0]["image"][..., 0]
    np.testing.assert_array_equal(rows[:28, :28], first)
    np.testing.assert_array_equal(rows[30:58, :28], first)
    walk = np.asarray(Image.open(tmp_path / "pictures" / "walk-0000003.png"))
    np.testing.assert_array_equal(walk[:28, 210:238], walk[30:58, :28])  # where one ends, the next begins


def test_what_the_model_saw_is_shown(config):
    objective = {"name": "reconstruction", "corruption": "masking", "amount": 0.9}
    x = experiment.make(config(model={"name": "autoencoder_tiny", "image_shape": (28, 28, 1)}, objective=objective))
    state = x.init()
    page = make_pictures(x)(state.params, state.variables)
    assert page.keys() == {"reconstructions"}
    rows = page["reconstructions"][..., 0]
    assert (rows[30:58, :28] > 0).sum() < 0.3 * (rows[:28, :28] > 0).sum()


def test_what_was_hidden_is_filled_in(config):
    model = {"name": "mae_tiny", "image_size": 28, "image_channels": 1}
    x = experiment.make(config(model=model, objective={"name": "masked_reconstruction", "patch_size": 4}))
    state = x.init()
    page = make_pictures(x)(state.params, state.variables)
    assert page.keys() == {"fillings"}
    rows = [page["fillings"][top : top + 28, :28, 0].reshape(7, 4, 7, 4).swapaxes(1, 2) for top in (0, 30, 60)]
    same = [(rows[0] == row).all((2, 3)) for row in rows[1:]]
    assert same[0].sum() >= 49 - int(49 * 0.75) - 1  # a hidden patch may have been black
    assert (same[1] >= (same[0] & (rows[0].max((2, 3)) > 0))).all()
    assert not same[1].all()


def test_classes_are_drawn_row_by_row(config, tmp_path):
    values = config(model=VAE | {"num_classes": 10}, objective={"name": "elbo", "conditional": True}, steps=1)
    deepmodels.train(values, tmp_path, quiet=True)
    assert {path.stem.partition("-")[0] for path in (tmp_path / "pictures").iterdir()} == {"samples", "reconstructions"}


def test_a_classifier_draws_none(tiny_config):
    assert make_pictures(experiment.make(tiny_config())) is None


def test_anomalies_are_found_by_the_loss_of_each(config, tmp_path):
    """Whatever the model, an image's score is its own loss; the class is missing from all splits but the test's."""
    data = {"name": "fashion_mnist_embedded", "batch_size": 16, "validation_size": 100, "held_out": (8, 1)}
    objective = {"name": "reconstruction", "loss": "squared_error"}
    values = config(model={"name": "autoencoder_tiny", "image_shape": (28, 28, 1)}, objective=objective, data=data)
    result = deepmodels.train(values, tmp_path, quiet=True)
    x = experiment.make(values)
    labels = {split: {int(source[i]["label"]) for i in range(len(source))} for split, source in x.sources.items()}
    assert labels["test"] == set(range(10))
    assert labels["train"] == labels["validation"] == set(range(10)) - {1, 8}
    assert result.metrics.keys() >= {"test/auroc", "test/threshold", "test/detected", "test/false_alarms"}
    model, params = x.model, result.state.params
    images = np.stack([x.sources["test"][i]["image"] for i in range(500)]).astype(np.float32) / 255
    given = jax.jit(model.apply)({"params": params}, images)["reconstruction"]
    scores = np.square(given - images).sum((1, 2, 3))
    anomalous = np.isin([int(x.sources["test"][i]["label"]) for i in range(500)], (1, 8))
    pairs = scores[anomalous][:, None] > scores[~anomalous][None]
    np.testing.assert_allclose(result.metrics["test/auroc"], pairs.mean(), atol=1e-3)
    assert deepmodels.evaluate(tmp_path) == result.metrics
    with pytest.raises(ConfigError, match="held_out: no record has the label 12"):
        experiment.make(values | {"data": data | {"held_out": (12,)}})
    with pytest.raises(ConfigError, match="needs config.data.validation_size"):
        experiment.make(values | {"data": data | {"validation_size": 0}})
