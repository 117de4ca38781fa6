"""Objectives of pictures and their captions. B pairs, E size of an embedding, T positions of a text."""

import jax
import jax.numpy as jnp
import optax

from deepmodels.errors import ConfigError
from deepmodels.objectives.classification import Batch, _at_least_float32, _mean

Array = jax.Array
_NEAR = 5  # the rank of what is near


def image_text_contrastive(forward, batch: Batch, key: Array | None):
    """Which caption of a batch is a picture's and which picture a caption's: Radford et al. (2021), figure 3.

    The mean of the cross-entropies of both, arXiv:2103.00020. Each pair is told from all others of the batch: under
    `jax.jit` over a mesh, of the batch of all devices.

    Args:
      forward: `forward(images, tokens, key=key)` returns a dict of "image_embedding" and "text_embedding" (B, E), both
        of length 1, and "scale" (), as `models.clip.CLIP` does, and the model's new variables.
      batch: "image" (B, H, W, C) floats and "tokens" (B, T) integers; optionally "example_mask" (B,) of 0 and 1: what
        has 0 is nobody's counterpart.
      key: randomness of the forward pass, or None.

    Returns:
      The loss in nats, and a pair of the metrics and the new variables. The metrics are loss; accuracy, the share whose
      counterpart is the nearest in the batch, of pictures and captions together; recall_at_5, whose counterpart is
      among the five nearest; and scale.
    """
    outputs, variables = forward(batch["image"], batch["tokens"], key=key)
    dtype = _at_least_float32(batch["image"].dtype)
    images, texts, scale = (outputs[name].astype(dtype) for name in ("image_embedding", "text_embedding", "scale"))
    logits = scale * images @ texts.T
    if "example_mask" in batch:
        real = batch["example_mask"] > 0
        logits = jnp.where(real[:, None] & real[None], logits, jnp.finfo(dtype).min)
    own = jnp.arange(len(logits))
    losses, nearest, near = [], [], []
    for scores in (logits, logits.T):
        losses.append(_mean(optax.softmax_cross_entropy_with_integer_labels(scores, own), batch))
        at_least = (scores >= jnp.diagonal(scores)[:, None]).sum(1)  # itself, and what is as near or nearer
        nearest.append(_mean((at_least <= 1).astype(dtype), batch))
        near.append(_mean((at_least <= _NEAR).astype(dtype), batch))
    loss, accuracy, recall = (sum(values) / 2 for values in (losses, nearest, near))
    return loss, ({"loss": loss, "accuracy": accuracy, f"recall_at_{_NEAR}": recall, "scale": scale}, variables)


def text_to_image(forward, batch: Batch, key: Array | None, *, network: str, text_weight: float = 1 / 8):
    """The cross-entropies of a text and, behind it, of the codes of its picture.

    DALL-E, Ramesh et al. (2021), arXiv:2102.12092, appendix B.2.

    Args:
      forward: `forward(images, network=network)` returns a dict of "code_logits" (B, H, W, N), as `models.vae.DVAE`
        and `VQVAE` do, whose likeliest codes are the picture's; `forward(tokens, codes, mask=mask, key=key)` a dict of
        "text_logits" (B, T - 1, V) and "image_logits" (B, H * W, N), as `models.dalle.DALLE` does, and the model's new
        variables.
      batch: "image" (B, H, W, C) floats, "tokens" (B, T) integers and "mask" (B, T) of bools, True where a word is;
        optionally "example_mask" (B,) of 0 and 1.
      key: randomness of the forward pass, or None.
      network: the config's name of the frozen network that makes the codes.
      text_weight: of the words; that of the codes is what is left of 1.

    Returns:
      The loss, and a pair of the metrics (loss; text_loss and image_loss, in nats for each word behind the first and
      for each code; accuracy, of the codes) and the new variables.

    Raises:
      ConfigError: the network makes no codes, or the weight is none.
    """
    if not 0 <= text_weight <= 1:
        raise ConfigError(f"text_weight: expected a share, got {text_weight}")
    seen, _ = forward(batch["image"], network=network)
    if not isinstance(seen, dict) or "code_logits" not in seen:
        raise ConfigError(
            f"config.frozen.{network}: expected a network that makes codes of pictures, such as dalle_dvae"
        )
    codes = seen["code_logits"].argmax(-1).reshape(len(batch["image"]), -1).astype(jnp.int32)
    outputs, variables = forward(batch["tokens"], codes, mask=batch["mask"], key=key)
    dtype = _at_least_float32(batch["image"].dtype)
    text, image = (outputs[name].astype(dtype) for name in ("text_logits", "image_logits"))
    real = batch["mask"][:, 1:].astype(dtype)
    words = optax.softmax_cross_entropy_with_integer_labels(text, batch["tokens"][:, 1:]) * real
    text_loss = _mean(words.sum(1) / jnp.maximum(real.sum(1), 1), batch)
    image_loss = _mean(optax.softmax_cross_entropy_with_integer_labels(image, codes).mean(1), batch)
    loss = text_weight * text_loss + (1 - text_weight) * image_loss
    accuracy = _mean((image.argmax(-1).astype(jnp.int32) == codes).mean(1, dtype=dtype), batch)
    metrics = {"loss": loss, "text_loss": text_loss, "image_loss": image_loss, "accuracy": accuracy}
    return loss, (metrics, variables)
