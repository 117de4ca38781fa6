import numpy as np
import pytest

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.evaluation import (
    bits_per_dimension,
    frechet_distance,
    kernel_distance,
    precision_recall,
    psnr,
    ssim,
)

RNG = np.random.default_rng(0)


def test_psnr():
    images = RNG.random((3, 4, 5, 2))
    np.testing.assert_allclose(psnr(images + 0.1, images), 20.0)
    np.testing.assert_allclose(psnr(255 * images + 25.5, 255 * images, peak=255), 20.0)
    assert np.isinf(psnr(images, images)).all()
    with pytest.raises(ShapeError, match="expected one shape"):
        psnr(images, images[:2])


def test_ssim():
    images = RNG.random((2, 16, 18, 3))
    np.testing.assert_allclose(ssim(images, images), 1.0)
    # of two flat pictures the structure is the same, and the rest is the formula's first factor
    one, other = np.full((1, 11, 11, 1), 0.2), np.full((1, 11, 11, 1), 0.6)
    np.testing.assert_allclose(ssim(one, other), (2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4))
    noisy = np.clip(images + RNG.normal(0, 0.1, images.shape), 0, 1)
    np.testing.assert_allclose(ssim(255 * noisy, 255 * images, peak=255), ssim(noisy, images), rtol=1e-9)
    assert (ssim(noisy, images) < 1).all()
    with pytest.raises(ShapeError, match="11 pixels or more"):
        ssim(images[:, :8], images[:, :8])


@pytest.mark.parity
def test_ssim_is_scikit_images():
    metrics = pytest.importorskip("skimage.metrics")
    one, other = RNG.random((2, 20, 24, 3))
    theirs = metrics.structural_similarity(
        one, other, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
    )
    np.testing.assert_allclose(ssim(one[None], other[None])[0], theirs, rtol=1e-6)


def test_the_frechet_distance_of_normal_features_is_in_closed_form():
    scale, shift = np.array([2.0, 0.5, 1.0]), np.array([1.0, 0.0, -2.0])
    features = RNG.normal(size=(500, 3))
    features = (features - features.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(features, rowvar=False))).T
    wanted = (shift**2).sum() + ((scale - 1) ** 2).sum()  # of covariances that commute
    np.testing.assert_allclose(frechet_distance(features * scale + shift, features), wanted, rtol=1e-8)
    np.testing.assert_allclose(frechet_distance(features, features), 0, atol=1e-8)
    with pytest.raises(ShapeError, match="N and M of 2 or more"):
        frechet_distance(features, features[:1])


@pytest.mark.parity
def test_the_frechet_distance_is_that_of_scipys_matrix_root():
    linalg = pytest.importorskip("scipy.linalg")
    one, other = RNG.normal(size=(40, 5)) @ RNG.normal(size=(5, 5)), RNG.normal(size=(60, 5)) + 1
    c, d = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    wanted = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(c + d - 2 * np.real(linalg.sqrtm(c @ d)))
    np.testing.assert_allclose(frechet_distance(one, other), wanted, rtol=1e-8)


def test_the_kernel_distance_is_unbiased():
    sets = RNG.normal(size=(200, 2, 10, 4))
    same = [kernel_distance(one, other) for one, other in sets]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(200)
    assert min(same) < 0
    assert np.mean([kernel_distance(one, other + 1) for one, other in sets]) > 10 * np.std(same) / np.sqrt(200)
    one, other = RNG.normal(size=(3, 2)), RNG.normal(size=(2, 2))
    kernel = lambda x, y: (x @ y / 2 + 1) ** 3  # noqa: E731
    within = np.mean([kernel(one[i], one[j]) for i in range(3) for j in range(3) if i != j])
    within += np.mean([kernel(other[i], other[j]) for i in range(2) for j in range(2) if i != j])
    between = np.mean([kernel(x, y) for x in one for y in other])
    np.testing.assert_allclose(kernel_distance(one, other), within - 2 * between, rtol=1e-12)


def test_precision_and_recall_tell_bad_pictures_from_missing_ones():
    real = np.concatenate([RNG.normal(0, 0.1, (50, 2)), RNG.normal(5, 0.1, (50, 2))])
    half = RNG.normal(0, 0.1, (100, 2))  # one mode of two
    precision, recall = precision_recall(half, real)
    assert precision > 0.8
    assert 0.3 < recall <= 0.5
    precision, recall = precision_recall(np.concatenate([real, RNG.normal(50, 1, (100, 2))]), real)
    assert precision == 0.5
    assert recall == 1
    with pytest.raises(ConfigError, match="neighbours: expected 1 to 99, got 100"):
        precision_recall(half, real, neighbours=100)


def test_bits():
    np.testing.assert_allclose(bits_per_dimension(np.log(256) * 12, 12), 8.0)
