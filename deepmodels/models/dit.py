"""Transformers that undo noise: DiT and, of a text, MMDiT.

Peebles & Xie (2022), arXiv:2212.09748; Esser et al. (2024), arXiv:2403.03206. B batch, H height, W width, T patches, S
positions of a context, C channels of a layer, D channels of a context.
"""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.layers.attention import Attention
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.layers.dense import Dense
from deepmodels.layers.layer_norm import standardised
from deepmodels.layers.stack import scan_layers
from deepmodels.models.diffusion import embedded_label, embedded_times
from deepmodels.models.variant import Variant, images

EPSILON = 1e-6  # of the normalisations
FREQUENCIES = 256  # numbers that a timestep becomes

normal = nn.initializers.normal(0.02)
zeros = nn.initializers.zeros
dense = partial(Dense, kernel_init=nn.initializers.xavier_uniform())


def modulated(x: Array, shift: Array, scale: Array) -> Array:
    """Returns what a condition makes of normalised positions: x (B, T, C), shift and scale (B, C) -> (B, T, C).

    Each position is normalised by the mean and variance of its channels, in float32 if x has half precision.
    """
    return standardised(x, EPSILON).astype(x.dtype) * (1 + scale[:, None]) + shift[:, None]


def modulation(condition: Array, count: int, name: str) -> list[Array]:
    """Returns `count` shifts, scales and gates (B, C) of a condition (B, C); in the beginning all are zero.

    So each branch starts as if it weren't there: adaLN-Zero, figure 3 of DiT.
    """
    return jnp.split(Dense(count * condition.shape[-1], kernel_init=zeros, name=name)(nn.silu(condition)), count, -1)


def _feed_forward(x: Array, mlp_size: int, name: str) -> Array:
    y = nn.gelu(dense(mlp_size, name=f"{name}dense1")(x))  # by tanh, as the authors have it
    return dense(x.shape[-1], name=f"{name}dense2")(y)


class DiTLayer(nn.Module):
    """Figure 3: attention and two dense layers, each scaled and shifted before and scaled behind by what is told.

    Takes (B, T, C) and a condition (B, C) and returns (B, T, C).

    Attributes:
      num_heads: of the attention.
      mlp_size: channels between the dense layers.
    """

    num_heads: int
    mlp_size: int

    @nn.compact
    def __call__(self, x: Array, condition: Array) -> Array:
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(condition, 6, "modulation")
        attention = Attention(self.num_heads, x.shape[-1], name="attention")
        x += gate1[:, None] * attention(modulated(x, shift1, scale1))
        return x + gate2[:, None] * _feed_forward(modulated(x, shift2, scale2), self.mlp_size, "")


class MMDiTLayer(nn.Module):
    """Figure 2(b): patches and a context in two streams with weights of their own, which see each other by attention.

    Takes (B, T, C), a context (B, S, C) and a condition (B, C), and returns the first two anew.

    Attributes:
      num_heads: of the attention.
      mlp_size: channels between the dense layers.
      last: whether nothing comes behind that would look at the context, which then isn't computed any more.
    """

    num_heads: int
    mlp_size: int
    last: bool = False

    @nn.compact
    def __call__(self, x: Array, context: Array, condition: Array) -> tuple[Array, Array]:
        size = x.shape[-1]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(condition, 6, "modulation")
        attention = Attention(self.num_heads, size, name="attention")
        context_attention = Attention(self.num_heads, size, name="context_attention")
        if self.last:
            context_scale1, context_shift1 = modulation(condition, 2, "context_modulation")  # in this order
        else:
            told = modulation(condition, 6, "context_modulation")
            context_shift1, context_scale1, context_gate1, context_shift2, context_scale2, context_gate2 = told
        y, told = modulated(x, shift1, scale1), modulated(context, context_shift1, context_scale1)
        pairs = zip(attention.keys_and_values(y), context_attention.keys_and_values(told), strict=True)
        key, value = (jnp.concatenate(pair, 1) for pair in pairs)
        x += gate1[:, None] * attention.attend(y, key, value)
        x += gate2[:, None] * _feed_forward(modulated(x, shift2, scale2), self.mlp_size, "")
        if self.last:
            context_attention.query(told)  # nobody hears the answers, but the published weights have the question
            return x, context
        context += context_gate1[:, None] * context_attention.attend(told, key, value)
        y = modulated(context, context_shift2, context_scale2)
        return x, context + context_gate2[:, None] * _feed_forward(y, self.mlp_size, "context_")


class DiffusionTransformer(nn.Module):
    """What `DiT` and `MMDiT` have in common: patches with fixed positions, what is told, and the way back to pixels.

    Attributes:
      hidden_size: C.
      num_layers: of the transformer.
      num_heads: of each attention.
      patch_size: pixels of a patch's side.
      image_size: of the side of the images whose positions are counted one by one; those of others are stretched.
      in_channels: of what comes in.
      out_channels: of what goes out.
      mlp_ratio: channels between the dense layers of each layer, per channel outside.
      frequency_shift: 0 for the authors' embedding of timesteps, whose lowest frequency is one step above 1 / 10000; 1
        for diffusers' of DiT, whose lowest is that.
      unroll: layers per step of the scan; changes neither result nor parameters.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    patch_size: int = 2
    image_size: int = 32
    in_channels: int = 4
    out_channels: int = 8
    mlp_ratio: int = 4
    frequency_shift: int = 0
    unroll: int = 1

    def _check(self, images: Array) -> None:
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size: expected a multiple of the patch, {self.patch_size}, got {self.image_size}")
        check_images(images, channels=self.in_channels, unit=self.patch_size, unit_name="the patch")

    def _patches(self, images: Array, positions: np.ndarray) -> Array:
        """The patches (B, T, C), row by row, with their positions, (T, C)."""
        patch = (self.patch_size, self.patch_size)
        xavier = nn.initializers.xavier_uniform()
        x = Conv(self.hidden_size, patch, self.patch_size, padding=0, kernel_init=xavier, name="patch_embed")(images)
        x = x.reshape(x.shape[0], -1, self.hidden_size)
        return x + jnp.asarray(positions, x.dtype)[None]

    def _time(self, timesteps: Array, images: Array) -> Array:
        """What the timesteps tell, (B, C)."""
        return self._two_layers(embedded_times(timesteps, images, FREQUENCIES, shift=self.frequency_shift), "time")

    def _two_layers(self, x: Array, name: str) -> Array:
        y = nn.silu(Dense(self.hidden_size, kernel_init=normal, name=f"{name}_dense1")(x))
        return Dense(self.hidden_size, kernel_init=normal, name=f"{name}_dense2")(y)

    def _pixels(self, x: Array, shift: Array, scale: Array, images: Array) -> Array:
        """The images (B, H, W, out_channels) of patches (B, T, C)."""
        patch, (batch, height, width, _) = self.patch_size, images.shape
        x = Dense(patch**2 * self.out_channels, kernel_init=zeros, name="head")(modulated(x, shift, scale))
        x = x.reshape(batch, height // patch, width // patch, patch, patch, self.out_channels)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, self.out_channels)


class DiT(DiffusionTransformer):
    """The diffusion transformer of a class: figure 3, with adaLN-Zero.

    The call takes noisy images or latents (B, H, W, in_channels), timesteps (B,) or (), and the label (B,) of integers,
    -1 where it isn't told, as by default; it returns (B, H, W, out_channels): the noise and, behind it, what the
    variance is made of. The layers are one scan, their parameters stacked on a leading axis ("layers"). Raises
    ShapeError if images don't fit.

    Attributes:
      num_classes: labels that it may be told.
    """

    num_classes: int = 1000

    @nn.compact
    def __call__(self, images: Array, timesteps: Array, label: Array | None = None, train: bool = False) -> Array:
        self._check(images)
        grid = [side // self.patch_size for side in images.shape[1:3]]
        base = self.image_size // self.patch_size
        x = self._patches(images, grid_sinusoids(self.hidden_size, *(np.arange(n) * base / n for n in grid)))
        told = embedded_label(label, x, self.num_classes, self.hidden_size, embedding_init=normal)
        condition = self._time(timesteps, images) + told
        layer = DiTLayer(self.num_heads, self.mlp_ratio * self.hidden_size, name="layers")
        x, _ = scan_layers(
            layer, lambda layer, x, _: (layer(x, condition), None), x, length=self.num_layers, unroll=self.unroll
        )
        shift, scale = modulation(condition, 2, "modulation")
        return self._pixels(x, shift, scale, images)


class MMDiT(DiffusionTransformer):
    """The diffusion transformer of a text: figure 2, that of Stable Diffusion 3.

    The call takes noisy latents (B, H, W, in_channels), timesteps (B,) or (), the context (B, S, D), what text encoders
    make of each position of a text, and the vector (B, vector_size), what they make of it as a whole; it returns
    (B, H, W, out_channels). All layers but the last are one scan, their parameters stacked on a leading axis
    ("layers"). Raises ShapeError if latents, context or vector don't fit, and ConfigError if an argument doesn't.

    Attributes:
      context_size: D.
      vector_size: see above.
      largest_grid: patches of a side for which there are positions; smaller images have those in the middle.
    """

    in_channels: int = 16
    out_channels: int = 16
    context_size: int = 4096
    vector_size: int = 2048
    largest_grid: int = 192

    @nn.compact
    def __call__(self, images: Array, timesteps: Array, context: Array, vector: Array, train: bool = False) -> Array:
        self._check(images)
        batch = images.shape[0]
        if context.ndim != 3 or (context.shape[0], context.shape[2]) != (batch, self.context_size):
            raise ShapeError(f"context: expected shape ({batch}, S, {self.context_size}), got {tuple(context.shape)}")
        if vector.shape != (batch, self.vector_size):
            raise ShapeError(f"vector: expected shape ({batch}, {self.vector_size}), got {tuple(vector.shape)}")
        if self.num_layers < 2:
            raise ConfigError(f"num_layers: expected at least 2, got {self.num_layers}")
        x = self._patches(images, self._positions(images))
        condition = self._time(timesteps, images) + self._two_layers(vector.astype(x.dtype), "vector")
        context = dense(self.hidden_size, name="context_embed")(context.astype(x.dtype))
        sizes = self.num_heads, self.mlp_ratio * self.hidden_size

        def call(layer: MMDiTLayer, carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            return layer(*carry, condition), None

        (x, context), _ = scan_layers(
            MMDiTLayer(*sizes, name="layers"), call, (x, context), length=self.num_layers - 1, unroll=self.unroll
        )
        x, _ = MMDiTLayer(*sizes, last=True, name="last")(x, context, condition)
        scale, shift = modulation(condition, 2, "modulation")  # in this order, other than in DiT
        return self._pixels(x, shift, scale, images)

    def _positions(self, images: Array) -> np.ndarray:
        grid, largest = [side // self.patch_size for side in images.shape[1:3]], self.largest_grid
        if max(grid) > largest:
            raise ShapeError(
                f"images: expected at most {largest * self.patch_size} pixels a side, got {tuple(images.shape)}"
            )
        stretch = self.image_size // self.patch_size / largest
        return grid_sinusoids(self.hidden_size, *(((largest - n) // 2 + np.arange(n)) * stretch for n in grid))


def grid_sinusoids(size: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the embeddings of positions of a grid, row by row, (rows * columns, size): half of each for the column.

    Args:
      size: a multiple of four.
      rows: where the rows are.
      columns: where the columns are.

    Raises:
      ConfigError: the size isn't a multiple of four.
    """
    if size % 4:
        raise ConfigError(f"hidden_size: expected a multiple of four, got {size}")
    return _grid_sinusoids(size, tuple(rows.tolist()), tuple(columns.tolist()))


@lru_cache
def _grid_sinusoids(size: int, rows: tuple[float, ...], columns: tuple[float, ...]) -> np.ndarray:
    y, x = np.meshgrid(rows, columns, indexing="ij")
    frequencies = 10_000.0 ** (-np.arange(size // 4) / (size // 4))
    parts = [function(axis.reshape(-1, 1) * frequencies) for axis in (x, y) for function in (np.sin, np.cos)]
    return np.concatenate(parts, 1)


_DIT = "Peebles & Xie (2022), arXiv:2212.09748"
_SD3 = "Esser et al. (2024), arXiv:2403.03206"


def _inputs(side: int, channels: int, **others: tuple[tuple[int, ...], Any]) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = {"timesteps": ((), np.int32), **others}
    return images(side, side, channels) | {
        name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()
    }


def _dit(layers: int, size: int, heads: int, parameters: int) -> Variant:  # table 1
    arguments = dict(num_layers=layers, hidden_size=size, num_heads=heads)
    return Variant(DiT, arguments, _inputs(32, 4, label=((), np.int32)), parameters, 2022, _DIT)


VARIANTS = {
    # diffusers' DiT-XL/2 has 749,826,464: it repeats the embeddings of time and class, 2,777,472 parameters, in each of
    # the 28 layers, all with the same values
    "dit_s_2": _dit(12, 384, 6, 32_865_056),
    "dit_b_2": _dit(12, 768, 12, 130_315_808),
    "dit_l_2": _dit(24, 1024, 16, 457_840_672),
    "dit_xl_2": _dit(28, 1152, 16, 674_834_720),
    "sd3_medium": Variant(
        MMDiT,
        dict(num_layers=24, hidden_size=1536, num_heads=24, image_size=128),
        _inputs(128, 16, context=((333, 4096), np.float32), vector=((2048,), np.float32)),
        *(2_028_328_000, 2024, _SD3),
    ),
    "dit_tiny": Variant(
        DiT,
        dict(num_layers=2, hidden_size=16, num_heads=2, image_size=8, num_classes=8),
        _inputs(8, 4, label=((), np.int32)),
        *(15_584, 2022, _DIT),
    ),
    "mmdit_tiny": Variant(
        MMDiT,
        dict(
            num_layers=2, hidden_size=16, num_heads=4, image_size=8, in_channels=4, out_channels=4, context_size=12,
            vector_size=6, largest_grid=6,
        ),
        _inputs(8, 4, context=((5, 12), np.float32), vector=((6,), np.float32)),
        *(21_968, 2024, _SD3),
    ),
}  # fmt: skip
