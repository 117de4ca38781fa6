"""Frozen leaves stay as they are, bit by bit, and a trunk is taken over whole or not at all."""

import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from deepmodels import trees
from deepmodels.errors import ConfigError, WeightsError
from deepmodels.models import create
from deepmodels.training.freeze import freeze, layer_rates, trainable_table, transfer, unfreeze
from deepmodels.training.loop import run
from deepmodels.training.optimizer import averaged_params, make_optimizer

AWKWARD = np.array([[-0.0, 0.0, 1e-40], [1 / 3, -1e-8, 3e38]], np.float32)  # what adding a zero could change


def parameters():
    rng = np.random.default_rng(0)
    return {
        "stage0": {"kernel": jnp.asarray(AWKWARD)},
        "stage1": {"kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), "bias": jnp.ones(2)},
        "head": {"kernel": jnp.asarray(rng.normal(size=(2, 2)), jnp.float32)},
    }


def trained(section, params, steps=5):
    return history(section, params, steps)[-1]


def history(section, params, steps):
    """The parameters and the optimizer's state after each step."""
    optimizer, _ = make_optimizer(section, steps)

    @jax.jit
    def step(params, state, key):
        grads = jax.tree.map(lambda p: jax.random.normal(key, p.shape), params)
        updates, state = optimizer.update(grads, state, params, value=jnp.float32(1))
        return optax.apply_updates(params, updates), state

    found = [(params, optimizer.init(params))]
    for i in range(steps):
        found.append(step(*found[-1], jax.random.key(i)))
    return found[1:]


def bits(x):
    return np.asarray(x).view(np.uint32)


@pytest.mark.parametrize("name", ["adamw", "momentum", "muon"])
def test_frozen_leaves_stay_bit_by_bit(name):
    section = {"name": name, "learning_rate": 0.1, "weight_decay": 0.1, "clip_norm": 1.0, "ema": 0.9}
    before = parameters()
    after, state = trained(section | {"freeze": "stage[01].*"}, before)
    for tree in (after, averaged_params(after, state)):
        for leaf in ("stage0/kernel", "stage1/kernel", "stage1/bias"):
            np.testing.assert_array_equal(bits(trees.flatten(tree)[leaf]), bits(trees.flatten(before)[leaf]))
        assert np.abs(tree["head"]["kernel"] - before["head"]["kernel"]).min() > 0
    assert not np.array_equal(averaged_params(after, state)["head"]["kernel"], after["head"]["kernel"])


def test_the_state_and_the_others_are_as_if_frozen_leaves_did_not_exist():
    section = {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.1, "clip_norm": 0.5, "ema": 0.9}
    before = parameters()
    after, state = trained(section | {"freeze": "stage.*"}, before)
    alone, alone_state = trained(section, {"head": before["head"]})
    np.testing.assert_array_equal(after["head"]["kernel"], alone["head"]["kernel"])
    leaves, alone_leaves = jax.tree.leaves(state), jax.tree.leaves(alone_state)
    assert [leaf.shape for leaf in leaves] == [leaf.shape for leaf in alone_leaves]
    assert not any("stage" in name for name in trees.flatten(state))


def test_gradients_of_frozen_leaves_do_not_count_in_the_clipped_norm():
    optimizer = freeze(optax.clip_by_global_norm(1.0), "a")
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    updates, _ = optimizer.update({"a": jnp.full(1, 100.0), "b": jnp.full(1, 0.5)}, optimizer.init(params), params)
    assert (float(updates["a"][0]), float(updates["b"][0])) == (0, 0.5)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("stage", r"'stage' matches no parameter; it is matched with whole paths: head/kernel, stage0/kernel"),
        (".*", "matches every parameter, nothing is left to train"),
        ("stage[0-", "isn't a regular expression"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_an_error(pattern, message):
    with pytest.raises(ConfigError, match=message):
        freeze(optax.sgd(0.1), pattern).init(parameters())
    with pytest.raises(ConfigError, match=message):
        trainable_table(parameters(), pattern)


def stacked():
    """Three stacked layers between an embedding and a head."""
    kernel = np.array([[-0.0, 0.0, 1e-30], [1 / 3, -1e-8, 3e38]], np.float32)
    return {
        "embed": {"embedding": jnp.asarray(kernel)},
        "head": {"kernel": jnp.ones((2, 2))},
        "layers": {"kernel": jnp.asarray(np.stack([kernel] * 3)), "bias": jnp.ones(3)},
    }


BY_LAYER = (("layers/.*", (0.25, 0.5, 1.0)), ("embed/.*", 0.125), (".*embedding", 7.0))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_learning_rate_of_a_layer(name):
    """The first update is the factor times what it is without, weight decay included."""
    section = {"name": name, "learning_rate": 0.1, "weight_decay": 0.5, "decay_pattern": ".*"}
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), stacked())
    grads = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(0), leaf.shape), params)

    def updates(section):
        optimizer, _ = make_optimizer(section, 1)
        return jax.jit(lambda: optimizer.update(grads, optimizer.init(params), params)[0])()

    plain, found = updates(section), updates(section | {"layer_rates": BY_LAYER})
    np.testing.assert_allclose(found["head"]["kernel"], plain["head"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(found["embed"]["embedding"], 0.125 * plain["embed"]["embedding"], rtol=1e-6)
    for i, rate in enumerate((0.25, 0.5, 1.0)):
        for leaf in ("kernel", "bias"):
            np.testing.assert_allclose(found["layers"][leaf][i], rate * plain["layers"][leaf][i], rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "momentum"])
def test_layers_stay_as_they_are_until_their_step(name):
    starts = (3, 1, 0)
    section = {
        "name": name, "learning_rate": 0.1, "weight_decay": 0.1, "clip_norm": 1.0,
        "unfreeze": (("layers/.*", starts), ("embed/.*", 4)),
    }  # fmt: skip
    before = stacked()
    for step, (after, _) in enumerate(history(section, before, 5)):
        same = jax.tree.map(lambda new, old: bits(new) == bits(old), after, before)
        for layer, start in enumerate(starts):
            assert same["layers"]["kernel"][layer].all() == (step < start)
            assert same["layers"]["bias"][layer] == (step < start)
        assert same["embed"]["embedding"].all() == (step < 4)
        assert not same["head"]["kernel"].any()


def test_layers_unfreeze_beside_frozen_ones():
    section = {"name": "adamw", "learning_rate": 0.1, "freeze": "embed/.*", "unfreeze": (("layers/.*", 1),)}
    before = stacked()
    for (after, _), moved in zip(
        history(section, before, 2), ({"head/kernel"}, {"head/kernel", "layers/kernel", "layers/bias"}), strict=True
    ):
        old, new = trees.flatten(before), trees.flatten(after)
        assert {leaf for leaf in old if not np.array_equal(bits(old[leaf]), bits(new[leaf]))} == moved


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("layer/.*", 1.0)], "'layer/.*' matches no parameter that trains: embed/embedding, head/kernel"),
        ([("layers/.*", (1.0, 0.5))], "2 numbers for the 3 layers in layers/bias"),
        ([("embed/.*", -1.0)], "'embed/.*' needs a number of at least 0, or one for each layer, got -1.0"),
        ([("embed/.*", float("nan"))], "needs a number of at least 0"),
        ([("layers/[", 1.0)], "isn't a regular expression"),
        ([("embed/.*", "slow")], "expected pairs of a pattern and a number or numbers, got ('embed/.*', 'slow')"),
        (["embed/.*"], "expected pairs of a pattern and a number or numbers, got 'embed/.*'"),
    ],
)
@pytest.mark.parametrize("function", [layer_rates, unfreeze])
def test_layers_that_cannot_be_meant_are_an_error(function, pairs, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        function(pairs).init(stacked())


def test_the_table_adds_up():
    text = io.StringIO()
    Console(file=text, width=80, color_system=None).print(trainable_table(parameters(), "stage0.*|stage1/kernel"))
    rows = [line.split() for line in text.getvalue().splitlines() if line.strip(" ─")]
    assert rows == [
        ["Module", "Trains", "Frozen"],
        ["head", "4"],
        ["stage0", "6"],
        ["stage1", "2", "6"],
        ["total", "6", "12"],
    ]


def test_a_run_trains_the_rest_and_resumes(tmp_path, tiny_config):
    optimizer = {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1, "ema": 0.5, "freeze": "conv.*"}
    whole = run(tiny_config(optimizer=optimizer), tmp_path / "whole")
    start = run(tiny_config(optimizer=optimizer, steps=2), tmp_path / "parts")
    resumed = run(tiny_config(optimizer=optimizer), tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, resumed.state, whole.state)
    first, last = trees.flatten(start.state.params), trees.flatten(whole.state.params)
    same = {name for name in first if np.array_equal(first[name], last[name])}
    assert same == {name for name in first if name.startswith("conv")}
    assert 0 < len(same) < len(first)


def variables(name, num_classes, seed):
    model, images = create(name, num_classes=num_classes), jnp.zeros((1, 16, 16, 3))
    rng = np.random.default_rng(seed)
    like = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), like)


@pytest.mark.parametrize("name", ["mobilenet_tiny", "convnext_micro"])
def test_transfer_takes_all_but_the_head(name):
    pretrained, fresh = variables(name, 10, seed=0), variables(name, 3, seed=1)
    both = transfer(pretrained, fresh)
    assert jax.tree.structure(both) == jax.tree.structure(dict(fresh))
    old, new = trees.flatten(pretrained), trees.flatten(fresh)
    for path, leaf in trees.flatten(both).items():
        np.testing.assert_array_equal(leaf, (new if path.startswith("params/head/") else old)[path])
    trunk = transfer(variables(name, 0, seed=0), fresh)  # a trunk without any head will do as well
    assert jax.tree.structure(trunk) == jax.tree.structure(dict(fresh))


def test_transfer_is_strict():
    pretrained, fresh = variables("mobilenet_tiny", 10, seed=0), variables("mobilenet_tiny", 3, seed=1)
    with pytest.raises(WeightsError, match=r"params/head/bias is float32\[10\], the model has float32\[3\]"):
        transfer(pretrained, fresh, except_pattern="params/head/kernel")
    with pytest.raises(WeightsError, match=r"batch_stats/final_norm/mean isn't among the pretrained ones"):
        transfer({"params": pretrained["params"]}, fresh)
    more = {"params": pretrained["params"] | {"extra": {"kernel": jnp.zeros(1)}}, "batch_stats": fresh["batch_stats"]}
    with pytest.raises(WeightsError, match="params/extra/kernel isn't in the model"):
        transfer(more, fresh)
    with pytest.raises(ConfigError, match="'classifier' matches no variable"):
        transfer(pretrained, fresh, except_pattern="classifier")
