"""U-Net: a way down that sees context, a way up that localises. Ronneberger, Fischer & Brox (2015), arXiv:1505.04597.

One class, two forms: the paper's, whose convolutions don't pad, so that its answer is smaller than its image and
`overlap_tile` puts large answers together; and the form in use today, which pads and normalises by batch. B batch, H
height, W width, C channels.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from deepmodels.errors import ConfigError, ShapeError, unknown
from deepmodels.layers.batch_norm import BatchNorm
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv, ConvTranspose
from deepmodels.layers.pooling import max_pool
from deepmodels.models.variant import Variant, images

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # section 3


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with its ReLU.

    Takes (B, H, W, C) and returns (B, H, W, channels), or (B, H - 4, W - 4, channels) without padding.

    Attributes:
      channels: of both convolutions.
      padding: "valid" or "same", as for `UNet`.
      batch_norm: whether each convolution has batch normalisation in place of a bias.
    """

    channels: int
    padding: str
    batch_norm: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        pixels = {"valid": 0, "same": 1}[self.padding]
        conv = partial(Conv, self.channels, (3, 3), padding=pixels, kernel_init=he_normal)
        for i in (1, 2):
            x = conv(use_bias=not self.batch_norm, name=f"conv{i}")(x)
            x = nn.relu(BatchNorm(name=f"norm{i}")(x, train) if self.batch_norm else x)
        return x


class UNet(nn.Module):
    """Figure 1: convolve and halve, convolve at the bottom, then double, join what the way down saw there, convolve.

    The call takes images (B, H, W, C) and returns logits (B, H', W', num_classes). With "same" padding H' is H and both
    sizes divide by 2^n for n halvings. With "valid" padding (572, 572) becomes (388, 388), and a size fits if every
    halving meets an even number. With `train` it drops, and normalises by the batch where it has batch normalisation.
    Raises ShapeError if images don't have four axes or a size doesn't fit; the message has the nearest that do.

    Attributes:
      channels: at each resolution, the whole one first.
      num_classes: number of classes, the background's included.
      padding: "valid", as in the paper, or "same".
      batch_norm: whether convolutions have batch normalisation in place of a bias.
      dropout_rate: share of the two lowest maps that is dropped in training, "at the end of the contracting path".
    """

    channels: tuple[int, ...] = (64, 128, 256, 512, 1024)
    num_classes: int = 2
    padding: str = "same"
    batch_norm: bool = True
    dropout_rate: float = 0.0

    def setup(self) -> None:
        if self.padding not in ("valid", "same"):
            raise unknown("padding", self.padding, ("valid", "same"))
        double = partial(DoubleConv, padding=self.padding, batch_norm=self.batch_norm)
        enlarge = partial(ConvTranspose, kernel_size=2, stride=2, kernel_init=he_normal)
        self.down = [double(channels, name=f"down{i}") for i, channels in enumerate(self.channels)]
        self.dropout = nn.Dropout(self.dropout_rate)
        self.enlarge = [enlarge(channels, name=f"enlarge{i}") for i, channels in enumerate(self.channels[:-1])]
        self.up = [double(channels, name=f"up{i}") for i, channels in enumerate(self.channels[:-1])]
        self.head = Conv(self.num_classes, (1, 1), kernel_init=he_normal)

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image per pixel of each feature map."""
        return {f"down{i}": 2**i for i in range(len(self.channels))}

    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the maps of the contracting path by resolution, the last the one at the bottom.

        Args:
          images: as for the call.
          train: whether it drops and normalises by the batch.
        """
        self._check(images)
        x, maps = images, {}
        for i, convs in enumerate(self.down):
            x = convs(max_pool(x, 2, 2) if i else x, train)
            if i >= len(self.channels) - 2:
                x = self.dropout(x, deterministic=not train)
            maps[f"down{i}"] = x
        return maps

    def __call__(self, images: Array, train: bool = False) -> Array:
        *skips, x = self.features(images, train).values()
        for i, skip in reversed(list(enumerate(skips))):
            x = self.enlarge[i](x)
            x = self.up[i](jnp.concatenate([_crop(skip, *x.shape[1:3]), x], -1), train)
        return self.head(x)

    def output_size(self, size: int) -> int:
        """Returns the height or width of the logits for images of height or width `size`.

        Raises:
          ShapeError: the size doesn't fit; the message has the nearest that do.
        """
        # unpadded, two convolutions cost 4 pixels of their map, which are 4 * 2^i of the image's at resolution i
        factor = 2 ** (len(self.channels) - 1)
        down, up = (4 * (2 * factor - 1), 4 * (factor - 1)) if self.padding == "valid" else (0, 0)
        bottom, rest = divmod(size - down, factor)
        least = up // factor + 1
        if rest or bottom < least:
            near = [factor * max(bottom + i, least + i) + down for i in (0, 1)]
            formula = f"{factor} n + {down}, n of {least} or more" if down else f"multiples of {factor}"
            raise ShapeError(f"images: expected height and width {formula} (say {near[0]} or {near[1]}), got {size}")
        return size - down - up

    def _check(self, images: Array) -> None:
        check_images(images)
        for size in images.shape[1:3]:
            self.output_size(size)


def _crop(x: Array, height: int, width: int) -> Array:
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]


def overlap_tile(forward: Callable[[Array], Array], images: Array, input_size: int, output_size: int) -> Array:
    """Returns a network's answer for images of any size, tile by tile: figure 2 of the paper.

    Each tile of the answer is computed from a larger tile of the image; what lies beyond the image's border is its
    mirror image. One tile is in memory at a time.

    Args:
      forward: `(B, input_size, input_size, C) -> (B, output_size, output_size, K)`, each pixel of its answer in the
        middle of what it is computed from, as an unpadded network's is; jitted by this function's caller.
      images: (B, H, W, C), of any height and width.
      input_size: 572 in the paper.
      output_size: 388 in the paper.

    Returns:
      (B, H, W, K).

    Raises:
      ConfigError: the margin isn't a whole number of pixels.
      ShapeError: images don't have four axes.
    """
    check_images(images)
    margin, odd = divmod(input_size - output_size, 2)
    if odd or margin < 0:
        raise ConfigError(
            f"input_size, output_size: expected the first larger by an even number, got {input_size} and {output_size}"
        )
    batch, height, width, channels = images.shape
    rows, columns = -(-height // output_size), -(-width // output_size)
    pads = [(margin, margin + count * output_size - size) for count, size in ((rows, height), (columns, width))]
    padded = jnp.pad(images, ((0, 0), *pads, (0, 0)), mode="reflect")

    def tile(index: Array) -> Array:
        top, left = index // columns * output_size, index % columns * output_size
        return forward(lax.dynamic_slice(padded, (0, top, left, 0), (batch, input_size, input_size, channels)))

    tiles = lax.map(tile, jnp.arange(rows * columns))
    whole = tiles.reshape(rows, columns, batch, output_size, output_size, -1).transpose(2, 0, 3, 1, 4, 5)
    return whole.reshape(batch, rows * output_size, columns * output_size, -1)[:, :height, :width]


_PAPER = "Ronneberger, Fischer & Brox (2015), arXiv:1505.04597"
_ORIGINAL = dict(padding="valid", batch_norm=False, dropout_rate=0.5)
_TINY = dict(channels=(8, 16, 32), num_classes=8)

VARIANTS = {
    "unet_paper": Variant(UNet, _ORIGINAL, images(572, 572, 1), 31_030_658, 2015, _PAPER),
    "unet": Variant(UNet, {}, images(256, 256, 3), 31_037_698, 2015, _PAPER),
    "unet_tiny": Variant(UNet, _TINY, images(16, 16, 1), 29_544, 2015, _PAPER),
}
