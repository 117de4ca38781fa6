"""Rotary positions. Su et al. (2021), arXiv:2104.09864. B batch, T positions, N heads, D size of a head."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from deepmodels.errors import ConfigError, unknown


class Linear(NamedTuple):
    """Positions divided by a factor. Chen et al. (2023), arXiv:2306.15595."""

    factor: float
    kind = "linear"

    def scale(self, frequencies: np.ndarray, theta: float) -> tuple[np.ndarray, float]:
        """See `Rope.frequencies`."""
        return frequencies / self.factor, 1.0


class Divided(NamedTuple):
    """Each frequency divided by a number of its own."""

    divisors: tuple[float, ...]
    kind = "divided"

    def scale(self, frequencies: np.ndarray, theta: float) -> tuple[np.ndarray, float]:
        """See `Rope.frequencies`."""
        if len(self.divisors) != len(frequencies):
            raise ConfigError(f"rope: expected {len(frequencies)} divisors, got {len(self.divisors)}")
        return frequencies / np.asarray(self.divisors), 1.0


class Llama3(NamedTuple):
    """Llama 3.1's: slow frequencies divided by a factor, fast ones as they are, a ramp between them.

    A frequency is slow if it turns less than `low_frequency_factor` times within `original_length` positions, and fast
    if it turns more than `high_frequency_factor` times. Grattafiori et al. (2024), arXiv:2407.21783, and Meta's code.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_length: int
    kind = "llama3"

    def scale(self, frequencies: np.ndarray, theta: float) -> tuple[np.ndarray, float]:
        """See `Rope.frequencies`."""
        turns = self.original_length * frequencies / (2 * math.pi)
        ramp = (turns - self.low_frequency_factor) / (self.high_frequency_factor - self.low_frequency_factor)
        kept = np.clip(ramp, 0, 1)
        return frequencies * (kept + (1 - kept) / self.factor), 1.0


class Yarn(NamedTuple):
    """YaRN: Peng, Quesnelle, Fan & Shippole (2023), arXiv:2309.00071, sections 3.2 and 3.4.

    Frequencies that turn less than `beta_slow` times within `original_length` positions are divided by `factor`, those
    that turn more than `beta_fast` times stay. Queries and keys are both multiplied by
    `magnitude(mscale) / magnitude(mscale_all_dim)`, or by `attention_factor` if that is given. `truncate` widens the
    ramp to whole dimensions.
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0
    attention_factor: float | None = None
    truncate: bool = True
    kind = "yarn"

    def magnitude(self, mscale: float) -> float:
        """Returns 1 + 0.1 mscale ln(factor), section 3.4, and 1 where the factor lengthens nothing."""
        return 1.0 + 0.1 * mscale * math.log(self.factor) if self.factor > 1 else 1.0

    def scale(self, frequencies: np.ndarray, theta: float) -> tuple[np.ndarray, float]:
        """See `Rope.frequencies`."""
        size = 2 * len(frequencies)

        def dimension(turns: float) -> float:
            return size * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        if low == high:
            high += 0.001  # a step, as in the authors' code
        divided = np.clip((np.arange(size // 2) - low) / (high - low), 0, 1)
        factor = self.attention_factor
        if factor is None:
            factor = self.magnitude(self.mscale) / self.magnitude(self.mscale_all_dim)
        return frequencies * (1 - divided + divided / self.factor), factor


SCALINGS = {scaling.kind: scaling for scaling in (Linear, Divided, Llama3, Yarn)}


class Rope(NamedTuple):
    """Which angles positions turn by: position * theta^(-2i/D) for the i-th pair of channels, section 3.2.2.

    Attributes:
      theta: the base.
      scaling: how frequencies change for texts that are longer than those of the training.
    """

    theta: float = 10_000.0
    scaling: Linear | Divided | Llama3 | Yarn | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Rope":
        """Returns what plain data says: {"theta": 5e5, "scaling": {"kind": "linear", "factor": 8.0}}.

        Raises:
          ConfigError: a kind or a name isn't known, or one is missing.
        """
        values = dict(values)
        scaling = values.get("scaling")
        if isinstance(scaling, Mapping):
            rest = dict(scaling)
            kind = rest.pop("kind", None)
            if kind not in SCALINGS:
                raise unknown("scaling of rope", str(kind), SCALINGS)
            values["scaling"] = named(SCALINGS[kind], rest, f"scaling of rope {kind!r}")
        return named(cls, values, "rope")

    def frequencies(self, size: int) -> tuple[np.ndarray, float]:
        """Returns the angle per position of each pair of channels (size / 2,), and a factor for what is rotated.

        Raises:
          ConfigError: `size` is odd, so that channels don't pair.
        """
        if size % 2:
            raise ConfigError(f"head_size: expected an even number of channels to rotate, got {size}")
        frequencies = self.theta ** -(np.arange(0, size, 2) / size)
        return (frequencies, 1.0) if self.scaling is None else self.scaling.scale(frequencies, self.theta)

    def rotation(self, positions: Array, size: int, dtype: jnp.dtype) -> tuple[Array, Array]:
        """Returns cosines and sines (B, T, 1, size / 2) for positions (B, T), in float32 at least."""
        dtype = jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype
        frequencies, factor = self.frequencies(size)
        angles = positions[..., None, None].astype(dtype) * jnp.asarray(frequencies, dtype).reshape(1, 1, 1, -1)
        return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def named(cls: type, values: Mapping[str, Any], what: str) -> Any:
    """Returns a named tuple of values by name.

    Raises:
      ConfigError: a name isn't known, or one is missing; it calls the tuple `what`.
    """
    for name in values:
        if name not in cls._fields:
            raise unknown(f"entry of {what}", name, cls._fields)
    missing = [name for name in cls._fields if name not in values and name not in cls._field_defaults]
    if missing:
        raise ConfigError(f"{what}: {', '.join(missing)} missing")
    return cls(**values)


def rotate(x: Array, rotation: tuple[Array, Array], *, interleaved: bool = False) -> Array:
    """Turns pairs of channels by the angles of their position, in the dtype of the input.

    Args:
      x: (B, T, N, D).
      rotation: as `Rope.rotation` returns it.
      interleaved: whether a pair are channels that stand beside each other, as in the paper; they come out as the other
        kind. Otherwise a channel pairs with the one D/2 further.
    """
    cos, sin = rotation
    wide = x.astype(cos.dtype)
    first, second = (wide[..., 0::2], wide[..., 1::2]) if interleaved else jnp.split(wide, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
