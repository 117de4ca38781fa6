import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from deepmodels.layers.batch_norm import BatchNorm


def variables(dtype=np.float32):
    rng = np.random.default_rng(0)
    mean, var, scale, bias = (rng.uniform(0.5, 2, 3).astype(dtype) for _ in range(4))
    return {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("shape", [(6, 3), (4, 5, 2, 3)])
def test_equals_flax_where_flax_takes_the_dtypes(train, shape):
    x = 2 * jax.random.normal(jax.random.key(0), shape) + 1
    ours, our_stats = BatchNorm().apply(variables(), x, train, mutable=["batch_stats"])
    theirs, their_stats = nn.BatchNorm(momentum=0.9).apply(
        variables(), x, use_running_average=not train, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), our_stats, their_stats)
    assert train == (not np.array_equal(our_stats["batch_stats"]["mean"], variables()["batch_stats"]["mean"]))


def test_the_names_are_flaxs():
    x = jnp.ones((2, 3))
    ours = BatchNorm().init(jax.random.key(0), x, train=True)
    theirs = nn.BatchNorm(use_running_average=False).init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, ours, dict(theirs))  # initialising leaves the averages alone


@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_is_normalised_in_float32(train):
    x = jax.random.normal(jax.random.key(0), (64, 3), jnp.bfloat16)
    given = variables()
    given["params"] = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), given["params"])
    y, stats = BatchNorm().apply(given, x, train, mutable=["batch_stats"])
    widened = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), given)
    exact, exact_stats = BatchNorm().apply(widened, x.astype(jnp.float32), train, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))  # rounded once, at the end
    jax.tree.map(np.testing.assert_array_equal, stats, exact_stats)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(stats)} == {"float32"}


def test_float64_is_normalised_in_float64(float64):
    x = np.random.default_rng(0).normal(size=(50, 3))
    given = variables(np.float64)
    y, stats = BatchNorm().apply(given, jnp.asarray(x), True, mutable=["batch_stats"])
    params, old = given["params"], given["batch_stats"]
    expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(stats["batch_stats"]["mean"], 0.9 * old["mean"] + 0.1 * x.mean(0), atol=1e-14)
    np.testing.assert_allclose(stats["batch_stats"]["var"], 0.9 * old["var"] + 0.1 * x.var(0), atol=1e-14)
