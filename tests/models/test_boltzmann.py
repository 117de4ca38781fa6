import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepmodels import objectives
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models import create
from deepmodels.models.autoencoder import Autoencoder
from deepmodels.models.boltzmann import (
    DBN,
    RBM,
    annealed_log_partition,
    free_energy,
    gibbs,
    log_likelihood_bound,
    log_partition,
    machines_of,
    pseudo_log_likelihood,
    unroll,
    untie,
)

RNG = np.random.default_rng(0)


def machine(visible=4, hidden=3, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (visible, hidden), "visible_bias": (visible,), "hidden_bias": (hidden,)}
    return {name: jnp.asarray(rng.normal(0, scale, shape), jnp.float32) for name, shape in shapes.items()}


def states(count):
    return np.array(list(itertools.product([0, 1], repeat=count)), np.float32)


def energies(m, visible, hidden):
    """Of each pair, (visible, hidden), by the definition."""
    m = {name: np.float64(x) for name, x in m.items()}
    return (
        -(visible @ m["visible_bias"])[:, None] - (hidden @ m["hidden_bias"])[None] - visible @ m["kernel"] @ hidden.T
    )


def probabilities(m):
    """Of each state of the visible units."""
    total = np.exp(-energies(m, states(len(m["visible_bias"])), states(len(m["hidden_bias"])))).sum(1)
    return total / total.sum()


def test_free_energy_and_partition_are_those_of_the_enumerated_states():
    m = machine()
    table = energies(m, states(4), states(3))
    np.testing.assert_allclose(free_energy(m, states(4)), -np.log(np.exp(-table).sum(1)), rtol=1e-5)
    np.testing.assert_allclose(log_partition(m), np.log(np.exp(-table).sum()), rtol=1e-6)
    hot = [v for v in states(4) if v[2:].sum() == 1]  # the last two are one choice
    table = energies(m, np.array(hot), states(3))
    np.testing.assert_allclose(log_partition(m, labels=2), np.log(np.exp(-table).sum()), rtol=1e-6)
    with pytest.raises(ConfigError, match="at most 20 hidden units, got 21: use annealed_log_partition"):
        log_partition(machine(2, 21))


def test_gaussian_units():
    m = machine(1, 3)
    grid = np.linspace(-12, 12, 4001, dtype=np.float32)[:, None]
    density = np.exp(-np.float64(free_energy(m, grid, visible_units="gaussian")))
    total = density.sum() * (grid[1, 0] - grid[0, 0])
    np.testing.assert_allclose(log_partition(m, visible_units="gaussian"), np.log(total), rtol=1e-4)
    m = machine(3, 1, 0.5)  # Gaussian hidden units: integrate exp(-E), with -h^2 / 2 in it
    h, v = np.linspace(-12, 12, 4001)[None], np.float64(states(3))
    a, b, w = (np.float64(m[name]) for name in ("visible_bias", "hidden_bias", "kernel"))
    total = np.exp((v @ a)[:, None] + b * h + (v @ w) * h - h**2 / 2).sum(1) * (h[0, 1] - h[0, 0]) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(free_energy(m, states(3), units="gaussian"), -np.log(total), rtol=1e-4)


def test_gibbs_sampling_finds_the_machines_distribution():
    m, count = machine(), 20_000
    start = np.zeros((count, 4), np.float32)
    drawn = np.asarray(jax.jit(lambda key: gibbs(m, start, key, 50))(jax.random.key(0)))
    seen = np.bincount((drawn @ [8, 4, 2, 1]).astype(int), minlength=16) / count
    assert np.abs(seen - probabilities(m)).max() < 4 * np.sqrt(0.25 / count)
    # with a clamped choice of the last two, the distribution given it
    start[:, 3] = 1
    drawn = np.asarray(jax.jit(lambda key: gibbs(m, start, key, 50, labels=2, clamped=True))(jax.random.key(0)))
    np.testing.assert_array_equal(drawn[:, 2:], start[:, 2:])
    given = probabilities(m)[[1, 5, 9, 13]]
    seen = np.bincount((drawn[:, :2] @ [2, 1]).astype(int), minlength=4) / count
    assert np.abs(seen - given / given.sum()).max() < 4 * np.sqrt(0.25 / count)
    free = np.asarray(jax.jit(lambda key: gibbs(m, start, key, 50, labels=2))(jax.random.key(0)))
    assert (free[:, 2:].sum(1) == 1).all()
    assert 0.02 < free[:, 3].mean() < 0.98


def gradient(model, variables, images, key, **hyperparameters):
    def loss(params):
        def forward(images, key=None, **named):
            rest = {name: value for name, value in variables.items() if name != "params"}
            return model.apply({"params": params, **rest}, images, **named, train=True, mutable=list(rest))

        value, (metrics, updated) = objectives.contrastive_divergence(
            forward, {"image": images}, key, **hyperparameters
        )
        return value, (metrics, updated)

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


def test_with_chains_in_equilibrium_the_gradient_is_that_of_the_likelihood():
    m, model = machine(seed=2), RBM(hidden_size=3, num_chains=20_000, image_shape=(2, 2, 1))
    images = jnp.asarray(states(4)[[3, 5, 14]].reshape(3, 2, 2, 1))
    chains = (RNG.random((20_000, 4)) < 0.5).astype(np.float32)
    variables = {"params": m, "chains": {"visible": jnp.asarray(chains)}}
    ours, (metrics, updated) = gradient(model, variables, images, jax.random.key(0), steps=50)
    exact = jax.grad(lambda m: free_energy(m, images.reshape(3, 4)).mean() + log_partition(m))(m)
    for name in exact:
        np.testing.assert_allclose(ours[name], exact[name], atol=4 * 0.5 / np.sqrt(20_000))
    assert not np.array_equal(updated["chains"]["visible"], chains)
    key = jax.random.fold_in(jax.random.key(0), 2)
    again = model.apply(variables, images, sampling_key=key, steps=50)  # evaluation leaves them
    np.testing.assert_allclose(
        again["free_energy"].mean() - again["chain_free_energy"].mean(), metrics["loss"], rtol=1e-3
    )


def test_contrastive_divergence_is_the_difference_of_statistics():
    m, model = machine(), RBM(hidden_size=3, image_shape=(2, 2, 1))
    images = jnp.asarray(states(4)[[3, 5, 14]].reshape(3, 2, 2, 1))
    grads, (metrics, _) = gradient(model, {"params": m}, images, jax.random.key(3), steps=2)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 2), 0)
    data, end = images.reshape(3, 4), gibbs(m, images.reshape(3, 4), key, 2)

    def statistics(v):
        h = jax.nn.sigmoid(v @ m["kernel"] + m["hidden_bias"][None])
        return {"kernel": v.T @ h / 3, "visible_bias": v.mean(0), "hidden_bias": h.mean(0)}

    for name, value in statistics(data).items():
        np.testing.assert_allclose(grads[name], statistics(end)[name] - value, atol=1e-6)
    assert metrics.keys() == {"loss", "reconstruction", "pseudo_log_likelihood"}


def test_annealing_finds_the_partition_within_a_percent():
    m = machine(12, 10, 0.7)
    estimate, error = jax.jit(lambda key: annealed_log_partition(m, key, chains=200, temperatures=500))(
        jax.random.key(0)
    )
    exact = log_partition(m)
    assert abs(estimate - exact) < 0.01 * abs(exact)
    assert abs(np.expm1(float(estimate - exact))) < 4 * error < 0.5
    base = jnp.asarray(RNG.normal(size=12), jnp.float32)
    other, _ = jax.jit(lambda key: annealed_log_partition(m, key, chains=200, temperatures=500, base_bias=base))(
        jax.random.key(1)
    )
    assert abs(other - exact) < 0.01 * abs(exact)


def test_the_pseudo_likelihood_is_right_on_average():
    m, v = machine(), jnp.asarray(states(4)[[3, 6]])
    logs = np.log(probabilities(m)).reshape(2, 2, 2, 2)
    wanted = []
    for state in np.asarray(v, int):
        terms = [logs[tuple(state)] - np.logaddexp.reduce(np.take(logs[tuple(
            slice(None) if j == i else state[j] for j in range(4)
        )], [0, 1])) for i in range(4)]  # fmt: skip
        wanted.append(sum(terms))
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = jax.jit(jax.vmap(lambda key: pseudo_log_likelihood(m, v, key)))(keys)
    np.testing.assert_allclose(drawn.mean(0), wanted, atol=4 * float(drawn.std()) / np.sqrt(2000))


def fit(model, params, data, count, learning_rate=0.05, seed=0, frozen=(), **hyperparameters):
    """Parameters after gradient descent on batches of 10 by contrastive divergence."""

    def loss(params, chains, batch, key):
        def forward(images, key=None, **named):
            return model.apply({"params": params, **chains}, images, **named, train=True, mutable=list(chains))

        value, (_, updated) = objectives.contrastive_divergence(forward, batch, key, **hyperparameters)
        return value, updated

    def step(carry, number):
        params, chains = carry
        key = jax.random.fold_in(jax.random.key(seed), number)
        rows = jax.random.randint(key, (10,), 0, len(data))
        grads, chains = jax.grad(loss, has_aux=True)(params, chains, {"image": data[rows]}, key)
        moved = jax.tree.map(lambda p, g: p - learning_rate * g, params, grads)
        return (moved | {name: params[name] for name in frozen}, chains), None

    first = jax.jit(model.init)(jax.random.key(seed), data[:1])
    chains = {name: value for name, value in first.items() if name != "params"}
    params = first["params"] if params is None else params
    return jax.jit(lambda p, c: jax.lax.scan(step, (p, c), jnp.arange(count))[0][0])(params, chains)


@pytest.mark.parity
def test_scikit_learn_reaches_no_better_pseudo_likelihood_on_digits():
    sklearn = pytest.importorskip("sklearn.neural_network")
    from sklearn.datasets import load_digits

    data = (load_digits().data / 16 > 0.5).astype(np.float32)
    train, test = data[:1500], data[1500:]
    theirs = sklearn.BernoulliRBM(32, learning_rate=0.05, batch_size=10, n_iter=10, random_state=0).fit(train)
    theirs = {
        "kernel": theirs.components_.T,
        "visible_bias": theirs.intercept_visible_,
        "hidden_bias": theirs.intercept_hidden_,
    }
    model = RBM(hidden_size=32, num_chains=10, image_shape=(8, 8, 1))
    ours = fit(model, None, jnp.asarray(train).reshape(-1, 8, 8, 1), 1500)

    def exact(m):  # over all units, not one at random
        m = {name: jnp.asarray(x, jnp.float32) for name, x in m.items()}
        flips = jnp.abs(test[:, None] - jnp.eye(64)[None]).reshape(-1, 64)
        differences = free_energy(m, flips).reshape(-1, 64) - free_energy(m, test)[:, None]
        return jax.nn.log_sigmoid(differences).sum(1).mean()

    assert exact(ours) >= exact(theirs)


def test_a_second_layer_improves_the_bound():
    """Hinton, Osindero & Teh (2006), section 4, enumerated: the bound, and that the likelihood is above it."""
    data = np.repeat(states(6)[[3, 12, 33, 48, 63]], [4, 3, 2, 2, 1], 0).reshape(-1, 1, 6, 1)
    network = DBN(hidden_sizes=(4, 6), num_classes=0, image_shape=(1, 6, 1))
    params = fit(network, None, jnp.asarray(data), 2000, 0.1, steps=5, layer=0)
    # the second machine begins as the first one turned over: the model is the same, and the bound tight to it
    params = params | {"layer1_kernel": params["layer0_kernel"].T, "layer2_bias": params["layer0_bias"]}

    def measure(params):
        p = {name: np.float64(x) for name, x in params.items()}
        v, h = np.float64(data.reshape(-1, 6)), states(4)
        up = {"kernel": p["layer1_kernel"], "visible_bias": p["layer1_bias"], "hidden_bias": p["layer2_bias"]}
        prior = np.log(probabilities(up))  # of the first hidden layer
        total = v @ p["layer0_kernel"] + p["layer1_bias"]
        log_q = total @ h.T - np.logaddexp(0, total).sum(1)[:, None]
        down = h @ p["layer0_kernel"].T + p["layer0_bias"]
        log_v = v @ down.T - np.logaddexp(0, down).sum(1)[None]
        bound = (np.exp(log_q) * (log_v + prior[None] - log_q)).sum(1).mean()
        likelihood = np.logaddexp.reduce(log_v + prior[None], axis=1).mean()
        return bound, likelihood

    before, likelihood = measure(params)
    np.testing.assert_allclose(before, likelihood, rtol=1e-6)
    trained = fit(network, params, jnp.asarray(data), 4000, 0.05, frozen=("layer1_bias",), steps=10, layer=1)
    for name in ("layer0_kernel", "layer0_bias", "layer1_bias"):
        np.testing.assert_array_equal(trained[name], params[name])
    after, likelihood = measure(trained)
    assert before + 0.003 < after <= likelihood  # both are exact, only the learning is not
    rows, stack = jnp.asarray(data.reshape(-1, 6)), machines_of(trained)
    estimate = jax.jit(lambda key: log_likelihood_bound(stack, rows, key, log_partition(stack[1])))
    drawn = jax.vmap(estimate)(jax.random.split(jax.random.key(0), 4000)).mean(1)
    np.testing.assert_allclose(drawn.mean(), after, atol=4 * float(drawn.std()) / np.sqrt(4000))


def test_the_bound_is_the_likelihood_where_recognition_is_right():
    below = machine(6, 4)
    above = {
        "kernel": below["kernel"].T, "visible_bias": below["hidden_bias"], "hidden_bias": below["visible_bias"]
    }  # fmt: skip
    exact = np.log(probabilities(below))
    rows = jnp.asarray(states(6))
    np.testing.assert_allclose(
        log_likelihood_bound([below], rows, jax.random.key(0), log_partition(below)), exact, rtol=1e-4
    )
    for key in jax.random.split(jax.random.key(1), 3):  # whatever is drawn
        bound = log_likelihood_bound([below, above], rows, key, log_partition(above))
        np.testing.assert_allclose(bound, exact, rtol=1e-4)
    with pytest.raises(ShapeError, match="expected those of a deep belief network, got \\['kernel'\\]"):
        machines_of({"kernel": below["kernel"]})


def tiny(**changes):
    network = create("dbn_tiny", **changes)
    images = (np.random.default_rng(0).random((3, 4, 4, 1)) > 0.5).astype(np.float32)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    return network, jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(x.dtype), shapes)["params"], images


def test_labels_are_weighed_by_their_free_energy():
    network, params, images = tiny()
    outputs = network.apply({"params": params}, images)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    h1 = sigmoid(images.reshape(3, 16) @ params["layer0_kernel"] + params["layer1_bias"])
    h2 = sigmoid(h1 @ params["layer1_kernel"] + params["layer2_bias"])
    joint = {
        "kernel": jnp.concatenate([params["layer2_kernel"], params["label_kernel"]]),
        "visible_bias": jnp.concatenate([params["layer2_bias"], params["label_bias"]]),
        "hidden_bias": jnp.asarray(params["layer3_bias"]),
    }
    pairs = [jnp.asarray(np.concatenate([h2, np.tile(np.eye(3, dtype=np.float32)[i], (3, 1))], 1)) for i in range(3)]
    wanted = -np.stack([free_energy(joint, pair) for pair in pairs], 1)
    np.testing.assert_allclose(outputs["label_logits"], wanted, rtol=1e-5)
    np.testing.assert_allclose(outputs["free_energy"], -np.logaddexp.reduce(wanted, axis=1), rtol=1e-5)
    given = network.apply({"params": params}, images, label=jnp.array([2, 0, 1]))
    np.testing.assert_allclose(given["free_energy"], -wanted[[0, 1, 2], [2, 0, 1]], rtol=1e-5)


def test_only_the_layer_that_learns_has_a_gradient():
    network, params, images = tiny()
    for layer, own in enumerate(["layer0_kernel", "layer1_kernel", "layer2_kernel"]):
        label = {"label": jnp.array([0, 1, 2])} if layer == 2 else {}

        def loss(params, layer=layer, label=label):
            def forward(images, key=None, **named):
                return network.apply({"params": params}, images, **named), {}

            batch = {"image": images, **label}
            named = dict(layer=layer, conditional=bool(label))
            return objectives.contrastive_divergence(forward, batch, jax.random.key(0), **named)[0]

        grads = jax.jit(jax.grad(loss))(params)
        moved = {name for name, g in grads.items() if np.abs(g).max() > 0}
        assert own in moved
        assert moved <= {own, f"layer{layer}_bias", f"layer{layer + 1}_bias", "label_kernel", "label_bias"}


def test_untied_it_is_the_same_network_until_it_learns_up_and_down():
    network, params, images = tiny()
    free, label = create("dbn_tiny", recognition=True), jnp.array([0, 1, 2])
    own = untie(params)
    shapes = jax.eval_shape(free.init, jax.random.key(0), images)["params"]
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, shapes)
    one, other = network.apply({"params": params}, images), free.apply({"params": own}, images)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])

    def loss(params):
        def forward(images, key=None, **named):
            return free.apply({"params": params}, images, **named), {}

        return objectives.up_down(forward, {"image": images, "label": label}, jax.random.key(0))

    (_, (metrics, _)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(own)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    assert metrics.keys() == {"loss", "wake", "sleep", "reconstruction", "accuracy"}
    assert metrics["wake"] > 0 < metrics["sleep"]
    optimizer = optax.sgd(0.05)
    state, values = optimizer.init(own), []
    step = jax.jit(lambda p, s: (lambda v, g: (v, optimizer.update(g, s)))(*jax.value_and_grad(loss, has_aux=True)(p)))
    for _ in range(30):
        (_, (metrics, _)), (updates, state) = step(own, state)
        own = optax.apply_updates(own, updates)
        values.append(float(metrics["wake"] + metrics["sleep"]))
    assert values[-1] < 0.8 * values[0]
    with pytest.raises(ShapeError, match="network of two layers or more"):
        untie({"layer0_kernel": params["layer0_kernel"]})


def test_unrolled_it_is_an_autoencoder():
    network, params, images = tiny(num_classes=0, code_units="gaussian")
    model = Autoencoder(
        hidden_sizes=(8, 6), code_size=5, activation="sigmoid", code_activation="linear", image_shape=(4, 4, 1)
    )
    unrolled = unroll(params)
    assert jax.tree.map(jnp.shape, unrolled) == jax.tree.map(
        jnp.shape, jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    )
    ours, theirs = network.apply({"params": params}, images), model.apply({"params": unrolled}, images)
    for name in ("code", "reconstruction"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(ShapeError, match="network without labels"):
        unroll(tiny()[1])


def test_samples_are_of_their_class():
    """The top machine is made to put one unit on for each class, and the layers below to show it."""
    network = DBN(hidden_sizes=(3, 3), num_classes=3, image_shape=(1, 3, 1))
    eye = 12 * np.eye(3, dtype=np.float32)
    params = {
        "layer0_kernel": eye,
        "layer0_bias": np.full(3, -6, np.float32),
        "layer1_kernel": eye,
        "layer1_bias": np.full(3, -6, np.float32),
        "layer2_bias": np.full(3, -18, np.float32),  # the label decides
        "label_kernel": 2 * eye,
        "label_bias": np.zeros(3, np.float32),
    }
    label = jnp.array([0, 1, 2, 2, 1, 0])
    sample = lambda **named: network.apply({"params": params}, jax.random.key(0), 6, steps=5, method="sample", **named)  # noqa: E731
    pictures = sample(label=label)
    np.testing.assert_array_equal(pictures.reshape(6, 3).argmax(1), label)
    assert sample().shape == (6, 1, 3, 1)
    alone = create("boltzmann_tiny")
    variables = alone.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    assert alone.apply(variables, jax.random.key(0), 2, steps=3, method="sample").shape == (2, 4, 4, 1)


def test_what_does_not_fit_is_named():
    network, params, images = tiny()
    apply = lambda **named: network.apply({"params": params}, images, **named)  # noqa: E731
    with pytest.raises(ConfigError, match="layer: expected 0 to 2, got 3"):
        apply(layer=3)
    with pytest.raises(ConfigError, match="label: expected"):
        apply(sampling_key=jax.random.key(0))
    with pytest.raises(ConfigError, match="unknown units 'gauss': did you mean 'gaussian'"):
        create("boltzmann_tiny", units="gauss").init(jax.random.key(0), images)
    network, params, images = tiny(num_classes=0)
    with pytest.raises(ConfigError, match="takes no label"):
        network.apply({"params": params}, images, label=jnp.zeros(3, jnp.int32))
