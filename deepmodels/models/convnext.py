"""ConvNeXt. Liu, Mao, Wu, Feichtenhofer, Darrell & Xie (2022), arXiv:2201.03545.

B batch, H height, W width, C channels.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels.errors import ShapeError
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.layers.layer_norm import LayerNorm
from deepmodels.layers.stochastic_depth import StochasticDepth
from deepmodels.models.variant import Variant, images
from deepmodels.preprocessing import IMAGENET

normal = nn.initializers.normal(0.02)  # the authors truncate it at -2 and 2, which cuts nothing off
conv = partial(Conv, padding=0, kernel_init=normal)
dense = partial(nn.Dense, kernel_init=normal)


class ConvNeXtBlock(nn.Module):
    """Figure 4, right: convolve each channel by itself, normalise, mix channels by an inverted bottleneck, add.

    Takes (B, H, W, features) and the rate at which its branch is dropped, and returns (B, H, W, features).

    Attributes:
      features: channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array, rate: float | Array, train: bool) -> Array:
        y = conv(self.features, (7, 7), padding=3, feature_group_count=self.features, name="depthwise_conv")(x)
        y = LayerNorm(name="norm")(y)
        y = nn.gelu(dense(4 * self.features, name="dense1")(y), approximate=False)
        y = dense(self.features, name="dense2")(y)
        # section 2.5 "layer scale", Touvron et al. (2021), arXiv:2103.17239
        scale = self.param("layer_scale", nn.initializers.constant(1e-6), (self.features,), jnp.float32)
        return x + StochasticDepth(name="stochastic_depth")(y * scale[None, None, None], rate, train)


class ConvNeXt(nn.Module):
    """The network of table 9.

    The call takes images (B, H, W, C), 224x224x3 in the paper, and returns logits (B, num_classes), or the pooled and
    normalised last feature map if `num_classes` is 0. With `train` it drops branches at random, by the "dropout"
    stream. Raises ShapeError if images don't have four axes or are too small to be halved as often as it takes.

    The blocks of a stage are one scan, their parameters stacked on a leading axis ("stage1_blocks").

    Attributes:
      stage_sizes: blocks of each stage.
      channels: of each stage.
      stochastic_depth_rate: at which the last block's branch is dropped; it grows linearly from 0 at the first block.
      num_classes: number of outputs; 0 for a network without its head.
      unroll: blocks per step of the scan; changes neither result nor parameters. XLA's CPU backend is slow at the
        backward convolutions inside a loop.
    """

    stage_sizes: tuple[int, ...]
    channels: tuple[int, ...]
    stochastic_depth_rate: float = 0.0
    num_classes: int = 1000
    unroll: int = 9

    def setup(self) -> None:
        self.head_norm = LayerNorm()
        if self.num_classes:
            self.head = dense(self.num_classes)

    def __call__(self, images: Array, train: bool = False) -> Array:
        *_, last = self.features(images, train).values()
        pooled = self.head_norm(last.mean((1, 2)))
        return self.head(pooled) if self.num_classes else pooled

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image per pixel of each feature map."""
        return {f"stage{i}": 4 * 2**i for i in range(len(self.stage_sizes))}

    @nn.compact
    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the feature map of each stage, (B, H / stride, W / stride, C)."""
        check_images(images)
        smallest = 4 * 2 ** (len(self.stage_sizes) - 1)
        if min(images.shape[1:3]) < smallest:
            raise ShapeError(f"images: expected a height and width of at least {smallest}, got {images.shape[1:3]}")
        rates = np.linspace(0, self.stochastic_depth_rate, sum(self.stage_sizes), dtype=np.float32)
        x, maps = images, {}
        for i, (size, channels) in enumerate(zip(self.stage_sizes, self.channels, strict=True)):
            if i == 0:
                x = LayerNorm(name="stem_norm")(conv(channels, (4, 4), 4, name="stem_conv")(x))
            else:
                x = LayerNorm(name=f"stage{i}_downsample_norm")(x)
                x = conv(channels, (2, 2), 2, name=f"stage{i}_downsample_conv")(x)
            own = rates[sum(self.stage_sizes[:i]) :][:size] if self.stochastic_depth_rate else None
            x = maps[f"stage{i}"] = _stage(x, channels, own, size, train, self.unroll, f"stage{i}_blocks")
        return maps


def _stage(x: Array, channels: int, rates: np.ndarray | None, size: int, train: bool, unroll: int, name: str) -> Array:
    """A stage's blocks as one scan, each with its own rate; with None for the rates no branch is ever dropped."""
    scan = nn.scan(
        lambda block, x, rate: (block(x, 0.0 if rate is None else rate, train), None),
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        length=size,
        unroll=min(unroll, size),
    )
    x, _ = scan(ConvNeXtBlock(channels, name=name), x, rates)
    return x


_PAPER = "Liu, Mao, Wu, Feichtenhofer, Darrell & Xie (2022), arXiv:2201.03545"


def _imagenet(stage_sizes: tuple[int, ...], width: int, rate: float, resize_size: int, parameters: int) -> Variant:
    channels = (width, 2 * width, 4 * width, 8 * width)
    arguments = dict(stage_sizes=stage_sizes, channels=channels, stochastic_depth_rate=rate)
    preprocessing = IMAGENET._replace(resize_size=resize_size)
    return Variant(ConvNeXt, arguments, images(224, 224, 3), parameters, 2022, _PAPER, preprocessing=preprocessing)


VARIANTS = {  # table 9, and table 5 for the rates; torchvision for the sizes to which images are resized
    "convnext_tiny": _imagenet((3, 3, 9, 3), 96, 0.1, 236, 28_589_128),
    "convnext_small": _imagenet((3, 3, 27, 3), 96, 0.4, 230, 50_223_688),
    "convnext_base": _imagenet((3, 3, 27, 3), 128, 0.5, 232, 88_591_464),
    "convnext_large": _imagenet((3, 3, 27, 3), 192, 0.5, 232, 197_767_336),
    # the preset that trains in a second; the name it would have, convnext_tiny, is the paper's full-size model
    "convnext_micro": Variant(
        ConvNeXt,
        dict(stage_sizes=(1, 2), channels=(8, 16), num_classes=10),
        images(16, 16, 3),
        8_082,
        2022,
        _PAPER,
    ),
}
