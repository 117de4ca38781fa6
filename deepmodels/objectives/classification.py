"""Objectives of classifiers. B batch, K classes."""

import jax
import jax.numpy as jnp
import optax

Batch = dict[str, jax.Array]


def _mean(values: jax.Array, batch: Batch) -> jax.Array:
    """The mean over the batch, or over its real examples where a mask marks the padding of a last batch."""
    if "mask" not in batch:
        return values.mean()
    mask = batch["mask"].astype(values.dtype)
    return (values * mask).sum() / jnp.maximum(mask.sum(), 1)


def classification(forward, batch: Batch, key: jax.Array | None, *, label_smoothing: float = 0.0):
    """Softmax cross-entropy with integer labels.

    Args:
      forward: `forward(images, key=key)` returns logits (B, K) and the model's new variables.
      batch: "image" (B, H, W, C) floats, "label" (B,) integers in [0, K), optionally "mask" (B,) of 0 and 1.
      key: randomness of the forward pass (dropout), or None.
      label_smoothing: share of the probability that goes to all classes alike. Szegedy et al. (2015), arXiv:1512.00567.

    Returns:
      The loss in nats, and a pair of the metrics (loss, accuracy) and the new variables.
    """
    logits, variables = forward(batch["image"], key=key)
    logits = logits.astype(max(logits.dtype, jnp.float32, key=lambda t: jnp.finfo(t).bits))  # never bfloat16
    targets = jax.nn.one_hot(batch["label"], logits.shape[-1], dtype=logits.dtype)
    targets = optax.smooth_labels(targets, label_smoothing)
    loss = _mean(optax.softmax_cross_entropy(logits, targets), batch)
    right = logits.argmax(-1).astype(batch["label"].dtype) == batch["label"]
    accuracy = _mean(right.astype(logits.dtype), batch)
    return loss, ({"loss": loss, "accuracy": accuracy}, variables)


def perceptron(forward, batch: Batch, key: jax.Array | None):
    """Rosenblatt's rule as an objective: its gradient is the perceptron's correction, and zero without a mistake.

    For a wrong answer the loss is the winning score minus the score of the label, so that gradient descent with a
    learning rate of 1 and one example a step is the mistake-driven rule of 1958 in its multiclass form.

    Args:
      forward: `forward(images, key=key)` returns scores (B, K) and the model's new variables.
      batch: as for `classification`.
      key: randomness of the forward pass, or None.

    Returns:
      The loss in units of the score, and a pair of the metrics (loss, accuracy) and the new variables.
    """
    scores, variables = forward(batch["image"], key=key)
    label = batch["label"][:, None]
    own = jnp.take_along_axis(scores, label, axis=1)[:, 0]
    others = jnp.where(jnp.arange(scores.shape[1], dtype=label.dtype)[None] == label, -jnp.inf, scores)
    mistake = others.max(1) >= own  # a tie counts as a mistake: from zero weights the rule must get going
    loss = _mean(jnp.where(mistake, others.max(1) - own, jnp.zeros_like(own)), batch)
    accuracy = _mean(1 - mistake.astype(scores.dtype), batch)
    return loss, ({"loss": loss, "accuracy": accuracy}, variables)
