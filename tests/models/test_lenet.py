"""The historical forms against sums written out in numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models import create
from deepmodels.models.lenet import C3_TABLE, DIGIT_CODES, H2_TABLE, LeNet5Paper, SparseConv, Subsampling, scaled_tanh


def f(x):
    return 1.7159 * np.tanh(2 / 3 * x)


def windows(x, stride=1):
    """(B, H, W, C) -> (B, H', W', C, 5, 5)"""
    return np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(1, 2))[:, ::stride, ::stride]


def convolve(x, layer):
    return np.einsum("bijcuv,uvco->bijo", windows(x), layer["kernel"]) + layer["bias"]


def convolve_sparse(x, layer, table, stride=1):
    seen, weights, maps = windows(x, stride), iter(np.moveaxis(layer["kernel"], -1, 0)), []
    for row in table:
        maps.append(sum((seen[:, :, :, source] * next(weights)).sum((-1, -2)) for source in row))
    return np.stack(maps, -1) + layer["bias"]


def subsample(x, layer):
    four = x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
    return four * layer["coefficient"] + layer["bias"]


def random_params(name, inputs):
    """Random everywhere: the biases, which start at zero, would hide a mistake."""
    shapes = jax.eval_shape(create(name).init, jax.random.key(0), inputs)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: (0.2 * rng.normal(size=s.shape)).astype(np.float32), shapes)


def test_lenet5_paper_forward():
    x = np.random.default_rng(1).normal(size=(2, 32, 32, 1)).astype(np.float32)
    p = random_params("lenet5_paper", x)
    h = f(subsample(f(convolve(x, p["c1"])), p["s2"]))
    h = f(subsample(f(convolve_sparse(h, p["c3"], C3_TABLE)), p["s4"]))
    h = f(convolve(h, p["c5"]))[:, 0, 0]
    h = f(h @ p["f6"]["kernel"] + p["f6"]["bias"])
    distances = np.array([[((row - code) ** 2).sum() for code in DIGIT_CODES] for row in h])
    actual = create("lenet5_paper").apply({"params": p}, x)
    np.testing.assert_allclose(actual, -distances, rtol=1e-4)


def test_lenet_1989_forward():
    x = np.random.default_rng(1).uniform(-1, 1, (2, 16, 16, 1)).astype(np.float32)
    p = random_params("lenet_1989", x)
    border = ((0, 0), (2, 2), (2, 2), (0, 0))
    h = f(convolve_sparse(np.pad(x, border, constant_values=-1), p["h1"], ((0,),) * 12, stride=2))
    assert h.shape == (2, 8, 8, 12)
    h = f(convolve_sparse(np.pad(h, border, constant_values=-1), p["h2"], H2_TABLE, stride=2))
    assert h.shape == (2, 4, 4, 12)
    h = f(h.reshape(2, 192) @ p["h3"]["kernel"] + p["h3"]["bias"])
    expected = h @ p["head"]["kernel"] + p["head"]["bias"]
    np.testing.assert_allclose(create("lenet_1989").apply({"params": p}, x), expected, rtol=1e-4, atol=1e-4)


def test_lenet1_forward():
    x = np.random.default_rng(1).normal(size=(2, 28, 28, 1)).astype(np.float32)
    p = random_params("lenet1", x)
    quarter = {"coefficient": 0.25, "bias": 0}
    h = subsample(f(convolve(x, p["conv1"])), quarter)
    h = subsample(f(convolve(h, p["conv2"])), quarter)
    expected = h.reshape(2, 192) @ p["head"]["kernel"] + p["head"]["bias"]
    np.testing.assert_allclose(create("lenet1").apply({"params": p}, x), expected, rtol=1e-4, atol=1e-4)


def test_c3_is_connected_as_table_one_says():
    assert [len(row) for row in C3_TABLE] == [3] * 6 + [4] * 9 + [6]
    assert sum(map(len, C3_TABLE)) == 60
    # the table is symmetric in the maps of S2: each feeds ten of C3
    assert all(sum(source in row for row in C3_TABLE) == 10 for source in range(6))
    assert len(set(C3_TABLE)) == 16


def test_each_map_of_h2_sees_eight_of_twelve():
    assert [len(set(row)) for row in H2_TABLE] == [8] * 12
    assert set(itertools.chain(*H2_TABLE)) == set(range(12))


def test_parameters_by_layer_are_the_papers():
    def counts(name, size):
        shapes = jax.eval_shape(create(name).init, jax.random.key(0), jnp.zeros((1, size, size, 1)))["params"]
        return {layer: sum(leaf.size for leaf in leaves.values()) for layer, leaves in shapes.items()}

    assert counts("lenet5_paper", 32) == {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48_120, "f6": 10_164}
    assert counts("lenet_1989", 16) == {"h1": 1068, "h2": 2592, "h3": 5790, "head": 310}


def test_weights_start_within_the_papers_bounds():
    sparse = SparseConv(C3_TABLE).init(jax.random.key(0), jnp.zeros((1, 5, 5, 6)))["params"]["kernel"]
    fan_in = 25 * np.array([len(row) for row in C3_TABLE for _ in row])
    assert np.all(np.abs(sparse) <= 2.4 / fan_in)
    assert np.all(np.abs(sparse).max((0, 1)) > 1.5 / fan_in)  # 25 draws fill most of the range
    coefficient = Subsampling().init(jax.random.key(0), jnp.zeros((1, 2, 2, 500)))["params"]["coefficient"]
    assert 0.59 < np.abs(coefficient).max() <= 0.6


def test_scaled_tanh_keeps_one():
    np.testing.assert_allclose(scaled_tanh(jnp.array([-1.0, 0.0, 1.0])), [-1, 0, 1], atol=1e-4)


def test_codes_are_ten_distinct_drawings():
    assert DIGIT_CODES.shape == (10, 7 * 12)
    assert set(np.unique(DIGIT_CODES)) == {-1, 1}
    apart = {(a, b): (DIGIT_CODES[a] != DIGIT_CODES[b]).sum() for a, b in itertools.combinations(range(10), 2)}
    assert min(apart.values()) >= 5
    assert apart[3, 8] < apart[1, 8]  # classes that look alike have codes alike


def test_cross_entropy_of_the_logits_is_the_papers_criterion():
    x = np.random.default_rng(1).normal(size=(2, 32, 32, 1)).astype(np.float32)
    logits = create("lenet5_paper").apply({"params": random_params("lenet5_paper", x)}, x)
    penalties = -np.asarray(logits, np.float64)
    labels = np.array([3, 7])
    own = penalties[[0, 1], labels]
    nearest = penalties.min(1)
    equation_9 = own + np.log(np.exp(nearest[:, None] - penalties).sum(1)) - nearest
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(loss, equation_9, rtol=1e-4)


def test_fewer_classes_take_the_first_codes():
    x = np.zeros((1, 32, 32, 1), np.float32)
    params = random_params("lenet5_paper", x)
    all_ten = create("lenet5_paper").apply({"params": params}, x)
    np.testing.assert_allclose(LeNet5Paper(num_classes=4).apply({"params": params}, x), all_ten[:, :4], rtol=1e-5)


def test_there_is_no_code_for_an_eleventh_class():
    with pytest.raises(ConfigError, match="num_classes: expected 1 to 10"):
        LeNet5Paper(num_classes=11).init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))


@pytest.mark.parametrize(("name", "size"), [("lenet_1989", 16), ("lenet1", 28), ("lenet5_paper", 32)])
def test_the_historical_forms_take_one_size_only(name, size):
    with pytest.raises(ShapeError, match=rf"images: expected shape \(batch, {size}, {size}, 1\), got \(2, 20, 20, 1\)"):
        create(name).init(jax.random.key(0), jnp.zeros((2, 20, 20, 1)))
