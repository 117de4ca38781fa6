"""Objectives that see pictures through a frozen network: Johnson, Alahi & Fei-Fei (2016), arXiv:1603.08155.

B batch, H height, W width, C channels of a map. `forward(images, network=name, layers=layers)` gives the maps of the
network that the config calls so, see `deepmodels.training.frozen`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from deepmodels.errors import ConfigError
from deepmodels.objectives.classification import Batch, _at_least_float32, _mean

Array = jax.Array


def feature_distance(made: dict[str, Array], wanted: dict[str, Array]) -> Array:
    """Returns how far the maps of pictures are from those of others, (B,): the mean squared error of each, summed.

    Equation 2.

    Args:
      made: by layer, (B, H, W, C).
      wanted: likewise.
    """
    return sum(
        jnp.square(_exact(made[layer]) - _exact(wanted[layer])).reshape(len(made[layer]), -1).mean(1) for layer in made
    )


def gram_matrix(maps: Array) -> Array:
    """Returns the mean over pixels of products of channels, divided by C: (B, H, W, C) -> (B, C, C). Equation 3."""
    maps = _exact(maps)
    return jnp.einsum("bhwc,bhwd->bcd", maps, maps) / (maps.shape[1] * maps.shape[2] * maps.shape[3])


def total_variation(images: Array) -> Array:
    """Returns the mean squared difference of neighbouring pixels, down and across: (B, H, W, C) -> (B,)."""
    images = _exact(images)
    return sum(jnp.square(jnp.diff(images, axis=axis)).mean((1, 2, 3)) for axis in (1, 2))


def style_transfer(
    forward,
    batch: Batch,
    key: Array | None,
    *,
    network: str,
    content_layers: Sequence[str],
    style_layers: Sequence[str],
    content_weight: float = 1.0,
    style_weight: float = 1.0,
    variation_weight: float = 0.0,
):
    """The loss of pictures that keep what is to be seen on others, in the style of one picture.

    Args:
      forward: `forward(images, key=key)` returns a dict of "stylised" (B, H, W, 3) and the model's new variables;
        `forward(images, network=network, layers=layers)` a dict of maps by layer.
      batch: "image" (B, H, W, 3) floats; "style" (B, h, w, 3), of which the first is every picture's style, as
        `data.style` puts it there; optionally "example_mask" (B,) of 0 and 1.
      key: randomness of the forward pass, or None.
      network: which frozen network looks.
      content_layers: its layers whose maps should be those of the image: equation 2.
      style_layers: its layers whose Gram matrices should be those of the style: equation 4, squared Frobenius norms.
      content_weight: of the first.
      style_weight: of the second.
      variation_weight: of the mean squared difference of neighbouring pixels.

    Returns:
      The loss, and a pair of the metrics (loss, content, style, variation) and the new variables.

    Raises:
      ConfigError: there is no such network, it has no such layer, or records have no style.
    """
    if "style" not in batch:
        raise ConfigError("expected records with a \"style\": say data.style=, a picture's file or a record's number")
    images, style = batch["image"], batch["style"][:1]
    outputs, variables = forward(images, key=key)
    made = outputs["stylised"]
    layers = list(dict.fromkeys([*content_layers, *style_layers]))
    maps, _ = forward(made, network=network, layers=layers)
    seen, _ = forward(images, network=network, layers=content_layers)
    strokes, _ = forward(style, network=network, layers=style_layers)

    content = feature_distance({layer: maps[layer] for layer in content_layers}, seen)
    textures = [gram_matrix(maps[layer]) - gram_matrix(strokes[layer]) for layer in style_layers]
    metrics = {
        "content": _mean(content, batch),
        "style": _mean(sum(jnp.square(x).sum((1, 2)) for x in textures), batch),
        "variation": _mean(total_variation(made), batch),
    }
    weights = {"content": content_weight, "style": style_weight, "variation": variation_weight}
    loss = sum(weights[name] * value for name, value in metrics.items())
    return loss, ({"loss": loss, **metrics}, variables)


def _exact(x: Array) -> Array:
    return x.astype(_at_least_float32(x.dtype))
