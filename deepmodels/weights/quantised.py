"""Quantised weights as the hub has them: gpt-oss in MXFP4, DeepSeek-V3 in blocks of float8. They are read as floats.

MXFP4: Open Compute Project (2023), OCP Microscaling Formats 1.0: 32 numbers of 4 bits share a power of two.
Float8: DeepSeek-AI (2024), arXiv:2412.19437, section 3.3.2: 128 x 128 numbers share a scale.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from deepmodels.errors import WeightsError
from deepmodels.weights.layout import CONFIG

_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
_BIAS = 127  # of a scale's exponent
_BLOCK = 128  # rows and columns of a scale of float8


class Mxfp4(NamedTuple):
    """A matrix for each expert, (experts, in, out) as float32 by `np.asarray`, from what the file holds of it."""

    blocks: Any  # (experts, out, groups, 16) uint8, two numbers in each, the first in the lower half
    scales: Any  # (experts, out, groups) uint8

    @property
    def shape(self) -> tuple[int, ...]:
        experts, out, groups, _ = self.blocks.shape
        return experts, groups * 32, out

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Returns it."""
        blocks, scales = np.asarray(self.blocks), np.asarray(self.scales)
        experts, out, groups, half = blocks.shape
        values = np.empty((experts, out, groups, half, 2), np.float32)
        values[..., 0], values[..., 1] = _FP4[blocks & 15], _FP4[blocks >> 4]
        values *= np.exp2(scales.astype(np.float32) - _BIAS)[..., None, None]
        whole = values.reshape(experts, out, -1).swapaxes(1, 2)
        return whole if dtype is None else whole.astype(dtype)


class Float8(NamedTuple):
    """A matrix (out, in) as float32 by `np.asarray`, from float8 and the scales of its blocks."""

    values: Any  # (out, in) float8
    scales: Any  # (out / 128, in / 128) float32, rounded up

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Returns it."""
        values, scales = np.asarray(self.values).astype(np.float32), np.asarray(self.scales).astype(np.float32)
        for row, block in enumerate(scales):
            rows = values[row * _BLOCK : (row + 1) * _BLOCK]
            rows *= np.repeat(block, _BLOCK)[None, : rows.shape[1]]
        return values if dtype is None else values.astype(dtype)


def dequantised(config: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a config.json without its "quantization_config", and arrays that are read as the floats they stand for.

    Args:
      config: of a folder.
      arrays: of the same, with their shapes and dtypes.

    Raises:
      WeightsError: another way of quantising is named, or a scale is missing or has another shape than it should.
    """
    said = config.get("quantization_config")
    if said is None:
        return dict(config), dict(arrays)
    method = said.get("quant_method") if isinstance(said, Mapping) else said
    if method == "mxfp4":
        found = _pairs(arrays, "_blocks", "_scales", _mxfp4)
    elif method == "fp8" and said.get("weight_block_size") == [_BLOCK, _BLOCK]:
        found = _pairs(arrays, "", "_scale_inv", _float8)
    else:
        raise WeightsError(
            f"{CONFIG}: quantization_config is {said!r}, but only mxfp4, and fp8 in blocks of {_BLOCK}, are implemented"
        )
    return {name: value for name, value in config.items() if name != "quantization_config"}, found


def _pairs(arrays: Mapping[str, Any], values: str, scales: str, join: Any) -> dict[str, Any]:
    found = {}
    for name, array in arrays.items():
        base = name.removesuffix(values)
        if name.endswith(scales) and name.removesuffix(scales) + values in arrays:
            continue
        if not name.endswith(values) or (not values and base + scales not in arrays):
            found[name] = array
        elif base + scales not in arrays:
            raise WeightsError(f"{name}: there is no {base + scales}")
        else:
            found[base] = join(name, array, arrays[base + scales])
    return found


def _mxfp4(name: str, blocks: Any, scales: Any) -> Mxfp4:
    fits = len(blocks.shape) == 4 and blocks.shape[3] == 16 and scales.shape == blocks.shape[:3]
    if not fits or blocks.dtype != np.uint8 or scales.dtype != np.uint8:
        raise WeightsError(
            f"{name} is {blocks.dtype}{list(blocks.shape)}, and its scales {list(scales.shape)}: not mxfp4"
        )
    return Mxfp4(blocks, scales)


def _float8(name: str, values: Any, scales: Any) -> Float8:
    counts = tuple(-(-size // _BLOCK) for size in values.shape)
    if len(values.shape) != 2 or scales.shape != counts or values.dtype != jnp.float8_e4m3fn:
        raise WeightsError(
            f"{name} is {values.dtype}{list(values.shape)}, and its scales {list(scales.shape)}: not fp8"
        )
    return Float8(values, scales)
