"""Networks that don't train: where they come from, what they are shown, and that nothing moves them."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import largest_difference, trained

import deepmodels
from deepmodels import config as configs
from deepmodels import models, objectives, trees
from deepmodels.errors import ConfigError, WeightsError
from deepmodels.parallel import rules
from deepmodels.training import experiment
from deepmodels.training.step import bind
from deepmodels.training.workdir import read_config
from deepmodels.weights import files

LAYERS = ("conv1", "conv2")
RANDOM = {"eye": {"model": {"name": "lenet_tiny", "num_classes": 10}}}


@pytest.fixture
def one(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The folder of a run of a classifier, with pixels normalised by its data."""
    folder = tmp_path_factory.mktemp("classifier")
    data = {"name": "fashion_mnist_embedded", "batch_size": 16, "validation_size": 100, "mean": 0.286, "std": 0.353}
    every = {"log": 1, "evaluate": 1, "checkpoint": 1}
    config = {"steps": 4, "model": {"name": "lenet_tiny", "num_classes": 10}, "data": data, "every": every}
    config |= {"optimizer": {"name": "adam", "learning_rate": 0.01}}
    keep = {"last": 1, "best": "validation/loss", "mode": "max"}  # the worst is an early one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])
        deepmodels.train(config | {"keep": keep}, folder, quiet=True)
    return folder


@pytest.fixture
def config(tiny_config):
    """A network that enlarges pictures, seen through the frozen network "eye"."""

    def make(frozen=None, **values):
        return tiny_config(
            **{
                "steps": 4,
                "model": {"name": "super_resolution_tiny", "image_channels": 1, "channels": 4},
                "objective": {"name": "super_resolution", "network": "eye", "layers": LAYERS},
                "data": {"name": "fashion_mnist_embedded", "batch_size": 8},
                "optimizer": {"name": "adam", "learning_rate": 1e-3},
                "frozen": RANDOM if frozen is None else frozen,
                "every": {"log": 2, "evaluate": 4, "checkpoint": 2},
            }
            | values
        )

    return make


def test_a_run_sees_through_the_best_checkpoint_of_another(config, classifier, tmp_path, one, capsys):
    copy = tmp_path / "classifier"
    shutil.copytree(classifier, copy)
    values = config({"eye": {"weights": str(copy)}})
    whole = deepmodels.train(values, tmp_path / "whole")
    assert "frozen eye: lenet_tiny, 2,206 numbers, from " in capsys.readouterr().out
    history = [json.loads(line) for line in (classifier / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["validation/loss"] for line in history if "validation/loss" in line}
    best = max(losses, key=losses.get)
    assert best != 4
    wanted = files.read(classifier / "checkpoints" / str(best))
    got = trees.flatten(whole.state.variables["frozen"]["eye"])
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array)
    assert whole.metrics["test/loss"] == pytest.approx(
        whole.metrics["test/features"] + 10 ** (-whole.metrics["test/psnr"] / 10), rel=0.5
    )

    stored = read_config(tmp_path / "whole")
    assert stored["frozen"]["eye"] | {"mean": 0.286, "std": 0.353} == stored["frozen"]["eye"]
    deepmodels.train(values | {"steps": 2}, tmp_path / "parts", quiet=True)
    shutil.rmtree(copy)
    parts = deepmodels.train(stored, tmp_path / "parts", quiet=True)  # and needs the classifier no more
    assert largest_difference(whole.state, parts.state) == 0
    assert deepmodels.evaluate(tmp_path / "whole") == whole.metrics
    read = files.read(tmp_path / "whole" / "checkpoints" / "4")
    assert not any("frozen" in name for name in read)  # weights of the run are those of its model
    _, variables, _ = deepmodels.training.load_run(tmp_path / "whole")
    assert variables.keys() == {"params", "batch_stats"}
    with pytest.raises(ConfigError, match=r"config.frozen.eye: .*isn't the folder of a run with a checkpoint"):
        deepmodels.train(values, tmp_path / "whole", quiet=True)


def test_pictures_are_shown_as_the_network_is_used_to_them(config, classifier):
    data = {"name": "fashion_mnist_embedded", "batch_size": 8, "mean": 0.5, "std": 0.25}
    x = experiment.make(config({"eye": {"weights": str(classifier)}}, data=data))
    assert x.config.frozen.eye.model.name == "lenet_tiny"
    variables = {"frozen": {"eye": jax.jit(x.frozen["eye"].init)(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))}}
    pixels = np.random.default_rng(0).random((2, 28, 28, 1)).astype(np.float32)

    @jax.jit
    def run(images):
        forward = bind(x.model, {}, variables, train=True, frozen=x.frozen)
        return forward(images, network="eye")[0], forward(images, network="eye", layers=("conv2",))[0]

    logits, maps = run((pixels - 0.5) / 0.25)
    wanted = models.create("lenet_tiny").apply(variables["frozen"]["eye"], (pixels - 0.286) / 0.353)
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5)
    assert maps["conv2"].shape == (2, 10, 10, 4)


def test_small_gray_pictures_become_those_of_the_row(config):
    model = {"name": "mobilenet_v2"}
    x = experiment.make(
        config(
            {"eye": {"model": model, "image_shape": (32, 32, 3)}},
            objective={"name": "super_resolution", "network": "eye", "layers": ("stage1",)},
        )
    )
    shown = x.frozen["eye"].show(jnp.full((2, 28, 28, 1), 0.5))
    assert shown.shape == (2, 32, 32, 3)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(shown, np.broadcast_to((0.5 - mean) / std, shown.shape), rtol=1e-5)
    assert x.abstract.variables["frozen"]["eye"]["params"]["stem_conv"]["kernel"].shape == (3, 3, 3, 32)


@pytest.mark.parametrize(
    ("frozen", "objective", "message"),
    [
        ({}, {}, r"no network 'eye': say frozen=dict\(eye="),
        ({"eyes": RANDOM["eye"]}, {}, r"no network 'eye': did you mean 'eyes'"),
        (RANDOM, {"layers": ("conv1", "conv9")}, r"config.frozen.eye: no layer 'conv9', the nearest are conv"),
        (RANDOM, {"layers": ()}, r"network and layers go together"),
        ({"eye": {}}, {}, r"config.frozen.eye needs weights="),
        ({"eye": {"wieghts": "a"}}, {}, r"config.frozen.eye has no key 'wieghts': did you mean 'weights'"),
        ({"eye": {"model": {"name": "lenet"}}}, {}, r"config.frozen.eye.model: unknown model 'lenet'"),
        ({"eye": {"model": "lenet5"}}, {}, r"config.frozen.eye.model needs a 'name'"),
        ({"eye": {"weights": "runs/nowhere"}}, {}, r"'runs/nowhere' isn't the folder of a run"),
        (
            {"eye": {"model": {"name": "lenet5_paper"}}},
            {},
            r"config.frozen.eye: images: expected .*32, 32, 1.*image_shape",
        ),
        (
            {"eye": RANDOM["eye"] | {"mean": (0.1, 0.2, 0.3)}},
            {},
            r"config.frozen.eye: .*for pictures of 3 channels, got 1",
        ),
    ],
)
def test_what_cannot_be_looked_through_is_an_error(config, frozen, objective, message):
    values = config(frozen)
    with pytest.raises(ConfigError, match=message):
        experiment.make(values | {"objective": values["objective"] | objective})


def test_weights_that_do_not_fit_are_refused_before_there_is_a_run(config, classifier, tmp_path, one):
    weights = str(classifier / "checkpoints" / "4")
    for section, message in (
        ({"weights": str(tmp_path / "no.pth"), "model": {"name": "lenet_tiny"}}, "there is no such file"),
        (
            {"weights": weights, "model": {"name": "lenet_tiny", "num_classes": 7}},
            "has no params/head/bias, params/head/k",
        ),
        ({"weights": weights, "image_shape": (28, 28, 3)}, r"params/conv1/kernel .*3"),
        ({"weights": weights, "image_shape": (32, 32, 1)}, r"params/dense1/kernel "),
    ):
        with pytest.raises(WeightsError, match=f"(?s)config.frozen.eye: .*{message}"):
            deepmodels.train(config({"eye": section}), tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()


def test_no_gradient_reaches_the_network_and_it_passes_through(config):
    x = experiment.make(config())
    state = jax.jit(x.init.__wrapped__)()
    images = jax.random.uniform(jax.random.key(0), (2, 28, 28, 1))

    @jax.jit
    def loss(params, variables):
        forward = bind(x.model, params, variables, train=True, frozen=x.frozen)
        objective = objectives.create("super_resolution", network="eye", layers=LAYERS, pixel_weight=0.0)
        value, (metrics, changed) = objective(forward, {"image": images}, None)
        assert changed.keys() == {"batch_stats"}
        return value, metrics

    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, state.variables)
    np.testing.assert_allclose(value, metrics["features"], rtol=1e-6)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads)) > 0
    doubled = jax.tree.map(lambda leaf: 2 * leaf, state.variables["frozen"])
    assert loss(state.params, state.variables | {"frozen": doubled})[0] > 1.5 * value
    assert all("frozen" not in name and "eye" not in name for name in trees.flatten(x.abstract.opt_state))


def test_on_any_mesh_it_is_that_of_one_device(config, float64, monkeypatch):
    monkeypatch.setattr(rules, "SMALL", 64)
    values = config(precision="float64")
    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
        state, losses = trained(values, steps=2)
    other, other_losses = trained(values | {"mesh": {"data": 2, "fsdp": 4}}, steps=2)
    kernel = other.variables["frozen"]["eye"]["params"]["dense1"]["kernel"]
    assert kernel.dtype == np.float64
    assert not kernel.sharding.is_fully_replicated
    np.testing.assert_allclose(other_losses, losses, rtol=0, atol=1e-10)
    assert largest_difference(state, other) <= 1e-10


@pytest.mark.parametrize("values", [{"accumulate": 2, "mesh": {"data": 4, "fsdp": 2}, "data": 16}, {"compile": "pmap"}])
def test_it_stays_bit_for_bit_however_a_step_is_made(config, values):
    data = {"name": "fashion_mnist_embedded", "batch_size": values.pop("data", 8)}
    state, losses = trained(config(data=data, **values), steps=2)
    assert np.isfinite(losses).all()
    x = experiment.make(config(data=data, **values))
    first = jax.jit(x.init.__wrapped__)()
    assert largest_difference(state.variables["frozen"], first.variables["frozen"]) == 0
    assert largest_difference(state.variables["batch_stats"], first.variables["batch_stats"]) > 0


def test_two_players_see_through_it(tiny_config, tmp_path, one):
    rng, path = np.random.default_rng(0), tmp_path / "tiny.npz"
    arrays = {"image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8), "label": np.arange(8, dtype=np.int32)}
    np.savez(path, **{f"{split}_{name}": array for split in ("train", "test") for name, array in arrays.items()})
    values = tiny_config(
        steps=2,
        model={"name": "srgan_tiny"},
        objective={
            "name": "adversarial_super_resolution",
            "network": "eye",
            "layers": ("stage1",),
            "pixel_weight": 0.0,
        },
        data={"name": "npz", "path": str(path), "batch_size": 4},
        optimizer={"name": "adam", "learning_rate": 1e-3},
        frozen={"eye": {"model": {"name": "mobilenet_tiny"}}},
    )
    result = deepmodels.train(values, tmp_path / "run", quiet=True)
    assert result.metrics["test/content"] == pytest.approx(result.metrics["test/features"], rel=1e-5)
    first = experiment.make(values).init()
    assert largest_difference(first.variables["frozen"], result.state.variables["frozen"]) == 0
    assert deepmodels.training.players(result.state)["generator"].variables.keys() == {"batch_stats"}


def test_a_config_of_before_there_was_this_section_goes_on(config, tmp_path):
    completed = configs.complete(config(objective={"name": "super_resolution"}, frozen={}))
    old = {name: value for name, value in completed.to_dict().items() if name not in ("frozen", "judge")}
    assert configs.differences(configs.complete(old), completed) == []
