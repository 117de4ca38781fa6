import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepmodels import objectives
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models import create
from deepmodels.models.autoencoder import Autoencoder, ConvAutoencoder
from deepmodels.models.mae import MAE, patchify, unpatchify

IMAGES = np.random.default_rng(0).random((8, 8, 8, 1)).astype(np.float32)


def fit(model, images, objective, steps, learning_rate=1e-2, **named):
    """The parameters after some steps on one batch, and the losses."""
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss_fn(params, key):
        def forward(images, key=None, **named):
            return model.apply({"params": params}, images, train=True, **named), {}

        return objective(forward, {"image": images}, key, **named)[0]

    @jax.jit
    def run(params):
        def step(carry, number):
            params, state = carry
            loss, grads = jax.value_and_grad(loss_fn)(params, jax.random.fold_in(jax.random.key(0), number))
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), loss

        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))
        return params, losses

    return run(params)


@pytest.mark.parametrize("name", ["autoencoder_tiny", "conv_autoencoder_tiny"])
def test_overfits_eight_images(name):
    black_and_white = (IMAGES > 0.5).astype(np.float32)
    params, losses = fit(create(name), black_and_white, objectives.reconstruction, 500)
    assert losses[-1] < 0.1 * losses[0]
    outputs = create(name).apply({"params": params}, black_and_white)
    np.testing.assert_array_equal(outputs["reconstruction"] > 0.5, black_and_white > 0.5)


def test_a_linear_autoencoder_finds_the_plane_of_the_principal_components():
    """Baldi & Hornik (1989): at the least squared error, the two are the same projection."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(64, 6)) @ np.diag([3, 2.5, 2, 1, 0.8, 0.6]) @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    images = (values - values.mean(0)).reshape(64, 1, 6, 1).astype(np.float32)
    model = Autoencoder(hidden_sizes=(), code_size=3, code_activation="linear", output="linear", image_shape=(1, 6, 1))
    params, _ = fit(model, images, objectives.reconstruction, 3000, 3e-2, loss="squared_error")
    components = np.linalg.svd(images.reshape(64, 6), full_matrices=False)[2][:3]
    plane = np.linalg.qr(params["up0"]["kernel"].T)[0]
    np.testing.assert_allclose(plane @ plane.T, components.T @ components, atol=2e-3)
    outputs = model.apply({"params": params}, images)
    projected = images.reshape(64, 6) @ components.T @ components
    np.testing.assert_allclose(outputs["reconstruction"].reshape(64, 6), projected, atol=2e-2)


def test_tied_layers_share_their_kernels():
    model = Autoencoder(hidden_sizes=(5,), code_size=3, activation="tanh", tied=True, image_shape=(2, 2, 1))
    images = IMAGES[:, :2, :2]
    variables = model.init(jax.random.key(0), images)
    params = jax.tree.map(lambda x: x + 0.1, variables["params"])
    assert params.keys() == {"down0", "down1", "up0_bias", "up1_bias"}
    x = images.reshape(8, 4)
    hidden = np.tanh(x @ params["down0"]["kernel"] + params["down0"]["bias"][None])
    code = hidden @ params["down1"]["kernel"] + params["down1"]["bias"][None]
    back = np.tanh(code @ params["down1"]["kernel"].T + params["up1_bias"][None])
    logits = back @ params["down0"]["kernel"].T + params["up0_bias"][None]
    outputs = model.apply({"params": params}, images)
    np.testing.assert_allclose(outputs["code"], code, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["logits"].reshape(8, 4), logits, rtol=1e-5, atol=1e-6)
    decoded = model.apply({"params": params}, code, method="decode")
    np.testing.assert_allclose(decoded["reconstruction"].reshape(8, 4), 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_patches_are_cut_and_put_together():
    images = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    np.testing.assert_array_equal(patches[0, 1], images[0, :2, 2:4].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, 4, 6), images)
    with pytest.raises(ShapeError, match="multiples of 4"):
        patchify(images, 4)


def test_a_masked_autoencoder_sees_nothing_of_what_is_hidden():
    model = create("mae_tiny")
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    noise = np.random.default_rng(1).random((2, 16)).astype(np.float32)
    variables, apply = jax.jit(model.init)(jax.random.key(0), images), jax.jit(model.apply)
    before = apply(variables, images, noise)
    hidden = np.asarray(before["mask"], bool)
    assert (hidden == (noise >= np.sort(noise, 1)[:, 4:5])).all()
    patches = patchify(images, 4)
    other = unpatchify(jnp.where(hidden[..., None], -patches, patches), 16, 16)
    np.testing.assert_array_equal(apply(variables, other, noise)["patches"], before["patches"])
    assert not np.asarray(apply(variables, images)["mask"]).any()
    grads = jax.jit(jax.grad(lambda p: model.apply({"params": p}, images, noise)["patches"].sum()))(variables["params"])
    for name, leaf in grads.items():
        still = name in ("position_embed", "decoder_position_embed")
        assert all((not np.any(x)) == still for x in jax.tree.leaves(leaf)) or name.endswith("layers"), name


def test_what_does_not_fit_is_named():
    def init(model, *shape):
        return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))

    with pytest.raises(ConfigError, match="unknown code_activation 'sigmod': did you mean 'sigmoid'"):
        init(Autoencoder(code_activation="sigmod"), 1, 28, 28, 1)
    with pytest.raises(ConfigError, match="unknown output 'liner': did you mean 'linear'"):
        init(ConvAutoencoder(output="liner"), 1, 28, 28, 1)
    with pytest.raises(ConfigError, match="divisible by 8"):
        init(ConvAutoencoder(channels=(2, 2, 2)), 1, 28, 28, 1)
    with pytest.raises(ShapeError, match=r"images: expected shape \(batch, 28, 28, 1\)"):
        init(Autoencoder(), 1, 8, 8, 1)
    tiny = create("mae_tiny")
    with pytest.raises(ConfigError, match="mask_ratio: expected a share"):
        init(create("mae_tiny", mask_ratio=1.0), 1, 16, 16, 3)
    with pytest.raises(ConfigError, match="multiple of the patch, 4"):
        init(create("mae_tiny", image_size=18), 1, 18, 18, 3)
    with pytest.raises(ConfigError, match="decoder_hidden_size: expected a multiple of 4"):
        init(create("mae_tiny", decoder_hidden_size=6), 1, 16, 16, 3)
    with pytest.raises(ShapeError, match=r"noise: expected shape \(1, 16\)"):
        jax.eval_shape(tiny.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 4)))
    assert isinstance(tiny, MAE)
