"""GoogLeNet and Inception v3. Szegedy et al. (2014), arXiv:1409.4842, and (2015), arXiv:1512.00567.

`GoogLeNet` is the network of 2014 in two versions, the paper's and the one whose weights circulate through torchvision;
`InceptionV3` that of 2015. B batch, H height, W width, C channels. Weights start as in He et al. (2015),
arXiv:1502.01852, as neither paper says how.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ShapeError, unknown
from deepmodels.layers.batch_norm import BatchNorm
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.layers.local_response_norm import local_response_norm
from deepmodels.layers.pooling import adaptive_avg_pool, avg_pool, max_pool
from deepmodels.models.variant import Variant, images
from deepmodels.preprocessing import GOOGLENET, INCEPTION_V3

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

Output = Array | tuple[Array, tuple[Array, ...]]


class ConvUnit(nn.Module):
    """A convolution, its batch normalisation or else its bias, and a ReLU.

    Takes (B, H, W, C) and returns (B, H / stride, W / stride, width), or a border less without padding.

    Attributes:
      width: channels of the result.
      window: height and width of the kernel, odd.
      stride: of the convolution.
      pad: whether half a window of zeros surrounds the input, so that a stride of 1 keeps its size.
      batch_norm: whether it normalises, with the papers' epsilon of 1e-3.
    """

    width: int
    window: tuple[int, int]
    stride: int = 1
    pad: bool = True
    batch_norm: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        # explicit: "SAME" pads a strided window on one side only
        padding = [(size // 2, size // 2) if self.pad else (0, 0) for size in self.window]
        conv = partial(Conv, padding=padding, use_bias=not self.batch_norm, kernel_init=he_normal, name="conv")
        x = conv(self.width, self.window, self.stride)(x)
        return nn.relu(BatchNorm(epsilon=1e-3, name="norm")(x, train) if self.batch_norm else x)


conv1x1 = partial(ConvUnit, window=(1, 1))
conv3x3 = partial(ConvUnit, window=(3, 3))


class GoogLeNetBlock(nn.Module):
    """The inception module of 2014, figure 2(b): four branches side by side.

    Takes (B, H, W, C) and returns (B, H, W, the sum of the four branches' widths).

    Attributes:
      widths: a row of table 1: "#1x1", "#3x3 reduce", "#3x3", "#5x5 reduce", "#5x5", "pool proj".
      version: "paper" or "torchvision", as for `GoogLeNet`.
    """

    widths: tuple[int, int, int, int, int, int]
    version: str = "paper"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        paper = self.version == "paper"
        reduce, conv = partial(conv1x1, batch_norm=not paper), partial(ConvUnit, batch_norm=not paper)
        one, three_reduce, three, five_reduce, five, pool = self.widths
        branch1 = reduce(one, name="branch1")(x, train)
        y = reduce(three_reduce, name="branch2_reduce")(x, train)
        branch2 = conv(three, (3, 3), name="branch2")(y, train)
        y = reduce(five_reduce, name="branch3_reduce")(x, train)
        branch3 = conv(five, (5, 5) if paper else (3, 3), name="branch3")(y, train)
        y = max_pool(x, 3, 1, padding=1)
        branch4 = reduce(pool, name="branch4")(y, train)
        return jnp.concatenate([branch1, branch2, branch3, branch4], -1)


class GoogLeNetAuxiliary(nn.Module):
    """The classifier of 2014 that looks at a map in the middle of the network while it trains, section 5.

    Takes (B, H, W, C) and returns logits (B, num_classes). The paper's averages 14x14 maps over 5x5 windows with a
    stride of 3; torchvision's to 4x4, whatever their size.

    Attributes:
      num_classes: number of outputs.
      dropout_rate: share of the hidden layer that is dropped in training.
      version: "paper" or "torchvision", as for `GoogLeNet`.
    """

    num_classes: int
    dropout_rate: float = 0.7
    version: str = "paper"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        paper = self.version == "paper"
        x = avg_pool(x, 5, 3) if paper else adaptive_avg_pool(x, 4)
        x = conv1x1(128, batch_norm=not paper, name="conv")(x, train)
        x = nn.relu(nn.Dense(1024, kernel_init=he_normal, name="dense")(x.reshape(x.shape[0], -1)))
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        return nn.Dense(self.num_classes, name="head")(x)


_GOOGLENET_WIDTHS = (  # table 1: modules 3a and 3b, 4a to 4e, 5a and 5b
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


class GoogLeNet(nn.Module):
    """The network of 2014, table 1: a stem, nine inception modules in three stages, one dense layer.

    The "paper" version has biases, and normalises local responses in its stem (with the constants of AlexNet's paper,
    as this one gives none). The "torchvision" version normalises by batch instead, has 3x3 windows where table 1 has
    5x5 (a slip that its weights have kept), and a 2x2 window in its last max-pooling.

    The call takes images (B, H, W, C), 224x224x3 in the paper and 15x15 at least, and returns logits (B, num_classes).
    With `train` it drops pooled features and, where it has batch normalisation, normalises by the batch and updates
    "batch_stats"; with `train` and auxiliary heads it returns (logits, (auxiliary logits after 4a, after 4d)). Raises
    ShapeError if images don't have four axes or are too small, and ConfigError if the version is unknown.

    torchvision's weights have learned from pixels of mean 0.5 and deviation 0.5; its `transform_input` turns ImageNet's
    normalisation into that one.

    Attributes:
      version: "paper" or "torchvision".
      aux_heads: whether there are auxiliary heads; the paper's need 80x80 at least, and one set of their parameters
        takes one size of images only.
      stem_widths: channels of the three convolutions before the modules.
      widths: for each stage and each of its modules, a row of table 1.
      dropout_rate: share of the pooled features that is dropped in training.
      aux_dropout_rate: the same for the hidden layers of the auxiliary heads.
      num_classes: number of outputs; with 0 the call returns the pooled features (B, C) and there are no heads.
    """

    version: str = "paper"
    aux_heads: bool = False
    stem_widths: tuple[int, int, int] = (64, 64, 192)
    widths: tuple[tuple[tuple[int, ...], ...], ...] = _GOOGLENET_WIDTHS
    dropout_rate: float = 0.4
    aux_dropout_rate: float = 0.7
    num_classes: int = 1000

    def setup(self):
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            self.head = nn.Dense(self.num_classes)
        if self.num_classes and self.aux_heads:
            head = partial(GoogLeNetAuxiliary, self.num_classes, self.aux_dropout_rate, self.version)
            self.aux1, self.aux2 = head(), head()

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image per pixel of each feature map."""
        modules = {name: 8 * 2**i for i, stage in enumerate(self.widths) for name in _module_names(i, stage)}
        return {"conv1": 2, "conv3": 4} | modules

    @nn.compact
    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the feature maps (B, H', W', C') of the stem before each max-pooling, and of each inception module.

        Args:
          images: as for the call.
          train: whether batch normalisation, if there is any, goes by the batch.
        """
        check_images(images)
        if self.version not in ("paper", "torchvision"):
            raise unknown("version", self.version, ("paper", "torchvision"))
        paper = self.version == "paper"
        conv = partial(ConvUnit, batch_norm=not paper)
        norm = local_response_norm if paper else lambda x: x
        maps = {}
        maps["conv1"] = x = conv(self.stem_widths[0], (7, 7), 2, name="conv1")(images, train)
        x = norm(max_pool(x, 3, 2, ceil=True))
        x = conv(self.stem_widths[1], (1, 1), name="conv2")(x, train)
        maps["conv3"] = x = conv(self.stem_widths[2], (3, 3), name="conv3")(x, train)
        x = norm(x)
        for i, stage in enumerate(self.widths):
            window = 3 if paper or i < len(self.widths) - 1 else 2
            x = max_pool(x, window, 2, ceil=True)
            for name, widths in zip(_module_names(i, stage), stage, strict=True):
                maps[name] = x = GoogLeNetBlock(widths, self.version, name=name)(x, train)
        return maps

    def __call__(self, images: Array, train: bool = False) -> Output:
        maps = self.features(images, train)
        *_, x = maps.values()
        x = self.dropout(x.mean((1, 2)), deterministic=not train)
        if not self.num_classes:
            return x
        logits = self.head(x)
        if self.aux_heads and (train or self.is_initializing()):
            auxiliary = self.aux1(maps["inception4a"], train), self.aux2(maps["inception4d"], train)
            return (logits, auxiliary) if train else logits
        return logits


def _module_names(stage: int, modules: tuple) -> list[str]:
    return [f"inception{3 + stage}{letter}" for letter in "abcdefgh"[: len(modules)]]


class InceptionA(nn.Module):
    """The module of 2015 for 35x35 maps, figure 5: the 5x5 of one branch is two 3x3 in the other.

    Takes (B, H, W, C) and returns (B, H, W, 224 + pool_width).

    Attributes:
      pool_width: channels of the branch that averages.
    """

    pool_width: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        branch1x1 = conv1x1(64, name="branch1x1")(x, train)
        y = conv1x1(48, name="branch5x5_1")(x, train)
        branch5x5 = ConvUnit(64, (5, 5), name="branch5x5_2")(y, train)
        y = conv1x1(64, name="branch3x3dbl_1")(x, train)
        y = conv3x3(96, name="branch3x3dbl_2")(y, train)
        branch3x3dbl = conv3x3(96, name="branch3x3dbl_3")(y, train)
        branch_pool = conv1x1(self.pool_width, name="branch_pool")(avg_pool(x, 3, 1, padding=1), train)
        return jnp.concatenate([branch1x1, branch5x5, branch3x3dbl, branch_pool], -1)


class InceptionB(nn.Module):
    """The module of 2015 that takes 35x35 maps to 17x17, figure 10: it convolves and pools with a stride of 2.

    Takes (B, H, W, C) and returns (B, (H - 1) / 2, (W - 1) / 2, 480 + C).
    """

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        branch3x3 = conv3x3(384, stride=2, pad=False, name="branch3x3")(x, train)
        y = conv1x1(64, name="branch3x3dbl_1")(x, train)
        y = conv3x3(96, name="branch3x3dbl_2")(y, train)
        branch3x3dbl = conv3x3(96, stride=2, pad=False, name="branch3x3dbl_3")(y, train)
        return jnp.concatenate([branch3x3, branch3x3dbl, max_pool(x, 3, 2)], -1)


class InceptionC(nn.Module):
    """The module of 2015 for 17x17 maps, figure 6: each 7x7 is a 1x7 and a 7x1.

    Takes (B, H, W, C) and returns (B, H, W, 768).

    Attributes:
      width: channels inside the branches.
    """

    width: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        row, column = partial(ConvUnit, window=(1, 7)), partial(ConvUnit, window=(7, 1))
        branch1x1 = conv1x1(192, name="branch1x1")(x, train)
        y = conv1x1(self.width, name="branch7x7_1")(x, train)
        y = row(self.width, name="branch7x7_2")(y, train)
        branch7x7 = column(192, name="branch7x7_3")(y, train)
        y = conv1x1(self.width, name="branch7x7dbl_1")(x, train)
        y = column(self.width, name="branch7x7dbl_2")(y, train)
        y = row(self.width, name="branch7x7dbl_3")(y, train)
        y = column(self.width, name="branch7x7dbl_4")(y, train)
        branch7x7dbl = row(192, name="branch7x7dbl_5")(y, train)
        branch_pool = conv1x1(192, name="branch_pool")(avg_pool(x, 3, 1, padding=1), train)
        return jnp.concatenate([branch1x1, branch7x7, branch7x7dbl, branch_pool], -1)


class InceptionD(nn.Module):
    """The module of 2015 that takes 17x17 maps to 8x8, as figure 10 with a 7x7 taken apart in one branch.

    Takes (B, H, W, C) and returns (B, (H - 1) / 2, (W - 1) / 2, 512 + C).
    """

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = conv1x1(192, name="branch3x3_1")(x, train)
        branch3x3 = conv3x3(320, stride=2, pad=False, name="branch3x3_2")(y, train)
        y = conv1x1(192, name="branch7x7x3_1")(x, train)
        y = ConvUnit(192, (1, 7), name="branch7x7x3_2")(y, train)
        y = ConvUnit(192, (7, 1), name="branch7x7x3_3")(y, train)
        branch7x7x3 = conv3x3(192, stride=2, pad=False, name="branch7x7x3_4")(y, train)
        return jnp.concatenate([branch3x3, branch7x7x3, max_pool(x, 3, 2)], -1)


class InceptionE(nn.Module):
    """The module of 2015 for 8x8 maps, figure 7: branches that part into a 1x3 and a 3x1.

    Takes (B, H, W, C) and returns (B, H, W, 2048).
    """

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        row, column = partial(ConvUnit, 384, (1, 3)), partial(ConvUnit, 384, (3, 1))
        branch1x1 = conv1x1(320, name="branch1x1")(x, train)
        y = conv1x1(384, name="branch3x3_1")(x, train)
        branch3x3 = row(name="branch3x3_2a")(y, train), column(name="branch3x3_2b")(y, train)
        y = conv1x1(448, name="branch3x3dbl_1")(x, train)
        y = conv3x3(384, name="branch3x3dbl_2")(y, train)
        branch3x3dbl = row(name="branch3x3dbl_3a")(y, train), column(name="branch3x3dbl_3b")(y, train)
        branch_pool = conv1x1(192, name="branch_pool")(avg_pool(x, 3, 1, padding=1), train)
        return jnp.concatenate([branch1x1, *branch3x3, *branch3x3dbl, branch_pool], -1)


class InceptionV3Auxiliary(nn.Module):
    """The classifier of 2015 that looks at the last 17x17 map while the network trains, section 4.

    Takes (B, H, W, C), 17x17 or larger, and returns logits (B, num_classes).

    Attributes:
      num_classes: number of outputs.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if min(x.shape[1:3]) < 17:
            raise ShapeError(
                "images: too small for the auxiliary head, expected 299x299 or larger: "
                f"its map must be 17x17 at least, got {x.shape[1]}x{x.shape[2]}"
            )
        x = avg_pool(x, 5, 3)
        x = conv1x1(128, name="conv0")(x, train)
        x = ConvUnit(768, (5, 5), pad=False, name="conv1")(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


class InceptionV3(nn.Module):
    """The network of 2015, table 1, as in its authors' code: a stem, eleven modules of five kinds, one dense layer.

    Where modules average over 3x3 windows, zeros beyond the border count, as in torchvision; in the authors' TensorFlow
    they don't.

    The call takes images (B, H, W, C), 299x299x3 in the paper and 75x75 at least, and returns logits (B, num_classes).
    With `train` it normalises by the batch, drops pooled features and updates "batch_stats"; with `train` and an
    auxiliary head it returns (logits, (auxiliary logits,)). Raises ShapeError if images don't have four axes or are too
    small.

    The weights that circulate have learned from pixels of mean 0.5 and deviation 0.5; torchvision's `transform_input`
    turns ImageNet's normalisation into that one.

    Attributes:
      aux_heads: whether there is an auxiliary head; it needs 299x299 images or larger.
      dropout_rate: share of the pooled features that is dropped in training.
      num_classes: number of outputs; with 0 the call returns the pooled features (B, 2048) and there are no heads.
    """

    aux_heads: bool = False
    dropout_rate: float = 0.5
    num_classes: int = 1000

    def setup(self):
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            self.head = nn.Dense(self.num_classes)
        if self.num_classes and self.aux_heads:
            self.aux = InceptionV3Auxiliary(self.num_classes)

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image per pixel of each feature map; without padding, maps are a little smaller than that."""
        return {"conv_2b": 2, "conv_4a": 4} | {f"mixed_{name}": stride for name, (stride, _) in _V3_MODULES.items()}

    @nn.compact
    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the feature maps (B, H', W', C') of the stem before each max-pooling, and of each inception module.

        Args:
          images: as for the call.
          train: whether batch normalisation goes by the batch.
        """
        check_images(images)
        conv = partial(ConvUnit, window=(3, 3), pad=False)
        maps = {}
        x = conv(32, stride=2, name="conv_1a")(images, train)
        x = conv(32, name="conv_2a")(x, train)
        maps["conv_2b"] = x = conv3x3(64, name="conv_2b")(x, train)
        x = max_pool(x, 3, 2)
        x = conv1x1(80, name="conv_3b")(x, train)
        maps["conv_4a"] = x = conv(192, name="conv_4a")(x, train)
        x = max_pool(x, 3, 2)
        for name, (_, module) in _V3_MODULES.items():
            maps[f"mixed_{name}"] = x = module(name=f"mixed_{name}")(x, train)
        return maps

    def __call__(self, images: Array, train: bool = False) -> Output:
        maps = self.features(images, train)
        x = self.dropout(maps["mixed_7c"].mean((1, 2)), deterministic=not train)
        if not self.num_classes:
            return x
        logits = self.head(x)
        if self.aux_heads and (train or self.is_initializing()):
            auxiliary = self.aux(maps["mixed_6e"], train)
            return (logits, (auxiliary,)) if train else logits
        return logits


_V3_MODULES = {  # table 1, with the names and widths of the authors' code: (stride of the result, module)
    "5b": (8, partial(InceptionA, 32)),
    "5c": (8, partial(InceptionA, 64)),
    "5d": (8, partial(InceptionA, 64)),
    "6a": (16, InceptionB),
    "6b": (16, partial(InceptionC, 128)),
    "6c": (16, partial(InceptionC, 160)),
    "6d": (16, partial(InceptionC, 160)),
    "6e": (16, partial(InceptionC, 192)),
    "7a": (32, InceptionD),
    "7b": (32, InceptionE),
    "7c": (32, InceptionE),
}

_2014 = "Szegedy et al. (2014), arXiv:1409.4842"
_2015 = "Szegedy et al. (2015), arXiv:1512.00567"

_TORCHVISION = dict(version="torchvision", dropout_rate=0.2)
_TINY = dict(
    version="torchvision",
    stem_widths=(8, 8, 8),
    widths=(((8, 8, 16, 4, 8, 8),),),
    dropout_rate=0.0,
    num_classes=10,
)

VARIANTS = {
    "googlenet_paper": Variant(GoogLeNet, {}, images(224, 224, 3), 6_998_552, 2014, _2014),
    "googlenet": Variant(GoogLeNet, _TORCHVISION, images(224, 224, 3), 6_624_904, 2014, _2014, preprocessing=GOOGLENET),
    "inception_v3": Variant(InceptionV3, {}, images(299, 299, 3), 23_834_568, 2015, _2015, preprocessing=INCEPTION_V3),
    "inception_tiny": Variant(GoogLeNet, _TINY, images(32, 32, 3), 4_042, 2014, _2014),
}
