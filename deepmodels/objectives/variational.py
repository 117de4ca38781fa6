"""Objectives of variational autoencoders: bounds of the likelihood. B batch, K samples of a code, D its numbers."""

import math

import jax
import jax.numpy as jnp
import optax

from deepmodels.errors import ConfigError, unknown
from deepmodels.objectives.classification import Batch, _at_least_float32, _mean
from deepmodels.objectives.reconstruction import _noise_key

Array = jax.Array
LIKELIHOODS = ("bernoulli", "gaussian")


def normal_kl(mean: Array, log_var: Array) -> Array:
    """Returns the Kullback-Leibler divergence of each diagonal normal from the standard one, in nats.

    (..., D) -> (...). Appendix B of Kingma & Welling (2013), arXiv:1312.6114.
    """
    return 0.5 * (jnp.square(mean) + jnp.exp(log_var) - 1 - log_var).sum(-1)


def elbo(
    forward,
    batch: Batch,
    key: Array | None,
    *,
    beta: float = 1.0,
    samples: int | None = None,
    likelihood: str = "bernoulli",
    scale: float = 1.0,
    binarize: bool = False,
    conditional: bool = False,
):
    """The negative of a lower bound of the log-likelihood: the ELBO, or with `samples` the importance-weighted bound.

    The first has the divergence in closed form: Kingma & Welling (2013), arXiv:1312.6114, equation 10. The second is
    -log mean_k p(x, z_k) / q(z_k | x), tighter the more samples: Burda, Grosse & Salakhutdinov (2015),
    arXiv:1509.00519, equation 8.

    Args:
      forward: `forward(images, sampling_key=key, samples=samples, key=key)` returns a dict of "mean", "log_var",
        "latent", "reconstruction" and "logits" as `models.vae.VAE` does, and the model's new variables; it gets the
        labels behind the images if `conditional`.
      batch: "image" (B, H, W, C) floats, in [0, 1] for a Bernoulli likelihood; optionally "label" (B,) integers;
        optionally "example_mask" (B,) of 0 and 1.
      key: randomness of the codes, which without it is that of one fixed key, and of the forward pass; or None.
      beta: weight of the divergence. Higgins et al. (2017), beta-VAE.
      samples: K of the importance-weighted bound.
      likelihood: "bernoulli" of each pixel, or "gaussian" around the reconstruction.
      scale: standard deviation of the Gaussian.
      binarize: whether each pixel is first drawn to be 0 or 1, with its value as the probability of 1.
      conditional: whether the model is given the labels.

    Returns:
      The loss in nats, and a pair of the metrics (loss; bits_per_dim, it in bits for each value of an image; without
      `samples` also reconstruction and kl, its two terms) and the new variables.

    Raises:
      ConfigError: the likelihood is unknown, or `beta` isn't 1 with `samples`.
    """
    if likelihood not in LIKELIHOODS:
        raise unknown("likelihood", likelihood, LIKELIHOODS)
    if samples is not None and beta != 1.0:
        raise ConfigError(f"beta: the importance-weighted bound has no separate divergence, so beta is 1, got {beta}")
    noise, image = _noise_key(key), batch["image"]
    if binarize:
        image = jax.random.bernoulli(jax.random.fold_in(noise, 1), image).astype(image.dtype)
    labels = (batch["label"],) if conditional else ()
    outputs, variables = forward(image, *labels, sampling_key=noise, samples=samples, key=key)
    dtype = _at_least_float32(image.dtype)
    outputs = {name: value.astype(dtype) for name, value in outputs.items()}
    rows = (*outputs["reconstruction"].shape[:-3], -1)
    # by rows of pixels: the last axis of images of one channel is one number long
    target = jnp.broadcast_to(image.astype(dtype), outputs["reconstruction"].shape).reshape(rows)
    if likelihood == "bernoulli":
        nats = optax.sigmoid_binary_cross_entropy(outputs["logits"].reshape(rows), target)
    else:
        nats = -_log_normal(target, outputs["reconstruction"].reshape(rows), math.log(scale) * 2)
    nats = nats.sum(-1)
    terms = {}
    if samples is None:
        divergence = normal_kl(outputs["mean"], outputs["log_var"])
        divergence = divergence.reshape(len(divergence), -1).sum(-1)  # of codes that are maps
        terms = {"reconstruction": _mean(nats, batch), "kl": _mean(divergence, batch)}
        loss = terms["reconstruction"] + beta * terms["kl"]
    else:
        latent = outputs["latent"]
        mean, log_var = outputs["mean"][None], outputs["log_var"][None]
        weights = -nats + (_log_normal(latent, 0.0, 0.0) - _log_normal(latent, mean, log_var)).sum(-1)
        loss = _mean(math.log(samples) - jax.nn.logsumexp(weights, axis=0), batch)
    size = math.prod(image.shape[1:])
    return loss, ({"loss": loss, "bits_per_dim": loss / (size * math.log(2)), **terms}, variables)


def _log_normal(x: Array, mean: Array | float, log_var: Array | float) -> Array:
    return -0.5 * (math.log(2 * math.pi) + log_var + jnp.square(x - mean) * jnp.exp(-jnp.asarray(log_var, x.dtype)))


def vector_quantized(forward, batch: Batch, key: Array | None, *, commitment: float = 0.25):
    """The loss of a VQ-VAE: equation 3 of van den Oord et al. (2017), arXiv:1711.00937.

    The three terms are means over pixels or numbers: the squared error of the images, that of the codebook's entries
    from what the encoder gave, and that of the latter from the former. The first doesn't move the codebook, the second
    moves nothing else.

    Args:
      forward: `forward(images, key=key)` returns a dict of "latent", "quantized" and "reconstruction" as
        `models.vae.VQVAE` does, and the model's new variables.
      batch: "image" (B, H, W, C) floats; optionally "example_mask" (B,) of 0 and 1.
      key: randomness of the forward pass, or None.
      commitment: weight of the third term, beta in the paper.

    Returns:
      The loss, and a pair of the metrics (loss, reconstruction, commitment) and the new variables.
    """
    image = batch["image"]
    outputs, variables = forward(image, key=key)
    dtype = _at_least_float32(image.dtype)
    latent, quantized = (outputs[name].astype(dtype) for name in ("latent", "quantized"))
    still = jax.lax.stop_gradient

    def distance(one: Array, other: Array) -> Array:
        return _mean(jnp.square(one - other).mean((1, 2, 3)), batch)

    error = distance(outputs["reconstruction"].astype(dtype), image.astype(dtype))
    committed = distance(latent, still(quantized))
    loss = error + distance(quantized, still(latent)) + commitment * committed
    return loss, ({"loss": loss, "reconstruction": error, "commitment": committed}, variables)


def discrete_vae(
    forward, batch: Batch, key: Array | None, *, beta: float = 6.6, temperature: float = 1 / 16, margin: float = 0.1
):
    """The loss of DALL-E's discrete VAE: logit-Laplace pixels, and the divergence of the codes from equal ones.

    Ramesh et al. (2021), arXiv:2102.12092, appendix A. Both terms are in nats for each value of an image; the paper
    anneals the temperature from 1 to 1/16 and beta from 0 to 6.6: these are where it ends.

    Args:
      forward: `forward(images, sampling_key=key, temperature=temperature, key=key)` returns a dict of "code_logits" and
        "pixels" as `models.vae.DVAE` does, and the model's new variables.
      batch: "image" (B, H, W, C) floats in [0, 1]; optionally "example_mask" (B,) of 0 and 1.
      key: randomness of the codes, which without it is that of one fixed key, and of the forward pass; or None.
      beta: weight of the divergence.
      temperature: of the relaxed codes.
      margin: how far pixels are kept from 0 and 1, as the model has it.

    Returns:
      The loss, and a pair of the metrics (loss, reconstruction, kl) and the new variables.
    """
    image = batch["image"]
    outputs, variables = forward(image, sampling_key=_noise_key(key), temperature=temperature, key=key)
    dtype = _at_least_float32(image.dtype)
    mean, log_scale = jnp.split(outputs["pixels"].astype(dtype), 2, -1)
    x = (1 - 2 * margin) * image.astype(dtype) + margin
    logit = jnp.log(x) - jnp.log1p(-x)  # equation 2
    nats = math.log(2) + log_scale + jnp.log(x * (1 - x)) + jnp.abs(logit - mean) * jnp.exp(-log_scale)
    logits = outputs["code_logits"].astype(dtype)
    log_codes = jax.nn.log_softmax(logits)
    divergence = (jnp.exp(log_codes) * (log_codes + math.log(logits.shape[-1]))).sum((1, 2, 3))
    reconstruction = _mean(nats.mean((1, 2, 3)), batch)
    kl = _mean(divergence / math.prod(image.shape[1:]), batch)
    loss = reconstruction + beta * kl
    return loss, ({"loss": loss, "reconstruction": reconstruction, "kl": kl}, variables)
