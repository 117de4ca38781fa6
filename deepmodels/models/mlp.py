"""The multilayer perceptron and backpropagation. Rumelhart, Hinton & Williams (1986), doi:10.1038/323533a0.

`backward` is the paper's backward pass written out by hand: the delta rule, equations 4 to 7. Training uses `jax.grad`,
which computes the same. B batch, K outputs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ShapeError, unknown
from deepmodels.layers.checks import check_flattened
from deepmodels.models.variant import Variant, images

# name: (activation, its derivative as a function of the activation's value, as the paper writes it)
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "sigmoid": (jax.nn.sigmoid, lambda y: y * (1 - y)),
    "tanh": (jnp.tanh, lambda y: 1 - y * y),
    "relu": (jax.nn.relu, lambda y: (y > 0).astype(y.dtype)),
}


class MLP(nn.Module):
    """Fully connected layers with a nonlinearity between them, figure 1 of the paper.

    The paper's nonlinearity is the logistic function, `activation="sigmoid"`; tanh is the same function scaled to
    (-1, 1), and learns faster because its values are centred: LeCun et al. (1998), "Efficient BackProp".

    The call takes images (B, ...) of any shape after the batch axis, flattened, and returns logits (B, num_classes).
    Raises ShapeError without a batch axis and ConfigError if the activation is unknown.

    Attributes:
      hidden_sizes: units of each hidden layer.
      num_classes: number of outputs, which stay linear.
      activation: "sigmoid", "tanh" or "relu".
    """

    hidden_sizes: tuple[int, ...] = (300,)
    num_classes: int = 10
    activation: str = "tanh"

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        check_flattened(images)
        activation, _ = _activation(self.activation)
        x = images.reshape(images.shape[0], -1)
        for i, size in enumerate(self.hidden_sizes):
            x = activation(nn.Dense(size, name=f"hidden{i}")(x))
        return nn.Dense(self.num_classes, name="head")(x)


def backward(
    model: MLP, params: dict[str, Any], images: Array, targets: Array, *, loss: str = "cross_entropy"
) -> tuple[Array, dict[str, Any]]:
    """Computes a loss and its gradient by the delta rule, without automatic differentiation.

    The delta of an output is what it gives minus what it should give; the delta of a hidden unit is the sum of the
    deltas it feeds, weighted by its connections, times the derivative of its activation; and the gradient of a weight
    is the value it carries times the delta it leads to.

    Args:
      model: the network.
      params: its parameters, `variables["params"]`.
      images: (B, ...) floats.
      targets: (B, K) floats, the desired outputs; for the cross-entropy a distribution over the classes.
      loss: "cross_entropy" of the softmax of the outputs, in nats; or "squared_error", half the sum over the outputs,
        the paper's equation 3.

    Returns:
      The loss, averaged over the batch, and its gradient in the form of `params`.

    Raises:
      ConfigError: the loss or the activation is unknown.
      ShapeError: the targets don't fit the outputs.
    """
    if loss not in ("cross_entropy", "squared_error"):
        raise unknown("loss", loss, ("cross_entropy", "squared_error"))
    if targets.shape != (images.shape[0], model.num_classes):
        want = (images.shape[0], model.num_classes)
        raise ShapeError(f"targets: expected shape {want}, got {tuple(targets.shape)}")
    activation, derivative = _activation(model.activation)
    layers = [*(f"hidden{i}" for i in range(len(model.hidden_sizes))), "head"]

    values = [images.reshape(images.shape[0], -1)]  # what each layer is fed, then what the last one gives
    for name in layers:
        x = values[-1] @ params[name]["kernel"] + params[name]["bias"][None]
        values.append(x if name == "head" else activation(x))

    outputs = values.pop()
    if loss == "cross_entropy":
        value = -(targets * jax.nn.log_softmax(outputs)).sum(1).mean()
        delta = jax.nn.softmax(outputs) * targets.sum(1, keepdims=True) - targets
    else:
        value = 0.5 * jnp.square(outputs - targets).sum(1).mean()
        delta = outputs - targets
    delta = delta / images.shape[0]

    gradients = {}
    for name, fed in zip(reversed(layers), reversed(values), strict=True):
        gradients[name] = {"kernel": fed.T @ delta, "bias": delta.sum(0)}
        if name != layers[0]:  # below it are the inputs, which have no delta
            delta = (delta @ params[name]["kernel"].T) * derivative(fed)
    return value, gradients


def _activation(name: str) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


_PAPER = "Rumelhart, Hinton & Williams (1986), doi:10.1038/323533a0"

VARIANTS = {
    # the sizes are a row of the comparison in LeCun et al. (1998), doi:10.1109/5.726791, figure 9: 784-300-10
    "mlp": Variant(MLP, dict(hidden_sizes=(300,)), images(28, 28, 1), 238_510, 1986, _PAPER),
    "mlp_tiny": Variant(MLP, dict(hidden_sizes=(16,)), images(8, 8, 1), 1_210, 1986, _PAPER),
}
