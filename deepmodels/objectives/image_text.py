"""Objectives of pictures and their captions. B pairs, E size of an embedding, T positions of a text."""

import jax
import jax.numpy as jnp
import optax

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
