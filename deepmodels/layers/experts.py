"""Mixtures of experts without capacities: each token goes to k gated dense layers. Shazeer et al. (2017),
arXiv:1701.06538; Fedus, Zoph & Shazeer (2021), arXiv:2101.03961; nothing is dropped, as in Gale et al. (2022),
arXiv:2211.15841.

M tokens, C channels, F channels inside an expert, E experts.
"""

from collections.abc import Callable
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
    """A dense layer for each expert: (M, C), sorted by expert, becomes (M, features).

    Attributes:
      num_experts: E.
      features: channels of what comes out.
      use_bias: whether each has a bias.
    """

    num_experts: int
    features: int
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array, sizes: Array, expert: Array) -> Array:
        """`sizes` (E,) int32 is the number of rows of each expert, `expert` (M,) int32 whose each row is."""
        shape = (self.num_experts, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(batch_axis=(0,)), shape, jnp.float32)
        y = jax.lax.ragged_dot(x, kernel.astype(x.dtype), sizes)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.num_experts, self.features), jnp.float32)
            y += bias.astype(x.dtype)[expert]
        return y


class Experts(nn.Module):
    """Gated dense layers, to k of which each token goes: down(gate function(gate(x), up(x))), averaged by weights.

    Tokens are sorted by expert and multiplied by `jax.lax.ragged_dot`, so that none is dropped and none is computed by
    an expert it doesn't go to, on back ends that have it (XLA's CPU back end computes all and masks).

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
        tokens, k = routing.chosen.shape
        chosen = routing.chosen.reshape(-1)
        order = jnp.argsort(chosen)
        expert = chosen[order]
        sizes = jnp.bincount(chosen, length=self.num_experts).astype(jnp.int32)
        gate, up, down = (
            ExpertDense(self.num_experts, size, self.use_bias, name=name)
            for name, size in (("gate", self.mlp_size), ("up", self.mlp_size), ("down", x.shape[-1]))
        )
        rows = x[order // k]
        y = GATES[self.gate_function](gate(rows, sizes, expert), up(rows, sizes, expert))
        y = down(y, sizes, expert)[jnp.argsort(order)].reshape(tokens, k, -1)
        return jnp.einsum("MkC,Mk->MC", y, routing.weights.astype(x.dtype))
