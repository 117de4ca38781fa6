"""Objectives of dense prediction: a class for each pixel. B batch, H height, W width, K classes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.objectives.classification import Batch, _at_least_float32, _mean


def segmentation(
    forward,
    batch: Batch,
    key: jax.Array | None,
    *,
    ignore_label: int = 255,
    class_weights: Sequence[float] | None = None,
    auxiliary_weight: float = 0.5,
):
    """Softmax cross-entropy of each pixel with an integer label.

    Every number is a mean over images of a mean within the image, so that means over batches, weighted by their
    images, are the means over the data set: an image with few labelled pixels counts as much as any other. Likewise the
    mean IoU is that of an image's own counts, over the classes that its labels have: what is marked as another class
    costs the classes it is taken from. An image without a labelled pixel has loss 0, accuracy 1 and mean IoU 1.

    Args:
      forward: `forward(images, key=key)` returns logits (B, H, W, K), or a pair of these and a tuple of auxiliary
        logits like them, and the model's new variables.
      batch: "image" (B, H', W', C) floats; "label" (B, H, W) integers, in [0, K) or `ignore_label`; optionally "weight"
        (B, H, W), of each pixel's loss; optionally "example_mask" (B,) of 0 and 1. Labels larger than the logits, as an
        unpadded network's are smaller than its images, are cropped around the middle, and so are the weights.
      key: randomness of the forward pass (dropout), or None.
      ignore_label: the label of pixels that count for nothing.
      class_weights: K weights of the pixels' losses by their label; None for all alike.
      auxiliary_weight: of the loss of each of the auxiliary logits, in training; 0.5 in torchvision's recipe.

    Returns:
      The loss in nats, and a pair of the metrics (loss, accuracy, mean_iou) and the new variables.

    Raises:
      ConfigError: there aren't as many class weights as classes.
      ShapeError: labels have other axes than (B, H, W), or are smaller than the logits.
    """
    outputs, variables = forward(batch["image"], key=key)
    logits, auxiliary = outputs if isinstance(outputs, tuple) else (outputs, ())
    height, width, classes = logits.shape[1:]
    label = _crop(batch["label"], height, width)
    dtype = _at_least_float32(logits.dtype)
    labelled = (label != ignore_label).astype(dtype)
    weight = labelled * _crop(batch["weight"], height, width).astype(dtype) if "weight" in batch else labelled
    truth = jnp.where(label == ignore_label, 0, label)
    if class_weights is not None:
        if len(class_weights) != classes:
            raise ConfigError(f"class_weights: expected one for each of {classes} classes, got {len(class_weights)}")
        weight = weight * jnp.asarray(class_weights, dtype)[truth]

    def cross_entropy(logits: jax.Array) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(dtype), truth)
        return _mean(_pixel_mean(losses, weight), batch)

    loss = cross_entropy(logits)
    loss += auxiliary_weight * sum(map(cross_entropy, auxiliary), jnp.zeros_like(loss))
    wrong = (logits.argmax(-1).astype(truth.dtype) != truth).astype(dtype)
    accuracy = _mean(1 - _pixel_mean(wrong, labelled), batch)
    metrics = {"loss": loss, "accuracy": accuracy, "mean_iou": _mean(_mean_iou(logits, truth, labelled), batch)}
    return loss, (metrics, variables)


def _crop(x: jax.Array, height: int, width: int) -> jax.Array:
    if x.ndim != 3 or x.shape[1] < height or x.shape[2] < width:
        raise ShapeError(f"label, weight: expected shape (batch, {height}, {width}) or larger, got {tuple(x.shape)}")
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]


def _pixel_mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """The weighted mean of each image's pixels, (B, H, W) -> (B,); 0 without any weight."""
    total = weight.sum((1, 2))
    return (values * weight).sum((1, 2)) / jnp.where(total > 0, total, 1)


def _mean_iou(logits: jax.Array, truth: jax.Array, labelled: jax.Array) -> jax.Array:
    """Of each image, the mean over the classes it has of intersection over union, (B,)."""
    classes = logits.shape[-1]
    true = jax.nn.one_hot(truth, classes, dtype=labelled.dtype) * labelled[..., None]
    predicted = jax.nn.one_hot(logits.argmax(-1), classes, dtype=labelled.dtype) * labelled[..., None]
    counts = true.sum((1, 2))
    intersection = (true * predicted).sum((1, 2))
    union = counts + predicted.sum((1, 2)) - intersection
    missed = 1 - intersection / jnp.maximum(union, 1)
    present = (counts > 0).astype(labelled.dtype)
    return 1 - (missed * present).sum(-1) / jnp.maximum(present.sum(-1), 1)


def border_weights(instances: np.ndarray, *, w0: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """Returns U-Net's map of weights, w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)): its equation 2.

    d1 and d2 are the distances in pixels to the nearest and the second nearest object; the term stands in the
    background only, where it teaches the gaps between objects that touch. w_c balances background and objects: half of
    the pixels over the pixels of its own kind. Ronneberger, Fischer & Brox (2015), arXiv:1505.04597.

    This is for the host, once for each image; put the result into a record as "weight".

    Args:
      instances: (H, W) integers: 0 for the background, another number for each object.
      w0: height of the term between two objects that touch.
      sigma: how far it reaches, in pixels.

    Returns:
      (H, W) float32.

    Raises:
      ShapeError: instances have other axes.
    """
    if instances.ndim != 2:
        raise ShapeError(f"instances: expected shape (height, width), got {instances.shape}")
    background = instances == 0
    kinds = np.array([max((~background).sum(), 1), max(background.sum(), 1)])
    weights = (instances.size / (2 * kinds))[background.astype(int)]
    distances = [_distance(instances == number) for number in np.unique(instances[~background])]
    if len(distances) > 1:
        d1, d2 = np.partition(distances, 1, axis=0)[:2]
        weights += background * w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return weights.astype(np.float32)


def _distance(mask: np.ndarray) -> np.ndarray:
    """The distance of each pixel to the nearest one of a mask, exact: along the columns, then over the rows."""
    height, width = mask.shape
    rows, columns = np.arange(height), np.arange(width)
    steps = np.abs(rows[:, None] - rows)[..., None]
    along = np.where(mask, steps, height + width).min(1).astype(np.float64)
    across = (columns[:, None] - columns) ** 2
    return np.sqrt(np.stack([(line**2 + across).min(1) for line in along]))
