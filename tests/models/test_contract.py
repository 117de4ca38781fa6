"""What holds for every row of the table of models."""

import importlib
import pkgutil
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sequences import floats_in

from deepmodels import models, trees
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models import MODELS, create, list_models

# torchvision's convnext_tiny and Google's bert_tiny are full-size models
RENAMED = {"convnext_tiny": "convnext_micro", "bert_tiny": "bert_micro"}  # a preset's name by the rule, and its own
TINY = [RENAMED.get(name, name) for name in list_models("*_tiny")]
ONE_OF_EACH = [  # of each class in the table
    *("mcculloch_pitts", *TINY, "lenet_1989", "lenet1", "lenet5_paper"),
    *("resnet18", "resnet50", "preact_resnet164_cifar"),
]
WITHOUT_GRADIENTS = [  # learns by its own rule, and has planes in place of classes: its test is test_neocognitron.py
    name for name in MODELS if MODELS[name].family == "neocognitron"
]
OF_SEQUENCES = [  # of tokens or of vectors: what comes out differs from family to family, and is tested there
    name
    for name in MODELS
    if MODELS[name].family
    in ("recurrent", "seq2seq", "ctc", "transformer", "bert", "t5", "gpt", "llama", "deepseek", "clip", "dit", "dalle")
]
GENERATIVE = [  # what comes out has the form of what comes in, and more: tested in the families' own files
    name
    for name in MODELS
    if MODELS[name].family
    in (
        *("autoencoder", "mae", "boltzmann", "vae", "gan", "translation", "super_resolution", "style"),
        *("diffusion", "autoencoder_kl"),
    )
]
WITH_LOGITS = [
    name for name in MODELS if name not in ("mcculloch_pitts", *WITHOUT_GRADIENTS, *OF_SEQUENCES, *GENERATIVE)
]
DENSE = [name for name in MODELS if MODELS[name].family in ("fcn", "unet", "deeplab")]  # logits for each pixel


def abstract(name, batch=3):
    return [jax.ShapeDtypeStruct((batch, *spec.shape), spec.dtype) for spec in MODELS[name].inputs.values()]


def logits_shape(name, batch, classes):
    if name not in DENSE:
        return batch, classes
    size = 388 if name == "unet_paper" else MODELS[name].inputs["images"].shape[0]
    return batch, size, size, classes


def random_inputs(name, batch=8):
    rng = np.random.default_rng(0)
    if name == "mcculloch_pitts":
        return [rng.integers(0, 2, (batch, 2)).astype(np.float32)]
    return [
        rng.integers(1, 5, spec.shape).astype(spec.dtype)
        if spec.dtype == np.int32
        # tokens
        else rng.normal(size=spec.shape).astype(spec.dtype)
        for spec in abstract(name, batch)
    ]


def initialised(model, name):
    return jax.eval_shape(model.init, jax.random.key(0), *abstract(name))


@cache
def shapes(name):
    return initialised(create(name), name)


def cast(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if x.dtype.kind == "f" else jnp.asarray(x), tree)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_to_the_unit(name):
    assert trees.count(shapes(name).get("params", {})) == MODELS[name].parameters


@pytest.mark.parametrize("name", WITH_LOGITS)
def test_logits_have_a_row_per_example_and_training_keeps_the_variables_form(name):
    model, variables = create(name), shapes(name)
    logits = jax.eval_shape(model.apply, variables, *abstract(name))
    width = model.num_classes or model.hidden_size  # DINOv2 is a trunk
    assert (logits.shape, logits.dtype) == (logits_shape(name, 3, width), jnp.float32)
    statistics = {collection: tree for collection, tree in variables.items() if collection != "params"}
    train = partial(model.apply, train=True, mutable=list(statistics), rngs={"dropout": jax.random.key(0)})
    again, updated = jax.eval_shape(train, variables, *abstract(name))
    assert (again, updated) == (logits, statistics)


@pytest.mark.parametrize("name", [name for name in ONE_OF_EACH if name in WITH_LOGITS])
def test_number_of_classes(name):
    model = create(name, num_classes=7)
    out = jax.eval_shape(model.apply, initialised(model, name), *abstract(name))
    assert out.shape == logits_shape(name, 3, 7)


@pytest.mark.parametrize("name", [name for name in (*TINY, "lenet_1989", "lenet5_paper") if name in WITH_LOGITS])
def test_overfits_eight_examples_and_compiles_once(name):
    model, inputs, labels = create(name), random_inputs(name), jnp.arange(8)
    if name in DENSE:  # the whole of each picture is of one class
        labels = jnp.broadcast_to(labels[:, None, None], logits_shape(name, 8, 8)[:3])
    variables = jax.jit(model.init)(jax.random.key(0), *inputs)
    params, stats = variables.pop("params"), variables
    optimizer = optax.adam(3e-3 if "lenet" in name else 1e-2)

    @jax.jit
    def step(params, stats, opt_state):
        def loss_fn(params):
            logits, updated = model.apply({"params": params, **stats}, *inputs, train=True, mutable=list(stats))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax's adam raises a float to an integer count
            updates, opt_state = optimizer.update(grads, opt_state)
        finite = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]).all()
        return optax.apply_updates(params, updates), stats, opt_state, loss, finite

    opt_state = optimizer.init(params)
    for _ in range(300):
        params, stats, opt_state, loss, finite = step(params, stats, opt_state)
        assert finite
        if loss < 0.02:
            break
    assert loss < 0.02
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", ["mcculloch_pitts", *TINY])
def test_passes_through_the_nnx_bridge(name):
    model, inputs = create(name), random_inputs(name)

    @jax.jit
    def both(*inputs):
        bridged = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(*inputs)
        kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
        if "balance" in initialised(model, name):  # which NNX has no name for
            kinds["balance"] = nnx.variable_type_from_name("balance", allow_register=True)
        variables = {name: nnx.to_pure_dict(nnx.state(bridged, kind)) for name, kind in kinds.items()}
        return variables, bridged(*inputs), model.apply(variables, *inputs)

    variables, through, direct = both(*inputs)
    assert trees.count(variables["params"]) == MODELS[name].parameters
    for a, b in zip(jax.tree.leaves(through), jax.tree.leaves(direct), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_no_other_float_is_computed_in_than_the_one_that_comes_in(name, float64):
    model = create(name)
    variables = initialised(model, name)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} <= {"float32"}  # masters, also with x64 enabled

    def loss(params, rest, inputs):
        out, updated = model.apply({"params": params, **rest}, *inputs, train=True, mutable=list(rest))
        return sum(leaf.sum() for leaf in jax.tree.leaves(out)), updated

    params = variables.pop("params", {})
    for dtype in ("float32", "float64"):
        arguments = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, dtype if x.dtype.kind == "f" else x.dtype),  # noqa: B023
            (params, variables, abstract(name)),
        )
        assert floats_in(jax.make_jaxpr(jax.grad(loss, has_aux=True))(*arguments)) <= {dtype}


# Not a matter of being about the same: of two entries of a codebook about as near, rounding decides; and what a cycle
# brings back went through two networks in a row, each of which rounds to within a tenth.
ROUNDED = [name for name in ("mcculloch_pitts", *TINY, "lenet5_paper") if name not in ("vq_vae_tiny", "cyclegan_tiny")]


@pytest.mark.parametrize("name", ROUNDED)
def test_computes_in_bfloat16_about_what_it_does_in_float64(name, float64):
    model, inputs = create(name), random_inputs(name)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: rng.uniform(-0.3, 0.4, x.shape).astype(x.dtype), dict(initialised(model, name)))
    params, rest = variables.pop("params", {}), variables

    @jax.jit
    def forward(params, rest, *inputs):
        return model.apply({"params": params, **rest}, *inputs, train=True, mutable=list(rest))

    doubles, _ = forward(*cast((params, rest), jnp.float64), *cast(inputs, jnp.float64))
    halves, updated = forward(cast(params, jnp.bfloat16), rest, *cast(inputs, jnp.bfloat16))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(updated)} <= {"float32"}  # statistics stay in float32
    for half, double in zip(jax.tree.leaves(halves), jax.tree.leaves(doubles), strict=True):
        assert (double.dtype, half.dtype) == (jnp.float64, jnp.bfloat16)
        np.testing.assert_allclose(half.astype(jnp.float64), double, rtol=0, atol=0.1 * np.abs(double).max())


@pytest.mark.parametrize("name", [*WITH_LOGITS, *WITHOUT_GRADIENTS, *GENERATIVE])
def test_a_wrong_shape_names_the_images(name):
    model, (images, *others) = create(name), abstract(name)
    with pytest.raises(ShapeError, match="images: expected shape"):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((28,), np.float32), *others)
    with pytest.raises(ShapeError, match=r"images: expected floats.*uint8"):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(images.shape, np.uint8), *others)


@pytest.mark.parametrize("name", [name for name in ONE_OF_EACH if name in OF_SEQUENCES])
def test_a_wrong_shape_or_dtype_names_the_sequence(name):
    model, (argument, *_), (first, *others) = create(name), MODELS[name].inputs, abstract(name)
    with pytest.raises(ShapeError, match=f"{argument}: expected"):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((28,), first.dtype), *others)
    wrong = jax.ShapeDtypeStruct(first.shape, np.float32 if first.dtype == np.int32 else np.int32)
    with pytest.raises(ShapeError, match=f"{argument}: expected.*{wrong.dtype.name}"):
        jax.eval_shape(model.init, jax.random.key(0), wrong, *others)


def test_the_table_is_the_families_tables():
    families = [importlib.import_module(f"deepmodels.models.{m.name}") for m in pkgutil.iter_modules(models.__path__)]
    tables = [family.VARIANTS for family in families if hasattr(family, "VARIANTS")]
    assert sum(map(len, tables)) == len(MODELS)
    assert {name: row for table in tables for name, row in table.items()} == MODELS
    large = {
        MODELS[name].cls for name in ("alexnet_paper", "inception_v3")
    }  # their families' tiny forms stand for them
    assert {type(create(name)) for name in ONE_OF_EACH} == {row.cls for row in MODELS.values()} - large
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
