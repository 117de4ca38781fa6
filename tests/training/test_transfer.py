"""Runs that start from weights: where each leaf comes from, what stays as it is, and what is refused before a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import deepmodels
from deepmodels import config as configs
from deepmodels import loading, models, objectives, trees
from deepmodels.errors import ConfigError, WeightsError
from deepmodels.training import experiment
from deepmodels.training.freeze import freeze, resting
from deepmodels.training.step import TrainState, bind, make_train_step
from deepmodels.training.workdir import open_workdir
from deepmodels.weights import files, mobilenet
from deepmodels.weights.convert import from_ours, same_names

TRUNK = "(?!head/).*"
MLP = {"name": "mlp", "num_classes": 10}


def random_variables(name, num_classes, image=(28, 28, 1)):
    model, rng = models.create(name, num_classes=num_classes), np.random.default_rng(0)
    like = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image)))

    def values(path, leaf):
        return rng.normal(path.endswith("/var"), 0.1, leaf.shape).astype(leaf.dtype)  # variances are about 1

    return trees.map_named(values, like)


@pytest.fixture
def resnet_file(tmp_path):
    """A resnet_tiny of seven classes, and its variables."""
    variables = random_variables("resnet_tiny", 7)
    files.write(tmp_path / "resnet.safetensors", from_ours(variables, same_names(variables)))
    return tmp_path / "resnet.safetensors", trees.flatten(variables)


@pytest.fixture
def mlp_file(tmp_path):
    """An mlp of seven classes in our names, and its variables."""
    variables = random_variables("mlp", 7)
    files.write(tmp_path / "mlp.npz", from_ours(variables, same_names(variables)))
    return tmp_path / "mlp.npz", trees.flatten(variables)


def model_leaves(state):
    return {name: np.asarray(leaf) for name, leaf in trees.flatten({"params": state.params, **state.variables}).items()}


def test_a_linear_probe_trains_the_head_and_nothing_else(resnet_file, tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])
    path, pretrained = resnet_file
    config = tiny_config(
        model={"name": "resnet_tiny", "num_classes": 10},
        init={"weights": str(path)},
        optimizer={"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1, "ema": 0.5, "freeze": TRUNK},
    )
    first = deepmodels.train(config | {"steps": 3}, tmp_path / "run")
    printed = capsys.readouterr().out
    assert f"{path}: {len(pretrained) - 2} of {len(pretrained)} leaves, " in printed
    features = len(pretrained["params/head/kernel"])
    assert f"new at random: head/bias [10], head/kernel [{features}, 10]" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert ["head", str(10 * features + 10)] in rows
    assert ["stem_norm", str(2 * len(pretrained["params/stem_norm/scale"]))] in rows

    path.unlink()  # going on, the weights aren't read again
    last = deepmodels.train(config, tmp_path / "run")
    assert "new at random" not in capsys.readouterr().out
    before, after = model_leaves(first.state), model_leaves(last.state)
    assert after.keys() == pretrained.keys()
    assert {name for name in after if name.startswith("batch_stats/")}
    for name in after:
        if name.startswith("params/head/"):
            assert not np.array_equal(before[name], after[name])
        else:
            assert after[name].tobytes() == pretrained[name].tobytes(), name
    with pytest.raises(ConfigError, match=r"config\.init\.weights: '.*resnet\.safetensors' -> 'other'"):
        deepmodels.train(config | {"init": {"weights": "other"}}, tmp_path / "run", quiet=True)


def test_the_first_state_is_made_of_the_file_where_each_leaf_belongs(mlp_file, tiny_config):
    path, pretrained = mlp_file
    x = experiment.make(
        tiny_config(
            model=MLP,
            init={"weights": str(path)},
            mesh={"data": 1, "fsdp": 8},
            optimizer={"name": "sgd", "learning_rate": 0.1, "ema": 0.9},
        )
    )
    given = experiment.pretrained(x)
    assert given.keys() == {"params/hidden0/kernel", "params/hidden0/bias"}
    state, fresh = x.init(given), x.init()
    kernel = given["params/hidden0/kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 8
    assert state.params["hidden0"]["kernel"].sharding == kernel.sharding
    for params in (state.params, state.opt_state.params):  # the moving average too begins with what was taken over
        np.testing.assert_array_equal(params["hidden0"]["kernel"], pretrained["params/hidden0/kernel"])
        np.testing.assert_array_equal(params["hidden0"]["bias"], pretrained["params/hidden0/bias"])
        np.testing.assert_array_equal(params["head"]["kernel"], fresh.params["head"]["kernel"])
    assert not np.array_equal(fresh.params["hidden0"]["kernel"], pretrained["params/hidden0/kernel"])


def test_which_leaves_are_taken(tmp_path):
    path, head = tmp_path / "mobilenet.safetensors", {"params/head/kernel", "params/head/bias"}

    def write(num_classes):
        variables = random_variables("mobilenet_tiny", num_classes)
        files.write(path, from_ours(variables, mobilenet.TORCHVISION))
        return trees.flatten(variables).keys()

    def taken(num_classes, **options):
        variables = random_variables("mobilenet_tiny", num_classes)
        return loading.read_leaves("mobilenet_tiny", variables, path, **options).keys()

    leaves = write(7)
    assert taken(7) == leaves > head
    assert taken(10) == taken(0) == leaves - head
    assert taken(7, fresh="head/kernel") == leaves - {"params/head/kernel"}
    with pytest.raises(WeightsError, match="params/head/bias needs"):
        taken(10, fresh="head/kernel")
    with pytest.raises(WeightsError, match="takes nothing from it"):
        taken(7, fresh=".*")
    with pytest.raises(ConfigError, match=r"'head/\(' isn't a regular expression"):
        taken(7, fresh="head/(")
    write(0)  # a trunk alone will do as well
    assert taken(10) == leaves - head


def test_weights_that_cannot_be_used_are_refused_before_there_is_a_run(mlp_file, tiny_config, tmp_path):
    path, _ = mlp_file
    for weights, message in (
        (str(tmp_path / "no.safetensors"), "there is no such file or folder"),
        (str(path), "the weights don't fit the model"),
    ):
        config = tiny_config(init={"weights": weights})
        with pytest.raises(WeightsError, match=f"config.init: .*{message}"):
            deepmodels.train(config, tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"config.init: unknown source of weights 'timmy': did you mean 'timm'"):
        deepmodels.train(tiny_config(init={"weights": str(path), "source": "timmy"}), tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"weight": "a"}, r"config.init has no key 'weight': did you mean 'weights'"),
        ({"source": "timm"}, r"config.init needs 'weights'"),
        ({"weights": 3}, r"config.init.weights is a path or a name on the hub, got 3"),
        ("a.safetensors", r"config.init is a section with the keys weights, source, .*, got 'a.safetensors'"),
    ],
)
def test_a_section_that_cannot_be_meant_is_an_error(init, message, tiny_config):
    with pytest.raises(ConfigError, match=message):
        configs.complete(tiny_config(init=init))


def test_the_command_can_give_the_weights_of_any_config(tiny_config):
    config = configs.complete(tiny_config())
    configs.override(config, {"init.weights": "a.safetensors"})
    assert configs.complete(config).init.weights == "a.safetensors"
    with pytest.raises(ConfigError, match="'path'"):
        configs.override(config, {"init.path": "a.safetensors"})


@pytest.mark.parametrize(
    ("pattern", "still"),
    [
        ("stem_norm/.*", {"stem_norm"}),
        ("stem.*", {"stem_norm"}),
        ("stem_norm/scale", set()),  # its bias trains
        (".*kernel", set()),
    ],
)
def test_statistics_of_frozen_norms_stay_and_others_move(pattern, still):
    model = models.create("resnet_tiny")
    variables = dict(random_variables("resnet_tiny", 10))
    params, images = variables.pop("params"), jax.random.normal(jax.random.key(0), (4, 28, 28, 1))
    _, after = jax.jit(lambda: bind(model, params, variables, train=True, freeze=pattern)(images))()
    before, after = trees.flatten(variables), trees.flatten(after)
    assert before.keys() == after.keys()
    same = {name.split("/")[1] for name in before if np.array_equal(before[name], after[name])}
    assert same == still


class Dropping(nn.Module):
    """A layer that drops half of what it makes."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(64, name="dense")(x))


class Twice(nn.Module):
    """Two of them, called with `train` by position and by name."""

    @nn.compact
    def __call__(self, x, train):
        y = Dropping(name="low")(x, train)
        return y, Dropping(name="high")(y, train=train)


def test_nothing_is_dropped_in_a_frozen_module():
    model, x = Twice(), jnp.ones((1, 4))
    params = model.init(jax.random.key(0), x, False)["params"]

    def zeros(pattern):
        with resting(params, pattern):
            low, high = model.apply({"params": params}, x, True, rngs={"dropout": jax.random.key(1)})
        return int((low == 0).sum()) > 0, int((high == 0).sum()) > 0

    assert zeros(None) == (True, True)
    assert zeros("low/.*") == (False, True)
    assert zeros("high/.*") == (True, False)
    assert zeros("low/dense/kernel") == (True, True)


def test_frozen_leaves_get_no_gradient_and_the_others_what_they_got():
    model = models.create("mlp_tiny")
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    batch = {"image": images, "label": jnp.arange(8, dtype=jnp.int32)}

    def step(pattern):
        optimizer = optax.sgd(1.0) if pattern is None else freeze(optax.sgd(1.0), pattern)
        state = TrainState(jnp.zeros((), jnp.int32), params, {}, optimizer.init(params))
        objective = objectives.create("classification")
        return jax.jit(make_train_step(model, objective, optimizer, seed=0, freeze=pattern))(state, batch)

    (whole, _), (part, metrics) = step(None), step("hidden.*")
    np.testing.assert_array_equal(part.params["hidden0"]["kernel"], params["hidden0"]["kernel"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), part.params["head"], whole.params["head"])
    moved = jax.tree.map(jnp.subtract, params["head"], part.params["head"])
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(moved), rtol=1e-5)


def test_a_run_that_was_started_before_there_was_this_section_goes_on(tiny_config, tmp_path):
    config = configs.complete(tiny_config())
    with open_workdir(tmp_path, config) as workdir:
        path = workdir / "config.json"
    stored = json.loads(path.read_text())
    del stored["init"]
    path.write_text(json.dumps(stored))
    with open_workdir(tmp_path, config) as workdir:
        assert workdir == tmp_path
