"""Objectives of classifiers. B batch, K classes."""

import jax
import jax.numpy as jnp
import optax

from deepmodels.errors import ShapeError

Batch = dict[str, jax.Array]


def _mean(values: jax.Array, batch: Batch) -> jax.Array:
    """The mean over the batch, or over its real examples where a mask marks the padding of a last batch."""
    if "example_mask" not in batch:
        return values.mean()
    mask = batch["example_mask"].astype(values.dtype)
    return (values * mask).sum() / jnp.maximum(mask.sum(), 1)


def _outputs(forward, batch: Batch, key: jax.Array | None) -> tuple:
    """What `forward` makes of images, or of tokens or vectors with the mask and the segments that the batch has."""
    if "image" in batch:
        return forward(batch["image"], key=key)
    named = {name: batch[name] for name in ("mask", "segments") if name in batch}
    return forward(batch["tokens"] if "tokens" in batch else batch["inputs"], key=key, **named)


def classification(forward, batch: Batch, key: jax.Array | None, *, label_smoothing: float = 0.0):
    """Softmax cross-entropy with labels that are classes, or distributions over them.

    Args:
      forward: `forward(inputs, key=key)` returns logits (B, K) and the model's new variables; it gets "mask" and
        "segments" by name where a batch of sequences has them.
      batch: "image" (B, H, W, C) floats, "tokens" (B, T) integers or "inputs" (B, T, C) floats; "label" (B,) integers
        in [0, K) or (B, K) floats that add up to 1, as mixup makes them; optionally "mask" (B, T) of bools, True where
        a position holds something, and "segments" (B, T) integers; optionally "example_mask" (B,) of 0 and 1.
      key: randomness of the forward pass (dropout), or None.
      label_smoothing: share of the probability that goes to all classes alike. Szegedy et al. (2015), arXiv:1512.00567.

    Returns:
      The loss in nats, and a pair of the metrics (loss, accuracy) and the new variables. Of a distribution, the
      likeliest class is right.

    Raises:
      ShapeError: labels are neither.
    """
    logits, variables = _outputs(forward, batch, key)
    loss = _cross_entropy(logits, batch, label_smoothing)
    return loss, ({"loss": loss, "accuracy": _accuracy(logits, batch)}, variables)


def classification_with_auxiliary(
    forward, batch: Batch, key: jax.Array | None, *, auxiliary_weight: float = 0.3, label_smoothing: float = 0.0
):
    """Softmax cross-entropy of a model that classifies from its middle too, while it trains.

    Args:
      forward: `forward(images, key=key)` returns what the model does and its new variables; a model in training returns
        logits (B, K) and a tuple of auxiliary logits (B, K), otherwise logits alone.
      batch: as for `classification`.
      key: as for `classification`.
      auxiliary_weight: of each auxiliary cross-entropy; 0.3 in Szegedy et al. (2014), arXiv:1409.4842, section 5, and
        0.4 in the code of Inception v3.
      label_smoothing: as for `classification`, in each of the terms.

    Returns:
      The loss in nats, and a pair of the metrics (loss, accuracy of the main logits) and the new variables.
    """
    outputs, variables = forward(batch["image"], key=key)
    logits, auxiliary = outputs if isinstance(outputs, tuple) else (outputs, ())
    loss = _cross_entropy(logits, batch, label_smoothing)
    loss += auxiliary_weight * sum(_cross_entropy(other, batch, label_smoothing) for other in auxiliary)
    return loss, ({"loss": loss, "accuracy": _accuracy(logits, batch)}, variables)


def _at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    return max(dtype, jnp.dtype(jnp.float32), key=lambda t: jnp.finfo(t).bits)


def _cross_entropy(logits: jax.Array, batch: Batch, label_smoothing: float) -> jax.Array:
    logits = logits.astype(_at_least_float32(logits.dtype))
    label = batch["label"]
    if jnp.issubdtype(label.dtype, jnp.integer) and label.shape == logits.shape[:1]:
        targets = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
    elif jnp.issubdtype(label.dtype, jnp.floating) and label.shape == logits.shape:
        targets = label.astype(logits.dtype)
    else:
        raise ShapeError(
            f"label: expected integers of shape {logits.shape[:1]} or floats of shape {logits.shape}, as the logits, "
            f"got {label.dtype} {label.shape}"
        )
    targets = optax.smooth_labels(targets, label_smoothing)
    return _mean(optax.softmax_cross_entropy(logits, targets), batch)


def _accuracy(logits: jax.Array, batch: Batch) -> jax.Array:
    label = batch["label"]
    label = label if label.ndim == 1 else label.argmax(-1)
    right = logits.argmax(-1).astype(label.dtype) == label
    return _mean(right.astype(_at_least_float32(logits.dtype)), batch)


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
