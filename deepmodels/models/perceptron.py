"""The perceptron and its mistake-driven rules. Rosenblatt (1958), "The perceptron". N examples, D features, K classes.

`Perceptron` is the model, to be trained by any objective; `fit` and `fit_multiclass` are the historical rules, which
need no gradient: go through the examples one by one and correct the weights only after a mistake.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ShapeError, unknown
from deepmodels.layers.checks import check_flattened
from deepmodels.models.variant import Variant, images


class Perceptron(nn.Module):
    """One layer of weights: each class's score is a weighted sum of the inputs, the highest score wins.

    With `num_classes=1` it is the binary perceptron of 1958, which answers by the sign of its only score.

    The call takes images (B, ...) of any shape after the batch axis, flattened, and returns scores (B, num_classes).
    Raises ShapeError without a batch axis. Weights start at zero, as in the rules.

    Attributes:
      num_classes: number of scores.
    """

    num_classes: int = 10

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        check_flattened(images)
        x = images.reshape(images.shape[0], -1)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(x)


class Fit(NamedTuple):
    """What a rule learned."""

    weights: Array  # (D,), or (D, K) of the multiclass rule
    bias: Array  # (), or (K,)
    mistakes: Array  # () int32, over all epochs
    converged: Array  # () bool, whether the last epoch had no mistake


@partial(jax.jit, static_argnames="rule")
def fit(inputs: Array, labels: Array, *, epochs: int, rule: str = "plain") -> Fit:
    """Learns a binary perceptron, epoch by epoch until one has no mistake.

    After a mistake on (x, y) the weights move by y x and the bias by y. If some weights of length 1 (bias included)
    separate the examples by a margin g, and no example (a 1 appended) is longer than R, at most (R / g)^2 mistakes are
    made, whatever their order: Novikoff (1962).

    Args:
      inputs: (N, D) floats.
      labels: (N,) numbers or bools, positive for the one class, zero or negative for the other.
      epochs: the most passes over the examples.
      rule: which weights to return. "plain" the last ones; "averaged" their mean over all visits, Freund & Schapire
        (1999); "pocket" those that stood the longest run of right answers, Gallant (1990), for examples that no
        weights separate.

    Returns:
      The answer to an input x is the sign of x @ weights + bias.

    Raises:
      ConfigError: the rule is unknown.
      ShapeError: inputs or labels have the wrong shape.
    """
    if rule not in ("plain", "averaged", "pocket"):
        raise unknown("rule", rule, ("plain", "averaged", "pocket"))
    points = _with_one(inputs, labels)
    signs = jnp.where(labels.astype(inputs.dtype) > 0, 1, -1).astype(inputs.dtype)

    def visit(state, example):
        weights, total, visits, run, pocket, longest = state
        x, y = example
        wrong = y * (x @ weights) <= 0
        run = jnp.where(wrong, 0, run + 1)
        pocket = jnp.where(run > longest, weights, pocket)
        weights = weights + jnp.where(wrong, y, 0) * x
        return (weights, total + weights, visits + 1, run, pocket, jnp.maximum(run, longest)), wrong

    zeros, none = jnp.zeros_like(points[0]), jnp.int32(0)
    state, mistakes, converged = _epochs(visit, (zeros, zeros, none, none, zeros, none), (points, signs), epochs)
    weights, total, visits, _, pocket, _ = state
    chosen = {"plain": weights, "averaged": total / jnp.maximum(visits, 1).astype(total.dtype), "pocket": pocket}[rule]
    return Fit(chosen[:-1], chosen[-1], mistakes, converged)


@partial(jax.jit, static_argnames="num_classes")
def fit_multiclass(inputs: Array, labels: Array, *, num_classes: int, epochs: int) -> Fit:
    """Learns one weight vector per class, epoch by epoch until one has no mistake.

    After a mistake on x the right class's weights move by x and the winning class's by -x (Kesler's construction, Duda
    & Hart (1973)).

    Args:
      inputs: (N, D) floats.
      labels: (N,) integers in [0, num_classes).
      num_classes: number of classes, K.
      epochs: the most passes over the examples.

    Returns:
      The answer to an input x is the argmax of x @ weights + bias: `{"head": {"kernel": weights, "bias": bias}}` are
      the parameters of a `Perceptron`.

    Raises:
      ShapeError: inputs or labels have the wrong shape.
    """
    points = _with_one(inputs, labels)

    def visit(weights, example):
        x, y = example
        winner = (x @ weights).argmax()
        wrong = winner != y
        step = jax.nn.one_hot(y, num_classes, dtype=x.dtype) - jax.nn.one_hot(winner, num_classes, dtype=x.dtype)
        return weights + x[:, None] * step[None], wrong

    zeros = jnp.zeros((points.shape[1], num_classes), inputs.dtype)
    weights, mistakes, converged = _epochs(visit, zeros, (points, labels.astype(jnp.int32)), epochs)
    return Fit(weights[:-1], weights[-1], mistakes, converged)


def _with_one(inputs: Array, labels: Array) -> Array:
    """A 1 appended to each input, so that the bias is one more weight."""
    if inputs.ndim != 2:
        raise ShapeError(f"inputs: expected shape (examples, features), got {tuple(inputs.shape)}")
    if labels.shape != inputs.shape[:1]:
        raise ShapeError(f"labels: expected shape ({inputs.shape[0]},), got {tuple(labels.shape)}")
    return jnp.concatenate([inputs, jnp.ones_like(inputs[:, :1])], axis=1)


def _epochs(visit: Callable, state: Any, examples: tuple[Array, Array], epochs: int) -> tuple[Any, Array, Array]:
    """Visits all examples until an epoch has no mistake: the state, the mistakes, whether it converged."""

    def unfinished(carry):
        _, epoch, _, last = carry
        return (epoch < epochs) & (last > 0)

    def one_epoch(carry):
        state, epoch, mistakes, _ = carry
        state, wrong = jax.lax.scan(visit, state, examples)
        last = wrong.sum(dtype=jnp.int32)
        return state, epoch + 1, mistakes + last, last

    start = (state, jnp.int32(0), jnp.int32(0), jnp.int32(1))
    state, _, mistakes, last = jax.lax.while_loop(unfinished, one_epoch, start)
    return state, mistakes, last == 0


_PAPER = "Rosenblatt (1958), doi:10.1037/h0042519"

VARIANTS = {
    "perceptron": Variant(Perceptron, dict(num_classes=10), images(28, 28, 1), 7_850, 1958, _PAPER),
    "perceptron_tiny": Variant(Perceptron, dict(num_classes=10), images(8, 8, 1), 650, 1958, _PAPER),
}
