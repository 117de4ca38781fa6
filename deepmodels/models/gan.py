"""Generative adversarial networks: one player makes pictures, the other tells them from real ones.

Goodfellow et al. (2014), arXiv:1406.2661; Radford, Metz & Chintala (2015), arXiv:1511.06434, DCGAN; Mirza & Osindero
(2014), arXiv:1411.1784, conditional; Gulrajani et al. (2017), arXiv:1704.00028, WGAN-GP; Miyato et al. (2018),
arXiv:1802.05957, spectral normalisation. B batch, D numbers of a latent, H height, W width, C channels.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError, unknown
from deepmodels.layers.batch_norm import BatchNorm
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv, ConvTranspose
from deepmodels.models.variant import Variant, images

normal = nn.initializers.normal(0.02)  # DCGAN, section 4


class Maxout(nn.Module):
    """The largest of some dense layers, unit by unit: Goodfellow et al. (2013), arXiv:1302.4389.

    Takes (B, features in) and returns (B, features).

    Attributes:
      features: units.
      pieces: dense layers.
    """

    features: int
    pieces: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.Dense(self.features * self.pieces, name="dense")(x)
        return y.reshape(*y.shape[:-1], self.features, self.pieces).max(-1)


class DenseGenerator(nn.Module):
    """Dense layers with ReLU, and a sigmoid: (B, D) to pictures (B, *image_shape) in [0, 1].

    Attributes:
      hidden_sizes: units of each layer.
      image_shape: (H, W, C).
    """

    hidden_sizes: Sequence[int]
    image_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, latent: Array, train: bool) -> Array:
        x = latent
        for i, size in enumerate(self.hidden_sizes):
            x = nn.relu(nn.Dense(size, name=f"hidden{i}")(x))
        x = nn.Dense(math.prod(self.image_shape), name="output")(x)
        return jax.nn.sigmoid(x).reshape(-1, *self.image_shape)


class MaxoutDiscriminator(nn.Module):
    """Layers of maxout with dropout: pictures (B, H, W, C) to logits (B,) of being real.

    Attributes:
      hidden_sizes: units of each layer.
      pieces: of each unit.
      dropout_rate: of what each layer gives.
    """

    hidden_sizes: Sequence[int]
    pieces: int
    dropout_rate: float

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        x = images.reshape(images.shape[0], -1)
        for i, size in enumerate(self.hidden_sizes):
            x = Maxout(size, self.pieces, name=f"maxout{i}")(x)
            x = nn.Dropout(self.dropout_rate, deterministic=not train, name=f"dropout{i}")(x)
        return nn.Dense(1, name="output")(x)[:, 0]


class GAN(nn.Module):
    """The networks of the paper of 2014 for digits: its code's sizes.

    The call takes real images (B, H, W, C) in [0, 1] and returns a dict of "fake" (B, H, W, C), pictures of latents
    drawn by `sampling_key` and else always the same, "real_logits" (B,) and "fake_logits" (B,), how sure the
    discriminator is that the images and the pictures are real. Raises ShapeError if images have another shape than
    `image_shape`.

    Attributes:
      latent_size: D; latents are uniform in [-1, 1].
      hidden_sizes: of the generator.
      maxout_sizes: of the discriminator.
      pieces: of each of its units.
      dropout_rate: of its layers.
      image_shape: (H, W, C).
    """

    latent_size: int = 100
    hidden_sizes: tuple[int, ...] = (1200, 1200)
    maxout_sizes: tuple[int, ...] = (240, 240)
    pieces: int = 5
    dropout_rate: float = 0.5
    image_shape: tuple[int, int, int] = (28, 28, 1)

    players: ClassVar[tuple[str, str]] = ("discriminator", "generator")

    def setup(self) -> None:
        self.discriminator = MaxoutDiscriminator(self.maxout_sizes, self.pieces, self.dropout_rate)
        self.generator = DenseGenerator(self.hidden_sizes, self.image_shape)

    def __call__(self, images: Array, sampling_key: Array | None = None, train: bool = False) -> dict[str, Array]:
        real_logits = self.discriminate(images, train=train)
        fake = self.generate(self._latent(sampling_key, images.shape[0], images.dtype), train=train)
        outputs = {"fake": fake, "real_logits": real_logits}
        return outputs | {"fake_logits": self.discriminate(fake, train=train)}

    def generate(self, latent: Array, train: bool = False) -> Array:
        """Returns pictures (B, H, W, C) of latents (B, D)."""
        return self.generator(latent, train)

    def discriminate(self, images: Array, train: bool = False) -> Array:
        """Returns the logits (B,) of images (B, H, W, C) being real."""
        check_images(images, **dict(zip(("height", "width", "channels"), self.image_shape, strict=True)))
        return self.discriminator(images, train)

    def sample(self, key: Array, count: int) -> Array:
        """Returns pictures (count, H, W, C) of latents drawn by the key."""
        return self.generate(self._latent(key, count, jnp.zeros(()).dtype))

    def _latent(self, key: Array | None, count: int, dtype: jnp.dtype) -> Array:
        if key is None:
            return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (count, self.latent_size)), dtype)
        return jax.random.uniform(key, (count, self.latent_size), dtype, -1, 1)


class SpectralConv(nn.Module):
    """A convolution whose kernel is divided by its largest singular value, which one step of power iteration follows.

    Equations 6 and 10 of Miyato et al. Takes (B, H, W, C); the iteration's vector is the collection "spectral_stats".

    Attributes:
      features: channels of the result.
      kernel_size: of both sides.
      stride: of both sides.
      padding: zeros at each border.
      use_bias: whether each channel has one.
    """

    features: int
    kernel_size: int
    stride: int
    padding: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        window = (self.kernel_size, self.kernel_size)
        conv = Conv(
            self.features,
            window,
            self.stride,
            padding=self.padding,
            use_bias=self.use_bias,
            kernel_init=normal,
            name="conv",
        )
        start = jax.random.normal(jax.random.key(0), (self.features,), jnp.float32)
        vector = self.variable("spectral_stats", "vector", lambda: start / jnp.linalg.norm(start))

        def normalised(variables):
            params = variables["params"]
            dtype = params["kernel"].dtype
            kernel = params["kernel"].astype(jnp.float32 if dtype.itemsize < 4 else dtype)
            matrix, u = kernel.reshape(-1, self.features), vector.value.astype(kernel.dtype)
            left = jax.lax.stop_gradient(_unit(matrix @ u))
            u = jax.lax.stop_gradient(_unit(left @ matrix)) if train else u
            if train and not self.is_initializing():
                vector.value = u.astype(vector.value.dtype)
            sigma = left @ matrix @ u
            return {"params": params | {"kernel": (kernel / sigma).astype(dtype)}}

        if self.is_initializing():
            return conv(x)
        return nn.map_variables(lambda module, x: module(x), "params", normalised)(conv, x)


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


class DCGenerator(nn.Module):
    """Figure 1 of DCGAN: a latent as a map of one pixel, transposed convolutions with norm and ReLU, and tanh.

    Takes (B, D) and returns (B, *image_shape) in [-1, 1].

    Attributes:
      channels: of the last map but one; the one before has twice as many, and so on.
      image_shape: (H, W, C).
    """

    channels: int
    image_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, latent: Array, train: bool) -> Array:
        side, doublings = first_map(self.image_shape)
        x, convs = latent[:, None, None], dict(use_bias=False, kernel_init=normal)
        for i in range(doublings):
            sizes = (side, 1, 0) if i == 0 else (4, 2, 1)
            x = ConvTranspose(self.channels * 2 ** (doublings - 1 - i), *sizes, **convs, name=f"conv{i}")(x)
            x = nn.relu(BatchNorm(name=f"norm{i}")(x, train))
        x = ConvTranspose(self.image_shape[2], 4, 2, 1, **convs, name=f"conv{doublings}")(x)
        return jnp.tanh(x)


class DCDiscriminator(nn.Module):
    """DCGAN's other half: strided convolutions with norm and leaky ReLU, (B, H, W, C) to a logit each, (B,).

    Attributes:
      channels: of the first map; the next has twice as many, and so on.
      image_shape: (H, W, C) of the pictures, though there may be more channels, of the labels.
      norm: "batch" normalisation of all maps but the first, "spectral" normalisation of all kernels, or "none".
    """

    channels: int
    image_shape: tuple[int, int, int]
    norm: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        side, halvings = first_map(self.image_shape)
        for i in range(halvings):
            channels, batch_norm = self.channels * 2**i, self.norm == "batch" and i > 0
            bias = self.norm != "batch"
            if self.norm == "spectral":
                x = SpectralConv(channels, 4, 2, 1, name=f"conv{i}")(x, train)
            else:
                x = Conv(channels, (4, 4), 2, padding=1, use_bias=bias, kernel_init=normal, name=f"conv{i}")(x)
            x = BatchNorm(name=f"norm{i}")(x, train) if batch_norm else x
            x = nn.leaky_relu(x, 0.2)
        name = f"conv{halvings}"
        if self.norm == "spectral":
            return SpectralConv(1, side, 1, 0, name=name)(x, train)[:, 0, 0, 0]
        conv = Conv(1, (side, side), padding=0, use_bias=self.norm != "batch", kernel_init=normal, name=name)
        return conv(x)[:, 0, 0, 0]


def first_map(image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Returns the side of the smallest map, 4 to 7 pixels, and how often it is doubled to that of the images.

    Raises:
      ConfigError: images aren't square, or their side isn't 4 to 7 times a power of two.
    """
    side, doublings = image_shape[0], 0
    while side > 7 and side % 2 == 0:
        side, doublings = side // 2, doublings + 1
    if image_shape[0] != image_shape[1] or not 4 <= side <= 7 or not doublings:
        raise ConfigError(f"image_shape: expected square images, 4 to 7 pixels times a power of two, got {image_shape}")
    return side, doublings


class DCGAN(nn.Module):
    """Deep convolutional networks against each other.

    The call takes real images (B, H, W, C) in [-1, 1], and `label` (B,) of integers if there are classes, and returns a
    dict of "fake" (B, H, W, C), pictures of latents drawn by `sampling_key` and else always the same, "real_logits"
    (B,) and "fake_logits" (B,), how sure the discriminator is that the images and the pictures are real. With `train`
    it normalises by the batch, of real and of fake pictures apart. Raises ShapeError if images have another shape than
    `image_shape`, and ConfigError if an argument doesn't fit, or a label is missing or there is no use for it.

    Attributes:
      latent_size: D; latents are normal.
      channels: of the generator's last map but one.
      critic_channels: of the discriminator's first map.
      norm: of the discriminator, see `DCDiscriminator`.
      num_classes: of pictures, which both players are told; 0 for none.
      image_shape: (H, W, C).
    """

    latent_size: int = 100
    channels: int = 64
    critic_channels: int = 64
    norm: str = "batch"
    num_classes: int = 0
    image_shape: tuple[int, int, int] = (64, 64, 3)

    players: ClassVar[tuple[str, str]] = ("discriminator", "generator")

    def setup(self) -> None:
        if self.norm not in ("batch", "spectral", "none"):
            raise unknown("norm", self.norm, ("batch", "spectral", "none"))
        self.discriminator = DCDiscriminator(self.critic_channels, self.image_shape, self.norm)
        self.generator = DCGenerator(self.channels, self.image_shape)

    def __call__(
        self, images: Array, label: Array | None = None, sampling_key: Array | None = None, train: bool = False
    ) -> dict[str, Array]:
        real_logits = self.discriminate(images, label, train)
        shape = (images.shape[0], self.latent_size)
        if sampling_key is None:
            latent = jnp.asarray(np.random.default_rng(0).normal(size=shape), images.dtype)
        else:
            latent = jax.random.normal(sampling_key, shape, images.dtype)
        fake = self.generate(latent, label, train)
        outputs = {"fake": fake, "real_logits": real_logits}
        return outputs | {"fake_logits": self.discriminate(fake, label, train)}

    def generate(self, latent: Array, label: Array | None = None, train: bool = False) -> Array:
        """Returns pictures (B, H, W, C) of latents (B, D), and of labels (B,) if there are classes."""
        hot = self._hot(label, latent.dtype)
        return self.generator(latent if hot is None else jnp.concatenate([latent, hot], 1), train)

    def discriminate(self, images: Array, label: Array | None = None, train: bool = False) -> Array:
        """Returns the logits (B,) of images (B, H, W, C) being real, and of these labels (B,) if there are classes."""
        check_images(images, **dict(zip(("height", "width", "channels"), self.image_shape, strict=True)))
        hot = self._hot(label, images.dtype)
        if hot is not None:  # a map of ones for the class, of zeros for the others
            maps = jnp.broadcast_to(hot[:, None, None], (*images.shape[:3], self.num_classes))
            images = jnp.concatenate([images, maps], -1)
        return self.discriminator(images, train)

    def sample(self, key: Array, count: int, label: Array | None = None) -> Array:
        """Returns pictures (count, H, W, C) of latents drawn by the key."""
        return self.generate(jax.random.normal(key, (count, self.latent_size)), label)

    def _hot(self, label: Array | None, dtype: jnp.dtype) -> Array | None:
        if (label is None) == (self.num_classes > 0):
            what = "needs label, (B,) integers" if label is None else "has num_classes=0 and takes no label"
            raise ConfigError(f"label: this model {what}")
        return None if label is None else jax.nn.one_hot(label, self.num_classes, dtype=dtype)


_2014 = "Goodfellow et al. (2014), arXiv:1406.2661"
_DCGAN = "Radford, Metz & Chintala (2015), arXiv:1511.06434"
_WGAN_GP = "Gulrajani et al. (2017), arXiv:1704.00028"
_TINY = dict(latent_size=4, channels=8, critic_channels=8, image_shape=(16, 16, 1))
_TINY_2014 = dict(
    latent_size=4, hidden_sizes=(16,), maxout_sizes=(8,), pieces=2, dropout_rate=0.0, image_shape=(8, 8, 1)
)

VARIANTS = {
    "gan_2014": Variant(GAN, {}, images(28, 28, 1), 3_735_425, 2014, _2014),
    "dcgan": Variant(DCGAN, {}, images(64, 64, 3), 6_342_272, 2015, _DCGAN),
    "dcgan_paper": Variant(DCGAN, dict(channels=128), images(64, 64, 3), 15_424_000, 2015, _DCGAN),
    "wgan_gp": Variant(DCGAN, dict(norm="none"), images(64, 64, 3), 6_341_441, 2017, _WGAN_GP),
    "gan_tiny": Variant(GAN, _TINY_2014, images(8, 8, 1), 2_217, 2014, _2014),
    "dcgan_tiny": Variant(DCGAN, _TINY, images(16, 16, 1), 5_712, 2015, _DCGAN),
}
