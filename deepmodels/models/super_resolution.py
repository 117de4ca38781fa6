"""Super-resolution by residual networks, alone and against a discriminator. Ledig et al. (2017), arXiv:1609.04802.

B batch, H height, W width, C channels.
"""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError
from deepmodels.layers.batch_norm import BatchNorm
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.models.variant import Variant, images


class PReLU(nn.Module):
    """max(x, 0) + slope min(x, 0), one slope for all channels, learned: He et al. (2015), arXiv:1502.01852.

    Takes and returns (B, H, W, C).
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        slope = self.param("slope", nn.initializers.constant(0.25), (1,), jnp.float32).astype(x.dtype)
        return jnp.maximum(x, 0) + slope.reshape(1, 1, 1, 1) * jnp.minimum(x, 0)


def pixel_shuffle(x: Array, factor: int) -> Array:
    """Returns a larger map whose pixels are the channels of a smaller one: (B, H, W, C r^2) -> (B, H r, W r, C).

    Shi et al. (2016), arXiv:1609.05158, equation 4; channel c r^2 + i r + j becomes channel c of the pixel (i, j).
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, height * factor, width * factor, -1)


class SRResNet(nn.Module):
    """Figure 4, above: residual blocks at the small size, then convolutions and shuffles to one four times as large.

    The call takes images (B, H, W, C) in [0, 1] and returns a dict of "reconstruction" (B, 4 H, 4 W, C), which may
    leave [0, 1]. With `train` it normalises by the batch. Raises ShapeError if images don't have as many channels.

    Attributes:
      channels: of all convolutions between the first and the last.
      num_blocks: residual blocks.
      image_channels: C.
    """

    channels: int = 64
    num_blocks: int = 16
    image_channels: int = 3

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        check_images(images, channels=self.image_channels)
        x = first = PReLU(name="first_act")(Conv(self.channels, (9, 9), padding=4, name="first")(images))
        for i in range(self.num_blocks):
            y = BatchNorm(name=f"block{i}_norm1")(self._conv(f"block{i}_conv1")(x), train)
            y = self._conv(f"block{i}_conv2")(PReLU(name=f"block{i}_act")(y))
            x += BatchNorm(name=f"block{i}_norm2")(y, train)
        x = first + BatchNorm(name="middle_norm")(self._conv("middle")(x), train)
        for i in range(2):
            x = pixel_shuffle(Conv(4 * self.channels, (3, 3), padding=1, name=f"enlarge{i}")(x), 2)
            x = PReLU(name=f"enlarge{i}_act")(x)
        return {"reconstruction": Conv(self.image_channels, (9, 9), padding=4, name="last")(x)}

    def _conv(self, name: str) -> Conv:
        return Conv(self.channels, (3, 3), padding=1, name=name)


class SRDiscriminator(nn.Module):
    """Figure 4, below: convolutions, every second one with a stride, and two dense layers: (B, H, W, 3) to logits (B,).

    Attributes:
      channels: of the first two convolutions; each pair has twice as many as the one before.
      num_pairs: of convolutions.
      dense_size: units of the first dense layer.
    """

    channels: int
    num_pairs: int
    dense_size: int

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        x = images
        for i in range(2 * self.num_pairs):
            conv = Conv(self.channels * 2 ** (i // 2), (3, 3), 1 + i % 2, padding=1, name=f"conv{i}")
            x = conv(x)
            x = nn.leaky_relu(BatchNorm(name=f"norm{i}")(x, train) if i else x, 0.2)
        x = nn.leaky_relu(nn.Dense(self.dense_size, name="dense")(x.reshape(x.shape[0], -1)), 0.2)
        return nn.Dense(1, name="output")(x)[:, 0]


class SRGAN(nn.Module):
    """The network and its discriminator.

    The call takes small images (B, H, W, 3) and the true large ones (B, 4 H, 4 W, 3), by default what it makes of the
    small ones, and returns a dict of "reconstruction" and "fake", both what it makes of the small ones, "real_logits"
    (B,) and "fake_logits" (B,), how sure the discriminator is that the true ones and those are real. Raises ShapeError
    and ConfigError if images don't fit.

    Attributes:
      channels: of the generator.
      num_blocks: of the generator.
      critic_channels: of the discriminator's first convolutions.
      critic_pairs: of its convolutions.
      dense_size: of its dense layer.
      image_size: pixels of the large images' side.
    """

    channels: int = 64
    num_blocks: int = 16
    critic_channels: int = 64
    critic_pairs: int = 4
    dense_size: int = 1024
    image_size: int = 96

    players: ClassVar[tuple[str, str]] = ("discriminator", "generator")

    def setup(self) -> None:
        if self.image_size % 4:
            raise ConfigError(f"image_size: expected a multiple of 4, got {self.image_size}")
        self.discriminator = SRDiscriminator(self.critic_channels, self.critic_pairs, self.dense_size)
        self.generator = SRResNet(self.channels, self.num_blocks)

    def __call__(self, images: Array, target: Array | None = None, train: bool = False) -> dict[str, Array]:
        check_images(images, height=self.image_size // 4, width=self.image_size // 4, channels=3)
        fake = self.generator(images, train)["reconstruction"]
        real = fake if target is None else target
        check_images(real, height=self.image_size, width=self.image_size, channels=3)
        logits = {"real_logits": self.discriminator(real, train), "fake_logits": self.discriminator(fake, train)}
        return {"reconstruction": fake, "fake": fake, **logits}


_PAPER = "Ledig et al. (2017), arXiv:1609.04802"
_TINY = dict(channels=8, num_blocks=1)
_TINY_GAN = _TINY | dict(critic_channels=8, critic_pairs=2, dense_size=8, image_size=32)

VARIANTS = {
    "srresnet": Variant(SRResNet, {}, images(24, 24, 3), 1_549_462, 2017, _PAPER),
    "srgan": Variant(SRGAN, {}, images(24, 24, 3), 25_114_967, 2017, _PAPER),
    "super_resolution_tiny": Variant(SRResNet, _TINY, images(8, 8, 3), 10_375, 2017, _PAPER),
    "srgan_tiny": Variant(SRGAN, _TINY_GAN, images(8, 8, 3), 22_960, 2017, _PAPER),
}
