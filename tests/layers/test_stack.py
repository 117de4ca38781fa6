"""Scanned layers: what is kept for the backward pass changes its work, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from deepmodels import trees
from deepmodels.errors import ConfigError
from deepmodels.layers.stack import REMAT, pipelined, scan_layers, unstack


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        scores = jnp.where(mask, jnp.einsum("btc,bsc->bts", x, x), -1e9)  # a product with batch dimensions
        y = nn.Dense(x.shape[-1], name="dense1")(jnp.einsum("bts,bsc->btc", nn.softmax(scores), x))
        y = nn.Dropout(0.5, deterministic=not self.has_rng("dropout"), name="dropout")(nn.gelu(y))
        self.sow("losses", "size", jnp.mean(y**2))
        return x + nn.Dense(x.shape[-1], name="dense2")(y)


class Stack(nn.Module):
    remat: str | None = None
    unroll: int = 1

    @nn.compact
    def __call__(self, x, mask):
        def call(layer, x, _):
            return layer(x, mask), None

        return scan_layers(Layer(name="layers"), call, x, length=3, unroll=self.unroll, remat=self.remat)[0]


@pytest.fixture(scope="module")
def start():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4))
    mask = jnp.tril(jnp.ones((1, 5, 5), bool))
    params = Stack().init(jax.random.key(1), x, mask)["params"]
    return params, x, mask


@pytest.fixture(scope="module")
def plain(start):
    return run(None, 1, start)


def loss(remat, unroll, params, x, mask):
    y, changed = Stack(remat, unroll).apply(
        {"params": params}, x, mask, rngs={"dropout": jax.random.key(2)}, mutable=["losses"]
    )
    (sizes,) = changed["losses"]["layers"]["size"]
    assert sizes.shape == (3,)
    return (y**2).sum() + sizes.sum()


def run(remat, unroll, start):
    return trees.flatten(jax.jit(jax.value_and_grad(lambda *given: loss(remat, unroll, *given)))(*start))


@pytest.mark.parametrize(("remat", "unroll"), [*((name, 1) for name in REMAT), ("full", 3)])
def test_a_policy_changes_neither_value_nor_gradient(start, plain, remat, unroll):
    other = run(remat, unroll, start)
    for name, leaf in plain.items():
        np.testing.assert_allclose(other[name], leaf, rtol=1e-5, atol=1e-6, err_msg=name)


def products(remat, start) -> int:
    return str(jax.make_jaxpr(jax.grad(lambda *given: loss(remat, 1, *given)))(*start)).count("dot_general[")


def test_a_policy_decides_what_is_computed_again(start):
    plain = products(None, start)  # four products forward, eight backward
    assert products("full", start) == plain + 3  # the last one's result is needed by nothing in the layer
    assert products("dots_no_batch", start) == plain + 2
    assert products("dots", start) == products("save_all", start) == plain


def test_an_unknown_policy_is_an_error(start):
    with pytest.raises(ConfigError, match="remat policy.*dotz.*dots"):
        Stack("dotz").apply({"params": start[0]}, *start[1:])


def test_layers_taken_apart_are_the_same_layers(start):
    params, x, mask = start
    apart = unstack({"params": {"inner": params}})["params"]["inner"]
    assert set(apart["layers"]) == {"0", "1", "2"}
    for name in ("dense1", "dense2"):
        layer, part = params["layers"][name], apart["layers"]["1"][name]
        np.testing.assert_array_equal(part["transposed"], layer["kernel"][1].T)
        np.testing.assert_array_equal(part["bias"], layer["bias"][1])
    assert unstack(apart) == apart
    apply = jax.jit(Stack().apply)
    np.testing.assert_allclose(apply({"params": apart}, x, mask), apply({"params": params}, x, mask), rtol=1e-5)


def test_entries_of_layers_taken_apart_are_stacked_again():
    class Sums(nn.Module):
        @nn.compact
        def __call__(self, x, entries):
            def call(layer, x, entry):
                y = layer(x) + entry
                return y, y[:, 0]

            return scan_layers(nn.Dense(2, name="layers"), call, x, entries, length=3, axis=1)

    x, entries = jnp.ones((2, 2)), jnp.arange(12.0).reshape(2, 3, 2)
    variables = Sums().init(jax.random.key(0), x, entries)
    expected, got = (Sums().apply(v, x, entries) for v in (variables, unstack(variables)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)


class Tower(nn.Module):
    """Layers that are told something of all examples, something of each, and one by one, and tell something."""

    remat: str | None = None
    axis: int = 0

    @nn.compact
    def __call__(self, x, mask):
        def call(layer, carry, rate):
            y = layer(carry["x"], mask)
            return {"x": y * rate[None, None, None], "before": carry["x"]}, y.mean((1, 2))

        rates = jnp.linspace(0.5, 1, 4)
        return scan_layers(Layer(name="layers"), call, {"x": x, "before": x}, rates, length=4, remat=self.remat)


@pytest.mark.parametrize(("stages", "remat"), [(2, "full"), pytest.param(4, None, marks=pytest.mark.slow)])
def test_a_pipeline_is_the_same_layers(stages, remat):
    x = jax.random.normal(jax.random.key(0), (3, 2, 5, 4))  # microbatches first
    mask = jax.random.bernoulli(jax.random.key(1), 0.7, (3, 2, 5, 5)) | jnp.eye(5, dtype=bool)[None, None]
    params = Tower().init(jax.random.key(2), x[0], mask[0])["params"]

    def run(params, x):
        carry, means = jax.vmap(lambda x, mask: Tower(remat).apply({"params": params}, x, mask))(x, mask)
        return (carry["x"] ** 2).sum() + (means**2).sum(), (carry, means)

    def staged(params, x):
        with pipelined(stages, lambda leaf: leaf):
            return run(params, x)

    expected, found = (jax.jit(jax.grad(f, (0, 1), has_aux=True))(params, x) for f in (run, staged))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    with pytest.raises(ConfigError, match="4 layers can't be divided among the 3 stages"), pipelined(3, jnp.asarray):
        run(params, x)


def test_microbatches_of_a_pipeline_draw_for_themselves():
    x, mask = jnp.ones((2, 2, 5, 4)), jnp.ones((2, 2, 5, 5), bool)
    params = Tower().init(jax.random.key(2), x[0], mask[0])["params"]

    def run(key, x, mask):
        return Tower().apply({"params": params}, x, mask, rngs={"dropout": key})[0]["x"]

    with pipelined(2, lambda leaf: leaf):
        one, two = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(3), 2), x, mask)
    assert jnp.abs(one - two).max() > 0.1
    np.testing.assert_array_equal(jnp.isfinite(one), True)
