"""U-Nets that undo noise: of pictures, of one class or any, and of latents that a text describes.

Ho, Jain & Abbeel (2020), arXiv:2006.11239, appendix B; Dhariwal & Nichol (2021), arXiv:2105.05233; Rombach, Blattmann,
Lorenz, Esser & Ommer (2021), arXiv:2112.10752; Podell et al. (2023), arXiv:2307.01952. B batch, H height, W width, C
channels, E of the embedding of the time, T tokens of a text, D channels of one.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError, ShapeError, unknown
from deepmodels.layers.attention import Attention
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.layers.dense import Dense
from deepmodels.layers.layer_norm import LayerNorm
from deepmodels.layers.stack import scan_layers
from deepmodels.models.variant import Variant
from deepmodels.sampling import denoising

zeros = nn.initializers.zeros


class GroupNorm(nn.Module):
    """Normalises groups of channels of each picture. Wu & He (2018), arXiv:1803.08494.

    Takes (B, ..., C) floats and returns the same shape and dtype; what has half precision is normalised in float32.

    Attributes:
      num_groups: groups of neighbouring channels.
      epsilon: added to the variance.
    """

    num_groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        if channels % self.num_groups:
            raise ConfigError(f"num_groups: {self.num_groups} doesn't divide {channels} channels")
        dtype = jnp.float32 if x.dtype.itemsize < 4 else x.dtype
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32).astype(dtype)
        bias = self.param("bias", zeros, (channels,), jnp.float32).astype(dtype)
        values, axes = x.astype(dtype), tuple(range(1, x.ndim - 1))
        wide = (x.shape[0], *(1 for _ in axes), channels)

        def of_groups(per_channel: Array) -> Array:
            """The mean of each group of (B, C), for all of its channels."""
            groups = per_channel.reshape(x.shape[0], self.num_groups, -1)
            return jnp.broadcast_to(groups.mean(-1, keepdims=True), groups.shape).reshape(wide)

        # over positions first, with all channels side by side: sums over a group's few are many times slower
        mean = of_groups(values.mean(axes))
        var = of_groups(jnp.square(values - mean).mean(axes))
        factor = jax.lax.rsqrt(var + self.epsilon) * scale.reshape((1,) * (x.ndim - 1) + (channels,))
        shift = bias.reshape((1,) * (x.ndim - 1) + (channels,)) - mean * factor
        return (values * factor + shift).astype(x.dtype)


def halved(x: Array) -> Array:
    """Returns the means of 2 x 2 pixels, (B, H, W, C) -> (B, H / 2, W / 2, C)."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def doubled(x: Array) -> Array:
    """Returns each pixel four times, (B, H, W, C) -> (B, 2 H, 2 W, C)."""
    return x.repeat(2, 1).repeat(2, 2)


class ResBlock(nn.Module):
    """Two convolutions, each of what is normalised and activated before, added to what came in.

    Takes (B, H, W, C) and the embedding of the time (B, E), if there is one, and returns (B, H, W, features).

    Attributes:
      features: channels of the result.
      num_groups, epsilon: of the normalisations.
      scale_shift: whether the embedding scales and shifts what is normalised before the second convolution, as Dhariwal
        & Nichol have it, or is added before that normalisation.
      resample: a function that makes both, what comes in and the branch, smaller or larger, before the first
        convolution; None for none.
      dropout_rate: before the second convolution.
    """

    features: int
    num_groups: int = 32
    epsilon: float = 1e-5
    scale_shift: bool = False
    resample: Any = None
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Array, embedding: Array | None = None, train: bool = False) -> Array:
        norm1, norm2 = (GroupNorm(self.num_groups, self.epsilon, name=f"norm{i}") for i in (1, 2))
        y = nn.silu(norm1(x))
        if self.resample is not None:
            x, y = self.resample(x), self.resample(y)
        y = Conv(self.features, (3, 3), padding=1, name="conv1")(y)
        if embedding is None:
            y = norm2(y)
        else:
            told = Dense(self.features * (1 + self.scale_shift), name="embed")(nn.silu(embedding))[:, None, None]
            if self.scale_shift:
                scale, shift = jnp.split(told, 2, -1)
                y = norm2(y) * (1 + scale) + shift
            else:
                y = norm2(y + told)
        y = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(nn.silu(y))
        y = Conv(self.features, (3, 3), padding=1, kernel_init=zeros, name="conv2")(y)
        if x.shape[-1] != self.features:
            x = Conv(self.features, (1, 1), name="conv_skip")(x)
        return x + y


class SpatialAttention(nn.Module):
    """Attention between the normalised positions of a map, added to it: (B, H, W, C) -> (B, H, W, C).

    Attributes:
      num_heads: of the attention.
      num_groups, epsilon: of the normalisation.
    """

    num_heads: int
    num_groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, *_, channels = x.shape
        y = GroupNorm(self.num_groups, self.epsilon, name="norm")(x).reshape(batch, -1, channels)
        return x + Attention(self.num_heads, channels, out_init=zeros, name="attention")(y).reshape(x.shape)


class TransformerLayer(nn.Module):
    """Attention among positions, to a text, and a gated layer, each of what is normalised and added to what came in.

    Takes (B, H * W, C) and a context (B, T, D) and returns (B, H * W, C).
    """

    num_heads: int

    @nn.compact
    def __call__(self, x: Array, context: Array) -> Array:
        channels = x.shape[-1]

        def norm(name: str) -> Array:
            return LayerNorm(1e-5, name=name)(x)

        def attention(name: str) -> Attention:
            return Attention(self.num_heads, channels, use_bias=False, out_bias=True, name=name)

        x += attention("attention")(norm("norm1"))
        x += attention("cross_attention")(norm("norm2"), context)
        value, gate = jnp.split(Dense(8 * channels, name="dense1")(norm("norm3")), 2, -1)
        return x + Dense(channels, name="dense2")(value * nn.gelu(gate, approximate=False))


class SpatialTransformer(nn.Module):
    """Layers of a transformer over the positions of a map, which attend to a context too, added to the map.

    Takes (B, H, W, C) and (B, T, D) and returns (B, H, W, C). The layers are one scan ("layers").

    Attributes:
      num_layers: of the transformer.
      num_heads: of each attention.
      num_groups: of the normalisation.
      linear_projection: whether what leads into and out of the layers is kept as dense layers, or as convolutions of
        1 x 1, which are the same.
    """

    num_layers: int
    num_heads: int
    num_groups: int = 32
    linear_projection: bool = False

    @nn.compact
    def __call__(self, x: Array, context: Array) -> Array:
        batch, *_, channels = x.shape

        def projected(name: str, y: Array, **options: Any) -> Array:
            if self.linear_projection:
                return Dense(channels, name=name, **options)(y.reshape(batch, -1, channels))
            return Conv(channels, (1, 1), name=name, **options)(y.reshape(x.shape))

        y = projected("proj_in", GroupNorm(self.num_groups, 1e-6, name="norm_in")(x)).reshape(batch, -1, channels)

        def call(layer: TransformerLayer, y: Array, _: None) -> tuple[Array, None]:
            return layer(y, context), None

        y, _ = scan_layers(TransformerLayer(self.num_heads, name="layers"), call, y, length=self.num_layers)
        return x + projected("proj_out", y, kernel_init=zeros).reshape(x.shape)


def sinusoids(values: Array, size: int, *, shift: int = 0, cosine_first: bool = True) -> Array:
    """Returns cosines and sines of values (N,) at frequencies from 1 to 1 / 10000, (N, size), float32 at least.

    Args:
      values: numbers of any kind.
      size: an even number.
      shift: 1 where the last frequency is 1 / 10000, as in Ho, Jain & Abbeel's code; else it would be the next one.
      cosine_first: whether the cosines come first.
    """
    dtype = jnp.float64 if values.dtype == jnp.float64 else jnp.float32
    half = size // 2
    frequencies = np.exp(np.float32(-math.log(10_000)) * np.arange(half, dtype=np.float32) / np.float32(half - shift))
    angles = values.astype(dtype)[:, None] * jnp.asarray(frequencies, dtype)[None]
    parts = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(parts[::-1] if cosine_first else parts, -1)


def embedded_times(timesteps: Array, images: Array, size: int, *, shift: int = 0, cosine_first: bool = True) -> Array:
    """Returns `sinusoids` of timesteps (B,) or () for images (B, ...), in their dtype: (B, size)."""
    times = jnp.broadcast_to(jnp.asarray(timesteps), images.shape[:1])
    times = times.astype(jnp.float64 if images.dtype == jnp.float64 else jnp.float32)
    return sinusoids(times, size, shift=shift, cosine_first=cosine_first).astype(images.dtype)


def embedded_label(label: Array | None, like: Array, num_classes: int, size: int, **options: Any) -> Array:
    """Returns the rows (B, size) of labels (B,) in a module "class_embed", whose last is for those that aren't told.

    Args:
      label: integers, -1 where it isn't told; None where none is.
      like: an array (B, ...) of the result's dtype.
      num_classes: labels that may be told.
      size: of a row.
      **options: of `nn.Embed`.
    """
    label = jnp.full(like.shape[:1], -1, jnp.int32) if label is None else label
    rows = nn.Embed(num_classes + 1, size, name="class_embed", **options)
    return rows(jnp.where(label < 0, num_classes, label)).astype(like.dtype)


class DiffusionUNet(nn.Module):
    """A U-Net that is told the time, and what else there is to tell.

    `DDPM` and `ConditionalUNet` are called; what they have in common is here. A level is residual blocks, each with
    attention behind it or without, and each level but the last ends in half the size. On the way up there is one block
    more in each level, and each takes the map that a block or a halving on the way down has left.

    Attributes:
      channels: of the maps of each level; the height and width must be divisible by 2 as often as there are levels
        behind the first.
      attention: layers of attention behind each block, for each level; 0 for none.
      num_heads: of the attention at each level; one number for all.
      num_blocks: blocks of a level on the way down.
      middle_attention: layers of attention in the middle; 0 for none.
      in_channels: of what comes in.
      out_channels: of what goes out.
      image_size: of the side of what it is trained with, and samples unless it is asked for more.
      num_classes: labels that it may be told, beside none; 0 for a network that is told no label.
      vector_size: numbers of a vector that it is told; 0 for none.
      scale_shift: see `ResBlock`.
      resample: "conv", strided convolutions and those of doubled maps, or "block", residual blocks between the levels.
      pad_end: whether strided convolutions see zeros behind the last row and column only, or at all borders.
      frequency_shift, cosine_first: of the time's embedding, see `sinusoids`.
      linear_projection: see `SpatialTransformer`.
      num_groups, epsilon: of the normalisations.
      dropout_rate: in each block.
    """

    channels: tuple[int, ...]
    attention: tuple[int, ...]
    num_heads: int | tuple[int, ...] = 1
    num_blocks: int = 2
    middle_attention: int = 1
    in_channels: int = 3
    out_channels: int = 3
    image_size: int = 32
    num_classes: int = 0
    vector_size: int = 0
    scale_shift: bool = False
    resample: str = "conv"
    pad_end: bool = False
    frequency_shift: int = 0
    cosine_first: bool = True
    linear_projection: bool = False
    num_groups: int = 32
    epsilon: float = 1e-5
    dropout_rate: float = 0.0

    @nn.compact
    def _denoise(
        self,
        images: Array,
        timesteps: Array,
        label: Array | None,
        vector: Array | None,
        context: Array | None,
        train: bool,
    ) -> Array:
        levels = len(self.channels)
        heads = (self.num_heads,) * levels if isinstance(self.num_heads, int) else self.num_heads
        self._check(images, heads)
        groups = dict(num_groups=self.num_groups, epsilon=self.epsilon)
        embedding = self._embedding(images, timesteps, label, vector)

        def block(name: str, features: int, x: Array, resample: Any = None) -> Array:
            options = dict(scale_shift=self.scale_shift, resample=resample, dropout_rate=self.dropout_rate)
            return ResBlock(features, **groups, **options, name=name)(x, embedding, train)

        def attend(name: str, layers: int, level: int, x: Array) -> Array:
            if layers and context is not None:
                options = dict(num_groups=self.num_groups, linear_projection=self.linear_projection)
                return SpatialTransformer(layers, heads[level], **options, name=name)(x, context)
            return SpatialAttention(heads[level], **groups, name=name)(x) if layers else x

        x = Conv(self.channels[0], (3, 3), padding=1, name="conv_in")(images)
        skips = [x]
        for level, features in enumerate(self.channels):
            for i in range(self.num_blocks):
                x = block(f"down{level}_block{i}", features, x)
                x = attend(f"down{level}_attention{i}", self.attention[level], level, x)
                skips.append(x)
            if level < levels - 1:
                name = f"down{level}_sample"
                if self.resample == "block":
                    x = block(name, features, x, halved)
                else:
                    padding = ((0, 1), (0, 1)) if self.pad_end else 1
                    x = Conv(features, (3, 3), 2, padding=padding, name=name)(x)
                skips.append(x)
        x = block("middle_block0", self.channels[-1], x)
        x = attend("middle_attention", self.middle_attention, levels - 1, x)
        x = block("middle_block1", self.channels[-1], x)
        for number, level in enumerate(reversed(range(levels))):
            features = self.channels[level]
            for i in range(self.num_blocks + 1):
                x = block(f"up{number}_block{i}", features, jnp.concatenate([x, skips.pop()], -1))
                x = attend(f"up{number}_attention{i}", self.attention[level], level, x)
            if level:
                name = f"up{number}_sample"
                if self.resample == "block":
                    x = block(name, features, x, doubled)
                else:
                    x = Conv(features, (3, 3), padding=1, name=name)(doubled(x))
        x = nn.silu(GroupNorm(**groups, name="norm_out")(x))
        return Conv(self.out_channels, (3, 3), padding=1, kernel_init=zeros, name="conv_out")(x)

    def _embedding(self, images: Array, timesteps: Array, label: Array | None, vector: Array | None) -> Array:
        """What all blocks are told, (B, E)."""
        batch, size = images.shape[0], 4 * self.channels[0]
        order = dict(shift=self.frequency_shift, cosine_first=self.cosine_first)
        told = embedded_times(timesteps, images, self.channels[0], **order)
        embedding = Dense(size, name="time_dense2")(nn.silu(Dense(size, name="time_dense1")(told)))
        if self.num_classes:
            embedding += embedded_label(label, images, self.num_classes, size)
        elif label is not None:
            raise ConfigError("label: this model has num_classes=0 and takes no label")
        if (vector is None) == (self.vector_size > 0):
            what = (
                "needs vector, (B, vector_size) floats" if vector is None else "has vector_size=0 and takes no vector"
            )
            raise ConfigError(f"vector: this model {what}")
        if vector is not None:
            if vector.shape != (batch, self.vector_size):
                raise ShapeError(f"vector: expected shape ({batch}, {self.vector_size}), got {tuple(vector.shape)}")
            hidden = nn.silu(Dense(size, name="vector_dense1")(vector.astype(images.dtype)))
            embedding += Dense(size, name="vector_dense2")(hidden)
        return embedding

    def _check(self, images: Array, heads: tuple[int, ...]) -> None:
        check_images(images, channels=self.in_channels, unit=2 ** (len(self.channels) - 1))
        if self.resample not in ("conv", "block"):
            raise unknown("resample", self.resample, ("conv", "block"))
        if not len(self.channels) == len(self.attention) == len(heads):
            raise ConfigError(
                f"attention: expected {len(self.channels)} numbers, one for each level, got {self.attention}, and of "
                f"num_heads {heads}"
            )


class DDPM(DiffusionUNet):
    """A denoising diffusion model of pictures, of one class or of none.

    The call takes noisy images (B, H, W, C) and timesteps (B,) or (), and, of a model with classes, the label (B,) of
    integers, -1 where it isn't told; it returns what the images' noise is taken for, or what else `prediction` says,
    (B, H, W, C). Raises ShapeError if images don't fit, and ConfigError if a label does not.

    Attributes:
      process, prediction: what it is trained with, see `objectives.diffusion`.
      sampler: with which it samples, a key of `sampling.denoising.SAMPLERS`, for a process that has one.
      sampling_steps: of the sampler.
      guidance_scale: of classifier-free guidance where a label is told; 1 is none.
    """

    process: str = "linear"
    prediction: str = "epsilon"
    sampler: str = "ddim"
    sampling_steps: int = 50
    guidance_scale: float = 1.0

    def __call__(
        self,
        images: Array,
        timesteps: Array,
        label: Array | None = None,
        vector: Array | None = None,
        train: bool = False,
    ) -> Array:
        return self._denoise(images, timesteps, label, vector, None, train)

    def sample(self, key: Array, count: int, label: Array | None = None) -> Array:
        """Returns pictures (count, H, W, C) made of noise, of the classes `label` (count,) if they are given."""
        sampler = denoising.sampler_of(self.process, self.sampling_steps, self.sampler, self.prediction)
        module, variables = self.unbind()  # as a loop on the device can't call a bound one

        def forward(images: Array, timestep: Array, label: Array | None) -> Array:
            return module.apply(variables, images, timestep, label)

        if label is None:
            guided = lambda x, timestep: forward(x, timestep, None)  # noqa: E731
        else:
            label = label.astype(jnp.int32)
            none = jnp.full_like(label, -1)
            guided = denoising.classifier_free(forward, label, none, self.guidance_scale)
        begin, rest = jax.random.split(key)
        noise = jax.random.normal(begin, (count, self.image_size, self.image_size, self.in_channels))
        return denoising.denoise(guided, sampler.start * noise, sampler, key=rest)


class ConditionalUNet(DiffusionUNet):
    """A denoising network of latents, which attends to a text: the U-Net of Stable Diffusion.

    The call takes noisy latents (B, H, W, C), timesteps (B,) or (), the context (B, T, D), what a text encoder makes of
    a text, and, of a model with a `vector_size`, the vector (B, vector_size) of `size_vector`; it returns (B, H, W,
    out_channels). Raises ShapeError if latents or context don't fit, and ConfigError if a vector is missing.

    Attributes:
      context_size: D.
    """

    context_size: int = 768
    in_channels: int = 4
    out_channels: int = 4
    image_size: int = 64

    def __call__(
        self, images: Array, timesteps: Array, context: Array, vector: Array | None = None, train: bool = False
    ) -> Array:
        if context.ndim != 3 or context.shape[0] != images.shape[0] or context.shape[2] != self.context_size:
            check_images(images, channels=self.in_channels)
            raise ShapeError(
                f"context: expected shape ({images.shape[0]}, tokens, {self.context_size}), got {tuple(context.shape)}"
            )
        return self._denoise(images, timesteps, None, vector, context.astype(images.dtype), train)


def size_vector(pooled: Array, sizes: Array, *, size: int = 256) -> Array:
    """Returns the vector of Stable Diffusion XL, (B, D + 6 * size): a text, and the picture's size and place.

    Args:
      pooled: (B, D), the projected end of the text.
      sizes: (B, 6), the height and width that the picture had, the top and left of the part, its height and width.
      size: of each number's embedding.
    """
    told = sinusoids(sizes.reshape(-1), size).reshape(sizes.shape[0], -1)
    return jnp.concatenate([pooled, told.astype(pooled.dtype)], -1)


def _inputs(side: int, channels: int, **others: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in others.items()}
    return {
        "images": jax.ShapeDtypeStruct((side, side, channels), np.float32),
        "timesteps": jax.ShapeDtypeStruct((), np.int32),
        **shapes,
    }


def _latents(levels: int, parameters: int, year: int, paper: str, side: int, tokens: int = 77, **sizes: Any) -> Variant:
    inputs = {"context": (tokens, sizes["context_size"])}
    if "vector_size" in sizes:
        inputs["vector"] = (sizes["vector_size"],)
    channels = sizes.pop("channels", (320, 640, 1280, 1280)[:levels])
    return Variant(
        ConditionalUNet,
        dict(channels=channels, image_size=side, **sizes),
        _inputs(side, 4, **inputs),
        parameters,
        year,
        paper,
    )


_DDPM = "Ho, Jain & Abbeel (2020), arXiv:2006.11239"
_LDM = "Rombach et al. (2021), arXiv:2112.10752"
_SDXL = "Podell et al. (2023), arXiv:2307.01952"

VARIANTS = {
    "ddpm_cifar10": Variant(
        DDPM,
        dict(
            channels=(128, 256, 256, 256), attention=(0, 1, 0, 0), pad_end=True, frequency_shift=1, cosine_first=False,
            epsilon=1e-6, dropout_rate=0.1,
        ),
        _inputs(32, 3),
        35_746_307,
        2020,
        _DDPM,
    ),
    "ddpm_tiny": Variant(
        DDPM,
        dict(
            channels=(8, 16), attention=(0, 1), num_blocks=1, num_groups=4, in_channels=1, out_channels=1, image_size=8,
            sampling_steps=5,
        ),
        _inputs(8, 1),
        44_969,
        2020,
        _DDPM,
    ),
    "stable_diffusion_1_unet": _latents(
        *(4, 859_520_964, 2022, _LDM, 64), attention=(1, 1, 1, 0), num_heads=8, context_size=768
    ),
    "stable_diffusion_2_unet": _latents(
        *(4, 865_910_724, 2022, _LDM, 96),
        **dict(attention=(1, 1, 1, 0), num_heads=(5, 10, 20, 20), context_size=1024, linear_projection=True),
    ),
    "stable_diffusion_xl_unet": _latents(
        *(3, 2_567_463_684, 2023, _SDXL, 128),
        **dict(attention=(0, 2, 10), middle_attention=10, num_heads=(5, 10, 20), context_size=2048, vector_size=2816),
        linear_projection=True,
    ),
    "stable_diffusion_unet_tiny": _latents(
        *(2, 56_124, 2022, _LDM, 8),
        **dict(channels=(8, 16), attention=(2, 0), num_heads=2, num_blocks=1, num_groups=4, context_size=12, tokens=5),
    ),
}  # fmt: skip
