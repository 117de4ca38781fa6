"""Fast style transfer: the network, and the loss that a frozen network makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepmodels
from deepmodels import data, models, objectives
from deepmodels.errors import ConfigError, DataError, ShapeError
from deepmodels.objectives import perceptual
from deepmodels.training import experiment
from deepmodels.training.pictures import make_pictures

RNG = np.random.default_rng(0)
OBJECTIVE = {
    "name": "style_transfer",
    "network": "eye",
    "content_layers": ("conv2",),
    "style_layers": ("conv1", "conv2"),
}


@pytest.fixture
def config(tiny_config):
    def make(**values):
        data = {"name": "fashion_mnist_embedded", "batch_size": 8, "style": 3} | values.pop("data", {})
        return tiny_config(
            **{
                "steps": 2,
                "model": {"name": "fast_style_tiny", "image_channels": 1},
                "objective": OBJECTIVE,
                "data": data,
                "optimizer": {"name": "adam", "learning_rate": 1e-3},
                "frozen": {"eye": {"model": {"name": "lenet_tiny"}}},
            }
            | values
        )

    return make


def test_pictures_keep_their_size_and_others_are_refused():
    model = models.create("fast_style_tiny")
    images = jax.ShapeDtypeStruct((2, 24, 16, 3), jnp.float32)
    output, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert output["stylised"].shape == images.shape
    assert variables.keys() == {"params"}
    for shape in ((2, 18, 16, 3), (2, 4, 4, 3), (2, 16, 16, 1)):
        with pytest.raises(ShapeError, match="images: expected"):
            jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_the_contrast_of_a_picture_does_not_matter_inside():
    """Instance normalisation: but for its epsilon, the first layer's scale is taken out."""
    model, images = models.create("fast_style_tiny"), RNG.random((1, 16, 16, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    apply = jax.jit(model.apply)
    one, other = (apply(variables, jnp.asarray(100 * images + offset))["stylised"] for offset in (0.0, 50.0))
    assert float(jnp.abs(one).max()) > 0.1
    np.testing.assert_allclose(one, apply(variables, jnp.asarray(300 * images))["stylised"], rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-3)


def test_gram_matrices_and_variation_by_hand():
    maps = RNG.normal(size=(2, 3, 5, 4)).astype(np.float32)
    flat = maps.reshape(2, 15, 4)
    wanted = np.einsum("bni,bnj->bij", flat, flat) / 60
    np.testing.assert_allclose(perceptual.gram_matrix(jnp.asarray(maps)), wanted, rtol=1e-5, atol=1e-6)
    moved = np.take(maps, RNG.permutation(5), axis=2)  # where on the picture doesn't matter
    np.testing.assert_allclose(perceptual.gram_matrix(jnp.asarray(moved)), wanted, rtol=1e-5, atol=1e-6)
    down, across = np.square(np.diff(maps, axis=1)), np.square(np.diff(maps, axis=2))
    np.testing.assert_allclose(
        perceptual.total_variation(jnp.asarray(maps)), down.mean((1, 2, 3)) + across.mean((1, 2, 3)), rtol=1e-5
    )
    other = {"a": jnp.asarray(maps + 2), "b": jnp.asarray(maps[:, :2] - 1)}
    distance = perceptual.feature_distance(other, {"a": jnp.asarray(maps), "b": jnp.asarray(maps[:, :2])})
    np.testing.assert_allclose(distance, 5.0, rtol=1e-5)


def test_the_loss_has_its_terms():
    """With a network that gives the pictures themselves, all terms can be written down."""
    images, style = (RNG.random((2, 8, 8, 3)).astype(np.float32) for _ in range(2))
    made = images + 0.5

    def forward(inputs, key=None, network=None, layers=None):
        if network is None:
            return {"stylised": jnp.asarray(made)}, {}
        assert network == "eye"
        return {layer: jnp.asarray(inputs) for layer in layers}, {}

    batch = {"image": jnp.asarray(images), "style": jnp.asarray(style)}
    weights = dict(content_weight=2.0, style_weight=3.0, variation_weight=5.0)
    named = dict(network="eye", content_layers=("a",), style_layers=("a", "b"), **weights)
    loss, (metrics, _) = objectives.style_transfer(forward, batch, None, **named)
    grams = [np.einsum("bhwi,bhwj->bij", x, x) / (64 * 3) for x in (made, style[:1])]
    np.testing.assert_allclose(metrics["content"], 0.25, rtol=1e-5)
    np.testing.assert_allclose(metrics["style"], 2 * np.square(grams[0] - grams[1]).sum((1, 2)).mean(), rtol=1e-4)
    wanted = 2 * metrics["content"] + 3 * metrics["style"] + 5 * metrics["variation"]
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    with pytest.raises(ConfigError, match="say data.style="):
        objectives.style_transfer(forward, {"image": images}, None, **named)


def test_a_run_leaves_pictures_and_lowers_its_loss(config, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])
    values = config(steps=12)
    result = deepmodels.train(values, tmp_path, quiet=True)
    assert result.metrics.keys() == {f"test/{name}" for name in ("loss", "content", "style", "variation")}
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir())[-1] == "stylised-0000012.png"
    x = experiment.make(values)
    before = x.init()
    page = make_pictures(x)(before.params, before.variables)
    assert page.keys() == {"stylised"}
    np.testing.assert_array_equal(page["stylised"][:28, :28, 0], x.sources["test"][0]["image"][..., 0])
    first = float(experiment.make_evaluation(x)("test", before)["test/loss"])
    assert result.metrics["test/loss"] < first


def test_the_style_is_a_record_or_a_file(config, tmp_path):
    x = experiment.make(config())
    picture = x.sources["train"][3]["image"]
    for split in ("train", "test"):
        record = x.sources[split][7]
        np.testing.assert_array_equal(record["style"], picture)
        assert record["image"].shape == (28, 28, 1)
    data.images.from_pixels(np.full((28, 28, 3), 7, np.uint8)).save(tmp_path / "style.png")
    x = experiment.make(config(data={"style": str(tmp_path / "style.png")}))
    assert x.sources["train"][0]["style"].shape == (28, 28, 1)
    data.images.from_pixels(np.full((20, 12, 3), 7, np.uint8)).save(tmp_path / "other.png")
    with pytest.raises(ConfigError, match=r"config.frozen.eye: .*shape \(100, 16\).*image_shape="):
        experiment.make(config(data={"style": str(tmp_path / "other.png")}))  # a dense layer takes one size alone
    with pytest.raises(DataError, match=r"no\.png"):
        experiment.make(config(data={"style": str(tmp_path / "no.png")}))
    with pytest.raises(ConfigError, match=r"config.data.style: expected a file or a record, 0 to 1,999, got 2000"):
        experiment.make(config(data={"style": 2000}))
