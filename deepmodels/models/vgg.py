"""VGG. Simonyan & Zisserman (2014), arXiv:1409.1556. B batch, H height, W width, C channels.

The paper trained its deep nets from the weights of shallow ones; here they start as in He et al. (2015),
arXiv:1502.01852, from which they train directly.
"""

from flax import linen as nn
from jax import Array

from deepmodels.layers.batch_norm import BatchNorm
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.layers.pooling import adaptive_avg_pool, max_pool
from deepmodels.models.variant import Variant, images
from deepmodels.preprocessing import IMAGENET

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class VGG(nn.Module):
    """Stages of 3x3 convolutions that end in max-pooling, then three fully connected layers: table 1.

    The call takes images (B, H, W, C), 224x224x3 in the paper and 32x32 at least, and returns logits (B, num_classes).
    Maps of other sizes than the paper's are averaged to `pool_size`, as in torchvision, so that the layers after them
    fit. With `train` it drops outputs of both hidden layers and, with batch normalisation, normalises by the batch and
    updates "batch_stats". Raises ShapeError if images don't have four axes or are too small.

    Attributes:
      stage_sizes: convolutions of each stage.
      batch_norm: whether a batch normalisation follows each convolution (not in the paper).
      widths: channels of each stage.
      hidden_size: units of the two hidden fully connected layers.
      pool_size: height and width of the maps that the fully connected layers see.
      dropout_rate: share of their outputs that is dropped in training.
      num_classes: number of outputs; with 0 the call returns the last hidden layer, (B, hidden_size).
    """

    stage_sizes: tuple[int, ...]
    batch_norm: bool = False
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden_size: int = 4096
    pool_size: int = 7
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
        return {f"stage{i}": 2 ** (i + 1) for i in range(len(self.stage_sizes))}

    @nn.compact
    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the feature maps (B, H', W', C') after each max-pooling, by stage.

        Args:
          images: as for the call.
          train: whether batch normalisation, if there is any, goes by the batch.
        """
        check_images(images)
        x, stages = images, {}
        for i, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            for j in range(size):
                name = f"stage{i}_{{}}{j}".format
                x = Conv(width, (3, 3), padding=1, kernel_init=he_normal_fan_out, name=name("conv"))(x)
                x = nn.relu(BatchNorm(name=name("norm"))(x, train) if self.batch_norm else x)
            stages[f"stage{i}"] = x = max_pool(x, 2, 2)
        return stages

    def __call__(self, images: Array, train: bool = False) -> Array:
        *_, x = self.features(images, train).values()
        x = adaptive_avg_pool(x, self.pool_size)
        x = x.reshape(x.shape[0], -1)
        x = self.dropout(nn.relu(self.dense1(x)), deterministic=not train)
        x = self.dropout(nn.relu(self.dense2(x)), deterministic=not train)
        return self.head(x) if self.num_classes else x


_PAPER = "Simonyan & Zisserman (2014), arXiv:1409.1556"


def _imagenet(stage_sizes: tuple[int, ...], parameters: int, batch_norm: bool = False) -> Variant:
    arguments = dict(stage_sizes=stage_sizes, batch_norm=batch_norm)
    return Variant(VGG, arguments, images(224, 224, 3), parameters, 2014, _PAPER, preprocessing=IMAGENET)


_A, _B, _D, _E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)  # columns of table 1
_TINY = dict(stage_sizes=(1, 1), widths=(8, 16), hidden_size=16, pool_size=2, dropout_rate=0.0, num_classes=10)

VARIANTS = {
    "vgg11": _imagenet(_A, 132_863_336),
    "vgg13": _imagenet(_B, 133_047_848),
    "vgg16": _imagenet(_D, 138_357_544),
    "vgg19": _imagenet(_E, 143_667_240),
    "vgg11_bn": _imagenet(_A, 132_868_840, batch_norm=True),
    "vgg13_bn": _imagenet(_B, 133_053_736, batch_norm=True),
    "vgg16_bn": _imagenet(_D, 138_365_992, batch_norm=True),
    "vgg19_bn": _imagenet(_E, 143_678_248, batch_norm=True),
    "vgg_tiny": Variant(VGG, _TINY, images(8, 8, 3), 2_874, 2014, _PAPER),
}
