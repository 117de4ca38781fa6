"""Objectives of regression. B batch, K numbers."""

import jax
import jax.numpy as jnp

from deepmodels.errors import ShapeError
from deepmodels.objectives.classification import Batch, _at_least_float32, _mean


def regression(forward, batch: Batch, key: jax.Array | None, *, tolerance: float = 0.04):
    """Squared error.

    Args:
      forward: `forward(inputs, key=key)` returns numbers (B, K) and the model's new variables; it gets "mask" by name
        where the batch has it.
      batch: "inputs", what the model takes; "target" (B, K) floats; optionally "mask", and "example_mask" (B,) of 0 and
        1.
      key: randomness of the forward pass (dropout), or None.
      tolerance: an example is right if no number is further off; 0.04 in Hochreiter & Schmidhuber (1997),
        doi:10.1162/neco.1997.9.8.1735, for the adding problem.

    Returns:
      The loss, a mean over examples and numbers, and a pair of the metrics (loss, accuracy) and the new variables.

    Raises:
      ShapeError: targets aren't of the shape of what the model gives.
    """
    named = {"mask": batch["mask"]} if "mask" in batch else {}
    outputs, variables = forward(batch["inputs"], key=key, **named)
    target = batch["target"]
    if target.shape != outputs.shape:
        raise ShapeError(f"target: expected shape {tuple(outputs.shape)}, as the outputs, got {tuple(target.shape)}")
    dtype = _at_least_float32(outputs.dtype)
    error = outputs.astype(dtype) - target.astype(dtype)
    loss = _mean(jnp.square(error).mean(1), batch)
    accuracy = _mean((jnp.abs(error) <= tolerance).all(1).astype(dtype), batch)
    return loss, ({"loss": loss, "accuracy": accuracy}, variables)
