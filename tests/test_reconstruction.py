"""Objectives of autoencoders: distances, corruptions, penalties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import objectives
from deepmodels.errors import ConfigError
from deepmodels.objectives.reconstruction import gaussian_noise, masking_noise, salt_and_pepper_noise

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.random((4, 2, 3, 1)), jnp.float32)
WEIGHT = jnp.asarray(RNG.normal(size=(6, 5)), jnp.float32)


def forward(images, key=None):
    code = jax.nn.sigmoid(images.reshape(images.shape[0], -1) @ WEIGHT)
    logits = (code @ WEIGHT.T).reshape(images.shape)
    return {"code": code, "logits": logits, "reconstruction": jax.nn.sigmoid(logits)}, {"new": 1}


def loss_of(batch, key=None, **hyperparameters):
    return objectives.create("reconstruction", **hyperparameters)(forward, batch, key)


def test_distances_are_summed_over_pixels_and_averaged_over_real_images():
    given = np.asarray(forward(IMAGES)[0]["reconstruction"], np.float64)
    nats = -(np.asarray(IMAGES) * np.log(given) + (1 - np.asarray(IMAGES)) * np.log(1 - given)).sum((1, 2, 3))
    squares = ((given - np.asarray(IMAGES)) ** 2).sum((1, 2, 3))
    loss, (metrics, variables) = loss_of({"image": IMAGES})
    np.testing.assert_allclose(loss, nats.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["psnr"], (-10 * np.log10(squares / 6)).mean(), rtol=1e-5)
    assert variables == {"new": 1}
    assert metrics.keys() == {"loss", "reconstruction", "psnr"}
    batch = {"image": IMAGES, "example_mask": jnp.array([1.0, 0.0, 1.0, 0.0])}
    np.testing.assert_allclose(loss_of(batch, loss="squared_error")[0], squares[[0, 2]].mean(), rtol=1e-5)
    np.testing.assert_allclose(loss_of(batch)[0], nats[[0, 2]].mean(), rtol=1e-5)


def test_corruptions():
    images, key = jnp.full((50, 20, 20, 1), 0.25), jax.random.key(0)
    masked = np.asarray(masking_noise(key, images, 0.3))
    assert set(np.unique(masked)) == {0.0, 0.25}
    assert abs((masked == 0).mean() - 0.3) < 0.01
    noisy = np.asarray(gaussian_noise(key, images, 0.3))
    assert abs(noisy.mean() - 0.25) < 0.01
    assert abs(noisy.std() - 0.3) < 0.01
    salted = np.asarray(salt_and_pepper_noise(key, images, 0.3))
    assert set(np.unique(salted)) == {0.0, 0.25, 1.0}
    assert abs((salted == 0).mean() - 0.15) < 0.01
    assert abs((salted == 1).mean() - 0.15) < 0.01


@pytest.mark.parametrize("corruption", ["masking", "gaussian", "salt_and_pepper"])
def test_the_model_sees_the_corrupted_image_and_is_asked_for_the_clean_one(corruption):
    seen = []

    def spy(images, key=None):
        seen.append(images)
        return forward(images, key)

    objective = objectives.create("reconstruction", corruption=corruption, amount=0.5)
    loss, (metrics, _) = objective(spy, {"image": IMAGES}, jax.random.key(1))
    given = np.asarray(forward(seen[0])[0]["reconstruction"], np.float64)
    nats = -(IMAGES * np.log(given) + (1 - IMAGES) * np.log(1 - given)).sum((1, 2, 3)).mean()
    np.testing.assert_allclose(loss, nats, rtol=1e-5)
    errors = np.square(np.asarray(seen[0]) - IMAGES).mean((1, 2, 3))
    np.testing.assert_allclose(metrics["corrupted_psnr"], (-10 * np.log10(errors)).mean(), rtol=1e-5)
    for key in (jax.random.key(2), None, None):
        objective(spy, {"image": IMAGES}, key)
    assert not np.array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[2], seen[3])  # evaluation repeats itself


def test_a_sparse_code_is_asked_for():
    plain, (_, _) = loss_of({"image": IMAGES})
    loss, (metrics, _) = loss_of({"image": IMAGES}, sparsity=0.5, sparsity_target=0.1)
    mean = np.asarray(forward(IMAGES)[0]["code"], np.float64).mean(0)
    divergence = (0.1 * np.log(0.1 / mean) + 0.9 * np.log(0.9 / (1 - mean))).sum()
    np.testing.assert_allclose(loss, plain + 0.5 * divergence, rtol=1e-5)
    np.testing.assert_allclose(metrics["reconstruction"], plain, rtol=1e-6)


def test_the_contractive_penalty_is_the_norm_of_the_jacobian():
    """Rifai et al. (2011), equation 4: of a sigmoid layer it is a closed form."""
    code = np.asarray(forward(IMAGES)[0]["code"], np.float64)
    norms = (np.square(code * (1 - code)) * np.square(WEIGHT).sum(0)).sum(1)
    plain, _ = loss_of({"image": IMAGES})
    loss, _ = jax.jit(lambda: loss_of({"image": IMAGES}, contraction=0.3))()
    np.testing.assert_allclose(loss, plain + 0.3 * norms.mean(), rtol=1e-5)
    gradient = jax.grad(lambda x: loss_of({"image": x}, contraction=0.3)[0])(IMAGES)
    assert np.isfinite(gradient).all()


def test_what_does_not_fit_is_named():
    with pytest.raises(ConfigError, match="unknown loss 'squared': did you mean 'squared_error'"):
        loss_of({"image": IMAGES}, loss="squared")
    with pytest.raises(ConfigError, match="unknown corruption 'mask': did you mean 'masking'"):
        loss_of({"image": IMAGES}, corruption="mask")
    linear = lambda images, key: ({"reconstruction": images, "code": images}, {})  # noqa: E731
    with pytest.raises(ConfigError, match="use 'squared_error'"):
        objectives.create("reconstruction")(linear, {"image": IMAGES}, None)
    masked = objectives.create("masked_reconstruction", patch_size=4)
    with pytest.raises(ConfigError, match="patch_size: 4 doesn't divide images of 2x3"):
        masked(forward, {"image": IMAGES}, None)


def test_the_error_of_hidden_patches_counts_alone():
    def forward(images, noise, key=None):
        mask = (noise > jnp.median(noise, 1, keepdims=True)).astype(images.dtype)
        return {"patches": jnp.zeros((*noise.shape, 4)), "mask": mask}, {}

    images = jnp.asarray(RNG.random((3, 4, 4, 1)), jnp.float32)
    objective = objectives.create("masked_reconstruction", patch_size=2, normalize_patches=False)
    loss, _ = objective(forward, {"image": images}, jax.random.key(3))
    noise = jax.random.uniform(jax.random.fold_in(jax.random.key(3), 2), (3, 4))
    means = np.square(np.asarray(images)).reshape(3, 2, 2, 2, 2).mean((2, 4)).reshape(3, 4)
    noise = np.asarray(noise)
    hidden = noise > np.median(noise, 1, keepdims=True)
    np.testing.assert_allclose(loss, means[hidden].reshape(3, 2).mean(), rtol=1e-6)
