"""Objectives of autoencoders: to give back what came in, whole, corrupted or masked. B batch, H height, W width."""

import math

import jax
import jax.numpy as jnp
import optax

from deepmodels.errors import ConfigError, unknown
from deepmodels.objectives.classification import Batch, _at_least_float32, _mean

Array = jax.Array


def masking_noise(key: Array, images: Array, amount: float) -> Array:
    """Returns images of which a share `amount` of the values, at random, is 0. Vincent et al. (2008), section 2.2."""
    return jnp.where(jax.random.bernoulli(key, amount, images.shape), jnp.zeros_like(images), images)


def gaussian_noise(key: Array, images: Array, amount: float) -> Array:
    """Returns images with normal noise of standard deviation `amount` added; they may leave [0, 1]."""
    return images + amount * jax.random.normal(key, images.shape, images.dtype)


def salt_and_pepper_noise(key: Array, images: Array, amount: float) -> Array:
    """Returns images of which a share `amount` of the values, at random, is 0 or 1, one as likely as the other."""
    chosen, white = jax.random.bernoulli(jax.random.fold_in(key, 0), amount, images.shape), jax.random.fold_in(key, 1)
    return jnp.where(chosen, jax.random.bernoulli(white, 0.5, images.shape).astype(images.dtype), images)


CORRUPTIONS = {"masking": masking_noise, "gaussian": gaussian_noise, "salt_and_pepper": salt_and_pepper_noise}


def reconstruction(
    forward,
    batch: Batch,
    key: Array | None,
    *,
    loss: str = "cross_entropy",
    corruption: str | None = None,
    amount: float = 0.25,
    sparsity: float = 0.0,
    sparsity_target: float = 0.05,
    contraction: float = 0.0,
):
    """How far the images that a model gives back are from those it should, summed over pixels, and penalties of codes.

    Args:
      forward: `forward(images, key=key)` returns a dict of "reconstruction" (B, H, W, C), "logits" (B, H, W, C) if that
        is their sigmoid, and "code" (B, D), and the model's new variables.
      batch: "image" (B, H, W, C) floats, in [0, 1] for the cross-entropy; optionally "example_mask" (B,) of 0 and 1.
      key: randomness of the corruption, which without it is that of one fixed key, and of the forward pass; or None.
      loss: "cross_entropy" of each pixel, in nats, or "squared_error".
      corruption: what is done to the images that the model sees, "masking", "gaussian" or "salt_and_pepper"; None for
        nothing. It gives back what they were. Vincent, Larochelle, Bengio & Manzagol (2008),
        doi:10.1145/1390156.1390294.
      amount: of the corruption: a share of the pixels, or the standard deviation.
      sparsity: weight of the Kullback-Leibler divergence between a unit that is on with probability `sparsity_target`
        and each unit of the code, of which it is the mean over the batch. Lee, Ekanadham & Ng (2007). The code must be
        in (0, 1).
      sparsity_target: see `sparsity`.
      contraction: weight of the squared Frobenius norm of the code's derivative by the image, averaged over the batch:
        Rifai, Vincent, Muller, Glorot & Bengio (2011). It costs a backward pass for each unit of the code.

    Returns:
      The loss, and a pair of the metrics (loss; reconstruction, which is it without the penalties; psnr in dB; with a
      corruption, corrupted_psnr of what the model saw) and the new variables.

    Raises:
      ConfigError: the loss or the corruption is unknown, or the model's output has no logits for the cross-entropy.
    """
    if loss not in ("cross_entropy", "squared_error"):
        raise unknown("loss", loss, ("cross_entropy", "squared_error"))
    if corruption is not None and corruption not in CORRUPTIONS:
        raise unknown("corruption", corruption, CORRUPTIONS)
    images = batch["image"]
    seen = images
    if corruption is not None:
        seen = CORRUPTIONS[corruption](_noise_key(key), images, amount)
    outputs, variables = forward(seen, key=key)

    dtype = _at_least_float32(images.dtype)
    target, given = images.astype(dtype), outputs["reconstruction"].astype(dtype)
    if loss == "squared_error":
        errors = jnp.square(given - target)
    elif "logits" in outputs:
        errors = optax.sigmoid_binary_cross_entropy(outputs["logits"].astype(dtype), target)
    else:
        raise ConfigError("loss 'cross_entropy' needs a model whose output is a sigmoid; use 'squared_error'")
    distance = total = _mean(errors.sum((1, 2, 3)), batch)
    if sparsity:
        total += sparsity * _sparsity(outputs["code"].astype(dtype), sparsity_target, batch)
    if contraction:
        total += contraction * _mean(_contraction(forward, seen, key).astype(dtype), batch)
    metrics = {"loss": total, "reconstruction": distance, "psnr": _mean(_psnr(given, target), batch)}
    if corruption is not None:
        metrics["corrupted_psnr"] = _mean(_psnr(seen.astype(dtype), target), batch)
    return total, (metrics, variables)


def masked_reconstruction(
    forward, batch: Batch, key: Array | None, *, patch_size: int = 16, normalize_patches: bool = True
):
    """Squared error of the patches that were hidden. He et al. (2021), arXiv:2111.06377, section 3.

    Args:
      forward: `forward(images, noise=noise, key=key)` returns a dict of "patches" (B, T, patch_size ** 2 * C) and
        "mask" (B, T), 1 where one was hidden, and the model's new variables.
      batch: "image" (B, H, W, C) floats; optionally "example_mask" (B,) of 0 and 1.
      key: randomness of what is hidden, which without it is that of one fixed key, and of the forward pass; or None.
      patch_size: of the model.
      normalize_patches: whether the pixels of each patch are normalised by their own mean and unbiased variance.

    Returns:
      The loss, and a pair of the metrics (loss) and the new variables.

    Raises:
      ConfigError: the patches aren't of that size.
    """
    images = batch["image"]
    batch_size, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    if rows * patch_size != height or columns * patch_size != width:
        raise ConfigError(f"patch_size: {patch_size} doesn't divide images of {height}x{width} pixels")
    noise = jax.random.uniform(_noise_key(key), (batch_size, rows * columns))
    outputs, variables = forward(images, noise=noise, key=key)
    dtype = _at_least_float32(images.dtype)
    target = images.astype(dtype).reshape(batch_size, rows, patch_size, columns, patch_size, channels)
    target = target.swapaxes(2, 3).reshape(batch_size, rows * columns, -1)
    patches = outputs["patches"].astype(dtype)
    if patches.shape != target.shape:
        raise ConfigError(f"patch_size: expected the model's, {patches.shape} isn't the shape of {target.shape}")
    if normalize_patches:
        mean, var = target.mean(-1, keepdims=True), target.var(-1, ddof=1, keepdims=True)
        target = (target - mean) * jax.lax.rsqrt(var + 1e-6)
    mask = outputs["mask"].astype(dtype)
    errors = (jnp.square(patches - target).mean(-1) * mask).sum(1) / mask.sum(1)  # as many are hidden of each image
    loss = _mean(errors, batch)
    return loss, ({"loss": loss}, variables)


def _noise_key(key: Array | None) -> Array:
    """A key of its own, beside that of the forward pass; evaluation draws the same noise each time."""
    return jax.random.fold_in(jax.random.key(0) if key is None else key, 2)


def _sparsity(code: Array, target: float, batch: Batch) -> Array:
    mask = batch.get("example_mask", jnp.ones(code.shape[:1], code.dtype)).astype(code.dtype)
    mean = (code * mask[:, None]).sum(0) / jnp.maximum(mask.sum(), 1)
    tiny = jnp.finfo(code.dtype).tiny
    on, off = jnp.log(jnp.maximum(mean, tiny)), jnp.log(jnp.maximum(1 - mean, tiny))
    return (target * (math.log(target) - on) + (1 - target) * (math.log(1 - target) - off)).sum()


def _contraction(forward, images: Array, key: Array | None) -> Array:
    """The squared norm of the derivative of each image's code, (B,)."""
    code, pull_back = jax.vjp(lambda x: forward(x, key=key)[0]["code"], images)

    def squares(unit: Array) -> Array:
        (gradient,) = pull_back(jnp.broadcast_to(unit[None], code.shape))
        return jnp.square(gradient).sum((1, 2, 3))

    return jax.lax.map(squares, jnp.eye(code.shape[1], dtype=code.dtype)).sum(0)


def _psnr(given: Array, target: Array) -> Array:
    """Of each image, in dB, for values of which the largest is 1."""
    error = jnp.square(given - target).mean((1, 2, 3))
    return -10 / math.log(10) * jnp.log(jnp.maximum(error, 1e-10))
