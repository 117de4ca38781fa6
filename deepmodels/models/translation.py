"""Image-to-image translation by networks against each other, of pairs and of two domains without pairs.

Isola, Zhu, Zhou & Efros (2016), arXiv:1611.07004, pix2pix; Zhu, Park, Isola & Efros (2017), arXiv:1703.10593, CycleGAN.
The sizes are those of the authors' PyTorch code. B batch, H height, W width, C channels.
"""

from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.layers.batch_norm import BatchNorm
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv, ConvTranspose
from deepmodels.models.variant import Variant, images

normal = nn.initializers.normal(0.02)


def instance_norm(x: Array, epsilon: float = 1e-5) -> Array:
    """Returns a map with each channel of each image normalised by itself, (B, H, W, C) -> (B, H, W, C).

    Ulyanov, Vedaldi & Lempitsky (2016), arXiv:1607.08022, without parameters.
    """
    values = x.astype(jnp.float32 if x.dtype.itemsize < 4 else x.dtype)
    centred = values - values.mean((1, 2), keepdims=True)
    variance = jnp.square(centred).mean((1, 2), keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype)


class UNetGenerator(nn.Module):
    """The U-Net of pix2pix: 4x4 convolutions that halve down to one pixel, and transposed ones up beside what they saw.

    Takes (B, H, W, C), H and W divisible by 2^num_downs, and returns (B, H, W, C) in [-1, 1].

    Attributes:
      channels: of the first map; the next have 2, 4 and 8 times as many, and all below 8 times.
      num_downs: halvings.
      dropout_rate: of the lowest maps on the way up but the first, which is all the noise that pix2pix has.
    """

    channels: int
    num_downs: int
    dropout_rate: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        image_channels = x.shape[-1]
        last, widths = self.num_downs - 1, [self.channels * min(2**i, 8) for i in range(self.num_downs)]
        skips = []
        for i, width in enumerate(widths):
            x = x if i == 0 else nn.leaky_relu(x, 0.2)
            x = Conv(width, (4, 4), 2, padding=1, use_bias=False, kernel_init=normal, name=f"down{i}")(x)
            x = BatchNorm(name=f"down{i}_norm")(x, train) if 0 < i < last else x
            skips.append(x)
        for i in reversed(range(self.num_downs)):
            x = nn.relu(skips[i] if i == last else jnp.concatenate([skips[i], x], -1))
            width = widths[i - 1] if i else image_channels
            x = ConvTranspose(width, 4, 2, 1, use_bias=i == 0, kernel_init=normal, name=f"up{i}")(x)
            x = BatchNorm(name=f"up{i}_norm")(x, train) if i else x
            if 4 <= i < last:
                x = nn.Dropout(self.dropout_rate, deterministic=not train, name=f"up{i}_dropout")(x)
        return jnp.tanh(x)


class ResNetGenerator(nn.Module):
    """The generator of CycleGAN: two halvings, residual blocks, two doublings, with borders reflected.

    Takes (B, H, W, C), H and W divisible by 4, and returns (B, H, W, C) in [-1, 1].

    Attributes:
      channels: of the first map.
      num_blocks: residual blocks.
    """

    channels: int
    num_blocks: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv, c, image_channels = partial(Conv, kernel_init=normal), self.channels, x.shape[-1]
        x = nn.relu(instance_norm(conv(c, (7, 7), padding=0, name="first")(reflect(x, 3))))
        for i in range(2):
            x = nn.relu(instance_norm(conv(c * 2 ** (i + 1), (3, 3), 2, padding=1, name=f"down{i}")(x)))
        for i in range(self.num_blocks):
            y = conv(4 * c, (3, 3), padding=0, name=f"block{i}_conv1")(reflect(x, 1))
            y = conv(4 * c, (3, 3), padding=0, name=f"block{i}_conv2")(reflect(nn.relu(instance_norm(y)), 1))
            x += instance_norm(y)
        for i in (1, 0):
            x = ConvTranspose(c * 2**i, 3, 2, 1, 1, kernel_init=normal, name=f"up{i}")(x)
            x = nn.relu(instance_norm(x))
        return jnp.tanh(conv(image_channels, (7, 7), padding=0, name="last")(reflect(x, 3)))


def reflect(x: Array, size: int) -> Array:
    """Returns a map with its border reflected: (B, H, W, C) -> (B, H + 2 size, W + 2 size, C)."""
    return jnp.pad(x, ((0, 0), (size, size), (size, size), (0, 0)), mode="reflect")


class PatchDiscriminator(nn.Module):
    """A logit for each patch of 70 pixels: (B, H, W, C) to (B, H / 8 - 2, W / 8 - 2).

    Attributes:
      channels: of the first map.
      norm: "batch" or "instance", of all maps but the first and the last.
    """

    channels: int
    norm: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        for i in range(4):
            bias, stride = i == 0 or self.norm == "instance", 2 if i < 3 else 1
            conv = Conv(
                self.channels * 2**i, (4, 4), stride, padding=1, use_bias=bias, kernel_init=normal, name=f"conv{i}"
            )
            x = conv(x)
            if i:
                x = instance_norm(x) if self.norm == "instance" else BatchNorm(name=f"norm{i}")(x, train)
            x = nn.leaky_relu(x, 0.2)
        return Conv(1, (4, 4), padding=1, kernel_init=normal, name="conv4")(x)[..., 0]


class Pix2Pix(nn.Module):
    """A generator that is told a picture, and a discriminator that sees it beside what is made of it.

    The call takes pictures (B, H, W, C) in [-1, 1] and the true ones to be made of them, by default the same, and
    returns a dict of "fake" (B, H, W, C), what the generator makes, "real_logits" and "fake_logits" (B, h, w) of each
    patch. Raises ShapeError if pictures don't fit.

    Attributes:
      channels: of the generator's first map.
      num_downs: of the generator.
      critic_channels: of the discriminator's first map.
      dropout_rate: of the generator.
      image_channels: C.
    """

    channels: int = 64
    num_downs: int = 8
    critic_channels: int = 64
    dropout_rate: float = 0.5
    image_channels: int = 3

    players: ClassVar[tuple[str, str]] = ("discriminator", "generator")

    def setup(self) -> None:
        if self.num_downs < 2:
            raise ConfigError(f"num_downs: expected 2 or more, got {self.num_downs}")
        self.discriminator = PatchDiscriminator(self.critic_channels, "batch")
        self.generator = UNetGenerator(self.channels, self.num_downs, self.dropout_rate)

    def __call__(self, images: Array, target: Array | None = None, train: bool = False) -> dict[str, Array]:
        check_images(images, channels=self.image_channels, unit=2**self.num_downs)
        fake = self.generator(images, train)
        real = images if target is None else target
        if real.shape != images.shape:
            raise ShapeError(f"target: expected the shape of the images, {images.shape}, got {tuple(real.shape)}")
        logits = {
            name: self.discriminator(jnp.concatenate([images, x], -1), train)
            for name, x in {"real_logits": real, "fake_logits": fake}.items()
        }
        return {"fake": fake, **logits}


class Generators(nn.Module):
    """The two generators of CycleGAN, one for each direction.

    Attributes:
      channels: of the first maps.
      num_blocks: of each.
    """

    channels: int
    num_blocks: int

    def setup(self) -> None:
        self.forth = ResNetGenerator(self.channels, self.num_blocks)
        self.back = ResNetGenerator(self.channels, self.num_blocks)


class Discriminators(nn.Module):
    """The two discriminators of CycleGAN, of what each generator makes.

    Attributes:
      channels: of the first maps.
    """

    channels: int

    def setup(self) -> None:
        self.forth = PatchDiscriminator(self.channels, "instance")
        self.back = PatchDiscriminator(self.channels, "instance")


class CycleGAN(nn.Module):
    """Two generators between two domains of pictures without pairs, and a discriminator in each.

    The call takes pictures (B, H, W, C) in [-1, 1] of one domain and `other` ones of the other, by default the same,
    and returns a dict of "fake" and "other_fake" (B, H, W, C), what the generators make of the pictures and of the
    others, "cycled" and "other_cycled", these made back, "same" and "other_same", the others and the pictures by the
    generators whose domain they are of already, and logits (B, h, w) of each patch: "real_logits" of the others and
    "fake_logits" of the fakes, "other_real_logits" of the pictures and "other_fake_logits" of the other fakes. With
    `pool_key` the discriminators see fakes of earlier steps too: the collection "pool" holds as many as `pool_size`,
    and each fake is seen itself or goes into it in place of one that is, with even chances. Raises ShapeError if
    pictures don't fit.

    Attributes:
      channels: of the generators' first maps.
      num_blocks: residual blocks of each generator, 9 for 256 pixels and 6 for 128.
      critic_channels: of the discriminators' first maps.
      pool_size: pictures of each domain that are kept; 0 for no pool.
      image_size: pixels of the pictures' side, for the pool.
      image_channels: C.
    """

    channels: int = 64
    num_blocks: int = 9
    critic_channels: int = 64
    pool_size: int = 50
    image_size: int = 256
    image_channels: int = 3

    players: ClassVar[tuple[str, str]] = ("discriminator", "generator")

    def setup(self) -> None:
        self.discriminator = Discriminators(self.critic_channels)
        self.generator = Generators(self.channels, self.num_blocks)

    def __call__(
        self, images: Array, other: Array | None = None, pool_key: Array | None = None, train: bool = False
    ) -> dict[str, Array]:
        check_images(images, channels=self.image_channels, unit=4)
        other = images if other is None else other
        if other.shape != images.shape:
            raise ShapeError(f"other: expected the shape of the images, {images.shape}, got {tuple(other.shape)}")
        if self.pool_size and images.shape[1:3] != (self.image_size, self.image_size):
            raise ShapeError(
                f"images: expected {self.image_size} x {self.image_size} pixels, as the pool has, got {images.shape}"
            )
        forth, back = self.generator.forth, self.generator.back
        fake, other_fake = forth(images), back(other)
        outputs = {
            "fake": fake,
            "other_fake": other_fake,
            "cycled": back(fake),
            "other_cycled": forth(other_fake),
            "same": forth(other),
            "other_same": back(images),
        }
        seen = {"fake": fake, "other_fake": other_fake}
        if pool_key is not None and self.pool_size and (train or self.is_initializing()):
            seen = self._pooled(seen, pool_key)
        return outputs | {
            "real_logits": self.discriminator.forth(other, train),
            "fake_logits": self.discriminator.forth(seen["fake"], train),
            "other_real_logits": self.discriminator.back(images, train),
            "other_fake_logits": self.discriminator.back(seen["other_fake"], train),
        }

    @nn.compact
    def _pooled(self, fakes: dict[str, Array], key: Array) -> dict[str, Array]:
        shape = (self.pool_size, self.image_size, self.image_size, self.image_channels)
        pools = {name: self.variable("pool", name, jnp.zeros, shape, jnp.float32) for name in fakes}
        taken = self.variable("pool", "count", jnp.zeros, (), jnp.int32)
        if self.is_initializing():
            return fakes
        count, seen = taken.value, {}
        for number, (name, batch) in enumerate(fakes.items()):
            pool = pools[name]
            own = jax.random.fold_in(key, number)
            given, kept = query_pool(pool.value, count, batch.astype(pool.value.dtype), own)
            pool.value, seen[name] = kept, jax.lax.stop_gradient(given).astype(batch.dtype)
        taken.value = jnp.minimum(count + fakes["fake"].shape[0], self.pool_size).astype(jnp.int32)
        return seen


def query_pool(pool: Array, count: Array, pictures: Array, key: Array) -> tuple[Array, Array]:
    """Returns what a discriminator sees in place of new pictures, and the pool afterwards.

    Shrivastava et al. (2016), arXiv:1612.07828. While there is room a picture goes into the pool and is seen itself;
    then, with even chances, it is seen itself or takes the place of one at random, which is seen instead.

    Args:
      pool: (N, H, W, C).
      count: how many of its places are taken.
      pictures: (B, H, W, C).
      key: of the draws.
    """
    size = pool.shape[0]

    def one(carry, xs):
        pool, count = carry
        picture, number = xs
        keys = jax.random.split(jax.random.fold_in(key, number))
        room = count < size
        place = jnp.where(room, count, jax.random.randint(keys[0], (), 0, size, jnp.int32))
        stored = room | jax.random.bernoulli(keys[1])
        given = jnp.where(room | ~stored, picture, pool[place])
        pool = pool.at[place].set(jnp.where(stored, picture, pool[place]))
        return (pool, jnp.minimum(count + 1, size)), given

    (pool, _), given = jax.lax.scan(one, (pool, count), (pictures, jnp.arange(len(pictures))))
    return given, pool


_PIX2PIX = "Isola, Zhu, Zhou & Efros (2016), arXiv:1611.07004"
_CYCLE = "Zhu, Park, Isola & Efros (2017), arXiv:1703.10593"

VARIANTS = {
    "pix2pix": Variant(Pix2Pix, {}, images(256, 256, 3), 54_413_955 + 2_768_705, 2016, _PIX2PIX),
    "cyclegan": Variant(CycleGAN, {}, images(256, 256, 3), 2 * (11_378_179 + 2_764_737), 2017, _CYCLE),
    "translation_tiny": Variant(
        Pix2Pix,
        dict(channels=4, num_downs=5, critic_channels=4, dropout_rate=0.0),
        images(32, 32, 3),
        77_600,
        2016,
        _PIX2PIX,
    ),
    "cyclegan_tiny": Variant(
        CycleGAN,
        dict(channels=4, num_blocks=1, critic_channels=4, pool_size=3, image_size=32),
        images(32, 32, 3),
        40_512,
        2017,
        _CYCLE,
    ),
}
