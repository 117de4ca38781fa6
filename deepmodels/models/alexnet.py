"""AlexNet. Krizhevsky, Sutskever & Hinton (2012), doi:10.1145/3065386, and Krizhevsky (2014), arXiv:1404.5997.

`AlexNetPaper` is the network of 2012, trained on two GPUs; `AlexNet` the single-column one of 2014, whose weights
circulate through torchvision. B batch, H height, W width, C channels.
"""

from functools import partial

from flax import linen as nn
from jax import Array

from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.layers.local_response_norm import local_response_norm
from deepmodels.layers.pooling import adaptive_avg_pool, max_pool
from deepmodels.models.variant import Variant, images
from deepmodels.preprocessing import IMAGENET

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class AlexNet(nn.Module):
    """The form of 2014, as in torchvision: five convolutions, three fully connected layers; no groups, no norm.

    The call takes images (B, H, W, C), 224x224x3 in the paper and 63x63 at least, and returns logits (B, num_classes).
    Maps of other sizes than the paper's are averaged to `pool_size`, so that the layers after them fit. With `train` it
    drops the inputs of both hidden layers. Raises ShapeError if images don't have four axes or are too small.

    Attributes:
      widths: channels of the convolutions.
      hidden_size: units of the two hidden fully connected layers.
      pool_size: height and width of the maps that the fully connected layers see.
      dropout_rate: share of their inputs that is dropped in training.
      num_classes: number of outputs; with 0 the call returns the last hidden layer, (B, hidden_size).
    """

    widths: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256)
    hidden_size: int = 4096
    pool_size: int = 6
    dropout_rate: float = 0.5
    num_classes: int = 1000

    def setup(self):
        self.dropout = nn.Dropout(self.dropout_rate)
        self.dense1 = nn.Dense(self.hidden_size, kernel_init=he_normal)
        self.dense2 = nn.Dense(self.hidden_size, kernel_init=he_normal)
        if self.num_classes:
            self.head = nn.Dense(self.num_classes)

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image per pixel of each feature map."""
        return {"stage0": 8, "stage1": 16, "stage2": 32}

    @nn.compact
    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the feature maps (B, H', W', C') after each of the three max-poolings, by stage.

        Args:
          images: as for the call.
          train: without effect, there is no dropout before the last stage.
        """
        check_images(images)
        conv = partial(Conv, kernel_init=he_normal)
        x = nn.relu(conv(self.widths[0], (11, 11), 4, padding=2, name="conv1")(images))
        stage0 = x = max_pool(x, 3, 2)
        x = nn.relu(conv(self.widths[1], (5, 5), padding=2, name="conv2")(x))
        stage1 = x = max_pool(x, 3, 2)
        for i in (2, 3, 4):
            x = nn.relu(conv(self.widths[i], (3, 3), padding=1, name=f"conv{i + 1}")(x))
        return {"stage0": stage0, "stage1": stage1, "stage2": max_pool(x, 3, 2)}

    def __call__(self, images: Array, train: bool = False) -> Array:
        x = adaptive_avg_pool(self.features(images, train)["stage2"], self.pool_size)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(self.dense1(self.dropout(x, deterministic=not train)))
        x = nn.relu(self.dense2(self.dropout(x, deterministic=not train)))
        return self.head(x) if self.num_classes else x


class AlexNetPaper(nn.Module):
    """The form of 2012, figure 2: its two GPUs are two groups, which meet in the third convolution and after the fifth.

    Responses are normalised after the first two convolutions, over the channels of both groups, and the windows of
    max-pooling overlap. Weights start as in section 5: normal with deviation 0.01, biases at 1 where that feeds the
    ReLUs positive inputs.

    The call takes images (B, H, W, C), 227x227x3 (the paper prints 224, which doesn't fit its own figures), and
    returns logits (B, num_classes). It takes other sizes from 67 on, but one set of parameters takes one size only.
    With `train` it drops outputs of both hidden layers. Raises ShapeError if images don't have four axes or are too
    small.

    Attributes:
      hidden_size: units of the two hidden fully connected layers.
      dropout_rate: share of their outputs that is dropped in training.
      num_classes: number of outputs; with 0 the call returns the last hidden layer, (B, hidden_size).
    """

    hidden_size: int = 4096
    dropout_rate: float = 0.5
    num_classes: int = 1000

    def setup(self):
        normal, ones = nn.initializers.normal(0.01), nn.initializers.ones
        self.dropout = nn.Dropout(self.dropout_rate)
        self.dense1 = nn.Dense(self.hidden_size, kernel_init=normal, bias_init=ones)
        self.dense2 = nn.Dense(self.hidden_size, kernel_init=normal, bias_init=ones)
        if self.num_classes:
            self.head = nn.Dense(self.num_classes, kernel_init=normal)

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image per pixel of each feature map."""
        return {"stage0": 8, "stage1": 16, "stage2": 32}

    @nn.compact
    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the feature maps (B, H', W', C') after each of the three max-poolings, by stage.

        Args:
          images: as for the call.
          train: without effect, there is no dropout before the last stage.
        """
        check_images(images)
        conv = partial(Conv, kernel_init=nn.initializers.normal(0.01))
        grouped = partial(conv, feature_group_count=2, bias_init=nn.initializers.ones)
        x = nn.relu(conv(96, (11, 11), 4, padding="VALID", name="conv1")(images))
        stage0 = x = max_pool(local_response_norm(x), 3, 2)
        x = nn.relu(grouped(256, (5, 5), padding=2, name="conv2")(x))
        stage1 = x = max_pool(local_response_norm(x), 3, 2)
        x = nn.relu(conv(384, (3, 3), padding=1, name="conv3")(x))
        x = nn.relu(grouped(384, (3, 3), padding=1, name="conv4")(x))
        x = nn.relu(grouped(256, (3, 3), padding=1, name="conv5")(x))
        return {"stage0": stage0, "stage1": stage1, "stage2": max_pool(x, 3, 2)}

    def __call__(self, images: Array, train: bool = False) -> Array:
        x = self.features(images, train)["stage2"]
        x = x.reshape(x.shape[0], -1)
        x = self.dropout(nn.relu(self.dense1(x)), deterministic=not train)
        x = self.dropout(nn.relu(self.dense2(x)), deterministic=not train)
        return self.head(x) if self.num_classes else x


_2012 = "Krizhevsky, Sutskever & Hinton (2012), doi:10.1145/3065386"
_2014 = "Krizhevsky (2014), arXiv:1404.5997"

_TINY = dict(widths=(4, 8, 8, 8, 8), hidden_size=16, pool_size=1, dropout_rate=0.0, num_classes=10)

VARIANTS = {
    "alexnet_paper": Variant(AlexNetPaper, {}, images(227, 227, 3), 60_965_224, 2012, _2012),
    "alexnet": Variant(AlexNet, {}, images(224, 224, 3), 61_100_840, 2014, _2014, preprocessing=IMAGENET),
    "alexnet_tiny": Variant(AlexNet, _TINY, images(64, 64, 3), 4_602, 2014, _2014),
}
