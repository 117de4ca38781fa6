"""The artificial neuron. McCulloch & Pitts (1943), "A logical calculus of the ideas immanent in nervous activity".

A net is data: layers of neurons, each (indices of its excitatory inputs, indices of its inhibitory inputs, threshold).
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels.errors import ShapeError
from deepmodels.models.variant import Variant, vectors

Neuron = tuple[tuple[int, ...], tuple[int, ...], int]
Net = tuple[tuple[Neuron, ...], ...]

NETS: dict[str, Net] = {
    "and": ((((0, 1), (), 2),),),
    "or": ((((0, 1), (), 1),),),
    "not": ((((), (0,), 0),),),
    "nor": ((((), (0, 1), 0),),),
    "majority": ((((0, 1, 2), (), 2),),),
    # no single neuron computes these two: an active inhibitory input would have to be outvoted
    "nand": ((((), (0,), 0), ((), (1,), 0)), (((0, 1), (), 1),)),
    "xor": ((((0,), (1,), 1), ((1,), (0,), 1)), (((0, 1), (), 1),)),
}


class McCullochPitts(nn.Module):
    """A net of binary threshold neurons, without anything to learn.

    A neuron fires when as many of its excitatory inputs are active as its threshold says, and none of its inhibitory
    ones is: inhibition is absolute, one active inhibitory input vetoes (sections 1 and 2 of the paper). An index that
    is listed twice is two synapses and counts twice. Each layer is one unit of time.

    The call takes inputs (B, N) of 0 and 1, of any dtype, and returns the last layer's neurons (B, M) as 0 and 1 of
    that dtype. Raises ShapeError if the inputs are fewer than the first layer's indices need.

    Attributes:
      net: the layers; `NETS` has the elementary functions.
    """

    net: Net = NETS["xor"]

    @nn.compact
    def __call__(self, inputs: Array, train: bool = False) -> Array:
        need = 1 + max(index for excitatory, inhibitory, _ in self.net[0] for index in (*excitatory, *inhibitory))
        if inputs.ndim != 2 or inputs.shape[1] < need:
            raise ShapeError(f"inputs: expected shape (batch, {need}) or wider, got {tuple(inputs.shape)}")
        active = inputs.astype(bool)
        for layer in self.net:
            active = jnp.stack([_fires(active, *neuron) for neuron in layer], axis=1)
        return active.astype(inputs.dtype)


def _fires(active: Array, excitatory: tuple[int, ...], inhibitory: tuple[int, ...], threshold: int) -> Array:
    excitation = active[:, np.array(excitatory, int)].sum(1)
    vetoed = active[:, np.array(inhibitory, int)].any(1)
    return (excitation >= threshold) & ~vetoed


_PAPER = "McCulloch & Pitts (1943), doi:10.1007/BF02478259"

VARIANTS = {"mcculloch_pitts": Variant(McCullochPitts, dict(net=NETS["xor"]), vectors(2), 0, 1943, _PAPER)}
