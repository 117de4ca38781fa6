import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import objectives
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models import create
from deepmodels.models.vae import VAE, ConvVAE, interpolate, map_pixels, nearness, traverse, unmap_pixels
from deepmodels.objectives.variational import normal_kl

RNG = np.random.default_rng(0)
IMAGES = RNG.random((4, 8, 8, 1)).astype(np.float32)


def drawn(model, *inputs, scale=0.3):
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda x: rng.normal(0, scale, x.shape).astype(x.dtype), shapes)


def run(model, variables, images, key, **hyperparameters):
    def forward(images, key=None, **named):
        return model.apply(variables, images, **named), {}

    return objectives.create("elbo", **hyperparameters)(forward, {"image": images}, key)


def bound(model, variables, images, key=None, **hyperparameters):
    """The loss and the metrics, as numbers."""
    loss, (metrics, _) = jax.jit(lambda v, x: run(model, v, x, key, **hyperparameters))(variables, images)
    return float(loss), {name: float(value) for name, value in metrics.items()}


def losses(model, variables, images, count, **hyperparameters):
    """The losses with as many keys."""
    keys = jax.random.split(jax.random.key(0), count)
    one = lambda key: run(model, variables, images, key, **hyperparameters)[0]  # noqa: E731
    return jax.jit(lambda keys: jax.lax.map(one, keys))(keys)


def test_the_divergence_in_closed_form_is_what_sampling_finds():
    mean, log_var = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    noise = RNG.normal(size=(400_000, 1, 5))
    z = mean + np.exp(log_var / 2) * noise
    log_q = -0.5 * (np.log(2 * np.pi) + log_var + noise**2).sum(-1)
    log_p = -0.5 * (np.log(2 * np.pi) + z**2).sum(-1)
    error = (log_q - log_p).std(0) / np.sqrt(len(noise))
    assert (np.abs((log_q - log_p).mean(0) - normal_kl(mean, log_var)) < 4 * error).all()
    torch = pytest.importorskip("torch").distributions
    means, deviations = (pytest.importorskip("torch").from_numpy(x) for x in (mean, np.exp(log_var / 2)))
    theirs = torch.kl_divergence(torch.Normal(means, deviations), torch.Normal(0.0, 1.0)).sum(-1).numpy()
    np.testing.assert_allclose(normal_kl(mean, log_var), theirs, rtol=1e-5)


def linear_gaussian():
    """A decoder of one layer: p(x) is a normal distribution, and so is p(z | x): both have closed forms."""
    weight, offset, scale = RNG.normal(0, 0.7, (2, 3)), RNG.normal(0, 0.7, 3), 0.5
    posterior = np.linalg.inv(np.eye(2) + weight @ weight.T / scale**2)
    slope = weight.T @ posterior / scale**2
    params = {  # the right mean, and a variance that is too large for the bound to be tight
        "mean": {"kernel": slope, "bias": -offset @ slope},
        "log_var": {"kernel": np.zeros((3, 2)), "bias": np.log(np.diag(posterior)) + 0.5},
        "up0": {"kernel": weight, "bias": offset},
    }
    variables = {"params": jax.tree.map(lambda x: x.astype(np.float32), params)}

    class Linear(VAE):
        def decode(self, latent, label=None):
            return {"reconstruction": self.up[0](latent).reshape(*latent.shape[:-1], *self.image_shape)}

    covariance = weight.T @ weight + scale**2 * np.eye(3)
    x = RNG.normal(size=(4, 3)).astype(np.float32)
    off = x - offset
    log_p = -0.5 * (3 * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1])
    log_p = log_p - 0.5 * (off * np.linalg.solve(covariance, off.T).T).sum(1)
    return Linear(hidden_sizes=(), latent_size=2, image_shape=(1, 3, 1)), variables, x.reshape(4, 1, 3, 1), log_p, scale


def test_the_bounds_are_below_the_likelihood_and_tighten_to_it():
    model, variables, images, log_p, scale = linear_gaussian()
    named = dict(likelihood="gaussian", scale=scale)
    elbos = -losses(model, variables, images, 400, **named).mean()
    weighted = -losses(model, variables, images, 400, samples=5, **named).mean()
    many = -losses(model, variables, images, 1, samples=20_000, **named)[0]
    truth = log_p.mean()
    assert elbos + 0.02 < weighted < truth - 0.001
    np.testing.assert_allclose(many, truth, rtol=2e-3)


def test_the_bound_is_tight_where_the_encoder_is_the_posterior():
    """With the right mean and a variance that no diagonal could better, KL(q || p(z | x)) = 0 in one dimension."""

    class Linear(VAE):
        def decode(self, latent, label=None):
            return {"reconstruction": self.up[0](latent).reshape(*latent.shape[:-1], *self.image_shape)}

    model = Linear(hidden_sizes=(), latent_size=1, image_shape=(1, 1, 1))
    slope, variance = 1.5, 0.49
    posterior = 1 / (1 + slope**2 / variance)
    params = {
        "mean": {"kernel": jnp.array([[posterior * slope / variance]]), "bias": jnp.zeros(1)},
        "log_var": {"kernel": jnp.zeros((1, 1)), "bias": jnp.log(jnp.array([posterior]))},
        "up0": {"kernel": jnp.array([[slope]]), "bias": jnp.zeros(1)},
    }
    x = np.array([[[[0.7]]]], np.float32)
    total = slope**2 + variance
    log_p = -0.5 * (np.log(2 * np.pi * total) + 0.49 / total)
    named = dict(likelihood="gaussian", scale=0.7)
    single = -losses(model, {"params": params}, x, 5, samples=1, **named)
    np.testing.assert_allclose(single, log_p, rtol=1e-5)  # every single sample has the same weight, p(x)


def test_the_terms_of_the_bound():
    model = create("vae_tiny")
    variables = drawn(model, IMAGES)
    loss, metrics = bound(model, variables, IMAGES, jax.random.key(0), beta=4.0)
    np.testing.assert_allclose(loss, metrics["reconstruction"] + 4 * metrics["kl"], rtol=1e-6)
    np.testing.assert_allclose(metrics["bits_per_dim"], loss / 64 / np.log(2), rtol=1e-6)
    noise = jax.random.fold_in(jax.random.key(0), 2)
    outputs = model.apply(variables, IMAGES, sampling_key=noise)
    mean, log_var = (np.float64(outputs[name]) for name in ("mean", "log_var"))
    draws = np.asarray(jax.random.normal(noise, (4, 4)))
    np.testing.assert_allclose(outputs["latent"], mean + np.exp(log_var / 2) * draws, rtol=1e-5, atol=1e-6)
    logits = np.float64(outputs["logits"])
    nats = np.logaddexp(0, logits) - IMAGES * logits
    np.testing.assert_allclose(metrics["reconstruction"], nats.sum((1, 2, 3)).mean(), rtol=1e-5)
    assert bound(model, variables, IMAGES) == bound(model, variables, IMAGES)  # evaluation repeats itself
    values = []
    for seed in (0, 1):  # pixels of 0 and 1 are drawn as they are
        black = np.zeros_like(IMAGES)
        values.append(bound(model, variables, black, jax.random.key(seed), binarize=True)[1]["kl"])
    np.testing.assert_allclose(values[0], values[1], rtol=1e-6)
    binary = [bound(model, variables, IMAGES, jax.random.key(seed), binarize=True)[1]["kl"] for seed in (0, 1)]
    assert binary[0] != binary[1]


def test_what_does_not_fit_is_named():
    model = create("vae_tiny")
    variables = drawn(model, IMAGES)
    with pytest.raises(ConfigError, match="unknown likelihood 'normal'"):
        bound(model, variables, IMAGES, likelihood="normal")
    with pytest.raises(ConfigError, match="so beta is 1, got 2"):
        bound(model, variables, IMAGES, samples=2, beta=2.0)
    with pytest.raises(ConfigError, match="takes no label"):
        model.apply(variables, IMAGES, jnp.zeros(4, jnp.int32))
    with pytest.raises(ConfigError, match="needs label"):
        create("vae_tiny", num_classes=3).init(jax.random.key(0), IMAGES)
    with pytest.raises(ConfigError, match="divisible by 8"):
        ConvVAE(channels=(4, 4, 4), image_shape=(28, 28, 1)).init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    for name, size in (("vq_vae_tiny", 4), ("dalle_dvae_tiny", 8)):
        with pytest.raises(ShapeError, match=f"height and width divisible by {size}"):
            jax.eval_shape(create(name).init, jax.random.key(0), jnp.zeros((1, size + 2, size, 3)))


@pytest.mark.parametrize("name", ["vae_tiny", "conv_vae_tiny"])
def test_a_conditional_model_is_told_the_class(name):
    model = create(name, num_classes=3)
    label = jnp.array([0, 1, 2, 0])
    variables = drawn(model, IMAGES, label)
    outputs = jax.jit(model.apply)(variables, IMAGES, label)
    other = jax.jit(model.apply)(variables, IMAGES, (label + 1) % 3)
    for part in ("mean", "reconstruction"):
        assert (np.abs(outputs[part] - other[part]).reshape(4, -1).max(1) > 1e-3).all()

    def forward(*inputs, key=None, **named):
        return model.apply(variables, *inputs, **named), {}

    objective = objectives.create("elbo", conditional=True, samples=3)
    assert np.isfinite(jax.jit(lambda: objective(forward, {"image": IMAGES, "label": label}, jax.random.key(0))[0])())
    pictures = jax.jit(lambda key: model.apply(variables, key, 4, label, method="sample"))(jax.random.key(0))
    assert pictures.shape == (4, 8, 8, 1)
    assert ((pictures > 0) & (pictures < 1)).all()


def test_codes_on_the_way_from_one_to_another():
    one, other = jnp.array([3.0, 0.0]), jnp.array([0.0, 3.0])
    arc = interpolate(one, other, 5)
    np.testing.assert_allclose(arc[np.array([0, 4])], jnp.stack([one, other]), atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(arc, axis=1), 3.0, rtol=1e-6)
    np.testing.assert_allclose(arc[2], [3 / np.sqrt(2)] * 2, rtol=1e-6)
    np.testing.assert_allclose(interpolate(one, 2 * one, 3), [[3, 0], [4.5, 0], [6, 0]], atol=1e-6)
    rows = traverse(jnp.array([0.5, -0.5]), 2.0, 3)
    np.testing.assert_allclose(rows[0], [[-2, -0.5], [0, -0.5], [2, -0.5]])
    np.testing.assert_allclose(rows[1], [[0.5, -2], [0.5, 0], [0.5, 2]])


def test_nearest_entries_are_those_of_the_largest_nearness():
    latent, book = RNG.normal(size=(2, 3, 5, 4)), RNG.normal(size=(7, 4))
    wanted = np.square(latent[..., None, :] - book).sum(-1).argmin(-1)
    np.testing.assert_array_equal(nearness(jnp.asarray(latent), jnp.asarray(book)).argmax(-1), wanted)


def test_gradients_pass_the_quantisation_and_each_term_moves_its_own():
    model, images = create("vq_vae_tiny"), RNG.random((2, 8, 8, 3)).astype(np.float32)
    params = drawn(model, images)["params"]

    def loss(params, commitment):
        def forward(images, key=None):
            return model.apply({"params": params}, images), {}

        value, (metrics, _) = objectives.vector_quantized(forward, {"image": images}, None, commitment=commitment)
        return value, metrics

    gradients = jax.jit(jax.grad(loss, has_aux=True))
    still, metrics = gradients(params, 0.0)
    moved, _ = gradients(params, 1.0)
    outputs = model.apply({"params": params}, images)
    latent = np.asarray(outputs["latent"])
    indices = np.asarray(model.apply({"params": params}, images, method="encode_indices"))
    assert len(np.unique(indices)) > 1
    # the codebook's gradient is that of its own term alone, whatever the others weigh
    wanted = np.zeros((16, 4))
    np.add.at(wanted, indices.reshape(-1), 2 * (np.asarray(outputs["quantized"]) - latent).reshape(-1, 4) / latent.size)
    for grads in (still, moved):
        np.testing.assert_allclose(grads["codebook"], wanted, rtol=1e-4, atol=1e-7)
    assert np.abs(still["down0"]["kernel"]).max() > 1e-6  # the straight-through gradient
    np.testing.assert_array_equal(still["up0"]["kernel"], moved["up0"]["kernel"])
    assert np.abs(still["to_latent"]["kernel"] - moved["to_latent"]["kernel"]).max() > 1e-6
    np.testing.assert_allclose(metrics["commitment"], np.square(outputs["quantized"] - latent).mean(), rtol=1e-5)
    decoded = model.apply({"params": params}, indices, method="decode_indices")
    np.testing.assert_allclose(decoded, outputs["reconstruction"], rtol=1e-4, atol=1e-5)


def test_the_discrete_codes_are_relaxed_by_the_temperature():
    model, images = create("dalle_dvae_tiny"), RNG.random((1, 16, 16, 3)).astype(np.float32)
    variables = drawn(model, images)
    apply = jax.jit(model.apply)
    plain = apply(variables, images)
    codes = plain["code_logits"].argmax(-1)
    decoded = model.apply(variables, codes, method="decode_indices")
    np.testing.assert_allclose(decoded, plain["reconstruction"], atol=1e-5)
    key = jax.random.key(0)
    drawn_codes = (plain["code_logits"] + jax.random.gumbel(key, (*codes.shape, 16))).argmax(-1)
    cold = apply(variables, images, sampling_key=key, temperature=1e-4)["reconstruction"]
    np.testing.assert_allclose(cold, model.apply(variables, drawn_codes, method="decode_indices"), atol=1e-4)
    assert np.abs(apply(variables, images, sampling_key=key, temperature=1.0)["reconstruction"] - cold).max() > 1e-3
    np.testing.assert_allclose(map_pixels(jnp.array([0.0, 1.0])), [0.1, 0.9], rtol=1e-6)
    np.testing.assert_allclose(unmap_pixels(map_pixels(images)), images, atol=1e-6)


def test_the_logit_laplace_density_integrates_to_one_and_is_in_the_loss():
    points = np.linspace(0, 1, 20_001)[1:-1]
    mean, log_scale = 0.3, -0.2

    def forward(images, sampling_key, temperature, key=None):
        pixels = jnp.concatenate([jnp.full_like(images, mean), jnp.full_like(images, log_scale)], -1)
        return {"pixels": pixels, "code_logits": jnp.zeros((*images.shape[:1], 2, 2, 4))}, {}

    x = jnp.asarray(points, jnp.float32).reshape(-1, 1, 1, 1)
    losses = jax.vmap(lambda x: objectives.discrete_vae(forward, {"image": x[None]}, None, margin=0.0)[0])(x)
    np.testing.assert_allclose(np.exp(-np.float64(losses)).mean(), 1.0, rtol=1e-3)  # equal codes cost nothing

    def certain(images, sampling_key, temperature, key=None):
        logits = jnp.zeros((*images.shape[:1], 2, 2, 4)).at[..., 1].set(100.0)
        return forward(images, sampling_key, temperature)[0] | {"code_logits": logits}, {}

    image = jnp.full((1, 16, 16, 3), 0.5)
    _, (metrics, _) = objectives.discrete_vae(certain, {"image": image}, None)
    np.testing.assert_allclose(metrics["kl"], 4 * np.log(4) / (16 * 16 * 3), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "objective", "hyperparameters", "steps"),
    [
        ("vae_tiny", "elbo", {}, 100),
        ("conv_vae_tiny", "elbo", {}, 300),
        ("vq_vae_tiny", "vector_quantized", {}, 60),
        ("dalle_dvae_tiny", "discrete_vae", dict(beta=0.0), 20),
    ],
)
def test_learns_eight_images(name, objective, hyperparameters, steps):
    from test_autoencoder import fit

    model = create(name)
    size = {"dalle_dvae_tiny": 16}.get(name, 8)
    channels = 1 if name in ("vae_tiny", "conv_vae_tiny") else 3
    images = (RNG.random((8, size, size, channels)) > 0.5).astype(np.float32)
    _, losses = fit(model, images, objectives.create(objective, **hyperparameters), steps)
    assert np.isfinite(losses).all()
    span = abs(float(losses[0]))
    assert losses[-5:].mean() < losses[0] - 0.15 * span
