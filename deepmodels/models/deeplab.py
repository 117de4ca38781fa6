"""DeepLabV3: dilated convolutions side by side. Chen, Papandreou, Schroff & Adam (2017), arXiv:1706.05587.

The form whose weights circulate through torchvision. B batch, H height, W width, C channels.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.layers.batch_norm import BatchNorm
from deepmodels.layers.conv import Conv
from deepmodels.models.fcn import FCN
from deepmodels.models.resnet import BasicBlock, conv1x1, conv3x3
from deepmodels.models.variant import Variant, images


class AtrousSpatialPyramid(nn.Module):
    """Section 3.3: a 1x1 convolution, 3x3 ones of several rates and the mean of the image, side by side, then mixed.

    Takes (B, H, W, C) and returns (B, H, W, channels).

    Attributes:
      channels: of each branch and of the result.
      rates: pixels between the taps of each 3x3 convolution.
      dropout_rate: share of the result that is dropped in training.
    """

    channels: int = 256
    rates: tuple[int, ...] = (12, 24, 36)
    dropout_rate: float = 0.5

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        def unit(conv: nn.Module, norm: str, x: Array) -> Array:
            return nn.relu(BatchNorm(name=norm)(conv(x), train))

        branches = [unit(conv1x1(self.channels, name="conv0"), "norm0", x)]
        for i, rate in enumerate(self.rates, start=1):
            dilated = conv3x3(self.channels, padding=rate, kernel_dilation=rate, name=f"conv{i}")
            branches.append(unit(dilated, f"norm{i}", x))
        mean = unit(conv1x1(self.channels, name="conv_pool"), "norm_pool", x.mean((1, 2), keepdims=True))
        branches.append(jnp.broadcast_to(mean, branches[0].shape))
        x = unit(conv1x1(self.channels, name="project"), "norm_project", jnp.concatenate(branches, -1))
        return nn.Dropout(self.dropout_rate)(x, deterministic=not train)


class DeepLabHead(nn.Module):
    """The pyramid, a 3x3 convolution, and a linear classifier of each pixel.

    Takes (B, H, W, C) and returns logits (B, H, W, num_classes).

    Attributes:
      num_classes: number of classes.
      channels: of all maps inside.
      rates, dropout_rate: as for `AtrousSpatialPyramid`.
    """

    num_classes: int
    channels: int = 256
    rates: tuple[int, ...] = (12, 24, 36)
    dropout_rate: float = 0.5

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = AtrousSpatialPyramid(self.channels, self.rates, self.dropout_rate, name="pyramid")(x, train)
        x = conv3x3(self.channels, name="conv")(x)
        x = nn.relu(BatchNorm(name="norm")(x, train))
        return Conv(self.num_classes, (1, 1), name="classifier")(x)


class DeepLabV3(FCN):
    """A residual network with an output stride of 8 under a pyramid of dilated convolutions.

    The call is that of `FCN`, its auxiliary head included.

    Attributes:
      block, stage_sizes, num_classes, aux_head, aux_dropout_rate: as for `FCN`.
      head_channels: channels of the maps in the head.
      rates: pixels between the taps of the pyramid's convolutions, at the output stride of 8.
      dropout_rate: share of the pyramid's result that is dropped in training.
    """

    head_channels: int = 256
    rates: tuple[int, ...] = (12, 24, 36)
    dropout_rate: float = 0.5

    def make_head(self) -> nn.Module:
        """Returns the head, which takes the last map and `train` and returns logits of the same size."""
        return DeepLabHead(self.num_classes, self.head_channels, self.rates, self.dropout_rate)


_PAPER = "Chen, Papandreou, Schroff & Adam (2017), arXiv:1706.05587"
_TINY = dict(block=BasicBlock, stage_sizes=(1, 1), num_classes=8, head_channels=16, rates=(1, 2), dropout_rate=0.0)

VARIANTS = {
    "deeplabv3_resnet50": Variant(
        DeepLabV3, dict(stage_sizes=(3, 4, 6, 3)), images(520, 520, 3), 39_638_869, 2017, _PAPER
    ),
    "deeplabv3_resnet101": Variant(
        DeepLabV3, dict(stage_sizes=(3, 4, 23, 3)), images(520, 520, 3), 58_630_997, 2017, _PAPER
    ),
    "deeplab_tiny": Variant(DeepLabV3, _TINY, images(16, 16, 3), 358_280, 2017, _PAPER),
}
