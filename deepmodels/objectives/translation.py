"""Objectives of networks that make one picture of another: larger, in colour, of another domain. B batch.

Two-player ones are called as `adversarial` is, with the player whose loss it is.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from deepmodels.errors import ConfigError, ShapeError, unknown
from deepmodels.objectives.adversarial import LOSSES, _per_example, check_player, of_player
from deepmodels.objectives.classification import Batch, _at_least_float32, _mean
from deepmodels.objectives.perceptual import feature_distance
from deepmodels.objectives.reconstruction import _noise_key, _psnr

Array = jax.Array
_LUMA = (0.299, 0.587, 0.114)


def super_resolution(
    forward,
    batch: Batch,
    key: Array | None,
    *,
    factor: int = 4,
    network: str | None = None,
    layers: Sequence[str] = (),
    pixel_weight: float = 1.0,
    feature_weight: float = 1.0,
):
    """Squared error of pictures made of smaller ones, which are the true ones shrunk: of pixels, of features, or both.

    Ledig et al. (2017), arXiv:1609.04802, equations 4 and 5; Johnson, Alahi & Fei-Fei (2016), arXiv:1603.08155.

    Args:
      forward: `forward(images, key=key)` returns a dict of "reconstruction" (B, H, W, C) of images (B, H / factor,
        W / factor, C), and the model's new variables; `forward(images, network=network, layers=layers)` a dict of maps.
      batch: "image" (B, H, W, C) floats in [0, 1]; optionally "example_mask" (B,) of 0 and 1.
      key: randomness of the forward pass, or None.
      factor: how many times smaller the side is that the model sees, bicubic and averaged.
      network: the frozen network whose features are compared; None for none.
      layers: those of its layers.
      pixel_weight: of the pixels' squared error.
      feature_weight: of the features', if there is a network.

    Returns:
      The loss, and a pair of the metrics (loss; with a network features, their squared error; psnr in dB; bicubic_psnr,
      of what bicubic interpolation makes of the same) and the new variables.

    Raises:
      ConfigError: the factor doesn't divide the pictures, there is no such network or layer, or layers without network.
    """
    content = _content_of(forward, factor, network, layers, pixel_weight, feature_weight)
    outputs, variables = forward(shrink(batch["image"], factor), key=key)
    loss, metrics = content(outputs["reconstruction"], batch)
    return loss, ({"loss": loss, **metrics}, variables)


def adversarial_super_resolution(
    forward,
    batch: Batch,
    key: Array | None,
    *,
    player: str | None = None,
    factor: int = 4,
    weight: float = 1e-3,
    network: str | None = None,
    layers: Sequence[str] = (),
    pixel_weight: float = 1.0,
    feature_weight: float = 1.0,
):
    """The losses of SRGAN: with the squared error as its content "SRGAN-MSE" in the paper's table 1, or with features.

    Args:
      forward: `forward(images, target=target, key=key)` returns a dict of "reconstruction", "real_logits" and
        "fake_logits" (B,) as `models.super_resolution.SRGAN` does, and the model's new variables; with a network as
        for `super_resolution`.
      batch: as for `super_resolution`.
      key: as for `super_resolution`.
      player: "discriminator", "generator", or None for the sum.
      factor: as for `super_resolution`.
      weight: of the generator's adversarial loss: equation 3.
      network, layers, pixel_weight, feature_weight: of the content, as for `super_resolution`.

    Returns:
      The loss of the player, and a pair of the metrics (discriminator_loss; generator_loss, content, with a network
      features, psnr, bicubic_psnr) and the new variables.

    Raises:
      ConfigError: the player is unknown, or as for `super_resolution`.
    """
    check_player(player)
    content_of = _content_of(forward, factor, network, layers, pixel_weight, feature_weight)
    outputs, variables = forward(shrink(batch["image"], factor), target=batch["image"], key=key)
    dtype = _at_least_float32(batch["image"].dtype)
    of_critic, of_generator = LOSSES["non_saturating"]
    real, fake = (outputs[name].astype(dtype) for name in ("real_logits", "fake_logits"))

    def critic():
        value = _mean(of_critic(real, fake), batch)
        return value, {"discriminator_loss": value}

    def generator():
        content, measures = content_of(outputs["reconstruction"], batch)
        value = content + weight * _mean(of_generator(fake), batch)
        return value, {"generator_loss": value, "content": content, **measures}

    total, metrics = of_player(player, critic, generator)
    return total, (metrics, variables)


def shrink(images: Array, factor: int) -> Array:
    """Returns pictures (B, H / factor, W / factor, C): bicubic interpolation that averages.

    Raises:
      ConfigError: the factor doesn't divide the pictures.
    """
    batch, height, width, channels = images.shape
    if height % factor or width % factor:
        raise ConfigError(f"factor: {factor} doesn't divide pictures of {height}x{width} pixels")
    return jax.image.resize(images, (batch, height // factor, width // factor, channels), "cubic")


def _content_of(
    forward, factor: int, network: str | None, layers: Sequence[str], pixel_weight: float, feature_weight: float
) -> Callable[[Array, Batch], tuple[Array, dict[str, Array]]]:
    """The part of a loss that compares a picture with the true one, by pixels, features or both."""
    if (network is None) != (len(layers) == 0):
        raise ConfigError(f"network and layers go together, got network={network!r} and layers={tuple(layers)}")

    def content(made: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        error, metrics = _pixels(made, batch, factor)
        if network is None:
            return pixel_weight * error, metrics
        looked, target = (forward(x, network=network, layers=layers)[0] for x in (made, batch["image"]))
        distance = _mean(feature_distance(looked, target), batch)
        return pixel_weight * error + feature_weight * distance, {"features": distance, **metrics}

    return content


def _pixels(made: Array, batch: Batch, factor: int) -> tuple[Array, dict[str, Array]]:
    dtype = _at_least_float32(batch["image"].dtype)
    made, target = made.astype(dtype), batch["image"].astype(dtype)
    if made.shape != target.shape:
        raise ShapeError(f"the model makes pictures of {made.shape} of ones {factor} times smaller than {target.shape}")
    bicubic = jax.image.resize(shrink(target, factor), target.shape, "cubic")
    psnr, plain = (_mean(_psnr(jnp.clip(x, 0, 1), target), batch) for x in (made, bicubic))
    return _mean(_per_example(jnp.square(made - target)), batch), {"psnr": psnr, "bicubic_psnr": plain}


def paired_translation(
    forward,
    batch: Batch,
    key: Array | None,
    *,
    player: str | None = None,
    distance: float = 100.0,
    source: str = "gray",
):
    """The losses of pix2pix: to be taken for real beside the picture it is made of, and near to the true one.

    Isola et al. (2016), arXiv:1611.07004, equation 4. Where a batch has no true pictures beside its images, these are
    the true ones, and what is translated is made of them.

    Args:
      forward: `forward(images, target=target, key=key)` returns a dict of "fake", "real_logits" and "fake_logits"
        (B, h, w) as `models.translation.Pix2Pix` does, and the model's new variables.
      batch: "image" (B, H, W, 3) floats in [-1, 1]; optionally "target" likewise; optionally "example_mask" (B,).
      key: randomness of the forward pass (dropout), or None.
      player: "discriminator", "generator", or None for the sum.
      distance: weight of the mean absolute difference.
      source: what is made of true pictures: "gray", so that the model learns to colour, or "hole", without a square in
        the middle, half as large as they are, so that it learns to fill it.

    Returns:
      The loss of the player, and a pair of the metrics (discriminator_loss; generator_loss, distance) and the new
      variables.

    Raises:
      ConfigError: the player or the source is unknown.
    """
    check_player(player)
    if source not in SOURCES:
        raise unknown("source", source, SOURCES)
    image = batch["image"]
    target = batch.get("target", image)
    outputs, variables = forward(image if "target" in batch else SOURCES[source](image), target=target, key=key)
    dtype = _at_least_float32(image.dtype)
    of_critic, of_generator = LOSSES["non_saturating"]
    real, fake = (outputs[name].astype(dtype) for name in ("real_logits", "fake_logits"))

    def critic():  # the authors' code halves it, so that the discriminator learns more slowly
        value = 0.5 * _mean(_per_example(of_critic(real, fake)), batch)
        return value, {"discriminator_loss": value}

    def generator():
        off = _mean(_per_example(jnp.abs(outputs["fake"].astype(dtype) - target.astype(dtype))), batch)
        value = _mean(_per_example(of_generator(fake)), batch) + distance * off
        return value, {"generator_loss": value, "distance": off}

    total, metrics = of_player(player, critic, generator)
    return total, (metrics, variables)


def gray(images: Array) -> Array:
    """Returns pictures without their colours, with as many channels: (B, H, W, 3) -> (B, H, W, 3). ITU-R BT.601."""
    luma = images @ jnp.asarray(_LUMA, images.dtype)
    return jnp.broadcast_to(luma[..., None], images.shape)


def hole(images: Array) -> Array:
    """Returns pictures (B, H, W, C) with 0 in a square in the middle, half as large as they are."""
    height, width = images.shape[1:3]
    return images.at[:, height // 4 : height - height // 4, width // 4 : width - width // 4].set(0)


SOURCES = {"gray": gray, "hole": hole}


def cycle_consistency(
    forward, batch: Batch, key: Array | None, *, player: str | None = None, cycle: float = 10.0, identity: float = 0.5
):
    """The losses of CycleGAN: least squares of both discriminators, and pictures that come back as they were.

    Zhu et al. (2017), arXiv:1703.10593, equation 3 and section 5.2.

    Args:
      forward: `forward(images, other=other, pool_key=key, key=key)` returns what `models.translation.CycleGAN` does,
        and the model's new variables; the generator learns without the pool.
      batch: "image" and "other" (B, H, W, 3) floats in [-1, 1]; optionally "example_mask" (B,) of 0 and 1.
      key: randomness of the pool and of the forward pass, or None.
      player: "discriminator", "generator", or None for the sum.
      cycle: weight of the mean absolute difference of pictures that went there and back.
      identity: weight, as a share of `cycle`, of that of pictures that were of the domain already.

    Returns:
      The loss of the player, and a pair of the metrics (discriminator_loss; generator_loss, cycle, identity) and the
      new variables.

    Raises:
      ConfigError: the player is unknown, or the batch has no pictures of another domain.
    """
    check_player(player)
    if "other" not in batch:
        raise ConfigError('expected records of "image" and "other": say data.unpaired=(one label, another)')
    pool = {} if player == "generator" else {"pool_key": _noise_key(key)}
    outputs, variables = forward(batch["image"], other=batch["other"], key=key, **pool)
    dtype = _at_least_float32(batch["image"].dtype)
    outputs = {name: value.astype(dtype) for name, value in outputs.items()}
    given = {"": batch["image"].astype(dtype), "other_": batch["other"].astype(dtype)}

    def mean(values: Array) -> Array:
        return _mean(_per_example(values), batch)

    def critic():
        of_critic, _ = LOSSES["least_squares"]
        value = sum(mean(of_critic(outputs[f"{side}real_logits"], outputs[f"{side}fake_logits"])) for side in given)
        return value, {"discriminator_loss": value}

    def generator():
        fooled = sum(mean(jnp.square(outputs[f"{side}fake_logits"] - 1)) for side in given)
        back = sum(mean(jnp.abs(outputs[f"{side}cycled"] - pictures)) for side, pictures in given.items())
        same = mean(jnp.abs(outputs["same"] - given["other_"])) + mean(jnp.abs(outputs["other_same"] - given[""]))
        value = fooled + cycle * (back + identity * same)
        return value, {"generator_loss": value, "cycle": back, "identity": same}

    total, metrics = of_player(player, critic, generator)
    return total, (metrics, variables)
