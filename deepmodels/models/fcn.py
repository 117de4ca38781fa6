"""Fully convolutional networks. Long, Shelhamer & Darrell (2015), arXiv:1411.4038.

Here on a residual network that keeps its last maps at an eighth of the image, the form whose weights circulate through
torchvision; the paper's own is on VGG-16. B batch, H height, W width, C channels.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels.layers.batch_norm import BatchNorm
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.models.resnet import BasicBlock, Bottleneck, ResNet, conv3x3
from deepmodels.models.variant import Variant, images

Output = Array | tuple[Array, tuple[Array, ...]]


def upsample(x: Array, height: int, width: int) -> Array:
    """Returns maps (B, H, W, C) enlarged to (B, height, width, C), bilinearly: torch's with `align_corners=False`.

    `jax.image.resize` gives the same but computes in float64 where that is enabled, whatever comes in.
    """
    rows, columns = (jnp.asarray(_shares(*sizes), x.dtype) for sizes in ((x.shape[1], height), (x.shape[2], width)))
    return jnp.einsum("bhwc,ih,jw->bijc", x, rows, columns)


def _shares(size: int, larger: int) -> np.ndarray:
    """The share of each of `size` pixels in each of the `larger` ones: by the distance of their centres."""
    at = np.clip((np.arange(larger) + 0.5) * size / larger - 0.5, 0, size - 1)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(size)), 0)


class FCNHead(nn.Module):
    """A 3x3 convolution to a quarter of the channels, and a linear classifier of each pixel.

    Takes (B, H, W, C) and returns logits (B, H, W, num_classes).

    Attributes:
      num_classes: number of classes.
      dropout_rate: share of the narrow map's values that is dropped in training.
    """

    num_classes: int
    dropout_rate: float = 0.1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = conv3x3(x.shape[-1] // 4, name="conv")(x)
        x = nn.relu(BatchNorm(name="norm")(x, train))
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        return Conv(self.num_classes, (1, 1), name="classifier")(x)


class FCN(nn.Module):
    """A residual network with an output stride of 8, a classifier of each pixel, and the way back to the image's size.

    The call takes images (B, H, W, C) of any size and returns logits (B, H, W, num_classes). With `train` it drops,
    normalises by the batch and updates "batch_stats"; with `train` and an auxiliary head it returns (logits,
    (auxiliary logits,)), all of the image's size. Raises ShapeError if images don't have four axes.

    Attributes:
      block: of the residual network, `Bottleneck` or `BasicBlock`.
      stage_sizes: its blocks in each stage.
      num_classes: number of classes, the background's included; 21 in PASCAL VOC.
      aux_head: whether a second head looks at the last but one stage while training.
      dropout_rate: share of the values in the head's last map that is dropped in training.
      aux_dropout_rate: the same for the auxiliary head.
    """

    block: type[nn.Module] = Bottleneck
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    num_classes: int = 21
    aux_head: bool = False
    dropout_rate: float = 0.1
    aux_dropout_rate: float = 0.1

    def setup(self) -> None:
        self.backbone = ResNet(self.block, self.stage_sizes, num_classes=0, output_stride=8)
        self.head = self.make_head()
        if self.aux_head:
            self.auxiliary = FCNHead(self.num_classes, self.aux_dropout_rate)

    def make_head(self) -> nn.Module:
        """Returns the head, which takes the last map and `train` and returns logits of the same size."""
        return FCNHead(self.num_classes, self.dropout_rate)

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image per pixel of each feature map."""
        return ResNet(self.block, self.stage_sizes, output_stride=8, parent=None).strides

    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the residual network's feature maps by stage, (B, H / stride, W / stride, C)."""
        return self.backbone.features(images, train)

    def __call__(self, images: Array, train: bool = False) -> Output:
        check_images(images)
        height, width = images.shape[1:3]
        *_, before, last = self.features(images, train).values()
        logits = upsample(self.head(last, train), height, width)
        if self.aux_head and (train or self.is_initializing()):
            auxiliary = upsample(self.auxiliary(before, train), height, width)
            return (logits, (auxiliary,)) if train else logits
        return logits


_PAPER = "Long, Shelhamer & Darrell (2015), arXiv:1411.4038"
_TINY = dict(block=BasicBlock, stage_sizes=(1, 1), num_classes=8, dropout_rate=0.0)

VARIANTS = {
    "fcn_resnet50": Variant(FCN, dict(stage_sizes=(3, 4, 6, 3)), images(520, 520, 3), 32_957_013, 2015, _PAPER),
    "fcn_resnet101": Variant(FCN, dict(stage_sizes=(3, 4, 23, 3)), images(520, 520, 3), 51_949_141, 2015, _PAPER),
    "fcn_tiny": Variant(FCN, _TINY, images(16, 16, 3), 350_856, 2015, _PAPER),
}
