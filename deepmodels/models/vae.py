"""Variational autoencoders: codes that are distributions, of numbers or of entries of a codebook.

Kingma & Welling (2013), arXiv:1312.6114; Sohn, Lee & Yan (2015), conditional; van den Oord, Vinyals & Kavukcuoglu
(2017), arXiv:1711.00937, VQ-VAE; Ramesh et al. (2021), arXiv:2102.12092, the discrete VAE of DALL-E. B batch, K samples
of the code for each image, D numbers of a code, H height, W width, C channels, N entries of a codebook.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv, ConvTranspose
from deepmodels.layers.pooling import max_pool
from deepmodels.models.autoencoder import as_output, smallest_map
from deepmodels.models.variant import Variant, images


def reparametrize(mean: Array, log_var: Array, key: Array | None, samples: int | None = None) -> Array:
    """Returns mean + exp(log_var / 2) noise, section 2.4: (B, D), or (samples, B, D) if `samples` is given.

    Args:
      mean: (B, D).
      log_var: (B, D), the logarithm of the variance.
      key: of the normal noise; without it the noise is 0.
      samples: how many of each.
    """
    shape = mean.shape if samples is None else (samples, *mean.shape)
    mean, deviation = (jnp.broadcast_to(x, shape) for x in (mean, jnp.exp(log_var / 2)))
    return mean if key is None else mean + deviation * jax.random.normal(key, shape, mean.dtype)


class NormalCodes(nn.Module):
    """What variational autoencoders do whatever their encoder and decoder are: draw a code, and decode it."""

    def __call__(
        self,
        images: Array,
        label: Array | None = None,
        sampling_key: Array | None = None,
        samples: int | None = None,
        train: bool = False,
    ) -> dict[str, Array]:
        mean, log_var = self.encode(images, label)
        latent = reparametrize(mean, log_var, sampling_key, samples)
        return {"mean": mean, "log_var": log_var, "latent": latent, **self.decode(latent, label)}

    def sample(self, key: Array, count: int, label: Array | None = None) -> Array:
        """Returns images (count, H, W, C) of codes drawn from the prior, a standard normal."""
        return self.decode(jax.random.normal(key, (count, self.latent_size)), label)["reconstruction"]


class VAE(NormalCodes):
    """Dense layers to the mean and variance of a normal code, and from one to an image: appendix C of the paper.

    The call takes images (B, H, W, C) and returns a dict of "mean" and "log_var" (B, D), "latent" (B, D), drawn from
    them by `sampling_key` and else the mean, and what the decoder makes of it, "logits" and their sigmoid
    "reconstruction" (B, H, W, C). With `samples` the last three have a leading axis of as many. Raises ShapeError if
    images have another shape than `image_shape`, and ConfigError if labels are missing or there is no use for them.

    Attributes:
      hidden_sizes: units of each layer of the encoder, and mirrored of the decoder.
      latent_size: D.
      num_classes: of a conditional model, which takes `label` (B,) of integers too; 0 for one that isn't.
      image_shape: (H, W, C).
    """

    hidden_sizes: tuple[int, ...] = (500,)
    latent_size: int = 20
    num_classes: int = 0
    image_shape: tuple[int, int, int] = (28, 28, 1)

    def setup(self) -> None:
        self.down = [nn.Dense(size, name=f"down{i}") for i, size in enumerate(self.hidden_sizes)]
        self.mean = nn.Dense(self.latent_size)
        self.log_var = nn.Dense(self.latent_size)
        sizes = (math.prod(self.image_shape), *self.hidden_sizes)
        self.up = [nn.Dense(size, name=f"up{i}") for i, size in enumerate(sizes)]

    def encode(self, images: Array, label: Array | None = None) -> tuple[Array, Array]:
        """Returns the mean and the logarithm of the variance (B, D) of the codes of images (B, H, W, C)."""
        check_images(images, **dict(zip(("height", "width", "channels"), self.image_shape, strict=True)))
        x = _with_label(images.reshape(images.shape[0], -1), label, self.num_classes)
        for layer in self.down:
            x = jnp.tanh(layer(x))
        return self.mean(x), self.log_var(x)

    def decode(self, latent: Array, label: Array | None = None) -> dict[str, Array]:
        """Returns "logits" and "reconstruction" (..., B, H, W, C) of codes (..., B, D)."""
        x = _with_label(latent, label, self.num_classes)
        for i in reversed(range(1, len(self.up))):
            x = jnp.tanh(self.up[i](x))
        return as_output(self.up[0](x).reshape(*latent.shape[:-1], *self.image_shape), "sigmoid")


class ConvVAE(NormalCodes):
    """A VAE of strided and transposed convolutions, each of which halves or doubles the map.

    The sizes are those of Higgins et al. (2017), beta-VAE, for pictures of 64 x 64. Takes, returns and raises what
    `VAE` does; a height and width that the halvings don't divide are a ConfigError.

    Attributes:
      channels: of each convolution of the encoder, and mirrored of the decoder.
      hidden_size: units of a dense layer beside the code, in both.
      latent_size: D.
      num_classes: as in `VAE`.
      image_shape: (H, W, C).
    """

    channels: tuple[int, ...] = (32, 32, 64, 64)
    hidden_size: int = 256
    latent_size: int = 10
    num_classes: int = 0
    image_shape: tuple[int, int, int] = (64, 64, 1)

    def setup(self) -> None:
        self.map_shape = smallest_map(self.channels, self.image_shape)
        self.down = [Conv(c, (4, 4), 2, padding=1, name=f"down{i}") for i, c in enumerate(self.channels)]
        self.hidden = nn.Dense(self.hidden_size)
        self.mean = nn.Dense(self.latent_size)
        self.log_var = nn.Dense(self.latent_size)
        self.decoder_hidden = nn.Dense(self.hidden_size)
        self.decoder_map = nn.Dense(math.prod(self.map_shape))
        channels = (self.image_shape[2], *self.channels[:-1])
        self.up = [ConvTranspose(c, 4, 2, padding=1, name=f"up{i}") for i, c in enumerate(channels)]

    def encode(self, images: Array, label: Array | None = None) -> tuple[Array, Array]:
        """Returns the mean and the logarithm of the variance (B, D) of the codes of images (B, H, W, C)."""
        check_images(images, **dict(zip(("height", "width", "channels"), self.image_shape, strict=True)))
        x = images
        for layer in self.down:
            x = nn.relu(layer(x))
        x = nn.relu(self.hidden(_with_label(x.reshape(x.shape[0], -1), label, self.num_classes)))
        return self.mean(x), self.log_var(x)

    def decode(self, latent: Array, label: Array | None = None) -> dict[str, Array]:
        """Returns "logits" and "reconstruction" (..., B, H, W, C) of codes (..., B, D)."""
        x = nn.relu(self.decoder_hidden(_with_label(latent, label, self.num_classes)))
        x = nn.relu(self.decoder_map(x)).reshape(-1, *self.map_shape)
        for i in reversed(range(len(self.channels))):
            x = self.up[i](x)
            x = nn.relu(x) if i else x
        return as_output(x.reshape(*latent.shape[:-1], *self.image_shape), "sigmoid")


def _with_label(x: Array, label: Array | None, num_classes: int) -> Array:
    if (label is None) == (num_classes > 0):
        what = "needs label, (B,) integers" if label is None else "has num_classes=0 and takes no label"
        raise ConfigError(f"label: this model {what}")
    if label is None:
        return x
    hot = jax.nn.one_hot(label, num_classes, dtype=x.dtype)
    return jnp.concatenate([x, jnp.broadcast_to(hot, (*x.shape[:-1], num_classes))], -1)


class ResidualBlock(nn.Module):
    """ReLU, 3x3, ReLU, 1x1, added to what came in: section 4.1 of VQ-VAE. Takes and returns (B, H, W, C)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        y = Conv(channels, (3, 3), padding=1, name="conv1")(nn.relu(x))
        return x + Conv(channels, (1, 1), name="conv2")(nn.relu(y))


class VQVAE(nn.Module):
    """Figure 1 of VQ-VAE: each position of a map is replaced by its nearest entry of a codebook.

    The call takes images (B, H, W, C), H and W divisible by 4, and returns a dict of "latent" (B, H / 4, W / 4, D),
    what the encoder gives, "code_logits" (B, H / 4, W / 4, N), how near the entries are to it, "quantized", the
    nearest, and "reconstruction" (B, H, W, C). The gradient of the reconstruction goes to the latent past the
    quantisation, equation 3's straight-through estimator; none of it reaches the codebook, which
    `objectives.vector_quantized` teaches. Raises ShapeError if images don't fit.

    Attributes:
      hidden_size: channels of all convolutions.
      num_blocks: residual blocks of the encoder, and of the decoder.
      codebook_size: N.
      latent_size: D.
      channels: C.
    """

    hidden_size: int = 256
    num_blocks: int = 2
    codebook_size: int = 512
    latent_size: int = 64
    channels: int = 3

    def setup(self) -> None:
        hidden = self.hidden_size
        self.down0 = Conv(hidden, (4, 4), 2, padding=1)
        self.down1 = Conv(hidden, (4, 4), 2, padding=1)
        self.down_blocks = [ResidualBlock(name=f"down_block{i}") for i in range(self.num_blocks)]
        self.to_latent = Conv(self.latent_size, (1, 1))
        uniform = nn.initializers.variance_scaling(1 / 3 / self.codebook_size, "fan_in", "uniform", in_axis=0)
        self.codebook = self.param("codebook", uniform, (self.codebook_size, self.latent_size), jnp.float32)
        self.from_latent = Conv(hidden, (3, 3), padding=1)
        self.up_blocks = [ResidualBlock(name=f"up_block{i}") for i in range(self.num_blocks)]
        self.up1 = ConvTranspose(hidden, 4, 2, padding=1)
        self.up0 = ConvTranspose(self.channels, 4, 2, padding=1)

    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        latent = self.encode(images)
        book = self.codebook.astype(latent.dtype)
        logits = nearness(latent, book)
        quantized = book[logits.argmax(-1)]
        straight_through = latent + jax.lax.stop_gradient(quantized - latent)
        reconstruction = self.decode(straight_through)
        return {"latent": latent, "code_logits": logits, "quantized": quantized, "reconstruction": reconstruction}

    def encode(self, images: Array) -> Array:
        """Returns what the encoder gives, (B, H / 4, W / 4, D), before quantisation."""
        check_images(images, channels=self.channels, unit=4)
        x = self.down1(nn.relu(self.down0(images)))
        for block in self.down_blocks:
            x = block(x)
        return self.to_latent(nn.relu(x))

    def encode_indices(self, images: Array) -> Array:
        """Returns the numbers of the entries nearest to what the encoder gives, (B, H / 4, W / 4) int32."""
        latent = self.encode(images)
        return nearness(latent, self.codebook.astype(latent.dtype)).argmax(-1).astype(jnp.int32)

    def decode(self, quantized: Array) -> Array:
        """Returns images (B, H, W, C) of entries of the codebook (B, H / 4, W / 4, D)."""
        x = self.from_latent(quantized)
        for block in self.up_blocks:
            x = block(x)
        return self.up0(nn.relu(self.up1(nn.relu(x))))

    def decode_indices(self, indices: Array) -> Array:
        """Returns images (B, H, W, C) of numbers of entries (B, H / 4, W / 4)."""
        return self.decode(self.codebook[indices])


def nearness(latent: Array, codebook: Array) -> Array:
    """Returns minus the squared distance (..., N) of each vector (..., D) from the codebook's (N, D) entries.

    But for a constant of each vector, so that what counts is which is the largest.
    """
    return 2 * latent @ codebook.T - jnp.square(codebook).sum(1).reshape((1,) * (latent.ndim - 1) + (-1,))


class DVAEBlock(nn.Module):
    """Four convolutions of a quarter of the channels, scaled and added to what came in.

    Takes (B, H, W, C) and returns (B, H, W, channels).

    Attributes:
      channels: of the result.
      kernel_sizes: of the four convolutions.
      gain: factor of what is added.
    """

    channels: int
    kernel_sizes: tuple[int, int, int, int]
    gain: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y, last = x, len(self.kernel_sizes) - 1
        for i, size in enumerate(self.kernel_sizes):
            y = _dvae_conv(self.channels if i == last else self.channels // 4, size, f"conv{i + 1}")(nn.relu(y))
        if x.shape[-1] != self.channels:
            x = _dvae_conv(self.channels, 1, "conv_skip")(x)
        return x + self.gain * y


def _dvae_conv(channels: int, size: int, name: str) -> Conv:
    normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    return Conv(channels, (size, size), padding=size // 2, kernel_init=normal, name=name)


class DVAEEncoder(nn.Module):
    """Images (B, H, W, C) to logits of the codebook's entries (B, H / 8, W / 8, N): four groups, halved in between."""

    hidden_size: int
    blocks: int
    codebook_size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = _dvae_conv(self.hidden_size, 7, "input")(x)
        for group in range(1, 5):
            for i in range(1, self.blocks + 1):
                block = partial(DVAEBlock, kernel_sizes=(3, 3, 3, 1), gain=1 / (4 * self.blocks) ** 2)
                x = block(2 ** (group - 1) * self.hidden_size, name=f"group{group}_block{i}")(x)
            x = max_pool(x, 2, 2) if group < 4 else x
        return _dvae_conv(self.codebook_size, 1, "output")(nn.relu(x))


class DVAEDecoder(nn.Module):
    """Weights of the codebook's entries (B, H / 8, W / 8, N) to means and log-scales of pixels (B, H, W, 2 C)."""

    first_size: int
    hidden_size: int
    blocks: int
    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = _dvae_conv(self.first_size, 1, "input")(x)
        for group in range(1, 5):
            for i in range(1, self.blocks + 1):
                block = partial(DVAEBlock, kernel_sizes=(1, 3, 3, 3), gain=1 / (4 * self.blocks) ** 2)
                x = block(2 ** (4 - group) * self.hidden_size, name=f"group{group}_block{i}")(x)
            x = x.repeat(2, 1).repeat(2, 2) if group < 4 else x
        return _dvae_conv(2 * self.channels, 1, "output")(nn.relu(x))


class DVAE(nn.Module):
    """DALL-E's discrete VAE: one of N codes for each 8 x 8 pixels. Appendix A.2 of the paper.

    The call takes images (B, H, W, C) in [0, 1], H and W divisible by 8, and returns a dict of "code_logits"
    (B, H / 8, W / 8, N); "pixels" (B, H, W, 2 C), the means and, behind them, the logarithms of the scales of a
    logit-Laplace distribution of the mapped pixels; and "reconstruction" (B, H, W, C) in [0, 1]. With `sampling_key`
    the decoder sees a relaxed draw of the codes, the Gumbel-softmax of `temperature`; else the likeliest ones. Raises
    ShapeError if images don't fit.

    Attributes:
      hidden_size: channels of the first group of the encoder and the last of the decoder; eight times as many between.
      first_size: channels of the decoder's input.
      blocks: in each group.
      codebook_size: N.
      channels: C.
    """

    hidden_size: int = 256
    first_size: int = 128
    blocks: int = 2
    codebook_size: int = 8192
    channels: int = 3

    def setup(self) -> None:
        self.encoder = DVAEEncoder(self.hidden_size, self.blocks, self.codebook_size)
        self.decoder = DVAEDecoder(self.first_size, self.hidden_size, self.blocks, self.channels)

    def __call__(
        self, images: Array, sampling_key: Array | None = None, temperature: float = 1.0, train: bool = False
    ) -> dict[str, Array]:
        logits = self.encode(images)
        if sampling_key is None:
            codes = jax.nn.one_hot(logits.argmax(-1), self.codebook_size, dtype=logits.dtype)
        else:  # Jang, Gu & Poole (2016), arXiv:1611.01144
            noise = jax.random.gumbel(sampling_key, logits.shape, logits.dtype)
            codes = jax.nn.softmax((logits + noise) / jnp.asarray(temperature, logits.dtype))
        pixels = self.decoder(codes)
        return {"code_logits": logits, "pixels": pixels, "reconstruction": unmap_pixels(self._means(pixels))}

    def encode(self, images: Array) -> Array:
        """Returns the logits of each code (B, H / 8, W / 8, N) of images (B, H, W, C) in [0, 1]."""
        check_images(images, channels=self.channels, unit=8)
        return self.encoder(map_pixels(images))

    def encode_indices(self, images: Array) -> Array:
        """Returns the numbers of the likeliest codes (B, H / 8, W / 8) int32 of images (B, H, W, C) in [0, 1]."""
        return self.encode(images).argmax(-1).astype(jnp.int32)

    def decode_indices(self, indices: Array) -> Array:
        """Returns images (B, H, W, C) in [0, 1] of numbers of codes (B, H / 8, W / 8)."""
        pixels = self.decoder(jax.nn.one_hot(indices, self.codebook_size))
        return unmap_pixels(self._means(pixels))

    def _means(self, pixels: Array) -> Array:
        return jax.nn.sigmoid(pixels[..., : self.channels])


LAPLACE_MARGIN = 0.1  # appendix A.3: pixels are kept away from 0 and 1, where the logit isn't finite


def map_pixels(images: Array) -> Array:
    """Returns pixels of [0, 1] mapped to [0.1, 0.9]: equation 3 of the DALL-E paper's appendix."""
    return (1 - 2 * LAPLACE_MARGIN) * images + LAPLACE_MARGIN


def unmap_pixels(mapped: Array) -> Array:
    """Returns what `map_pixels` was given, clipped to [0, 1]."""
    return jnp.clip((mapped - LAPLACE_MARGIN) / (1 - 2 * LAPLACE_MARGIN), 0, 1)


def interpolate(one: Array, other: Array, steps: int) -> Array:
    """Returns codes (steps, D) on the great circle from one (D,) to another, both included.

    Normal codes of many numbers have about the same length, which a straight line between two leaves: White (2016),
    arXiv:1609.04468. Codes of one direction are joined by a line.
    """
    unit = [x / jnp.maximum(jnp.linalg.norm(x), 1e-12) for x in (one, other)]
    angle = jnp.arccos(jnp.clip(unit[0] @ unit[1], -1, 1))
    share = jnp.linspace(0, 1, steps)[:, None]
    line = (1 - share) * one[None] + share * other[None]
    sine = jnp.maximum(jnp.sin(angle), 1e-12)
    arc = (jnp.sin((1 - share) * angle) * one[None] + jnp.sin(share * angle) * other[None]) / sine
    return jnp.where(jnp.sin(angle) < 1e-4, line, arc)


def traverse(code: Array, extent: float, steps: int) -> Array:
    """Returns codes (D, steps, D): in row i, that of `code` (D,) with its number i from -extent to extent."""
    size = code.shape[0]
    values = jnp.linspace(-extent, extent, steps)
    rows = jnp.broadcast_to(code, (size, steps, size))
    return jnp.where(jnp.eye(size, dtype=bool)[:, None], values[None, :, None], rows)


_2013 = "Kingma & Welling (2013), arXiv:1312.6114"
_BETA = "Higgins et al. (2017), https://openreview.net/forum?id=Sy2fzU9gl"
_VQ = "van den Oord, Vinyals & Kavukcuoglu (2017), arXiv:1711.00937"
_DALLE = "Ramesh et al. (2021), arXiv:2102.12092"
_SMALL = dict(channels=(8, 8), hidden_size=16, latent_size=4, image_shape=(8, 8, 1))

VARIANTS = {
    "vae": Variant(VAE, {}, images(28, 28, 1), 815_824, 2013, _2013),
    "conv_vae": Variant(ConvVAE, {}, images(64, 64, 1), 764_245, 2017, _BETA),
    "vq_vae": Variant(VQVAE, {}, images(32, 32, 3), 4_942_915, 2017, _VQ),
    "dalle_dvae": Variant(DVAE, {}, images(256, 256, 3), 97_616_006, 2021, _DALLE),
    "vae_tiny": Variant(
        VAE, dict(hidden_sizes=(16,), latent_size=4, image_shape=(8, 8, 1)), images(8, 8, 1), 2_344, 2013, _2013
    ),
    "conv_vae_tiny": Variant(ConvVAE, _SMALL, images(8, 8, 1), 3_617, 2017, _BETA),
    "vq_vae_tiny": Variant(
        VQVAE, dict(hidden_size=8, num_blocks=1, codebook_size=16, latent_size=4), images(8, 8, 3), 4_551, 2017, _VQ
    ),
    "dalle_dvae_tiny": Variant(
        DVAE, dict(hidden_size=8, first_size=8, blocks=1, codebook_size=16), images(16, 16, 3), 41_786, 2021, _DALLE
    ),
}
