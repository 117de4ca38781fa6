import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from deepmodels.errors import ConfigError
from deepmodels.layers.local_response_norm import local_response_norm

X = np.random.default_rng(0).normal(0, 30, (2, 3, 2, 7)).astype(np.float32)


def by_the_paper(x, size=5, alpha=1e-4, beta=0.75, k=2.0):
    """Section 3.3: j runs from max(0, i - n / 2) to min(N - 1, i + n / 2)."""
    y = np.empty(x.shape)
    channels = x.shape[-1]
    for *place, i in np.ndindex(x.shape):
        window = range(max(0, i - size // 2), min(channels - 1, i + size // 2) + 1)
        total = sum(float(x[(*place, j)]) ** 2 for j in window)
        y[(*place, i)] = x[(*place, i)] / (k + alpha * total) ** beta
    return y


@pytest.mark.parametrize("constants", [{}, dict(size=3, alpha=0.02, beta=0.5, k=1.0), dict(size=9)])
def test_is_the_papers_equation(constants):
    np.testing.assert_allclose(local_response_norm(X, **constants), by_the_paper(X, **constants), rtol=1e-5)


def test_alpha_is_not_divided_by_the_size():
    """torch and Caffe divide it; with values this large the two are far apart."""
    divided = local_response_norm(X, alpha=1e-4 / 5)
    assert np.abs(divided / local_response_norm(X) - 1).max() > 0.1


@pytest.mark.parity
def test_is_torchs_with_alpha_divided():
    torch = pytest.importorskip("torch")
    norm = torch.nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)
    theirs = norm(torch.from_numpy(np.moveaxis(X, -1, 1).copy())).numpy()
    np.testing.assert_allclose(local_response_norm(X, alpha=1e-4 / 5), np.moveaxis(theirs, 1, -1), rtol=1e-5)


def test_bfloat16_is_normalised_in_float32():
    half = local_response_norm(jnp.asarray(X, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    wanted = local_response_norm(jnp.asarray(X, jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(half, wanted.astype(jnp.bfloat16))


def test_gradient():
    x = np.random.default_rng(1).normal(0, 3, 6)
    with jax.enable_x64(True):
        check_grads(lambda x: local_response_norm(x, alpha=0.1), (x,), order=1, modes=["rev"])


@pytest.mark.parametrize("size", [0, 4, -1])
def test_an_even_size_is_an_error(size):
    with pytest.raises(ConfigError, match=f"size: expected a positive odd number of channels, got {size}"):
        local_response_norm(X, size=size)
