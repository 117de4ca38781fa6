import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models.mlp import ACTIVATIONS, MLP, backward


def loss_of(outputs, targets, loss):
    if loss == "cross_entropy":
        return optax.softmax_cross_entropy(outputs, targets).mean()
    return 0.5 * ((outputs - targets) ** 2).sum(1).mean()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("hidden_sizes", [(), (5, 4)])
def test_backward_equals_automatic_differentiation(activation, loss, hidden_sizes, float64):
    model = MLP(hidden_sizes=hidden_sizes, num_classes=3, activation=activation)
    images, targets = jax.random.normal(jax.random.key(1), (6, 2, 2, 1)), jax.nn.softmax(jnp.arange(18.0).reshape(6, 3))
    params = model.init(jax.random.key(0), images.astype(jnp.float32))["params"]
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)

    expected = jax.jit(jax.value_and_grad(lambda p: loss_of(model.apply({"params": p}, images), targets, loss)))
    actual = jax.jit(lambda p: backward(model, p, images, targets, loss=loss))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=0, atol=1e-10), actual(params), expected(params))


def learn(inputs, targets):
    """Gradient descent on the squared error by the hand-written backward pass, from eight starts as some get stuck."""
    model, optimizer = MLP(hidden_sizes=(2,), num_classes=1, activation="tanh"), optax.sgd(0.3, momentum=0.9)

    def step(carry, _):
        params, opt_state = carry
        _, grads = backward(model, params, inputs, targets, loss="squared_error")
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    def outputs(key):
        params = model.init(key, inputs)["params"]
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, length=2_000)
        return model.apply({"params": params}, inputs)

    outputs = jax.jit(jax.vmap(outputs))(jax.random.split(jax.random.key(0), 8))
    return ((outputs > 0.5) == (targets > 0.5)[None]).all((1, 2))


def test_two_hidden_units_solve_xor():
    inputs = jnp.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], jnp.float32)
    targets = jnp.array([[0], [1], [1], [0]], jnp.float32)
    assert learn(inputs, targets).sum() >= 3


def test_two_hidden_units_detect_symmetry():
    # figure 1 of the paper: does the string of six read the same backwards?
    inputs = jnp.array([[2 * (i >> b & 1) - 1 for b in range(6)] for i in range(64)], jnp.float32)
    targets = (inputs == inputs[:, ::-1]).all(1, keepdims=True).astype(jnp.float32)
    assert learn(inputs, targets).any()


def test_bad_arguments_are_named():
    images = jnp.zeros((2, 4))
    with pytest.raises(ConfigError, match="unknown activation 'tan': did you mean 'tanh'"):
        MLP(activation="tan").init(jax.random.key(0), images)
    with pytest.raises(ConfigError, match="unknown loss 'entropy'"):
        backward(MLP(), {}, images, jnp.zeros((2, 10)), loss="entropy")
    with pytest.raises(ShapeError, match=r"targets: expected shape \(2, 10\), got \(2,\)"):
        backward(MLP(), {}, images, jnp.zeros(2))
