from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import objectives, trees
from deepmodels.analysis.cost import flops
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models import create
from deepmodels.models.inception import ConvUnit, GoogLeNet


def images(size, batch=1):
    return jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)


def shapes(model, size):
    return jax.eval_shape(model.init, jax.random.key(0), images(size))


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [("googlenet_paper", 224, 1_582_671_872), ("googlenet", 224, 1_498_376_192), ("inception_v3", 299, 5_713_216_096)],
)
def test_multiply_adds(name, size, expected):
    model = create(name)
    assert flops(model.apply, shapes(model, size), images(size)) // 2 == expected


@pytest.mark.parametrize(
    ("name", "size", "parameters", "heads"),
    [
        ("googlenet_paper", 224, 13_378_280, 2),
        ("googlenet", 224, 13_004_888, 2),
        ("inception_v3", 299, 27_161_264, 1),
    ],
)
def test_auxiliary_heads_answer_in_training_only(name, size, parameters, heads):
    model = create(name, aux_heads=True)
    variables = shapes(model, size)
    assert trees.count(variables["params"]) == parameters
    assert jax.eval_shape(model.apply, variables, images(size)).shape == (1, 1000)
    train = partial(model.apply, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
    (logits, auxiliary), _ = jax.eval_shape(train, variables, images(size))
    assert [x.shape for x in (logits, *auxiliary)] == [(1, 1000)] * (1 + heads)
    trunk = create(name, aux_heads=True, num_classes=0)
    assert not any("aux" in leaf or "head" in leaf for leaf in trees.flatten(shapes(trunk, size)))


@pytest.mark.parametrize(("name", "size"), [("googlenet_paper", 64), ("inception_v3", 298)])
def test_auxiliary_heads_need_large_images(name, size):
    with pytest.raises(ShapeError, match="images: too small"):
        shapes(create(name, aux_heads=True), size)
    shapes(create(name), size)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("googlenet", 224, [112, 56, 28, 28, 14, 14, 14, 14, 14, 7, 7]),
        ("googlenet_paper", 97, [49, 24, 12, 12, 6, 6, 6, 6, 6, 3, 3]),  # "SAME" would give 49, 25, 13
        ("inception_v3", 299, [147, 71, 35, 35, 35, 17, 17, 17, 17, 17, 8, 8, 8]),
    ],
)
def test_sizes_of_the_feature_maps(name, size, expected):
    model = create(name)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), shapes(model, size), images(size))
    assert [x.shape[1] for x in maps.values()] == expected
    assert list(maps) == list(model.strides)
    assert all(abs(size / stride - n) < 4 for stride, n in zip(model.strides.values(), expected, strict=True))


@pytest.mark.parametrize(("name", "smallest", "width"), [("googlenet", 15, 1024), ("inception_v3", 75, 2048)])
def test_the_smallest_images(name, smallest, width):
    model = create(name, num_classes=0)
    assert jax.eval_shape(model.apply, shapes(model, smallest), images(smallest)).shape == (1, width)
    with pytest.raises(ShapeError, match="images: too small for this model"):
        shapes(model, smallest - 1)


def test_an_unknown_version_is_an_error():
    with pytest.raises(ConfigError, match="unknown version 'caffe'"):
        shapes(create("googlenet", version="caffe"), 32)


def test_units_normalise_with_an_epsilon_of_a_thousandth():
    x = jnp.ones((1, 1, 1, 1))
    norm = dict(scale=jnp.ones(1), bias=jnp.zeros(1))
    params = dict(conv=dict(kernel=jnp.ones((1, 1, 1, 1))), norm=norm)
    zeros = dict(norm=dict(mean=jnp.zeros(1), var=jnp.zeros(1)))
    y = ConvUnit(1, (1, 1)).apply({"params": params, "batch_stats": zeros}, x, False)
    np.testing.assert_allclose(y, 1000**0.5, rtol=1e-5)


def test_a_unit_with_a_stride_pads_both_sides():
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1)  # looks at the pixel above and to the left
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    unit = ConvUnit(1, (3, 3), 2, batch_norm=False)
    y = unit.apply({"params": {"conv": {"kernel": kernel, "bias": jnp.zeros(1)}}}, x, False)
    np.testing.assert_array_equal(y[0, ..., 0], [[0, 0], [0, 5]])  # "SAME" gives 0, 2, 8, 10


def test_auxiliary_heads_look_at_4a_and_4d():
    module = (2, 2, 2, 2, 2, 2)
    model = GoogLeNet("torchvision", True, (4, 4, 4), ((module,), (module,) * 5, (module,)), num_classes=3)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes(model, 64))
    params, statistics = variables["params"], variables["batch_stats"]
    model = model.clone(dropout_rate=0.0, aux_dropout_rate=0.0)

    @jax.jit
    def outputs(params):
        variables = {"params": params, "batch_stats": statistics}
        (logits, auxiliary), _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return logits, *auxiliary

    def changed_by(name):
        other = params | {name: jax.tree.map(lambda leaf: leaf[::-1] + 1, params[name])}
        return [not np.array_equal(a, b) for a, b in zip(outputs(other), outputs(params), strict=True)]

    assert changed_by("inception4a") == [True, True, True]
    assert changed_by("inception4b") == [True, False, True]
    assert changed_by("inception4d") == [True, False, True]
    assert changed_by("inception4e") == [True, False, False]
    assert changed_by("aux1") == [False, True, False]


def test_the_objective_weighs_the_auxiliary_heads():
    rng = np.random.default_rng(0)
    main, first, second = rng.normal(size=(3, 4, 5)).astype(np.float32)
    batch = {"image": main, "label": jnp.array([0, 2, 1, 4], jnp.int32), "example_mask": jnp.array([1.0, 1, 1, 0])}

    def loss(name, outputs, **options):
        objective = objectives.create(name, **options)
        value, (metrics, variables) = objective(lambda images, key: (outputs, "new"), batch, None)
        assert (metrics["loss"], variables) == (value, "new")
        return value, metrics["accuracy"]

    plain = partial(loss, "classification", label_smoothing=0.1)
    both = partial(loss, "classification_with_auxiliary", label_smoothing=0.1)
    value, accuracy = both((main, (first, second)))
    np.testing.assert_allclose(value, plain(main)[0] + 0.3 * (plain(first)[0] + plain(second)[0]), rtol=1e-6)
    assert accuracy == plain(main)[1]
    np.testing.assert_allclose(
        both((main, (first,)), auxiliary_weight=0.4)[0], plain(main)[0] + 0.4 * plain(first)[0], rtol=1e-6
    )
    assert both(main) == plain(main)  # what a model returns in evaluation
