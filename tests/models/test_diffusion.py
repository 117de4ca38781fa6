"""Training of the small networks, what they are told, and what they refuse. diffusers is beside them in parity."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepmodels import objectives
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models import create
from deepmodels.models.autoencoder_kl import decode_in_tiles
from deepmodels.models.diffusion import DDPM, ConditionalUNet, sinusoids

RNG = np.random.default_rng(0)


def drawn(model, *inputs, scale=0.2):
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0, scale, x.shape).astype(x.dtype), shapes)


def trained(model, objective, batch, inputs, steps, rate=5e-3):
    """The variables after some steps on one batch, and the objective's mean over the last ten and the first ten."""
    variables = jax.jit(model.init)(jax.random.key(0), *inputs)
    optimizer = optax.adam(rate)

    @jax.jit
    def step(params, state, key):
        def forward(*inputs, key=None, **named):
            return model.apply({"params": params_now["params"]}, *inputs, **named, train=True), {}

        def loss_fn(params):
            params_now["params"] = params
            return objective(forward, batch, key)[0]

        params_now = {}
        loss, grads = jax.value_and_grad(loss_fn)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax's adam raises a float to an integer count
            updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    params, state, losses = variables["params"], optimizer.init(variables["params"]), []
    for number in range(steps):
        params, state, loss = step(params, state, jax.random.fold_in(jax.random.key(1), number))
        losses.append(float(loss))
    assert step._cache_size() == 1
    return {"params": params}, np.mean(losses[-10:]), np.mean(losses[:10])


def test_a_small_model_learns_two_pictures_by_their_labels():
    """It is told which of two it is to make, and with guidance makes it; labels that aren't told are trained too."""
    model = create("ddpm_tiny", channels=(8,), attention=(0,), num_classes=2, process="flow", prediction="flow")
    pictures = np.where(np.arange(8)[None, :, None, None] < 4, 1.0, -1.0) * np.array([1, -1])[:, None, None, None]
    image = np.broadcast_to(pictures, (2, 8, 8, 1)).repeat(16, 0).astype(np.float32)
    batch = {"image": image, "label": np.arange(2).repeat(16).astype(np.int32)}
    objective = objectives.create("diffusion", process="flow", prediction="flow", conditional=True, label_dropout=0.2)
    inputs = (batch["image"], np.zeros(32, np.float32), batch["label"])
    variables, last, first = trained(model, objective, batch, inputs, 150)
    assert last < first / 4
    label = jnp.array([0, 1, 0])
    sampled = jax.jit(lambda v: model.apply(v, jax.random.key(0), 3, label, method="sample"))(variables)
    assert (np.sign(sampled) == image[[0, 16, 0]]).mean() > 0.97


@pytest.mark.parametrize(
    ("process", "prediction"), [("linear", "epsilon"), ("cosine", "v"), ("flow_logit_normal", "flow"), ("edm", "edm")]
)
def test_the_best_prediction_has_no_loss(process, prediction):
    """A model that knows the pictures recovers noise, and what else is asked for, from what it sees."""
    image = RNG.normal(0, 0.5, (6, 4, 4, 1)).astype(np.float32)
    seen = {}

    def forward(images, timesteps, key=None):
        seen["timesteps"] = timesteps
        return jnp.zeros_like(images), {}

    run = objectives.create("diffusion", process=process, prediction=prediction)
    loss, (metrics, _) = run(forward, {"image": image}, jax.random.key(0))
    again, _ = run(forward, {"image": image}, jax.random.key(0))
    assert float(loss) == float(again) == float(metrics["loss"])

    from deepmodels.sampling.denoising import PREDICTIONS, drawn_levels

    times, noise, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), 2), 3)
    levels = drawn_levels(times, process, 6)
    np.testing.assert_array_equal(levels.timestep, seen["timesteps"])
    noise = jax.random.normal(noise, image.shape)
    signal, level, scale = (np.asarray(x)[:, None, None, None] for x in (levels.signal, levels.level, levels.scale))

    def knows(images, timesteps, key=None):
        x = np.asarray(images) / scale
        n = (x - signal * image) / level
        a, b = PREDICTIONS[prediction].target(signal, level)
        return jnp.asarray(a * image + b * n), {}

    assert float(run(knows, {"image": image}, jax.random.key(0))[0]) < 1e-6
    a, b = PREDICTIONS[prediction].target(signal, level)
    np.testing.assert_allclose(loss, np.square(a * image + b * np.asarray(noise)).mean(), rtol=1e-5)
    padded = {"image": image, "example_mask": np.array([1, 1, 1, 0, 0, 0])}
    first = np.square(a * image + b * np.asarray(noise))[:3].mean()
    np.testing.assert_allclose(run(forward, padded, jax.random.key(0))[0], first, rtol=1e-5)


def test_a_text_makes_a_difference_and_the_time_too():
    model = create("stable_diffusion_unet_tiny")
    latents, context = RNG.normal(size=(2, 8, 8, 4)).astype(np.float32), RNG.normal(size=(2, 5, 12)).astype(np.float32)
    variables = drawn(model, latents, np.zeros(2), context)
    apply = jax.jit(model.apply)
    one = apply(variables, latents, jnp.array([3.0, 7.0]), context)
    for given in ((jnp.array([3.0, 8.0]), context), (jnp.array([3.0, 7.0]), context * np.array([1, 2])[:, None, None])):
        other = apply(variables, latents, given[0], given[1].astype(np.float32))
        np.testing.assert_allclose(other[0], one[0], rtol=1e-5, atol=1e-5)
        assert np.abs(other[1] - one[1]).max() > 1e-3


def test_an_autoencoder_learns_its_pictures():
    model = create("stable_diffusion_vae_tiny", channels=(8,))
    image = RNG.uniform(-1, 1, (4, 2, 2, 3)).repeat(4, 1).repeat(4, 2).astype(np.float32)
    objective = objectives.create("elbo", likelihood="gaussian", scale=0.3, beta=0.01)

    def gaussian(forward, batch, key):
        return objective(forward, batch, key)

    _, last, first = trained(model, gaussian, {"image": image}, (image,), 60)
    assert last < first / 3


def test_sinusoids_of_the_paper_and_of_latent_diffusion():
    values = jnp.array([0.0, 1.0, 500.0])
    angles = np.asarray(values)[:, None] * 10_000.0 ** (-np.arange(4) / 3)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    np.testing.assert_allclose(sinusoids(values, 8, shift=1, cosine_first=False), expected, atol=3e-5)
    angles = np.asarray(values)[:, None] * 10_000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(sinusoids(values, 8), np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=3e-5)


def test_tiles_of_what_has_no_borders():
    """Of a decoder that sees no neighbours the parts fit, whatever they are."""
    latents = RNG.normal(size=(1, 11, 7, 3)).astype(np.float32)
    shapes = []

    def decode(latents):
        shapes.append(latents.shape)
        return latents.repeat(2, 1).repeat(2, 2)

    made = decode_in_tiles(decode, latents, tile=4, factor=2)
    np.testing.assert_allclose(made, latents.repeat(2, 1).repeat(2, 2), rtol=1e-6)
    assert len(set(shapes)) <= 4
    with pytest.raises(ConfigError, match="overlap: expected in"):
        decode_in_tiles(decode, latents, tile=4, overlap=1.0)


def test_mistakes_are_named():
    def shaped(model, *shapes):
        jax.eval_shape(model.init, jax.random.key(0), *(jax.ShapeDtypeStruct(s, np.float32) for s in shapes))

    tiny = create("ddpm_tiny")
    with pytest.raises(ShapeError, match="images: expected shape .* divisible by 2, got"):
        shaped(tiny, (1, 8, 7, 1), (1,))
    with pytest.raises(ConfigError, match="label: this model has num_classes=0 and takes no label"):
        shaped(tiny, (1, 8, 8, 1), (1,), (1,))
    with pytest.raises(ConfigError, match="vector: this model needs vector"):
        shaped(create("ddpm_tiny", vector_size=3), (1, 8, 8, 1), (1,))
    with pytest.raises(ConfigError, match="attention: expected 2 numbers"):
        shaped(DDPM(channels=(32, 32), attention=(0,)), (1, 8, 8, 3), (1,))
    with pytest.raises(ConfigError, match="num_groups: 32 doesn't divide 8 channels"):
        shaped(DDPM(channels=(8,), attention=(0,)), (1, 8, 8, 3), (1,))
    with pytest.raises(ShapeError, match=r"context: expected shape \(1, tokens, 12\), got \(1, 5, 11\)"):
        shaped(create("stable_diffusion_unet_tiny"), (1, 8, 8, 4), (1,), (1, 5, 11))
    with pytest.raises(ConfigError, match="unknown resample 'convs'"):
        shaped(ConditionalUNet((32,), (0,), resample="convs"), (1, 8, 8, 4), (1,), (1, 5, 768))
    with pytest.raises(ConfigError, match="unknown process 'cosin': did you mean 'cosine'"):
        objectives.create("diffusion", process="cosin")(lambda *a, **k: None, {"image": np.zeros((1, 4, 4, 1))}, None)
    wrong = create("ddpm_tiny", process="flow")
    with pytest.raises(ConfigError, match="a model of the process 'flow' predicts 'flow', got 'epsilon'"):
        wrong.apply(drawn(wrong, np.zeros((1, 8, 8, 1)), np.zeros(1)), jax.random.key(0), 1, method="sample")
