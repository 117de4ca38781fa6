"""What the table of models says of each model."""

from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from deepmodels.preprocessing import Preprocessing


class Variant(NamedTuple):
    """A named size of a model: its class, the arguments that make it, and what the paper says of it.

    `inputs` gives the shape and dtype of each positional argument of the call, without the batch axis.
    `parameters` is the published count, trained leaves only; a test compares it with the module to the unit.
    `preprocessing` is what the weights that circulate under this name expect of an image; None where there are none.
    """

    cls: type[nn.Module]
    arguments: dict[str, Any]
    inputs: dict[str, jax.ShapeDtypeStruct]
    parameters: int
    year: int
    paper: str
    preprocessing: Preprocessing | None = None

    @property
    def family(self) -> str:
        """The name of the file the model lives in."""
        return self.cls.__module__.rpartition(".")[2]


def images(height: int, width: int, channels: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the `inputs` of a model that takes float32 images of one size."""
    return {"images": jax.ShapeDtypeStruct((height, width, channels), np.float32)}


def vectors(size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the `inputs` of a model that takes float32 vectors of one size."""
    return {"inputs": jax.ShapeDtypeStruct((size,), np.float32)}


def tokens(length: int, target_length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the `inputs` of a model that takes int32 tokens, and of one that takes targets too."""
    lengths = {"tokens": length} | ({} if target_length is None else {"targets": target_length})
    return {name: jax.ShapeDtypeStruct((size,), np.int32) for name, size in lengths.items()}
