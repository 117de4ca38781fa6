"""Convolutional networks for handwritten digits. LeCun et al. (1989, 1990, 1998).

Zip codes: "Backpropagation applied to handwritten zip code recognition" (1989), doi:10.1162/neco.1989.1.4.541.
LeNet-1: "Handwritten digit recognition with a back-propagation network" (1990).
LeNet-5: "Gradient-based learning applied to document recognition" (1998), doi:10.1109/5.726791.
B batch, H height, W width, C channels (the papers' "feature maps").
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax, random

from deepmodels.errors import ConfigError
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import convolve_rows
from deepmodels.layers.pooling import max_pool
from deepmodels.models.variant import Variant, images

Conv = partial(nn.Conv, conv_general_dilated=convolve_rows)  # of images as small as digits
Table = tuple[tuple[int, ...], ...]  # for each output map, the input maps it is connected to

H1_TABLE: Table = ((0,),) * 12
# 1989: each map of H2 sees 8 of the 12 maps of H1. The paper doesn't say which; these are three groups of four
H2_TABLE: Table = (
    ((0, 1, 2, 3, 4, 5, 6, 7),) * 4 + ((4, 5, 6, 7, 8, 9, 10, 11),) * 4 + ((0, 1, 2, 3, 8, 9, 10, 11),) * 4
)

C3_TABLE: Table = (  # 1998, table I: 3 neighbours, 4 neighbours, 4 in two pairs, then all
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

# 1998, figure 3: what the output units compare the 84 units of F6 with is each class drawn on 7 x 12 pixels, so that
# classes which look alike have codes alike. Drawn by ourselves after the figure
_DIGITS = """
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
..###.. ...#... ..###.. ..###.. .....#. ####### ...###. ####### ..###.. ..###..
.#...#. ..##... .#...#. .#...#. ....##. #...... ..#.... #.....# .#...#. .#...#.
#.....# .#.#... #.....# ......# ...#.#. #...... .#..... ......# #.....# #.....#
#.....# ...#... ......# ......# ..#..#. #...... #...... .....#. #.....# #.....#
#.....# ...#... .....#. ....##. .#...#. #.###.. #.###.. .....#. .#...#. .#...##
#.....# ...#... ....#.. ..###.. #....#. ##...#. ##...#. ....#.. ..###.. ..###.#
#.....# ...#... ...#... .....#. ####### ......# #.....# ....#.. .#...#. ......#
#.....# ...#... ..#.... ......# .....#. ......# #.....# ...#... #.....# ......#
.#...#. ...#... .#..... #.....# .....#. #.....# #.....# ...#... #.....# .....#.
..###.. ...#... #...... .#...#. .....#. .#...#. .#...#. ..#.... .#...#. ....#..
....... .#####. ####### ..###.. .....#. ..###.. ..###.. ..#.... ..###.. .###...
"""


def _draw(text: str) -> np.ndarray:
    """(10, 84) float32: +1 where a digit is drawn, -1 elsewhere, row after row."""
    rows = [line.split() for line in text.split("\n") if line]
    return np.array([[1 if c == "#" else -1 for row in rows for c in row[d]] for d in range(10)], np.float32)


DIGIT_CODES = _draw(_DIGITS)


def scaled_tanh(x: Array) -> Array:
    """1.7159 tanh(2/3 x): the papers' activation, which takes 1 to 1 and -1 to -1 (1998, appendix A)."""
    return 1.7159 * jnp.tanh(2 / 3 * x)


def uniform_fan_in(fan_in: int):
    """Returns the papers' initializer: uniform in +-2.4 / fan_in, the number of inputs of a unit (1998, appendix A)."""

    def init(key, shape, dtype=jnp.float32):
        return random.uniform(key, shape, dtype, -2.4 / fan_in, 2.4 / fan_in)

    return init


class SparseConv(nn.Module):
    """A 5x5 convolution in which each output map sees only the input maps that a table names.

    "kernel" (5, 5, connections) holds the weights that exist, in the table's order; "bias" has one entry per map, or
    one per unit, (H, W, C). Takes (B, H, W, C) without padding.

    Attributes:
      table: the input maps of each output map.
      stride: pixels from window to window.
      unit_bias: whether each unit of a map has its own bias.
    """

    table: Table
    stride: int = 1
    unit_bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        sources = np.array([source for row in self.table for source in row])
        targets = np.array([target for target, row in enumerate(self.table) for _ in row])
        fan_in = 25 * np.array([len(self.table[target]) for target in targets])

        def init(key, shape):
            return uniform_fan_in(1)(key, shape) / fan_in.astype(np.float32)[None, None]

        kernel = self.param("kernel", init, (5, 5, len(sources)))
        dense = jnp.zeros((5, 5, x.shape[-1], len(self.table)), x.dtype).at[:, :, sources, targets].set(kernel)
        y = lax.conv_general_dilated(
            x, dense, (self.stride, self.stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        bias = self.param("bias", nn.initializers.zeros, y.shape[1:] if self.unit_bias else y.shape[3:], jnp.float32)
        return y + bias.reshape((1,) * (4 - bias.ndim) + bias.shape)


class Subsampling(nn.Module):
    """Halves height and width: each unit adds 2x2 inputs, times the map's coefficient, plus the map's bias (1998)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        maps = x.shape[-1:]
        coefficient = self.param("coefficient", uniform_fan_in(4), maps)
        bias = self.param("bias", nn.initializers.zeros, maps, jnp.float32)
        return _sum_2x2(x) * coefficient[None, None, None] + bias[None, None, None]


def _sum_2x2(x: Array) -> Array:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).sum((2, 4))


class LeNet1989(nn.Module):
    """The zip code network of 1989, figure 3: two layers of shared weights that subsample as they convolve.

    Beyond the border lies the background, -1. Each unit has its own bias. The paper trained on squared error with
    targets of +-1 and had its ten outputs pass the scaled tanh too; here they stay linear, as logits.

    The call takes images (B, 16, 16, 1) with values in [-1, 1] and returns logits (B, num_classes). Raises ShapeError
    if images are of another size.

    Attributes:
      num_classes: number of outputs.
    """

    num_classes: int = 10

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        check_images(images, height=16, width=16, channels=1)
        x = scaled_tanh(SparseConv(H1_TABLE, stride=2, unit_bias=True, name="h1")(_with_background(images)))
        x = scaled_tanh(SparseConv(H2_TABLE, stride=2, unit_bias=True, name="h2")(_with_background(x)))
        x = x.reshape(x.shape[0], -1)
        x = scaled_tanh(nn.Dense(30, kernel_init=uniform_fan_in(192), name="h3")(x))
        return nn.Dense(self.num_classes, kernel_init=uniform_fan_in(30), name="head")(x)


def _with_background(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=-1)


class LeNet1(nn.Module):
    """LeNet-1 of 1990: convolve, average, convolve, average, classify; here with its second layer fully connected.

    The call takes images (B, 28, 28, 1) and returns logits (B, num_classes). Raises ShapeError if images are of
    another size.

    Attributes:
      num_classes: number of outputs.
    """

    num_classes: int = 10

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        check_images(images, height=28, width=28, channels=1)
        x = scaled_tanh(Conv(4, (5, 5), padding="VALID", name="conv1")(images))
        x = _sum_2x2(x) / 4
        x = scaled_tanh(Conv(12, (5, 5), padding="VALID", name="conv2")(x))
        x = _sum_2x2(x) / 4
        return nn.Dense(self.num_classes, name="head")(x.reshape(x.shape[0], -1))


class LeNet5Paper(nn.Module):
    """LeNet-5 as in figure 2 of 1998: sparse C3, trained subsampling, outputs that measure distance from drawn codes.

    Output i of the paper is the squared distance of the 84 units of F6 from the code of class i, the smaller the
    better. The logits here are its negative: argmax answers as the paper does, and their softmax cross-entropy is the
    paper's criterion (equation 9) without its constant for rubbish. The codes, `DIGIT_CODES`, are fixed and no
    parameters.

    The call takes images (B, 32, 32, 1), for MNIST 28x28 with 2 pixels of background around (the paper scales ink to
    1.175 and background to -0.1), and returns logits (B, num_classes). Raises ShapeError if images are of another size
    and ConfigError if there are more classes than codes.

    Attributes:
      num_classes: number of outputs, at most 10.
    """

    num_classes: int = 10

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        check_images(images, height=32, width=32, channels=1)
        if not 1 <= self.num_classes <= len(DIGIT_CODES):
            raise ConfigError(f"num_classes: expected 1 to {len(DIGIT_CODES)}, a code is drawn for each digit only")
        x = scaled_tanh(_conv(6, 25, "c1")(images))
        x = scaled_tanh(Subsampling(name="s2")(x))
        x = scaled_tanh(SparseConv(C3_TABLE, name="c3")(x))
        x = scaled_tanh(Subsampling(name="s4")(x))
        x = scaled_tanh(_conv(120, 400, "c5")(x)).reshape(x.shape[0], 120)
        x = scaled_tanh(nn.Dense(84, kernel_init=uniform_fan_in(120), name="f6")(x))
        codes = jnp.asarray(DIGIT_CODES[: self.num_classes], x.dtype)
        return -jnp.square(x[:, None] - codes[None]).sum(-1)


def _conv(features: int, fan_in: int, name: str) -> nn.Module:
    return Conv(features, (5, 5), padding="VALID", kernel_init=uniform_fan_in(fan_in), name=name)


class LeNet5(nn.Module):
    """LeNet-5 as it is taught today: C3 fully connected, max pooling, ReLU, linear outputs.

    The call takes images (B, H, W, C) and returns logits (B, num_classes). The first convolution pads by 2, so that
    28x28 images give the feature maps that the paper gets from 32x32. Raises ShapeError if images don't have four axes.

    Attributes:
      features: maps of the two convolutions.
      hidden_sizes: units of the fully connected layers before the last.
      num_classes: number of outputs.
    """

    features: tuple[int, int] = (6, 16)
    hidden_sizes: tuple[int, ...] = (120, 84)
    num_classes: int = 10

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        check_images(images)
        x = nn.relu(Conv(self.features[0], (5, 5), padding=2, name="conv1")(images))
        x = max_pool(x, 2, 2)
        x = nn.relu(Conv(self.features[1], (5, 5), padding="VALID", name="conv2")(x))
        x = max_pool(x, 2, 2)
        x = x.reshape(x.shape[0], -1)
        for i, size in enumerate(self.hidden_sizes):
            x = nn.relu(nn.Dense(size, name=f"dense{i + 1}")(x))
        return nn.Dense(self.num_classes, name="head")(x)


_1989 = "LeCun et al. (1989), doi:10.1162/neco.1989.1.4.541"
_1990 = "LeCun et al. (1990), NIPS 2"
_1998 = "LeCun, Bottou, Bengio & Haffner (1998), doi:10.1109/5.726791"

VARIANTS = {
    "lenet_1989": Variant(LeNet1989, dict(num_classes=10), images(16, 16, 1), 9_760, 1989, _1989),
    "lenet1": Variant(LeNet1, dict(num_classes=10), images(28, 28, 1), 3_246, 1990, _1990),
    "lenet5_paper": Variant(LeNet5Paper, dict(num_classes=10), images(32, 32, 1), 60_000, 1998, _1998),
    "lenet5": Variant(LeNet5, dict(num_classes=10), images(28, 28, 1), 61_706, 1998, _1998),
    "lenet_tiny": Variant(LeNet5, dict(features=(2, 4), hidden_sizes=(16, 12)), images(28, 28, 1), 2_206, 1998, _1998),
}
