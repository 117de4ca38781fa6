import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sequences import check_floats, drawn, shapes

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models.dit import VARIANTS, DiT, MMDiT

DIT, MM_DIT = VARIANTS["dit_tiny"].arguments, VARIANTS["mmdit_tiny"].arguments


def inputs(name, batch=2):
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 8, (batch, *spec.shape)).astype(np.int32)
        if spec.dtype == np.int32
        else rng.normal(size=(batch, *spec.shape)).astype(np.float32)
        for spec in VARIANTS[name].inputs.values()
    ]


@pytest.mark.parametrize("name", ["dit_tiny", "mmdit_tiny"])
def test_learns_the_noise_of_eight_pictures(name):
    model, given = VARIANTS[name].cls(**VARIANTS[name].arguments), inputs(name, 8)
    target = given[0]
    params = jax.jit(model.init)(jax.random.key(0), *given)["params"]
    assert not np.any(jax.jit(model.apply)({"params": params}, *given)), "all branches begin with nothing"
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        def loss_fn(params):
            made = model.apply({"params": params}, *given, train=True)[..., :4]
            return jnp.square(made - target).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax's adam raises a float to an integer count
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    for _ in range(300):
        params, state, loss = step(params, state)
    assert loss < 0.1 < jnp.square(target).mean()


@pytest.mark.parametrize(("name", "floats"), [("dit_tiny", [0]), ("mmdit_tiny", [0, 2, 3])])
def test_computes_in_the_float_that_comes_in(name, floats, float64):
    check_floats(VARIANTS[name].cls(**VARIANTS[name].arguments), inputs(name), floats=floats)


def test_no_label_is_a_label_of_its_own():
    model, (images, timesteps, label) = DiT(**DIT), inputs("dit_tiny")
    variables = drawn(model, images, timesteps, label)
    apply = jax.jit(model.apply)
    untold = apply(variables, images, timesteps)
    np.testing.assert_array_equal(untold, apply(variables, images, timesteps, jnp.full(2, -1)))
    assert not np.allclose(untold, apply(variables, images, timesteps, label), atol=1e-3)
    one = apply(variables, images, jnp.int32(5))
    np.testing.assert_array_equal(one, apply(variables, images, jnp.full(2, 5)))


def test_what_does_not_fit_is_named():
    images, timesteps, context, vector = inputs("mmdit_tiny")
    model = MMDiT(**MM_DIT)
    with pytest.raises(ShapeError, match="multiples of the patch, 2, got"):
        shapes(model, images[:, :7], timesteps, context, vector)
    with pytest.raises(ShapeError, match="images: expected at most 12 pixels a side"):
        shapes(model, np.zeros((2, 14, 8, 4), np.float32), timesteps, context, vector)
    with pytest.raises(ShapeError, match=r"context: expected shape \(2, S, 12\)"):
        shapes(model, images, timesteps, context[..., :3], vector)
    with pytest.raises(ShapeError, match=r"vector: expected shape \(2, 6\)"):
        shapes(model, images, timesteps, context, vector[:1])
    with pytest.raises(ConfigError, match="num_layers: expected at least 2"):
        shapes(MMDiT(**MM_DIT | dict(num_layers=1)), images, timesteps, context, vector)
    with pytest.raises(ConfigError, match="hidden_size: expected a multiple of four"):
        shapes(DiT(**DIT | dict(hidden_size=18)), *inputs("dit_tiny"))
