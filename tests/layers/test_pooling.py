import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from deepmodels.errors import ShapeError
from deepmodels.layers.pooling import adaptive_avg_pool, avg_pool, max_pool


def ramp(height, width, channels=2):
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, height, width, channels)), jnp.float32)


def windows(x, size, stride, reduce, ceil=False):
    """Each window in a loop; with `ceil` the last ones are cut off at the border."""
    starts = [range(0, n if ceil else n - size + 1, stride) for n in x.shape[1:3]]
    if ceil:  # the last window is the first that reaches the border
        starts = [[s for s in r if s == 0 or s - stride + size < n] for r, n in zip(starts, x.shape[1:3], strict=True)]
    rows = [[reduce(x[:, i : i + size, j : j + size], axis=(1, 2)) for j in starts[1]] for i in starts[0]]
    return np.moveaxis(np.array(rows), 2, 0)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(("window", "stride"), [(3, 2), (2, 2), (3, 1)])
@pytest.mark.parametrize("shape", [(6, 7), (9, 4), (3, 3)])
def test_max_pool(shape, window, stride, ceil):
    x = ramp(*shape)
    np.testing.assert_array_equal(
        max_pool(x, window, stride, ceil=ceil), windows(np.asarray(x), window, stride, np.max, ceil)
    )


@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1), (2, 2, 1)])
def test_max_pool_and_its_gradient_are_those_of_xla_with_ties_too(window, stride, padding):
    x = jnp.round(ramp(7, 8))  # many windows have several largest values: the first of them has the gradient
    pads = ((padding, padding), (padding, padding))

    def theirs(x):
        return nn.max_pool(x, (window, window), (stride, stride), pads)

    def ours(x):
        return max_pool(x, window, stride, padding=padding)

    (a, pull_a), (b, pull_b) = jax.vjp(ours, x), jax.vjp(theirs, x)
    np.testing.assert_array_equal(a, b)
    cotangent = ramp(*b.shape[1:])
    np.testing.assert_allclose(pull_a(cotangent)[0], pull_b(cotangent)[0], rtol=1e-6, atol=1e-6)


def test_max_pool_passes_a_nan_on():
    x = ramp(4, 4).at[0, 1, 2, 0].set(jnp.nan)
    assert np.isnan(max_pool(x, 2, 2)[0, 0, 1, 0])
    assert np.isnan(max_pool(x, 3, 1)[0, :, :, 0]).all()
    assert np.isnan(max_pool(x, 2, 2)).sum() == 1


def test_an_overhanging_window_is_not_same_padding():
    x = -jnp.square(ramp(5, 6)) - 1  # negative: a zero from the padding would win
    pooled = max_pool(x, 3, 2, ceil=True)
    assert pooled.shape == (2, 2, 3, 2)  # "SAME" gives (3, 3): it pads an odd size on both sides
    assert max_pool(x, 3, 2).shape == (2, 2, 2, 2)
    assert pooled.max() < 0


@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 1, 1), (5, 3, 0), (2, 2, 0)])
def test_avg_pool_counts_the_zeros_of_its_padding(window, stride, padding):
    x = ramp(8, 11)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    pooled = avg_pool(x, window, stride, padding=padding)
    np.testing.assert_allclose(pooled, windows(padded, window, stride, np.mean), rtol=1e-5, atol=1e-6)


def test_avg_pool_sums_bfloat16_in_float32():
    x = jnp.ones((1, 32, 32, 1), jnp.bfloat16)  # 1024 ones: a bfloat16 sum stops at 256
    assert avg_pool(x, 32, 32)[0, 0, 0, 0] == 1
    assert avg_pool(x, 32, 32).dtype == jnp.bfloat16


def test_adaptive_avg_pool_takes_overlapping_windows():
    x = ramp(5, 3)
    pooled = adaptive_avg_pool(x, 2)
    assert pooled.shape == (2, 2, 2, 2)
    np.testing.assert_allclose(pooled[:, 0, 0], x[:, 0:3, 0:2].mean((1, 2)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(pooled[:, 1, 1], x[:, 2:5, 1:3].mean((1, 2)), rtol=1e-5, atol=1e-7)


def test_adaptive_avg_pool_of_small_maps_and_of_the_wanted_size():
    x = ramp(1, 4)
    np.testing.assert_array_equal(adaptive_avg_pool(x, 4), jnp.broadcast_to(x, (2, 4, 4, 2)))
    same = ramp(4, 4)
    assert adaptive_avg_pool(same, 4) is same


def test_a_map_smaller_than_a_window_is_an_error():
    for pool in (lambda x: max_pool(x, 3, 2), lambda x: avg_pool(x, 5, 3, padding=1)):
        with pytest.raises(ShapeError, match=r"images: too small for this model, .*3x3 or more .* got 2x8"):
            pool(ramp(2, 8))
    assert max_pool(ramp(2, 8), 3, 2, ceil=True).shape == (2, 1, 4, 2)


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(7, 8), (9, 13), (2, 14)])
def test_is_torchs(shape):
    functional = pytest.importorskip("torch").nn.functional
    x = ramp(*shape)

    def same(ours, theirs, *arguments, **keywords):
        torchs = theirs(functional.torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy()), *arguments, **keywords)
        np.testing.assert_allclose(ours, np.moveaxis(torchs.numpy(), 1, -1), rtol=1e-5, atol=1e-6)

    for window, stride in [(3, 2), (2, 2)]:
        same(max_pool(x, window, stride, ceil=True), functional.max_pool2d, window, stride, ceil_mode=True)
    same(avg_pool(x, 3, 1, padding=1), functional.avg_pool2d, 3, 1, 1)
    for size in (1, 4, 7):
        same(adaptive_avg_pool(x, size), functional.adaptive_avg_pool2d, size)
