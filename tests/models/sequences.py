"""What tests of models of tokens share: random tokens, training on eight examples, computing in other floats."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def words(vocab_size: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Random tokens, none of them 0."""
    return np.random.default_rng(seed).integers(1, vocab_size, shape).astype(np.int32)


def shapes(model, *inputs):
    """The variables' shapes."""
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)


def drawn(model, *inputs, seed: int = 0, scale: float = 0.3):
    """Random variables, biases and scales too."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, scale, x.shape).astype(x.dtype), shapes(model, *inputs))


def overfits(model, inputs, labels, steps: int = 300) -> bool:
    """Whether training on one batch brings the cross-entropy of its labels near 0, compiled once."""
    params = jax.jit(model.init)(jax.random.key(0), *inputs)["params"]
    optimizer = optax.adam(1e-2)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state):
        def loss_fn(params):
            logits = model.apply({"params": params}, *inputs, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax's adam raises a float to an integer count
            updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    for _ in range(steps):
        params, opt_state, loss = step(params, opt_state)
        assert np.isfinite(loss)
        if loss < 0.02:
            assert step._cache_size() == 1
            return True
    return False


def floats_in(jaxpr) -> set[str]:
    """The names of the float dtypes of all that is computed, inside of loops and calls too."""
    jaxpr, found = getattr(jaxpr, "jaxpr", jaxpr), set()
    for equation in jaxpr.eqns:
        found |= {v.aval.dtype.name for v in equation.outvars if jnp.issubdtype(v.aval.dtype, jnp.floating)}
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                    found |= floats_in(inner)
    return found


def check_floats(model, inputs, floats=()) -> None:
    """Checks that a model computes in the float that comes in, forward and backward, and in bfloat16 about the same.

    Call it with x64 enabled.

    Args:
      model: without dropout.
      inputs: arrays.
      floats: numbers of the inputs that are floats, and cast.
    """

    def cast(tree, dtype):
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)

    def arguments(variables, dtype):
        given = [cast(x, dtype) if i in floats else x for i, x in enumerate(inputs)]
        return cast(variables, dtype), given

    variables = drawn(model, *inputs)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}  # masters, also with x64 enabled
    for dtype in ("float32", "float64"):
        jaxpr = jax.make_jaxpr(jax.grad(lambda v, x: jax.tree.leaves(model.apply(v, *x, train=True))[0].sum()))(
            *arguments(variables, dtype)
        )
        assert floats_in(jaxpr) <= {dtype}
    apply = jax.jit(lambda v, x: jax.tree.leaves(model.apply(v, *x))[0])
    double, half = (apply(*arguments(variables, dtype)) for dtype in (jnp.float64, jnp.bfloat16))
    assert (double.dtype, half.dtype) == (jnp.float64, jnp.bfloat16)
    np.testing.assert_allclose(half.astype(jnp.float64), double, rtol=0, atol=0.1 * np.abs(double).max())
