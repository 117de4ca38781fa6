"""MobileNetV2. Sandler, Howard, Zhu, Zhmoginov & Chen (2018), arXiv:1801.04381.

B batch, H height, W width, C channels. Initialisation is that of torchvision's weights: He et al. (2015),
arXiv:1502.01852, over the fan-out.
"""

from functools import partial
from typing import NamedTuple

from flax import linen as nn
from jax import Array

from deepmodels.layers.batch_norm import BatchNorm
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.models.variant import Variant, images
from deepmodels.preprocessing import IMAGENET

conv = partial(Conv, use_bias=False, kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"))


class Stage(NamedTuple):
    """A row of table 2: expansion factor t, output channels c, number of blocks n, stride s of the first."""

    expansion: int
    channels: int
    size: int
    stride: int


TABLE_2 = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)


def round_channels(channels: float) -> int:
    """Returns the multiple of 8 that is nearest to a scaled number of channels, at least 8 and at least 90 % of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class InvertedResidual(nn.Module):
    """Figure 3(b) and table 1: expand, convolve each channel by itself, project linearly; add where shapes agree.

    Takes (B, H, W, C) and returns (B, H / stride, W / stride, features).

    Attributes:
      features: channels of the output.
      stride: of the depthwise convolution.
      expansion: channels inside, over those of the input; at 1 there is no convolution that expands.
    """

    features: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y, width = x, self.expansion * x.shape[-1]
        if self.expansion != 1:
            y = conv(width, (1, 1), padding=0, name="expand_conv")(y)
            y = nn.relu6(BatchNorm(name="expand_norm")(y, train))
        y = conv(width, (3, 3), self.stride, padding=1, feature_group_count=width, name="depthwise_conv")(y)
        y = nn.relu6(BatchNorm(name="depthwise_norm")(y, train))
        y = conv(self.features, (1, 1), padding=0, name="project_conv")(y)
        y = BatchNorm(name="project_norm")(y, train)
        return x + y if x.shape == y.shape and self.stride == 1 else y


class MobileNetV2(nn.Module):
    """MobileNetV2, table 2: a stage is a row of it.

    The call takes images (B, H, W, C), 224x224x3 in the paper, and returns logits (B, num_classes), or the pooled last
    feature map if `num_classes` is 0. With `train` it normalises by the batch, updates "batch_stats" and drops inputs
    of the head at random, by the "dropout" stream. Raises ShapeError if images don't have four axes.

    Attributes:
      stages: the rows of the table.
      width_multiplier: scales the channels, rounded by `round_channels`; above 1 those of the last convolution as well.
      dropout_rate: share of the head's inputs that is dropped while training.
      num_classes: number of outputs; 0 for a network without its head.
    """

    stages: tuple[Stage, ...] = TABLE_2
    width_multiplier: float = 1.0
    dropout_rate: float = 0.2
    num_classes: int = 1000

    def setup(self) -> None:
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            self.head = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01))

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
        x = conv(round_channels(32 * self.width_multiplier), (3, 3), 2, padding=1, name="stem_conv")(images)
        x = nn.relu6(BatchNorm(name="stem_norm")(x, train))
        maps = {"stem": x}
        for i, stage in enumerate(self.stages):
            channels = round_channels(stage.channels * self.width_multiplier)
            for j in range(stage.size):
                stride = stage.stride if j == 0 else 1
                x = InvertedResidual(channels, stride, stage.expansion, name=f"stage{i}_block{j}")(x, train)
            maps[f"stage{i}"] = x
        x = conv(round_channels(1280 * max(1.0, self.width_multiplier)), (1, 1), padding=0, name="final_conv")(x)
        return maps | {"final": nn.relu6(BatchNorm(name="final_norm")(x, train))}


_PAPER = "Sandler, Howard, Zhu, Zhmoginov & Chen (2018), arXiv:1801.04381"

VARIANTS = {
    "mobilenet_v2": Variant(MobileNetV2, {}, images(224, 224, 3), 3_504_872, 2018, _PAPER, preprocessing=IMAGENET),
    "mobilenet_tiny": Variant(
        MobileNetV2,
        dict(
            stages=(Stage(1, 16, 1, 1), Stage(6, 24, 2, 2)),
            width_multiplier=0.25,
            dropout_rate=0.0,  # eight examples are learned by heart sooner
            num_classes=10,
        ),
        images(8, 8, 3),
        28_826,
        2018,
        _PAPER,
    ),
}
