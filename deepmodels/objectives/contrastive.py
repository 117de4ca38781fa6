"""Objectives of Boltzmann machines and deep belief networks, whose gradients are what their learning rules are."""

import jax
import jax.numpy as jnp

from deepmodels.objectives.classification import Batch, _accuracy, _at_least_float32, _mean
from deepmodels.objectives.reconstruction import _noise_key

Array = jax.Array


def contrastive_divergence(
    forward, batch: Batch, key: Array | None, *, steps: int = 1, layer: int | None = None, conditional: bool = False
):
    """The free energy of the data less that of what Gibbs sampling makes of it: contrastive divergence as a gradient.

    Hinton (2002), doi:10.1162/089976602760128018. The chains are constants, so that the gradient is the difference of
    the statistics of both; where the model keeps chains from step to step it is that of persistent contrastive
    divergence, Tieleman (2008), doi:10.1145/1390156.1390290. The value of the loss says nothing of how good a model is.

    Args:
      forward: `forward(images, sampling_key=key, steps=steps, key=key)` returns a dict of "free_energy" (B,),
        "chain_free_energy" (N,) and "reconstruction" (B, H, W, C), perhaps "pseudo_log_likelihood" (B,) and
        "label_logits" (B, K), and the model's new variables; it gets "layer" and "label" by name if they are asked for.
      batch: "image" (B, H, W, C) floats; optionally "label" (B,) integers; optionally "example_mask" (B,) of 0 and 1.
      key: randomness of the chains, which without it is that of one fixed key, and of the forward pass; or None.
      steps: of Gibbs sampling.
      layer: of a deep belief network that learns; the gradient of the others is 0. None for a single machine.
      conditional: whether the model is given the labels.

    Returns:
      The loss, and a pair of the metrics (loss; reconstruction, the squared error of what one way up and down makes of
      the images, summed over pixels; pseudo_log_likelihood and accuracy where the model says so) and the new variables.
    """
    outputs, variables = _sampled(forward, batch, key, steps, layer, conditional)
    loss = _difference(outputs, batch)
    return loss, ({"loss": loss, **_measures(outputs, batch)}, variables)


def up_down(forward, batch: Batch, key: Array | None, *, steps: int = 3, conditional: bool = True):
    """The up-down algorithm, wake and sleep with a contrastive top: Hinton, Osindero & Teh (2006), appendix B.

    Args:
      forward: as for `contrastive_divergence`; the dict has "wake" and "sleep" (B,) in nats too.
      batch: as for `contrastive_divergence`.
      key: as for `contrastive_divergence`.
      steps: of Gibbs sampling at the top; 3, 6 and 10 in the paper, as training goes on.
      conditional: whether the model is given the labels.

    Returns:
      The loss, and a pair of the metrics (loss, wake, sleep, reconstruction, accuracy) and the new variables.
    """
    outputs, variables = _sampled(forward, batch, key, steps, None, conditional)
    wake, sleep = (_mean(outputs[name], batch) for name in ("wake", "sleep"))
    loss = _difference(outputs, batch) + wake + sleep
    return loss, ({"loss": loss, "wake": wake, "sleep": sleep, **_measures(outputs, batch)}, variables)


def _sampled(forward, batch: Batch, key: Array | None, steps: int, layer: int | None, conditional: bool) -> tuple:
    named = {} if layer is None else {"layer": layer}
    if conditional:
        named["label"] = batch["label"]
    outputs, variables = forward(batch["image"], sampling_key=_noise_key(key), steps=steps, key=key, **named)
    dtype = _at_least_float32(batch["image"].dtype)
    return {name: value.astype(dtype) for name, value in outputs.items()}, variables


def _difference(outputs: dict[str, Array], batch: Batch) -> Array:
    chains = outputs["chain_free_energy"]
    own = chains.shape == outputs["free_energy"].shape  # or else they are persistent, and as many as the model has
    return _mean(outputs["free_energy"], batch) - (_mean(chains, batch) if own else chains.mean())


def _measures(outputs: dict[str, Array], batch: Batch) -> dict[str, Array]:
    back, image = outputs["reconstruction"], batch["image"].astype(outputs["reconstruction"].dtype)
    measures = {"reconstruction": _mean(jnp.square(back - image).sum((1, 2, 3)), batch)}
    if "pseudo_log_likelihood" in outputs:
        measures["pseudo_log_likelihood"] = _mean(outputs["pseudo_log_likelihood"], batch)
    if "label_logits" in outputs and "label" in batch:
        measures["accuracy"] = _accuracy(outputs["label_logits"], batch)
    return measures
