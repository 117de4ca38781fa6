import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import trees
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.layers.recurrence import CELLS, Recurrence, RecurrentStack

BATCH, TIME, CHANNELS, HIDDEN = 3, 5, 4, 2
LENGTHS = np.array([5, 3, 0])
MASK = np.arange(TIME)[None] < LENGTHS[:, None]


def logistic(x):
    return 1 / (1 + jnp.exp(-x))


def paper_step(cell, p, state, x):
    """The equations as the papers have them, one example and one step, gates by their blocks."""
    w, u = jnp.split(p["kernel"], p["kernel"].shape[1] // HIDDEN, 1), p["recurrent_kernel"]
    u = jnp.split(u, u.shape[1] // HIDDEN, 1)
    b = jnp.split(p["bias"], len(w))
    b2 = jnp.split(p["recurrent_bias"], len(w))
    h = state[0]
    sums = [x @ w[k] + b[k] + h @ u[k] + b2[k] for k in range(len(w))]
    if cell.startswith("elman"):
        return (jnp.tanh(sums[0]) if cell == "elman_tanh" else jnp.where(sums[0] > 0, sums[0], 0),)
    if cell == "gru_2014":
        r, z = logistic(sums[0]), logistic(sums[1])
        return (z * h + (1 - z) * jnp.tanh(x @ w[2] + b[2] + b2[2] + (r * h) @ u[2]),)
    if cell == "gru_reset_after":
        r, z = logistic(sums[0]), logistic(sums[1])
        return (z * h + (1 - z) * jnp.tanh(x @ w[2] + b[2] + r * (h @ u[2] + b2[2])),)
    c = state[1]
    if cell == "lstm_1997":
        i, g, o = sums
        new = c + logistic(i) * jnp.tanh(g)
        return logistic(o) * jnp.tanh(new), new
    i, f, g, o = sums
    if cell == "lstm_2002":
        i, f = i + p["peephole_input"] * c, f + p["peephole_forget"] * c
    new = logistic(f) * c + logistic(i) * jnp.tanh(g)
    if cell == "lstm_2002":
        o = o + p["peephole_output"] * new
    return logistic(o) * jnp.tanh(new), new


def paper_network(cell, reverse, p, xs, mask, initial):
    """Step after step through each example's real inputs alone."""

    def one(x, real, state):
        def step(state, xs):
            x, real = xs
            new = paper_step(cell, p, state, x)
            state = tuple(jnp.where(real, n, s) for n, s in zip(new, state, strict=True))
            return state, jnp.where(real, state[0], 0)

        last, outputs = jax.lax.scan(step, state, (x, real), reverse=reverse)
        return outputs, last

    return jax.vmap(one)(xs, mask, initial)


@pytest.mark.parametrize(("reverse", "masked", "unroll"), [(False, False, 1), (True, True, 3)])
@pytest.mark.parametrize("cell", CELLS)
def test_states_and_first_derivatives_are_those_of_the_equations(cell, reverse, masked, unroll, float64):
    layer = Recurrence(cell, HIDDEN, reverse=reverse, recurrent_bias=True, unroll=unroll)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, TIME, CHANNELS))
    state = tuple(rng.normal(size=(BATCH, HIDDEN)) for _ in range(CELLS[cell].arrays))
    mask = MASK if masked else np.ones_like(MASK)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x.astype(np.float32))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes["params"])
    cotangent = jax.tree.map(lambda a: rng.normal(size=a.shape), (x[..., :HIDDEN], state))

    def ours(params, x, state):
        return layer.apply({"params": params}, x, mask if masked else None, state)

    def theirs(params, x, state):
        return paper_network(cell, reverse, params, x, mask, state)

    def both(function):
        outputs, pull = jax.vjp(function, params, x, state)
        return outputs, pull(cotangent)

    actual, expected = jax.jit(lambda: (both(ours), both(theirs)))()
    for name, value in trees.flatten(expected).items():
        assert np.abs(value).max() > 1e-3, name
        np.testing.assert_allclose(trees.flatten(actual)[name], value, rtol=0, atol=1e-12, err_msg=name)


def test_the_gradient_of_the_kernels_is_not_added_up_step_by_step():
    layer = Recurrence("lstm_2000", 16)
    x = jax.ShapeDtypeStruct((2, 9, 8), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    jaxpr = jax.make_jaxpr(jax.grad(lambda p, x: layer.apply(p, x)[0].sum()))(params, x)
    loops = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    assert len(loops) == 2
    for loop in loops:
        products = [e for e in loop.params["jaxpr"].eqns if e.primitive.name == "dot_general"]
        columns = [product.outvars[0].aval.shape[-1] for product in products]
        assert columns == [2]  # the batch: none has a kernel's shape


def random_variables(model, x, scale=1.0):
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: (scale * rng.normal(size=leaf.shape)).astype(leaf.dtype), shapes)


def test_a_sequence_in_two_parts_is_the_sequence():
    stack = RecurrentStack("lstm_2002", HIDDEN, num_layers=2)
    x = np.random.default_rng(0).normal(size=(BATCH, TIME, CHANNELS)).astype(np.float32)
    variables = random_variables(stack, x)

    @jax.jit
    def run(variables):
        whole, last = stack.apply(variables, x)
        first, state = stack.apply(variables, x[:, :2])
        second, end = stack.apply(variables, x[:, 2:], None, state)
        return whole, last, jnp.concatenate([first, second], 1), end

    whole, last, parts, end = run(variables)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(end, last, rtol=1e-5, atol=1e-6)
    assert [array.shape for array in last] == [(BATCH, 2, HIDDEN)] * 2


@pytest.mark.parametrize("cell", ["lstm_2000", "gru_2014"])
def test_padding_changes_nothing_in_either_direction(cell):
    stack = RecurrentStack(cell, HIDDEN, num_layers=2, bidirectional=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, TIME, CHANNELS)).astype(np.float32)
    other = np.where(MASK[..., None], x, rng.normal(size=x.shape).astype(np.float32))
    variables = random_variables(stack, x)
    run = jax.jit(lambda v, x, mask: stack.apply(v, x, mask))
    outputs, last = run(variables, x, MASK)
    again, end = run(variables, other, MASK)
    np.testing.assert_array_equal(outputs, again)
    jax.tree.map(np.testing.assert_array_equal, last, end)
    assert not np.asarray(outputs)[~MASK].any()
    short, state = jax.jit(stack.apply)(variables, x[1:2, :3])
    np.testing.assert_allclose(outputs[1:2, :3], short, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1:2], b, rtol=1e-5, atol=1e-6), last, state)
    assert not np.asarray(last[0])[2].any()  # an empty sequence ends in the state that it began with


def test_dropout_is_between_the_layers():
    x = np.random.default_rng(0).normal(size=(BATCH, TIME, CHANNELS)).astype(np.float32)

    def drops(num_layers):
        stack = RecurrentStack("elman_tanh", 8, num_layers=num_layers, dropout_rate=0.5)
        variables = random_variables(stack, x)
        run = jax.jit(lambda v, key: stack.apply(v, x, train=True, rngs={"dropout": key})[0])
        return not np.array_equal(run(variables, jax.random.key(0)), run(variables, jax.random.key(1)))

    assert drops(2)
    assert not drops(1)


def test_forget_gates_begin_open_and_the_oldest_input_gates_closed():
    x = jnp.zeros((1, 1, CHANNELS))
    begins = {"lstm_1997": [-3, 0, 0], "lstm_2000": [0, 1, 0, 0], "lstm_2002": [0, 1, 0, 0], "gru_2014": [0, 0, 0]}
    for cell, expected in begins.items():
        bias = Recurrence(cell, HIDDEN).init(jax.random.key(0), x)["params"]["bias"]
        np.testing.assert_array_equal(bias, np.repeat(np.float32(expected), HIDDEN))
    wide = Recurrence("lstm_2000", HIDDEN, forget_bias=3.0).init(jax.random.key(0), x)["params"]["bias"]
    np.testing.assert_array_equal(wide, np.repeat(np.float32([0, 3, 0, 0]), HIDDEN))


def test_bad_arguments_are_named():
    x, stack = jnp.zeros((BATCH, TIME, CHANNELS)), RecurrentStack("lstm_2000", HIDDEN, bidirectional=True)

    def call(stack, *arguments):
        return jax.eval_shape(lambda: stack.init(jax.random.key(0), *arguments))

    with pytest.raises(ConfigError, match="unknown cell 'lstm_2001': did you mean 'lstm_2002'"):
        call(RecurrentStack("lstm_2001", HIDDEN), x)
    with pytest.raises(
        ShapeError, match=r"inputs: expected floats of shape \(batch, time, channels\), got float32 \(3, "
    ):
        call(stack, x[..., 0])
    with pytest.raises(ShapeError, match=r"inputs: expected floats.*got int32"):
        call(stack, x.astype(jnp.int32))
    with pytest.raises(ShapeError, match=r"mask: expected bools of shape \(3, 5\)"):
        call(stack, x, jnp.ones((3, 4), bool))
    state = (jnp.zeros((BATCH, 2, HIDDEN)),)
    with pytest.raises(ShapeError, match=r"state: expected 2 of shape \(3, 2, 2\).*got \[\(3, 2, 2\)\]"):
        call(stack, x, None, state)
