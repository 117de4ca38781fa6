"""Densely connected networks. Huang, Liu, van der Maaten & Weinberger (2016), arXiv:1608.06993.

B batch, H height, W width, C channels. Initialisation is He et al. (2015), arXiv:1502.01852, as in the authors' code.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.layers.batch_norm import BatchNorm
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.layers.pooling import avg_pool, max_pool
from deepmodels.models.variant import Variant, images
from deepmodels.preprocessing import IMAGENET

conv = partial(Conv, use_bias=False, kernel_init=nn.initializers.he_normal())


class DenseLayer(nn.Module):
    """Section 3, "bottleneck layers": norm, ReLU, 1x1 convolution, then norm, ReLU, 3x3 convolution.

    Takes (B, H, W, C) and returns its new maps, (B, H, W, growth_rate); what it took isn't among them.

    Attributes:
      growth_rate: number of new maps, k in the paper.
    """

    growth_rate: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = nn.relu(BatchNorm(name="norm1")(x, train))
        x = conv(4 * self.growth_rate, (1, 1), padding=0, name="conv1")(x)
        x = nn.relu(BatchNorm(name="norm2")(x, train))
        return conv(self.growth_rate, (3, 3), padding=1, name="conv2")(x)


class Transition(nn.Module):
    """Between two dense blocks: half the channels, then half the height and width.

    Takes (B, H, W, C) and returns (B, H / 2, W / 2, C / 2).
    """

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = nn.relu(BatchNorm(name="norm")(x, train))
        x = conv(x.shape[-1] // 2, (1, 1), padding=0, name="conv")(x)
        return avg_pool(x, 2, 2)


class DenseNet(nn.Module):
    """The ImageNet network of table 1, DenseNet-BC: each layer sees the maps of all layers before it in its block.

    The call takes images (B, H, W, C), 224x224x3 in the paper, and returns logits (B, num_classes), or the pooled last
    feature map if `num_classes` is 0. With `train` it normalises by the batch and updates "batch_stats". Raises
    ShapeError if images don't have four axes or are too small to be halved as often as it takes.

    A stage is a dense block, and the transition that follows it belongs to it ("stage0_layer5", "stage0_transition").

    Attributes:
      stage_sizes: layers of each dense block.
      growth_rate: maps that a layer adds.
      stem_features: channels of the first convolution.
      num_classes: number of outputs; 0 for a network without its head.
    """

    stage_sizes: tuple[int, ...]
    growth_rate: int = 32
    stem_features: int = 64
    num_classes: int = 1000

    def setup(self) -> None:
        if self.num_classes:
            self.head = nn.Dense(self.num_classes)

    def __call__(self, images: Array, train: bool = False) -> Array:
        *_, last = self.features(images, train).values()
        pooled = last.mean((1, 2))
        return self.head(pooled) if self.num_classes else pooled

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image per pixel of each feature map."""
        return {"stem": 2} | {f"stage{i}": 4 * 2**i for i in range(len(self.stage_sizes))}

    @nn.compact
    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the feature map of the first convolution and of each dense block; the last one normalised, with ReLU.

        Each is (B, H / stride, W / stride, C), for a block before its transition.
        """
        check_images(images)
        x = conv(self.stem_features, (7, 7), 2, padding=3, name="stem_conv")(images)
        x = nn.relu(BatchNorm(name="stem_norm")(x, train))
        maps = {"stem": x}
        x = max_pool(x, 3, 2, padding=1)
        for i, size in enumerate(self.stage_sizes):
            if i > 0:
                x = Transition(name=f"stage{i - 1}_transition")(x, train)
            for j in range(size):
                x = jnp.concatenate((x, DenseLayer(self.growth_rate, name=f"stage{i}_layer{j}")(x, train)), -1)
            maps[f"stage{i}"] = x
        return maps | {f"stage{i}": nn.relu(BatchNorm(name="head_norm")(x, train))}


_PAPER = "Huang, Liu, van der Maaten & Weinberger (2016), arXiv:1608.06993"


def _imagenet(stage_sizes: tuple[int, ...], parameters: int, **arguments: int) -> Variant:
    arguments = dict(stage_sizes=stage_sizes, **arguments)
    return Variant(DenseNet, arguments, images(224, 224, 3), parameters, 2016, _PAPER, preprocessing=IMAGENET)


VARIANTS = {  # table 1; 161 is the authors' wider network
    "densenet121": _imagenet((6, 12, 24, 16), 7_978_856),
    "densenet161": _imagenet((6, 12, 36, 24), 28_681_000, growth_rate=48, stem_features=96),
    "densenet169": _imagenet((6, 12, 32, 32), 14_149_480),
    "densenet201": _imagenet((6, 12, 48, 32), 20_013_928),
    "densenet_tiny": Variant(
        DenseNet,
        dict(stage_sizes=(2, 2), growth_rate=4, stem_features=8, num_classes=10),
        images(16, 16, 3),
        4_706,
        2016,
        _PAPER,
    ),
}
