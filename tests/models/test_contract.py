"""What holds for every row of the table of models."""

import importlib
import pkgutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from deepmodels import models, trees
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models import MODELS, create, list_models

TINY = list_models("*_tiny")
CLASSIFIERS = [name for name in MODELS if name != "mcculloch_pitts"]
CHEAP = ["mcculloch_pitts", *TINY, "lenet_1989", "lenet1", "lenet5_paper"]  # to compute with, not only to trace
TRACED = [*CHEAP, "lenet5", "resnet18", "resnet20_cifar"]


def abstract(name, batch=3):
    return [jax.ShapeDtypeStruct((batch, *spec.shape), spec.dtype) for spec in MODELS[name].inputs.values()]


def random_inputs(name, batch=8):
    rng = np.random.default_rng(0)
    if name == "mcculloch_pitts":
        return [rng.integers(0, 2, (batch, 2)).astype(np.float32)]
    return [rng.normal(size=spec.shape).astype(spec.dtype) for spec in abstract(name, batch)]


def shapes(model, name, batch=3):
    return jax.eval_shape(model.init, jax.random.key(0), *abstract(name, batch))


def cast(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_to_the_unit(name):
    assert trees.count(shapes(create(name), name).get("params", {})) == MODELS[name].parameters


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("train", [False, True])
def test_logits_have_a_row_per_example_and_training_keeps_the_variables_form(name, train):
    model = create(name, num_classes=7)
    variables = shapes(model, name)
    call = partial(model.apply, train=train, mutable=["batch_stats"] if train else False)
    out = jax.eval_shape(call, variables, *abstract(name))
    logits, updated = out if train else (out, {})
    assert (logits.shape, logits.dtype) == ((3, 7), jnp.float32)
    if train and "batch_stats" in variables:
        expected = jax.tree.map(lambda x: (x.shape, x.dtype), variables["batch_stats"])
        assert jax.tree.map(lambda x: (x.shape, x.dtype), updated["batch_stats"]) == expected


@pytest.mark.parametrize("name", [*TINY, "lenet_1989", "lenet5_paper"])
def test_overfits_eight_examples_and_compiles_once(name):
    model, inputs = create(name), random_inputs(name)
    labels = jnp.arange(8)
    variables = model.init(jax.random.key(0), *inputs)
    params, stats = variables.pop("params"), variables
    optimizer = optax.adam(3e-3 if "lenet" in name else 1e-2)

    @jax.jit
    def step(params, stats, opt_state):
        def loss_fn(params):
            logits, updated = model.apply({"params": params, **stats}, *inputs, train=True, mutable=list(stats))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), stats, opt_state, loss, optax.global_norm(grads)

    opt_state = optimizer.init(params)
    for _ in range(300):
        params, stats, opt_state, loss, norm = step(params, stats, opt_state)
        assert jnp.isfinite(norm)
        if loss < 0.02:
            break
    assert loss < 0.02
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", ["mcculloch_pitts", *TINY])
def test_passes_through_the_nnx_bridge(name):
    model, inputs = create(name), random_inputs(name)
    bridged = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(*inputs)
    variables = {
        collection: nnx.to_pure_dict(nnx.state(bridged, kind))
        for collection, kind in (("params", nnx.Param), ("batch_stats", nnx.BatchStat))
    }
    assert jax.tree.map(jnp.shape, variables["params"]) == jax.tree.map(
        jnp.shape, shapes(model, name).get("params", {})
    )
    np.testing.assert_array_equal(bridged(*inputs), model.apply(variables, *inputs))


def dtypes_in(closed):
    """The float dtypes of every value that a jaxpr computes, those of its inner jaxprs included."""
    found = set()
    jaxpr = getattr(closed, "jaxpr", closed)
    for equation in jaxpr.eqns:
        found |= {v.aval.dtype.name for v in equation.outvars if jnp.issubdtype(v.aval.dtype, jnp.floating)}
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                    found |= dtypes_in(inner)
    return found


@pytest.mark.parametrize("name", TRACED)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_other_float_is_computed_in_than_the_one_that_comes_in(name, dtype, float64):
    model = create(name)
    variables = shapes(model, name)
    variables, inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), (variables, abstract(name)))

    def loss(params, rest):
        out, updated = model.apply({"params": params, **rest}, *inputs, train=True, mutable=list(rest))
        return out.sum(), updated

    params = variables.pop("params", {})
    inputs, probes = [jnp.zeros(x.shape, x.dtype) for x in inputs], (params, variables)
    jaxpr = jax.make_jaxpr(jax.grad(loss, has_aux=True))(*probes)
    assert dtypes_in(jaxpr) <= {dtype}


@pytest.mark.parametrize("name", CHEAP)
def test_float64_sharpens_float32(name, float64):
    model, inputs = create(name), random_inputs(name)
    variables = model.init(jax.random.key(0), *inputs)
    apply = jax.jit(partial(model.apply, train=False))
    single, double = apply(variables, *inputs), apply(*cast((variables, inputs[0]), jnp.float64))
    assert (single.dtype, double.dtype) == (jnp.float32, jnp.float64)
    np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CHEAP)
def test_bfloat16_is_close_to_float32_and_leaves_statistics_in_float32(name):
    model, inputs = create(name), random_inputs(name)
    variables = model.init(jax.random.key(0), *inputs)
    rest = {k: v for k, v in variables.items() if k != "params"}

    @jax.jit
    def train(params, *inputs):
        return model.apply({"params": params, **rest}, *inputs, train=True, mutable=list(rest))

    params = variables.get("params", {})
    exact, _ = train(params, *inputs)
    rounded, updated = train(*cast((params, inputs[0]), jnp.bfloat16))
    assert rounded.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(updated)} <= {"float32"}
    scale = jnp.abs(exact).max()
    np.testing.assert_allclose(exact, rounded.astype(jnp.float32), atol=0.1 * scale)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_wrong_shape_names_the_images(name):
    model = create(name)
    with pytest.raises(ShapeError, match="images: expected shape"):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((28,), np.float32))
    with pytest.raises(ShapeError, match="images: expected floats.*uint8"):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(abstract(name)[0].shape, np.uint8))


def test_the_table_is_the_families_tables():
    families = [importlib.import_module(f"deepmodels.models.{m.name}") for m in pkgutil.iter_modules(models.__path__)]
    tables = [family.VARIANTS for family in families if hasattr(family, "VARIANTS")]
    assert sum(map(len, tables)) == len(MODELS)
    assert MODELS == {name: row for table in tables for name, row in table.items()}
    with_tiny = {MODELS[name].family for name in TINY}
    assert with_tiny == {row.family for row in MODELS.values()} - {"mcculloch_pitts"}


def test_list_models_matches_in_the_tables_order():
    assert list_models() == list(MODELS)
    assert list_models("resnet1*") == ["resnet18", "resnet101", "resnet152", "resnet110_cifar", "resnet1202_cifar"]
    assert list_models("nothing*") == []


def test_create_takes_overrides():
    assert create("mlp", hidden_sizes=(5,)).hidden_sizes == (5,)


def test_mistyped_names_are_named():
    with pytest.raises(ConfigError, match="unknown model 'resnet5': did you mean 'resnet50'"):
        create("resnet5")
    with pytest.raises(ConfigError, match="'resnet50' takes no argument 'num_clases': did you mean 'num_classes'"):
        create("resnet50", num_clases=10)
    with pytest.raises(ConfigError, match="takes no argument 'parent'"):
        create("resnet50", parent=None)
