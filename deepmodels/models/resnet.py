"""Residual networks. He, Zhang, Ren & Sun (2015), arXiv:1512.03385, and (2016), arXiv:1603.05027.

`ResNet` is the ImageNet form, `CifarResNet` and `CifarPreactResNet` the forms for small images. ResNeXt, Xie et al.
(2016), arXiv:1611.05431, and wide residual networks, Zagoruyko & Komodakis (2016), arXiv:1605.07146, are `ResNet` with
other bottlenecks. B batch, H height, W width, C channels. Initialisation is He et al. (2015), arXiv:1502.01852, over
the fan-out, as in the authors' code.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError, unknown
from deepmodels.layers.batch_norm import BatchNorm
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.layers.pooling import max_pool
from deepmodels.models.variant import Variant, images
from deepmodels.preprocessing import IMAGENET

conv = partial(Conv, use_bias=False, kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"))
conv1x1 = partial(conv, kernel_size=(1, 1), padding=0)
conv3x3 = partial(conv, kernel_size=(3, 3), padding=1)  # explicit: "SAME" pads a strided window on one side only


class BasicBlock(nn.Module):
    """Figure 2 and 5, left: two 3x3 convolutions, then add the shortcut.

    Takes (B, H, W, C) and returns (B, H / stride, W / stride, features).

    Attributes:
      features: channels of both convolutions.
      stride: of the first convolution and the shortcut.
      shortcut: where the shape changes, "projection" (1x1 convolution, option B of section 3.3) or "padding" (every
        stride-th pixel, with zeros for the new channels, option A).
      dilation: pixels between the taps of the 3x3 convolutions.
    """

    features: int
    stride: int = 1
    shortcut: str = "projection"
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        dilated = partial(conv3x3, self.features, padding=self.dilation, kernel_dilation=self.dilation)
        y = dilated(strides=self.stride, name="conv1")(x)
        y = nn.relu(BatchNorm(name="norm1")(y, train))
        y = dilated(name="conv2")(y)
        y = BatchNorm(name="norm2")(y, train)
        if x.shape != y.shape:
            x = _pad(x, y, self.stride) if self.shortcut == "padding" else _project(x, y, self.stride, train)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """Figure 5, right: reduce, convolve, restore, then add the shortcut.

    Takes (B, H, W, C) and returns (B, H / stride, W / stride, 4 * features).

    Attributes:
      features: a quarter of the channels that are returned.
      stride: of one convolution and the shortcut.
      version: which convolution strides: "v1.5" the 3x3, as torchvision's, or "v1" the first 1x1, as the paper's.
      groups: of the 3x3 convolution, ResNeXt's cardinality.
      width_per_group: channels of a group of the 3x3 convolution where `features` is 64, more in proportion.
      dilation: pixels between the taps of the 3x3 convolution.
    """

    features: int
    stride: int = 1
    version: str = "v1.5"
    groups: int = 1
    width_per_group: int = 64
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        first, second = {"v1": (self.stride, 1), "v1.5": (1, self.stride)}[self.version]
        width = self.features * self.width_per_group // 64 * self.groups
        y = conv1x1(width, strides=first, name="conv1")(x)
        y = nn.relu(BatchNorm(name="norm1")(y, train))
        grouped = partial(conv3x3, width, padding=self.dilation, kernel_dilation=self.dilation)
        y = grouped(strides=second, feature_group_count=self.groups, name="conv2")(y)
        y = nn.relu(BatchNorm(name="norm2")(y, train))
        y = conv1x1(4 * self.features, name="conv3")(y)
        y = BatchNorm(name="norm3")(y, train)
        if x.shape != y.shape:
            x = _project(x, y, self.stride, train)
        return nn.relu(x + y)


class PreactBottleneck(nn.Module):
    """Figure 4(e) of arXiv:1603.05027: normalise and activate before each convolution; the shortcut stays clean.

    Where the shape changes, the shortcut is a convolution of the activated input, and the first 1x1 strides: the
    authors' code. Takes (B, H, W, C) and returns (B, H / stride, W / stride, 4 * features).

    Attributes:
      features: channels of the first two convolutions.
      stride: of the first convolution and the shortcut.
    """

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = nn.relu(BatchNorm(name="norm1")(x, train))
        if self.stride > 1 or x.shape[-1] != 4 * self.features:
            x = conv1x1(4 * self.features, strides=self.stride, name="conv_skip")(y)
        y = conv1x1(self.features, strides=self.stride, name="conv1")(y)
        y = nn.relu(BatchNorm(name="norm2")(y, train))
        y = conv3x3(self.features, name="conv2")(y)
        y = nn.relu(BatchNorm(name="norm3")(y, train))
        return x + conv1x1(4 * self.features, name="conv3")(y)


def _project(x: Array, y: Array, stride: int, train: bool) -> Array:
    x = conv1x1(y.shape[-1], strides=stride, name="conv_skip")(x)
    return BatchNorm(name="norm_skip")(x, train)


def _pad(x: Array, y: Array, stride: int) -> Array:
    new = y.shape[-1] - x.shape[-1]
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


class ResNet(nn.Module):
    """The ImageNet residual network, table 1.

    The call takes images (B, H, W, C), 224x224x3 in the paper, and returns logits (B, num_classes), or the pooled last
    feature map if `num_classes` is 0. With `train` it normalises by the batch and updates "batch_stats". Raises
    ShapeError if images don't have four axes and ConfigError if an argument doesn't fit.

    Attributes:
      block: `BasicBlock` or `Bottleneck`.
      stage_sizes: blocks of each stage.
      num_classes: number of outputs; 0 for a network without its head.
      version: "v1.5" or "v1", for `Bottleneck`; the two have the same parameters.
      groups: of each 3x3 convolution, for `Bottleneck`.
      width_per_group: channels of each group in the first stage, doubled from stage to stage, for `Bottleneck`.
      output_stride: 32, or 16 or 8 for larger last feature maps: the last one or two stages then dilate their
        convolutions instead of striding. Chen et al. (2017), arXiv:1706.05587. The parameters stay the same.
    """

    block: type[nn.Module]
    stage_sizes: tuple[int, ...]
    num_classes: int = 1000
    version: str = "v1.5"
    groups: int = 1
    width_per_group: int = 64
    output_stride: int = 32

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
        return {"stem": 2} | {f"stage{i}": min(4 * 2**i, self.output_stride) for i in range(len(self.stage_sizes))}

    @nn.compact
    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the feature map of the first convolution and of each stage, (B, H / stride, W / stride, C)."""
        check_images(images)
        x = conv(64, (7, 7), 2, padding=3, name="stem_conv")(images)
        x = nn.relu(BatchNorm(name="stem_norm")(x, train))
        maps = {"stem": x}
        x = max_pool(x, 3, 2, padding=1)
        dilation, block = 1, self._block()
        for i, size in enumerate(self.stage_sizes):
            strided = i > 0 and self.strides[f"stage{i}"] > self.strides[f"stage{i - 1}"]
            for j in range(size):
                stride = 2 if strided and j == 0 else 1
                x = block(64 * 2**i, stride, dilation=dilation, name=f"stage{i}_block{j}")(x, train)
                if i > 0 and j == 0 and not strided:  # the first block still dilates as the stage before it
                    dilation *= 2
            maps[f"stage{i}"] = x
        return maps

    def _block(self) -> Callable:
        if self.version not in ("v1", "v1.5"):
            raise unknown("version", self.version, ("v1", "v1.5"))
        if self.output_stride not in (8, 16, 32):
            raise ConfigError(f"output_stride: expected 8, 16 or 32, got {self.output_stride}")
        if self.block is Bottleneck:
            kinds = dict(version=self.version, groups=self.groups, width_per_group=self.width_per_group)
            return partial(Bottleneck, **kinds)
        if (self.groups, self.width_per_group) != (1, 64):
            raise ConfigError(
                f"groups, width_per_group: {self.block.__name__} has 1 and 64 only, Bottleneck has others"
            )
        return self.block


class CifarResNet(nn.Module):
    """The residual network for small images, section 4.2: 6n + 2 layers, shortcuts without parameters.

    The call takes images (B, H, W, C), 32x32x3 in the paper, and returns logits (B, num_classes), or the pooled last
    feature map if `num_classes` is 0. With `train` it normalises by the batch and updates "batch_stats". Raises
    ShapeError if images don't have four axes.

    Blocks of a stage that share a shape are one scan, their parameters stacked on a leading axis ("stage1_blocks"); a
    first block that changes the shape stands apart ("stage1_block0").

    Attributes:
      blocks_per_stage: n.
      channels: of each stage.
      num_classes: number of outputs; 0 for a network without its head.
      unroll: blocks per step of the scan; changes neither result nor parameters. XLA's CPU backend is many
        times slower at the backward convolutions inside a loop, so the shallow nets have none by default; the deep
        ones loop, as compiling hundreds of blocks takes minutes.
    """

    blocks_per_stage: int
    channels: tuple[int, ...] = (16, 32, 64)
    num_classes: int = 10
    unroll: int = 9

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
        return {f"stage{i}": 2**i for i in range(len(self.channels))}

    @nn.compact
    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the feature map of each stage, (B, H / stride, W / stride, C)."""
        check_images(images)
        x = conv3x3(self.channels[0], name="stem_conv")(images)
        x = nn.relu(BatchNorm(name="stem_norm")(x, train))
        block, maps = partial(BasicBlock, shortcut="padding"), {}
        for i, channels in enumerate(self.channels):
            stride = 1 if i == 0 else 2
            x = _stage(block, channels, stride, self.blocks_per_stage, f"stage{i}", x, train, self.unroll)
            maps[f"stage{i}"] = x
        return maps


class CifarPreactResNet(CifarResNet):
    """The pre-activation residual network for small images, arXiv:1603.05027: 9n + 2 layers of bottlenecks.

    The call, the attributes, the names and the scan are those of `CifarResNet`, but `channels` are the narrow ones of
    each stage; the wide ones are four times as many. Every stage's first block changes the shape.
    """

    @nn.compact
    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the feature map of each stage, (B, H / stride, W / stride, C); the last one activated."""
        check_images(images)
        x = conv3x3(self.channels[0], name="stem_conv")(images)
        maps = {}
        for i, channels in enumerate(self.channels):
            stride = 1 if i == 0 else 2
            x = _stage(PreactBottleneck, channels, stride, self.blocks_per_stage, f"stage{i}", x, train, self.unroll)
            maps[f"stage{i}"] = x
        return maps | {f"stage{i}": nn.relu(BatchNorm(name="head_norm")(x, train))}


def _stage(
    block: Callable, features: int, stride: int, size: int, name: str, x: Array, train: bool, unroll: int
) -> Array:
    """A stage's blocks: the first by itself where it changes the shape, the others as one scan."""
    width = 4 * features if block is PreactBottleneck else features
    if stride > 1 or x.shape[-1] != width:
        x = block(features, stride, name=f"{name}_block0")(x, train)
        size -= 1
    if size == 0:
        return x
    scan = nn.scan(
        lambda block, x, _: (block(x, train), None),
        variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0},
        split_rngs={"params": True},
        length=size,
        unroll=min(unroll, size),
    )
    x, _ = scan(block(features, name=f"{name}_blocks"), x, None)
    return x


_2015 = "He, Zhang, Ren & Sun (2015), arXiv:1512.03385"
_2016 = "He, Zhang, Ren & Sun (2016), arXiv:1603.05027"


_RESNEXT = "Xie, Girshick, Dollar, Tu & He (2016), arXiv:1611.05431"
_WIDE = "Zagoruyko & Komodakis (2016), arXiv:1605.07146"


def _imagenet(block: type[nn.Module], stage_sizes: tuple[int, ...], parameters: int) -> Variant:
    arguments = dict(block=block, stage_sizes=stage_sizes)
    return Variant(ResNet, arguments, images(224, 224, 3), parameters, 2015, _2015, preprocessing=IMAGENET)


def _resnext(stage_sizes: tuple[int, ...], groups: int, width_per_group: int, parameters: int) -> Variant:
    arguments = dict(block=Bottleneck, stage_sizes=stage_sizes, groups=groups, width_per_group=width_per_group)
    return Variant(ResNet, arguments, images(224, 224, 3), parameters, 2016, _RESNEXT, preprocessing=IMAGENET)


def _wide(stage_sizes: tuple[int, ...], parameters: int) -> Variant:
    arguments = dict(block=Bottleneck, stage_sizes=stage_sizes, width_per_group=128)
    return Variant(ResNet, arguments, images(224, 224, 3), parameters, 2016, _WIDE, preprocessing=IMAGENET)


def _cifar(blocks_per_stage: int, parameters: int, **arguments: int) -> Variant:
    arguments = dict(blocks_per_stage=blocks_per_stage, **arguments)
    return Variant(CifarResNet, arguments, images(32, 32, 3), parameters, 2015, _2015)


def _preact(blocks_per_stage: int, parameters: int) -> Variant:
    arguments = dict(blocks_per_stage=blocks_per_stage, unroll=1)
    return Variant(CifarPreactResNet, arguments, images(32, 32, 3), parameters, 2016, _2016)


VARIANTS = {
    "resnet18": _imagenet(BasicBlock, (2, 2, 2, 2), 11_689_512),
    "resnet34": _imagenet(BasicBlock, (3, 4, 6, 3), 21_797_672),
    "resnet50": _imagenet(Bottleneck, (3, 4, 6, 3), 25_557_032),
    "resnet101": _imagenet(Bottleneck, (3, 4, 23, 3), 44_549_160),
    "resnet152": _imagenet(Bottleneck, (3, 8, 36, 3), 60_192_808),
    "resnext50_32x4d": _resnext((3, 4, 6, 3), 32, 4, 25_028_904),
    "resnext101_32x8d": _resnext((3, 4, 23, 3), 32, 8, 88_791_336),
    "wide_resnet50_2": _wide((3, 4, 6, 3), 68_883_240),
    "wide_resnet101_2": _wide((3, 4, 23, 3), 126_886_696),
    "resnet20_cifar": _cifar(3, 269_722),
    "resnet32_cifar": _cifar(5, 464_154),
    "resnet44_cifar": _cifar(7, 658_586),
    "resnet56_cifar": _cifar(9, 853_018),
    "resnet110_cifar": _cifar(18, 1_727_962, unroll=1),
    "resnet1202_cifar": _cifar(200, 19_421_274, unroll=1),
    "preact_resnet164_cifar": _preact(18, 1_703_258),
    "preact_resnet1001_cifar": _preact(111, 10_327_706),
    "resnet_tiny": Variant(CifarResNet, dict(blocks_per_stage=2, channels=(4, 8)), images(8, 8, 3), 2_894, 2015, _2015),
}
