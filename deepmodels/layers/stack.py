"""Layers of one shape as a scan: one program for any depth, the parameters stacked on a leading axis."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from deepmodels.errors import ConfigError


def scan_layers(
    layer: nn.Module, call: Callable, carry: Any, xs: Any = None, *, length: int, unroll: int = 1, axis: int = 0
) -> tuple[Any, Any]:
    """Applies a module `length` times, each time with parameters of its own.

    Args:
      layer: the module; its parameters, and its intermediates, get a leading axis of `length`.
      call: (layer, carry, one entry of xs) -> (carry, one entry of the second result).
      carry: what goes from layer to layer.
      xs: arrays with an entry for each layer, or None.
      length: number of layers.
      unroll: layers per step of the scan; changes neither result nor parameters, but compile time and speed.
      axis: of the layers' entries in `xs` and in the second result.

    Returns:
      What the last layer carries on, and the entries of all layers.

    Raises:
      ConfigError: there is no layer, or less than one in a step.
    """
    if length < 1:
        raise ConfigError(f"num_layers: expected at least 1, got {length}")
    if unroll < 1:
        raise ConfigError(f"unroll: expected at least 1, got {unroll}")
    scan = nn.scan(
        call,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=axis,
        out_axes=axis,
        length=length,
        unroll=min(unroll, length),
    )
    return scan(layer, carry, xs)
