"""Programs said anew for ONNX: the same numbers, in what ONNX knows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from deepmodels import exporting, rewriting

RNG = np.random.default_rng(0)


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from primitives(inner.jaxpr)


def said(function, *arrays):
    """What a function gives when it is said anew, and the names of the primitives in it."""
    specs = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    anew = rewriting.said_anew(function, specs)
    got, expected = anew(*arrays), function(*arrays)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    return set(primitives(jax.make_jaxpr(anew)(*arrays).jaxpr))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [5, rewriting._LAYERS + 1])
def test_loops_go_one_way_and_short_ones_are_none(reverse, length):
    def function(first, along):
        def step(carry, x):
            carry = jnp.tanh(carry + x)
            return carry, (carry * 2, jnp.where(x > 0, carry > 0, x < -1))

        carry, (doubled, told) = lax.scan(step, first, along, reverse=reverse)
        return [carry, doubled, told]

    found = said(function, RNG.normal(size=3).astype(np.float32), RNG.normal(size=(length, 3)).astype(np.float32))
    assert ("scan" in found) == (length > rewriting._LAYERS)


@pytest.mark.parametrize(("start", "combine"), [(-np.inf, lax.max), (0.0, lax.add)])
def test_windows_have_three_axes_at_most(start, combine):
    x = RNG.normal(size=(2, 7, 9, 3)).astype(np.float32)
    pooled = partial(
        nn.pooling.pool, init=start, reduce_fn=combine, window_shape=(3, 2), strides=(2, 1), padding=((1, 1), (0, 1))
    )
    specs = [jax.ShapeDtypeStruct(x.shape, x.dtype)]
    anew = rewriting.said_anew(lambda x: [pooled(x)], specs)
    said(lambda x: [pooled(x)], x)
    windows = [e for e in jax.make_jaxpr(anew)(x).jaxpr.eqns if e.primitive.name.startswith("reduce_window_")]
    assert windows
    assert all(len(e.params["window_dimensions"]) == 3 for e in windows)


def test_calls_are_part_of_what_calls():
    @jax.custom_jvp
    def cube(x):
        return x**3

    cube.defjvp(lambda primals, tangents: (cube(*primals), 3 * primals[0] ** 2 * tangents[0]))

    def function(x):
        return [jax.jit(lambda x: jax.checkpoint(cube)(x) + 1)(x), jnp.where(x > 1, x > 2, x < 0), jax.nn.relu(x)]

    found = said(function, np.linspace(-3, 3, 7).astype(np.float32))
    assert not found & {"jit", "remat2", "custom_jvp_call", "select_n"}


def test_sizes_stay_free():
    def function(x):
        return [lax.scan(lambda carry, x: (carry + x, carry), x[0], x, reverse=True)[1]]

    specs = [jax.ShapeDtypeStruct(jax.export.symbolic_shape("length,batch,3"), np.float32)]
    (found,) = jax.eval_shape(rewriting.said_anew(function, specs), *specs)
    assert [str(size) for size in found.shape] == ["length", "batch", "3"]


def test_what_fails_of_free_sizes():
    def function(x):
        return [x % 3, lax.rem(x, 3), lax.pad(x, 7, ((0, 0, 0), (1, 2, 0)))]

    specs = [jax.ShapeDtypeStruct(jax.export.symbolic_shape("batch,5"), np.int32)]
    anew = rewriting.said_anew(function, specs)
    assert not set(primitives(jax.make_jaxpr(anew)(*specs).jaxpr)) & {"rem", "pad"}
    assert [str(found.shape[0]) for found in jax.eval_shape(anew, *specs)] == ["batch"] * 3
    x = np.arange(-5, 5, dtype=np.int32).reshape(2, 5)
    said(function, x)
    for got, expected in zip(jax.export.export(jax.jit(anew))(*specs).call(x), function(x), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_groups_are_products_of_all_rows():
    rows, kernels = (RNG.normal(size=shape).astype(np.float32) for shape in ((7, 4), (3, 4, 5)))
    found = said(lambda *given: [lax.ragged_dot(*given)], rows, kernels, np.array([2, 0, 5], np.int32))
    assert "ragged_dot_general" not in found


@pytest.mark.parametrize(
    ("name", "function"), [("lenet_tiny", "call"), ("gpt_tiny", "call"), ("gpt_tiny", "step"), ("lstm_tiny", "call")]
)
def test_onnx_of_models(name, function, tmp_path):
    """Where jax2onnx is installed: see docs/export.md, whose table has all families."""
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    model, variables = exporting.fresh(name)
    exporting.export(model, variables, tmp_path / "x.onnx", only=[function], length=8, sizes={"batch": 2})
    apart = exporting.difference(model, variables, tmp_path / "x.onnx", length=8, sizes={"batch": 2})
    assert apart[function] < 1e-5
