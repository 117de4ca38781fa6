"""Objectives of two players. B batch, H height, W width, C channels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from deepmodels.errors import ConfigError, unknown
from deepmodels.objectives.classification import Batch, _at_least_float32, _mean
from deepmodels.objectives.reconstruction import _noise_key

Array = jax.Array
softplus = jax.nn.softplus

# name: the loss of the critic for logits of real and of fake pictures, and that of the generator for those of fakes
LOSSES: dict[str, tuple[Callable[[Array, Array], Array], Callable[[Array], Array]]] = {
    # Goodfellow et al. (2014), arXiv:1406.2661, section 3: the generator's is what works there in practice
    "non_saturating": (lambda real, fake: softplus(-real) + softplus(fake), lambda fake: softplus(-fake)),
    "minimax": (lambda real, fake: softplus(-real) + softplus(fake), lambda fake: -softplus(fake)),
    # Mao et al. (2016), arXiv:1611.04076, equation 9
    "least_squares": (
        lambda real, fake: 0.5 * (jnp.square(real - 1) + jnp.square(fake)),
        lambda fake: 0.5 * jnp.square(fake - 1),
    ),
    # Arjovsky, Chintala & Bottou (2017), arXiv:1701.07875
    "wasserstein": (lambda real, fake: fake - real, lambda fake: -fake),
    # Miyato et al. (2018), arXiv:1802.05957, equation 16
    "hinge": (lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake), lambda fake: -fake),
}


def adversarial(
    forward,
    batch: Batch,
    key: Array | None,
    *,
    player: str | None = None,
    loss: str = "non_saturating",
    gradient_penalty: float = 0.0,
    conditional: bool = False,
):
    """The losses of a generator and of the discriminator that tells its pictures from real ones.

    Args:
      forward: `forward(images, sampling_key=key, key=key)` returns a dict of "fake" (B, H, W, C), "real_logits" and
        "fake_logits" (B, ...) as `models.gan` does, and the model's new variables; for the penalty also
        `forward(images, method="discriminate", key=key)` the logits and variables. Both get the labels behind the
        images if `conditional`.
      batch: "image" (B, H, W, C) floats; optionally "label" (B,) integers; optionally "example_mask" (B,) of 0 and 1.
      key: randomness of the latents, which without it is that of one fixed key, and of the forward pass; or None.
      player: whose loss it is, "discriminator" or "generator"; None for the sum, which only evaluation asks for.
      loss: a key of LOSSES.
      gradient_penalty: weight of the critic's (|gradient| - 1)^2 between real and fake pictures: Gulrajani et al.
        (2017), arXiv:1704.00028, equation 3, where it is 10.
      conditional: whether the model is given the labels.

    Returns:
      The loss of the player, and a pair of the metrics and the new variables. The critic's metrics are
      discriminator_loss, real_probability and fake_probability, the sigmoids of the logits, real_sign, the sign of
      those of real pictures, and with the penalty gradient_norm; the generator's, generator_loss; without a player all
      of them and loss.

    Raises:
      ConfigError: the loss or the player is unknown.
    """
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    check_player(player)
    of_critic, of_generator = LOSSES[loss]
    images, noise = batch["image"], _noise_key(key)
    labels = (batch["label"],) if conditional else ()
    outputs, variables = forward(images, *labels, sampling_key=noise, key=key)
    dtype = _at_least_float32(images.dtype)
    real, fake = (outputs[name].astype(dtype) for name in ("real_logits", "fake_logits"))

    def critic():
        value = _mean(_per_example(of_critic(real, fake)), batch)
        metrics = {
            "discriminator_loss": value,
            "real_probability": _mean(_per_example(jax.nn.sigmoid(real)), batch),
            "fake_probability": _mean(_per_example(jax.nn.sigmoid(fake)), batch),
            "real_sign": _mean(_per_example(jnp.sign(real)), batch),
        }
        if gradient_penalty:
            norms = _gradient_norms(forward, images, outputs["fake"], noise, key, labels).astype(dtype)
            metrics["gradient_norm"] = _mean(norms, batch)
            value += gradient_penalty * _mean(jnp.square(norms - 1), batch)
        return value, metrics

    def generator():
        value = _mean(_per_example(of_generator(fake)), batch)
        return value, {"generator_loss": value}

    total, metrics = of_player(player, critic, generator)
    return total, (metrics, variables)


def check_player(player: str | None) -> None:
    """Raises ConfigError unless it is "discriminator", "generator" or None."""
    if player not in (None, "discriminator", "generator"):
        raise ConfigError(f"player: expected 'discriminator', 'generator' or None, got {player!r}")


def of_player(
    player: str | None,
    critic: Callable[[], tuple[Array, dict[str, Array]]],
    generator: Callable[[], tuple[Array, dict[str, Array]]],
) -> tuple[Array, dict[str, Array]]:
    """Returns the loss and the metrics of one player; without one the sum of both losses, among the metrics too.

    Args:
      player: "discriminator", "generator" or None; see `check_player`.
      critic: computes those of the discriminator, if they are asked for.
      generator: likewise.
    """
    if player is not None:
        return critic() if player == "discriminator" else generator()
    (one, metrics), (other, others) = critic(), generator()
    return one + other, metrics | others | {"loss": one + other}


def _per_example(values: Array) -> Array:
    """The mean of all that an example has, (B, ...) -> (B,)."""
    return values.reshape(values.shape[0], -1).mean(1)


def _gradient_norms(forward, images: Array, fake: Array, noise: Array, key: Array | None, labels: tuple) -> Array:
    share = jax.random.uniform(jax.random.fold_in(noise, 1), (images.shape[0], 1, 1, 1), images.dtype)
    between = share * images + (1 - share) * jax.lax.stop_gradient(fake)

    def total(x: Array) -> Array:
        return _per_example(forward(x, *labels, method="discriminate", key=key)[0]).sum()

    squares = jnp.square(jax.grad(total)(between)).sum((1, 2, 3))
    return jnp.sqrt(jnp.maximum(squares, 1e-12))
