"""The objective of denoising models, whatever they are told of the noise and predict of it. B batch."""

import jax
import jax.numpy as jnp

from deepmodels.objectives.classification import Batch, _at_least_float32, _mean
from deepmodels.objectives.reconstruction import _noise_key
from deepmodels.sampling.denoising import drawn_levels, prediction_of

Array = jax.Array


def diffusion(
    forward,
    batch: Batch,
    key: Array | None,
    *,
    process: str = "linear",
    prediction: str = "epsilon",
    num_steps: int = 1000,
    conditional: bool = False,
    label_dropout: float = 0.0,
):
    """Squared error of what a model predicts of noisy images, averaged over values and over a process's times.

    With the noise as what is predicted it is the simple loss of Ho, Jain & Abbeel (2020), arXiv:2006.11239, equation
    14; with a straight flow's velocity that of Lipman et al. (2022), arXiv:2210.02747, equation 23; with "edm" that of
    Karras et al. (2022), arXiv:2206.00364, equation 8, whose weight is 1 for what its network predicts.

    Args:
      forward: `forward(images, timesteps, key=key)` returns the prediction, of the images' shape, and the model's new
        variables; it gets the labels behind the timesteps, -1 where they aren't told, if `conditional`.
      batch: "image" (B, H, W, C) floats, in [-1, 1] or so; optionally "label" (B,) integers; optionally "example_mask"
        (B,) of 0 and 1.
      key: randomness of times, noise and labels, which without it is that of one fixed key, and of the forward pass;
        or None.
      process: as `sampling.denoising.drawn_levels` takes it: "linear", "cosine", "flow", "edm" and more.
      prediction: a key of `sampling.denoising.PREDICTIONS`; for a flow "flow", for "edm" "edm".
      num_steps: of the process.
      conditional: whether the model is given the labels.
      label_dropout: share of the labels that a model isn't told, so that it learns both: Ho & Salimans (2022),
        arXiv:2207.12598. Only while training, that is, with a key.

    Returns:
      The loss, and a pair of the metrics (loss) and the new variables.

    Raises:
      ConfigError: the process or the prediction is unknown.
    """
    kind, image = prediction_of(prediction), batch["image"]
    of_times, of_noise, of_labels = jax.random.split(_noise_key(key), 3)
    dtype, count = _at_least_float32(image.dtype), len(image)
    levels = drawn_levels(of_times, process, count, num_steps)
    signal, level, scale = (
        values.astype(dtype)[:, None, None, None] for values in (levels.signal, levels.level, levels.scale)
    )
    clean, noise = image.astype(dtype), jax.random.normal(of_noise, image.shape, dtype)
    noisy = scale * (signal * clean + level * noise)
    told = ()
    if conditional:
        label = batch["label"].astype(jnp.int32)
        if key is not None and label_dropout:
            label = jnp.where(jax.random.bernoulli(of_labels, label_dropout, (count,)), -1, label)
        told = (label,)
    output, variables = forward(noisy.astype(image.dtype), levels.timestep, *told, key=key)
    of_clean, of_noise = kind.target(signal, level)
    error = jnp.square(output.astype(dtype) - (of_clean * clean + of_noise * noise))
    loss = _mean(error.mean((1, 2, 3)), batch)
    return loss, ({"loss": loss}, variables)
