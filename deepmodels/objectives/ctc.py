"""Connectionist temporal classification. Graves, Fernández, Gomez & Schmidhuber (2006), doi:10.1145/1143844.1143891."""

import jax
import jax.numpy as jnp
import optax

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.objectives.classification import Batch, _at_least_float32, _mean


def ctc(forward, batch: Batch, key: jax.Array | None, *, blank: int = 0):
    """The negative log-probability of a sequence of labels that isn't aligned with the inputs, section 4.1.

    Args:
      forward: `forward(inputs, mask=mask, key=key)` returns logits (B, T, K) and the model's new variables.
      batch: "inputs" (B, T, C) floats; "mask" (B, T) bools, True at the first steps, those that are real; "labels"
        (B, L) integers in [0, K), none of them the blank; "label_mask" (B, L) bools, True at the first ones, those that
        are real; optionally "example_mask" (B,) of 0 and 1. Each mask may be missing where nothing is padding.
      key: randomness of the forward pass (dropout), or None.
      blank: the label that stands for none.

    Returns:
      The loss in nats for each sequence, and a pair of the metrics (loss) and the new variables. Where the inputs are
      too short for the labels, which need a step each and one more between two of a kind, it is large but finite, as
      optax has it.

    Raises:
      ConfigError: the blank isn't a label.
      ShapeError: labels or a mask don't fit.
    """
    mask, labels, label_mask = batch.get("mask"), batch["labels"], batch.get("label_mask")
    named = {} if mask is None else {"mask": mask}
    logits, variables = forward(batch["inputs"], key=key, **named)
    if not 0 <= blank < logits.shape[2]:
        raise ConfigError(f"blank: expected one of the {logits.shape[2]} labels, got {blank}")
    if labels.ndim != 2 or len(labels) != len(logits) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ShapeError(f"labels: expected integers of shape ({len(logits)}, L), got {labels.dtype} {labels.shape}")
    logits = logits.astype(_at_least_float32(logits.dtype))

    def padding(name: str, real: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
        if real is None:
            return jnp.zeros(shape, logits.dtype)
        if real.shape != shape:
            raise ShapeError(f"{name}: expected bools of shape {shape}, got {real.dtype} {real.shape}")
        return 1 - real.astype(logits.dtype)

    paddings = padding("mask", mask, logits.shape[:2]), padding("label_mask", label_mask, labels.shape)
    with jax.numpy_dtype_promotion("standard"):  # optax adds a float32 of its own
        losses = optax.ctc_loss(logits, paddings[0], labels, paddings[1], blank_id=blank)
    loss = _mean(losses, batch)
    return loss, ({"loss": loss}, variables)
