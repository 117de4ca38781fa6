"""EfficientNet. Tan & Le (2019), arXiv:1905.11946. B batch, H height, W width, C channels.

Initialisation is that of torchvision's weights: He et al. (2015), arXiv:1502.01852, over the fan-out.
"""

import math
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, random

from deepmodels.layers.batch_norm import BatchNorm
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.layers.stochastic_depth import StochasticDepth
from deepmodels.models.mobilenet import round_channels
from deepmodels.models.variant import Variant, images
from deepmodels.preprocessing import IMAGENET

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
conv = partial(Conv, use_bias=False, kernel_init=he_fan_out)


class Stage(NamedTuple):
    """A row of table 1: expansion, side of the window, stride of the first block, output channels, blocks."""

    expansion: int
    window: int
    stride: int
    channels: int
    size: int


TABLE_1 = (  # stages 2 to 8 of EfficientNet-B0
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate that sees the mean of all. Hu et al. (2017), arXiv:1709.01507.

    Takes (B, H, W, C) and returns the same shape.

    Attributes:
      features: channels between the two 1x1 convolutions.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv1x1 = partial(Conv, kernel_size=(1, 1), padding=0, kernel_init=he_fan_out)
        gate = nn.silu(conv1x1(self.features, name="reduce")(x.mean((1, 2), keepdims=True)))
        return x * nn.sigmoid(conv1x1(x.shape[-1], name="expand")(gate))


class MBConv(nn.Module):
    """MobileNetV2's block with squeeze-and-excitation, SiLU and a branch that may be dropped.

    Takes (B, H, W, C) and returns (B, H / stride, W / stride, features).

    Attributes:
      features: channels of the output.
      window: side of the depthwise convolution's window.
      stride: of the depthwise convolution.
      expansion: channels inside, over those of the input; at 1 there is no convolution that expands.
      rate: at which the branch is dropped while training, where there is a shortcut.
      epsilon: of the batch normalisations.
      momentum: of the batch normalisations.
    """

    features: int
    window: int
    stride: int
    expansion: int
    rate: float
    epsilon: float
    momentum: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        norm = partial(BatchNorm, epsilon=self.epsilon, momentum=self.momentum)
        y, width, window = x, self.expansion * x.shape[-1], (self.window, self.window)
        if self.expansion != 1:
            y = conv(width, (1, 1), padding=0, name="expand_conv")(y)
            y = nn.silu(norm(name="expand_norm")(y, train))
        depthwise = partial(conv, width, window, self.stride, feature_group_count=width)
        y = depthwise(padding=self.window // 2, name="depthwise_conv")(y)
        y = nn.silu(norm(name="depthwise_norm")(y, train))
        y = SqueezeExcitation(max(1, x.shape[-1] // 4), name="squeeze_excitation")(y)
        y = conv(self.features, (1, 1), padding=0, name="project_conv")(y)
        y = norm(name="project_norm")(y, train)
        if x.shape != y.shape or self.stride != 1:
            return y
        return x + StochasticDepth(name="stochastic_depth")(y, self.rate, train)


class EfficientNet(nn.Module):
    """EfficientNet, table 1, scaled in width and depth.

    The call takes images (B, H, W, C) and returns logits (B, num_classes), or the pooled last feature map if
    `num_classes` is 0. With `train` it normalises by the batch, updates "batch_stats" and drops branches and inputs of
    the head at random, by the "dropout" stream. Raises ShapeError if images don't have four axes.

    Attributes:
      width_multiplier: scales the channels, rounded by `round_channels`.
      depth_multiplier: scales the blocks of each stage, rounded up.
      dropout_rate: share of the head's inputs that is dropped while training.
      stages: the rows of the table.
      stochastic_depth_rate: towards which the rate of dropped branches grows linearly, from 0 at the first block.
      epsilon: of the batch normalisations.
      momentum: of the batch normalisations.
      num_classes: number of outputs; 0 for a network without its head.
    """

    width_multiplier: float = 1.0
    depth_multiplier: float = 1.0
    dropout_rate: float = 0.2
    stages: tuple[Stage, ...] = TABLE_1
    stochastic_depth_rate: float = 0.2
    epsilon: float = 1e-5
    momentum: float = 0.9
    num_classes: int = 1000

    def setup(self) -> None:
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            self.head = nn.Dense(self.num_classes, kernel_init=_uniform(self.num_classes))

    def __call__(self, images: Array, train: bool = False) -> Array:
        *_, last = self.features(images, train).values()
        pooled = last.mean((1, 2))
        return self.head(self.dropout(pooled, deterministic=not train)) if self.num_classes else pooled

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image per pixel of each feature map."""
        total, strides = 2, {"stem": 2}
        for i, stage in enumerate(self.stages):
            total *= stage.stride
            strides[f"stage{i}"] = total
        return strides | {"final": total}

    @nn.compact
    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the maps of the first convolution, of each stage and of the last, (B, H / stride, W / stride, C)."""
        check_images(images)
        norm = partial(BatchNorm, epsilon=self.epsilon, momentum=self.momentum)
        x = conv(round_channels(32 * self.width_multiplier), (3, 3), 2, padding=1, name="stem_conv")(images)
        x = nn.silu(norm(name="stem_norm")(x, train))
        maps = {"stem": x}
        sizes = [math.ceil(stage.size * self.depth_multiplier) for stage in self.stages]
        for i, stage in enumerate(self.stages):
            channels = round_channels(stage.channels * self.width_multiplier)
            for j in range(sizes[i]):
                stride = stage.stride if j == 0 else 1
                rate = self.stochastic_depth_rate * (sum(sizes[:i]) + j) / sum(sizes)
                block = partial(MBConv, channels, stage.window, stride, stage.expansion, rate)
                x = block(self.epsilon, self.momentum, name=f"stage{i}_block{j}")(x, train)
            maps[f"stage{i}"] = x
        x = conv(4 * x.shape[-1], (1, 1), padding=0, name="final_conv")(x)
        return maps | {"final": nn.silu(norm(name="final_norm")(x, train))}


def _uniform(num_classes: int) -> nn.initializers.Initializer:
    bound = 1 / math.sqrt(num_classes)
    return lambda key, shape, dtype=jnp.float32: random.uniform(key, shape, dtype, -bound, bound)


_PAPER = "Tan & Le (2019), arXiv:1905.11946"


def _imagenet(
    width: float, depth: float, sizes: tuple[int, int], dropout_rate: float, parameters: int, **arguments
) -> Variant:
    arguments = dict(width_multiplier=width, depth_multiplier=depth, dropout_rate=dropout_rate, **arguments)
    resize_size, size = sizes
    preprocessing = IMAGENET._replace(resize_size=resize_size, crop_size=size, interpolation="bicubic")
    return Variant(
        EfficientNet, arguments, images(size, size, 3), parameters, 2019, _PAPER, preprocessing=preprocessing
    )


_LARGE = dict(epsilon=1e-3, momentum=0.99)  # the weights of B5 to B7 that circulate are the authors', B0 to B4 aren't

# Sections 3.3 and 5.2; multipliers, image sizes and dropout rates from the authors' code. The first of two sizes is
# what torchvision resizes to, before it crops to the second.
VARIANTS = {
    "efficientnet_b0": _imagenet(1.0, 1.0, (256, 224), 0.2, 5_288_548),
    "efficientnet_b1": _imagenet(1.0, 1.1, (256, 240), 0.2, 7_794_184),
    "efficientnet_b2": _imagenet(1.1, 1.2, (288, 288), 0.3, 9_109_994),
    "efficientnet_b3": _imagenet(1.2, 1.4, (320, 300), 0.3, 12_233_232),
    "efficientnet_b4": _imagenet(1.4, 1.8, (384, 380), 0.4, 19_341_616),
    "efficientnet_b5": _imagenet(1.6, 2.2, (456, 456), 0.4, 30_389_784, **_LARGE),
    "efficientnet_b6": _imagenet(1.8, 2.6, (528, 528), 0.5, 43_040_704, **_LARGE),
    "efficientnet_b7": _imagenet(2.0, 3.1, (600, 600), 0.5, 66_347_960, **_LARGE),
    "efficientnet_tiny": Variant(
        EfficientNet,
        dict(
            stages=(Stage(1, 3, 1, 16, 1), Stage(6, 5, 2, 24, 2)),
            width_multiplier=0.25,
            dropout_rate=0.0,  # eight examples are learned by heart sooner
            stochastic_depth_rate=0.0,
            num_classes=10,
        ),
        images(8, 8, 3),
        5_928,
        2019,
        _PAPER,
    ),
}
