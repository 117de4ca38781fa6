"""Fast style transfer: one network learns the style of one picture. Johnson, Alahi & Fei-Fei (2016), arXiv:1603.08155.

The form is that of PyTorch's example: instance normalisation, Ulyanov, Vedaldi & Lempitsky (2016), arXiv:1607.08022,
and enlarging by repeating pixels, Odena, Dumoulin & Olah (2016), doi:10.23915/distill.00003, in place of transposed
convolutions. B batch, H height, W width, C channels.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ShapeError
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.models.translation import instance_norm, reflect
from deepmodels.models.variant import Variant, images


class InstanceNorm(nn.Module):
    """Normalises each channel of each image by itself, then scales and shifts it: (B, H, W, C) -> (B, H, W, C)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale, bias = (
            self.param(name, init, x.shape[-1:], jnp.float32).astype(x.dtype).reshape(1, 1, 1, -1)
            for name, init in (("scale", nn.initializers.ones), ("bias", nn.initializers.zeros))
        )
        return instance_norm(x) * scale + bias


class FastStyle(nn.Module):
    """Two halvings, residual blocks, two doublings, with borders reflected: table 1 of the supplement.

    The call takes images (B, H, W, C), H and W divisible by 4, and returns a dict of "stylised" (B, H, W, C), with no
    bounds. The weights that circulate take pixels of 0 to 255 and return such: mean 0 and std 1 / 255 of a run. Raises
    ShapeError if images don't fit.

    Attributes:
      channels: of the first map.
      num_blocks: residual blocks.
      image_channels: C.
    """

    channels: int = 32
    num_blocks: int = 5
    image_channels: int = 3

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        check_images(images, channels=self.image_channels)
        height, width = images.shape[1:3]
        if height % 4 or width % 4 or min(height, width) < 8:
            raise ShapeError(f"images: expected 8 pixels or more a side, divisible by 4, got {height}x{width}")
        c = self.channels
        x = self._unit(images, c, 9, "first")
        for i in range(2):
            x = self._unit(x, c * 2 ** (i + 1), 3, f"down{i}", stride=2)
        for i in range(self.num_blocks):
            y = self._unit(x, 4 * c, 3, f"block{i}_1")
            x += self._unit(y, 4 * c, 3, f"block{i}_2", activate=False)
        for i in (1, 0):
            x = self._unit(x.repeat(2, 1).repeat(2, 2), c * 2**i, 3, f"up{i}")
        return {"stylised": _reflected(x, self.image_channels, 9, 1, "last")}

    def _unit(self, x: Array, channels: int, size: int, name: str, stride: int = 1, activate: bool = True) -> Array:
        x = InstanceNorm(name=f"{name}_norm")(_reflected(x, channels, size, stride, name))
        return nn.relu(x) if activate else x


def _reflected(x: Array, channels: int, size: int, stride: int, name: str) -> Array:
    """A convolution of a map whose border is reflected."""
    return Conv(channels, (size, size), stride, padding=0, name=name)(reflect(x, size // 2))


_PAPER = "Johnson, Alahi & Fei-Fei (2016), arXiv:1603.08155"
_TINY = dict(channels=4, num_blocks=1)

VARIANTS = {
    "fast_style": Variant(FastStyle, {}, images(256, 256, 3), 1_679_235, 2016, _PAPER),
    "fast_style_tiny": Variant(FastStyle, _TINY, images(16, 16, 3), 9_651, 2016, _PAPER),
}
