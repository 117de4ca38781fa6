"""Optimizers and schedules by name: they minimise, they follow their formulas, and their mistakes are named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepmodels.errors import ConfigError
from deepmodels.training.optimizer import (
    OPTIMIZERS,
    SCHEDULES,
    averaged_params,
    make_optimizer,
    make_schedule,
)

TARGET = jnp.array([[1.0, -2.0], [0.5, 3.0]])


def loss_of(params):
    return jnp.square(params["layer"]["kernel"] - TARGET).sum() + jnp.square(params["layer"]["bias"]).sum()


def minimise(section, steps=200):
    optimizer, _ = make_optimizer(section, steps)
    params = {"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), loss

    carry, losses = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return carry, losses


RATES = {"sgd": 0.1, "momentum": 0.05, "nesterov": 0.05, "adagrad": 0.5, "adafactor": 0.3, "muon": 0.2}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_minimises(name):
    section = {"name": name, "learning_rate": RATES.get(name, 0.05), "schedule": {"name": "cosine"}, "clip_norm": 10.0}
    _, losses = minimise(section)
    assert losses[-1] < 0.05 * losses[0]


def test_muon_orthogonalises_each_hidden_matrix_and_leaves_the_rest_to_adamw():
    def update(**shapes):
        keys = jax.random.split(jax.random.key(0), len(shapes))
        params = {
            name: {leaf: jax.random.normal(key, shape)}
            for key, (name, (leaf, shape)) in zip(keys, shapes.items(), strict=True)
        }
        optimizer, _ = make_optimizer({"name": "muon", "learning_rate": 1.0}, 1)
        updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
        return params, {name: np.asarray(*leaves.values()) for name, leaves in updates.items()}

    params, updates = update(
        layers=("kernel", (3, 8, 6)), experts=("kernel", (2, 3, 8, 6)), stem_conv=("kernel", (2, 2, 3, 5)),
        blocks_conv=("kernel", (2, 2, 2, 3, 5)), token_embed=("embedding", (12, 6)), head=("kernel", (6, 5)),
        norm=("scale", (3, 6)), patch_embed=("kernel", (2, 2, 3, 5)), dense=("bias", (6,)),
    )  # fmt: skip
    for name, columns in dict(layers=8, experts=8, stem_conv=12, blocks_conv=12).items():
        matrices = updates[name].reshape(-1, columns, updates[name].shape[-1]) / (0.2 * columns**0.5)
        values = np.linalg.svd(matrices, compute_uv=False)
        assert values.min() > 0.5, name
        assert values.max() < 1.3, name
    alone = update(layers=("kernel", (3, 8, 6)))
    one, _ = make_optimizer({"name": "muon", "learning_rate": 1.0}, 1)
    single = {"layers": {"kernel": alone[0]["layers"]["kernel"][1]}}
    expected, _ = one.update(single, one.init(single), single)
    np.testing.assert_allclose(alone[1]["layers"][1], expected["layers"]["kernel"], rtol=1e-4, atol=1e-5)
    for name in ("token_embed", "head", "norm", "patch_embed", "dense"):  # the first step of Adam is the sign
        np.testing.assert_allclose(updates[name], -np.sign(*params[name].values()), rtol=1e-3, err_msg=name)


def test_muon_decays_what_matches_whoever_updates_it():
    section = {"name": "muon", "learning_rate": 0.1, "weight_decay": 0.5}
    optimizer, _ = make_optimizer(section, 1)
    params = {name: {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for name in ("dense", "head")}
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    for name in params:
        np.testing.assert_allclose(updates[name]["kernel"], -0.05, rtol=1e-6)
        np.testing.assert_array_equal(updates[name]["bias"], 0)


def test_weight_decay_touches_matching_leaves_only():
    section = {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.5}
    optimizer, _ = make_optimizer(section, 1)
    params = {"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["layer"]["kernel"], -0.05)
    np.testing.assert_array_equal(updates["layer"]["bias"], 0)


def test_classic_weight_decay_enters_the_momentum():
    section = {"name": "momentum", "learning_rate": 1.0, "momentum": 0.5, "weight_decay": 0.1, "decay_pattern": ".*"}
    optimizer, _ = make_optimizer(section, 1)
    params = {"bias": jnp.full(1, 2.0)}
    updates, state = optimizer.update({"bias": jnp.full(1, 3.0)}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["bias"], -3.2, rtol=1e-6)
    updates, _ = optimizer.update({"bias": jnp.zeros(1)}, state, {"bias": jnp.zeros(1)})
    np.testing.assert_allclose(updates["bias"], -1.6, rtol=1e-6)


def test_clipping():
    optimizer, _ = make_optimizer({"name": "sgd", "learning_rate": 1.0, "clip_norm": 1.0}, 1)
    params = {"x": jnp.zeros(2)}
    updates, _ = optimizer.update({"x": jnp.array([3.0, 4.0])}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["x"], [-0.6, -0.8], rtol=1e-6)


def test_ema_is_the_average_of_the_parameters():
    optimizer, _ = make_optimizer({"name": "sgd", "learning_rate": 1.0, "ema": 0.75}, 1)
    params = {"x": jnp.ones(1)}
    state = optimizer.init(params)
    average = params["x"]
    for _ in range(3):
        updates, state = optimizer.update({"x": jnp.full(1, 2.0)}, state, params)
        params = optax.apply_updates(params, updates)
        average = 0.75 * average + 0.25 * params["x"]
    np.testing.assert_allclose(averaged_params(params, state)["x"], average, rtol=1e-6)
    assert averaged_params(params, ()) is params


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("constant", {}, {0: 2.0, 99: 2.0}),
        ("constant", {"warmup_steps": 10}, {0: 0.0, 5: 1.0, 10: 2.0, 99: 2.0}),
        ("step", {"boundaries": (30, 60), "factor": 0.1}, {29: 2.0, 31: 0.2, 99: 0.02}),
        ("cosine", {"warmup_steps": 20}, {10: 1.0, 20: 2.0, 60: 1.0, 100: 0.0}),
        ("linear", {"final": 0.5}, {0: 2.0, 50: 1.5, 100: 1.0}),
        ("noam", {"warmup_steps": 25}, {0: 2 / 25, 24: 2.0, 99: 1.0}),
        ("one_cycle", {"warmup": 0.5, "initial": 0.1, "final": 0.01}, {0: 0.2, 50: 2.0, 100: 0.02}),
    ],
)
def test_schedules(name, options, expected):
    schedule = make_schedule(2.0, name, 100, **options)
    for step, value in expected.items():
        np.testing.assert_allclose(schedule(step), value, rtol=1e-5, atol=1e-6)


def test_every_schedule_is_tested():
    assert set(SCHEDULES) == {"constant", "step", "cosine", "linear", "noam", "one_cycle"}


def test_plateau_scales_down_when_the_loss_stalls():
    schedule = {"name": "plateau", "factor": 0.5, "patience": 2, "window": 1}
    optimizer, _ = make_optimizer({"name": "sgd", "learning_rate": 1.0, "schedule": schedule}, 10)
    params = {"x": jnp.zeros(1)}
    state, sizes = optimizer.init(params), []
    for _ in range(5):
        updates, state = optimizer.update({"x": jnp.ones(1)}, state, params, value=jnp.float32(1.0))
        sizes.append(-float(updates["x"][0]))
    assert sizes == [1.0, 1.0, 0.5, 0.5, 0.25]  # the first call sets the best, each two after it stall


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "adma", "learning_rate": 1.0}, "optimizer 'adma': did you mean 'adam'"),
        ({"name": "sgd"}, "needs the argument 'learning_rate'"),
        ({"name": "sgd", "learning_rate": 1.0, "momentm": 0.9}, "no argument 'momentm'"),
        ({"name": "momentum", "learning_rate": 1.0, "momentm": 0.9}, "did you mean 'momentum'"),
        ({"name": "sgd", "learning_rate": 1.0, "schedule": {"name": "cosin"}}, "did you mean 'cosine'"),
        ({"name": "sgd", "learning_rate": 1.0, "schedule": {"name": "cosine", "warmup": 3}}, "mean 'warmup_steps'"),
        ({"name": "sgd", "learning_rate": 1.0, "schedule": {"name": "plateau", "patiense": 3}}, "mean 'patience'"),
        ({"name": "sgd", "learning_rate": 1.0, "schedule": {"name": "step"}}, "needs the argument 'boundaries'"),
    ],
)
def test_mistakes_are_named(section, message):
    with pytest.raises(ConfigError, match=message):
        make_optimizer(section, 10)
