import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import objectives
from deepmodels.errors import ConfigError
from deepmodels.models import create
from deepmodels.models.gan import DCGAN, Maxout, SpectralConv, first_map
from deepmodels.objectives.adversarial import LOSSES

RNG = np.random.default_rng(0)


def loss_of(forward, images, **hyperparameters):
    return objectives.create("adversarial", **hyperparameters)(forward, {"image": images}, jax.random.key(0))


def test_the_best_discriminator_has_the_loss_of_theorem_one():
    """On two known densities of five values: D = p / (p + q) gives log 4 - 2 JSD, and nothing gives less."""
    p, q = RNG.dirichlet(np.ones(5), 2)
    middle = (p + q) / 2
    divergence = 0.5 * (p * np.log(p / middle)).sum() + 0.5 * (q * np.log(q / middle)).sum()
    of_critic, of_generator = LOSSES["minimax"]

    def value(logits):
        return of_critic(logits, jnp.zeros_like(logits)) @ p + of_critic(jnp.zeros_like(logits), logits) @ q

    def critic(logits):  # the expectation of both parts, less what the zeros add
        return value(logits) - 2 * np.log(2)

    best = jnp.log(jnp.asarray(p / q))
    np.testing.assert_allclose(critic(best), np.log(4) - 2 * divergence, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(critic)(best), 0, atol=1e-6)
    for _ in range(10):
        assert critic(best + jnp.asarray(RNG.normal(size=5), jnp.float32)) > critic(best)
    # against it the generator's minimax loss, with the constant of the real part, is least where q = p: -log 4 there
    np.testing.assert_allclose(of_generator(jnp.zeros(())), -np.log(2), rtol=1e-6)


def fixed(real, fake):
    def forward(images, sampling_key, key=None):
        return {"fake": images, "real_logits": jnp.asarray(real), "fake_logits": jnp.asarray(fake)}, {}

    return forward


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_their_papers(name):
    real, fake = RNG.normal(size=(2, 4)).astype(np.float32)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    bce = -np.log(sigmoid(real)) - np.log(1 - sigmoid(fake))
    critic, generator = {
        "non_saturating": (bce, -np.log(sigmoid(fake))),
        "minimax": (bce, np.log(1 - sigmoid(fake))),
        "least_squares": (0.5 * (real - 1) ** 2 + 0.5 * fake**2, 0.5 * (fake - 1) ** 2),
        "wasserstein": (fake - real, -fake),
        "hinge": (np.maximum(0, 1 - real) + np.maximum(0, 1 + fake), -fake),
    }[name]
    images = jnp.zeros((4, 2, 2, 1))
    for player, wanted in (("discriminator", critic), ("generator", generator), (None, critic + generator)):
        loss, (metrics, _) = loss_of(fixed(real, fake), images, loss=name, player=player)
        np.testing.assert_allclose(loss, wanted.mean(), rtol=1e-5)
        assert ("discriminator_loss" in metrics) == (player != "generator")
        assert ("generator_loss" in metrics) == (player != "discriminator")
        assert ("loss" in metrics) == (player is None)
    np.testing.assert_allclose(metrics["real_probability"], sigmoid(real).mean(), rtol=1e-5)
    masked = {"image": images, "example_mask": jnp.array([1.0, 1.0, 0.0, 0.0])}
    loss, _ = objectives.adversarial(fixed(real, fake), masked, None, loss=name)
    np.testing.assert_allclose(loss, (critic + generator)[:2].mean(), rtol=1e-5)


def test_the_gradient_penalty_of_a_linear_critic_is_in_closed_form():
    weight = jnp.asarray(RNG.normal(size=(2, 2, 1)), jnp.float32)
    images = jnp.asarray(RNG.normal(size=(4, 2, 2, 1)), jnp.float32)

    def loss(weight):
        def forward(images, sampling_key=None, method=None, key=None):
            logits = (images * weight[None]).sum((1, 2, 3))
            if method == "discriminate":
                return logits, {}
            return {"fake": -images, "real_logits": logits, "fake_logits": -logits}, {}

        return loss_of(forward, images, loss="wasserstein", gradient_penalty=10.0, player="discriminator")

    value, (metrics, _) = loss(weight)
    norm = np.linalg.norm(weight)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
    np.testing.assert_allclose(value, metrics["discriminator_loss"] + 10 * (norm - 1) ** 2, rtol=1e-5)
    gradient = jax.grad(lambda w: loss(w)[0])(weight)
    wanted = -2 * images.mean(0) + 20 * (norm - 1) * weight / norm
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5)


def test_maxout_is_the_largest_piece():
    x = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    layer = Maxout(5, 2)
    params = layer.init(jax.random.key(0), x)["params"]
    y = np.asarray(x @ params["dense"]["kernel"] + params["dense"]["bias"][None]).reshape(3, 5, 2)
    np.testing.assert_allclose(layer.apply({"params": params}, x), y.max(2), rtol=1e-6)


def test_spectral_normalisation_divides_by_the_largest_singular_value():
    x = jnp.asarray(RNG.normal(size=(2, 6, 6, 3)), jnp.float32)
    layer = SpectralConv(5, 4, 2, 1)
    variables = jax.jit(lambda: layer.init(jax.random.key(0), x, True))()
    assert variables["params"].keys() == {"conv"}
    kernel = 7 * np.asarray(variables["params"]["conv"]["kernel"])
    variables = variables | {"params": {"conv": variables["params"]["conv"] | {"kernel": jnp.asarray(kernel)}}}
    step = jax.jit(lambda v: layer.apply(v, x, True, mutable=["spectral_stats"])[1])
    for _ in range(100):
        variables = variables | step(variables)
    largest = np.linalg.svd(kernel.reshape(-1, 5), compute_uv=False)[0]
    plain = {"params": {"conv": {"kernel": jnp.asarray(kernel / largest), "bias": jnp.zeros(5)}}}
    out = layer.apply(variables, x, False)
    wanted = jax.lax.conv_general_dilated(
        x, plain["params"]["conv"]["kernel"], (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)
    grads = jax.grad(lambda p: layer.apply(variables | {"params": p}, x, False).sum())(variables["params"])
    # a kernel that is normalised has no gradient along itself
    assert abs((grads["conv"]["kernel"] * kernel).sum()) < 1e-3 * np.abs(grads["conv"]["kernel"] * kernel).sum()


def test_a_spectrally_normalised_discriminator_trains():
    model = create("dcgan_tiny", norm="spectral")
    images = jnp.asarray(RNG.normal(size=(2, 16, 16, 1)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    assert {"params", "batch_stats", "spectral_stats"} == variables.keys()
    rest = {name: value for name, value in variables.items() if name != "params"}
    outputs, updated = jax.jit(lambda v: model.apply(v, images, train=True, mutable=list(rest)))(variables)
    assert np.isfinite(outputs["real_logits"]).all()
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), updated["spectral_stats"], rest["spectral_stats"])
    assert all(x > 0 for x in jax.tree.leaves(moved)[:-1])  # the last kernel has one column, and its vector is 1


def test_both_players_are_told_the_class():
    model = create("dcgan_tiny", num_classes=3)
    images, label = jnp.asarray(RNG.normal(size=(3, 16, 16, 1)), jnp.float32), jnp.array([0, 1, 2])
    variables = jax.jit(model.init)(jax.random.key(0), images, label)
    apply = jax.jit(model.apply)
    one, other = apply(variables, images, label), apply(variables, images, (label + 1) % 3)
    assert (one["fake"] != other["fake"]).any()
    assert (one["real_logits"] != other["real_logits"]).all()
    sample = jax.jit(lambda v, label: model.apply(v, jax.random.key(0), 3, label, method="sample"))
    assert sample(variables, label).shape == (3, 16, 16, 1)
    with pytest.raises(ConfigError, match="needs label"):
        model.apply(variables, images)
    plain = create("dcgan_tiny")
    with pytest.raises(ConfigError, match="takes no label"):
        jax.eval_shape(plain.init, jax.random.key(0), images, label)


def test_other_sizes():
    assert first_map((64, 64, 3)) == (4, 4)
    assert first_map((28, 28, 1)) == (7, 2)
    for shape in ((28, 32, 1), (4, 4, 1), (22, 22, 1)):
        with pytest.raises(ConfigError, match="expected square images, 4 to 7 pixels times a power of two"):
            first_map(shape)
    with pytest.raises(ConfigError, match="unknown norm 'bach': did you mean 'batch'"):
        jax.eval_shape(DCGAN(norm="bach").init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    with pytest.raises(ConfigError, match="unknown loss 'hing': did you mean 'hinge'"):
        loss_of(fixed(np.zeros(1), np.zeros(1)), jnp.zeros((1, 2, 2, 1)), loss="hing")
    with pytest.raises(ConfigError, match="player: expected"):
        loss_of(fixed(np.zeros(1), np.zeros(1)), jnp.zeros((1, 2, 2, 1)), player="critic")
