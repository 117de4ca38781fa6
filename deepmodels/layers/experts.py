"""Mixtures of experts without capacities: each token goes to k gated dense layers. Shazeer et al. (2017),
arXiv:1701.06538; Fedus, Zoph & Shazeer (2021), arXiv:2101.03961; nothing is dropped, as in Gale et al. (2022),
arXiv:2211.15841.

M tokens, C channels, F channels inside an expert, E experts.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

Gate = Callable[[Array, Array], Array]


def swiglu(gate: Array, up: Array) -> Array:
    """Returns silu(gate) * up. Shazeer (2020), arXiv:2002.05202."""
    return jax.nn.silu(gate) * up


def geglu(gate: Array, up: Array) -> Array:
    """Returns gelu(gate) * up, with gelu's approximation by tanh. Shazeer (2020), arXiv:2002.05202."""
    return jax.nn.gelu(gate, approximate=True) * up


def clamped_swiglu(gate: Array, up: Array) -> Array:
    """Returns gate * sigmoid(1.702 gate) * (up + 1), of a gate of at most 7 and an up of -7 to 7: gpt-oss's."""
    gate, up = jnp.minimum(gate, 7.0), jnp.clip(up, -7.0, 7.0)
    return gate * jax.nn.sigmoid(1.702 * gate) * (up + 1.0)


GATES: dict[str, Gate] = {"swiglu": swiglu, "geglu": geglu, "clamped_swiglu": clamped_swiglu}


class Routing(NamedTuple):
    """Where tokens go.

    Attributes:
      chosen: experts of each token, (M, k) int32.
      weights: of what they return, (M, k).
    """

    chosen: Array
    weights: Array


def balance_loss(probabilities: Array, chosen: Array, valid: Array | None = None) -> Array:
    """Returns E times the sum over experts of their share of choices times their mean probability, equation 4 of Fedus
    et al.; with k choices for each token it is k where all experts are alike.

    Args:
      probabilities: of a router, (M, E).
      chosen: (M, k) int32.
      valid: (M,) bools, True for tokens that count; by default all do.
    """
    experts = probabilities.shape[-1]
    counts = jax.nn.one_hot(chosen, experts, dtype=probabilities.dtype).sum(1)
    each = jnp.ones(len(counts), probabilities.dtype) if valid is None else valid.astype(probabilities.dtype)
    total = jnp.maximum(each.sum(), 1.0)
    return experts * jnp.sum((each @ counts / total) * (each @ probabilities / total))


class ExpertDense(nn.Module):
    """The arrays of a dense layer for each expert: a kernel (E, C, features), and a bias (E, features) or None.

    Attributes:
      num_experts: E.
      features: channels of what comes out.
      use_bias: whether each has a bias.
    """

    num_experts: int
    features: int
    use_bias: bool = False

    @nn.compact
    def __call__(self, channels: int, dtype: jnp.dtype) -> "Layer":
        """Returns them for inputs of so many channels and this dtype."""
        shape = (self.num_experts, channels, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(batch_axis=(0,)), shape, jnp.float32)
        if not self.use_bias:
            return Layer(kernel.astype(dtype), None)
        bias = self.param("bias", nn.initializers.zeros, (self.num_experts, self.features), jnp.float32)
        return Layer(kernel.astype(dtype), bias.astype(dtype))


class Layer(NamedTuple):
    """A dense layer for each expert: kernel (E, C, features), and bias (E, features) or None."""

    kernel: Array
    bias: Array | None


def routed(
    x: Array, routing: Routing, layers: Mapping[str, Layer], gate: Gate, first: Array | int | None = None
) -> Array:
    """Returns for tokens (M, C) what the experts that they go to give, averaged by weights, (M, C).

    Tokens are sorted by expert and multiplied by `jax.lax.ragged_dot`, so that none is dropped and none is computed by
    an expert it doesn't go to, on back ends that have it (XLA's CPU back end computes all and masks).

    Args:
      x: the tokens.
      routing: where they go.
      layers: "gate", "up" and "down".
      gate: the function between.
      first: number of the first expert in `layers`, if those are some of all: what others would give is left out.
    """
    experts, (tokens, k) = len(layers["up"].kernel), routing.chosen.shape
    chosen = routing.chosen.reshape(-1)
    if first is not None:  # those of other experts come last, and count for nothing
        here = (chosen >= first) & (chosen < first + experts)
        chosen = jnp.where(here, chosen - first, experts)
    order = jnp.argsort(chosen)
    expert = chosen[order]
    sizes = jnp.bincount(chosen, length=experts).astype(jnp.int32)

    def dense(layer: Layer, rows: Array) -> Array:
        y = jax.lax.ragged_dot(rows, layer.kernel, sizes)
        return y if layer.bias is None else y + layer.bias[expert]

    def own(rows: Array) -> Array:  # what `ragged_dot` gives behind the last group isn't the same everywhere
        return rows if first is None else jnp.where((expert < experts)[:, None], rows, 0)

    rows = own(x[order // k])
    y = own(dense(layers["down"], gate(dense(layers["gate"], rows), dense(layers["up"], rows))))
    y = y[jnp.argsort(order)].reshape(tokens, k, -1)
    return jnp.einsum("MkC,Mk->MC", y, routing.weights.astype(x.dtype))


_COMPUTE: contextvars.ContextVar[Callable | None] = contextvars.ContextVar("compute", default=None)


@contextlib.contextmanager
def experts_by(compute: Callable | None) -> Iterator[None]:
    """Has `Experts` called inside computed by another function than `routed`, which takes its first four arguments.

    Args:
      compute: returns (M, C), or None where `routed` should compute it. None for none.
    """
    token = _COMPUTE.set(compute)
    try:
        yield
    finally:
        _COMPUTE.reset(token)


class Experts(nn.Module):
    """Gated dense layers, to k of which each token goes: down(gate function(gate(x), up(x))), see `routed`.

    Attributes:
      num_experts: E.
      mlp_size: F.
      gate_function: a key of `GATES`.
      use_bias: whether the layers have biases.
    """

    num_experts: int
    mlp_size: int
    gate_function: str = "swiglu"
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array, routing: Routing) -> Array:
        """Returns (M, C) of tokens (M, C) and where they go."""
        sizes = {"gate": (x.shape[-1], self.mlp_size), "up": (x.shape[-1], self.mlp_size)}
        sizes["down"] = (self.mlp_size, x.shape[-1])
        layers = {
            name: ExpertDense(self.num_experts, features, self.use_bias, name=name)(channels, x.dtype)
            for name, (channels, features) in sizes.items()
        }
        gate, compute = GATES[self.gate_function], _COMPUTE.get()
        if compute is not None and (y := compute(x, routing, layers, gate)) is not None:
            return y
        return routed(x, routing, layers, gate)
