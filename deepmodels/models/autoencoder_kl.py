"""The autoencoder of latent diffusion. Rombach, Blattmann, Lorenz, Esser & Ommer (2021), arXiv:2112.10752, section 3.1.

B batch, H height, W width, C channels, h = H / f and w = W / f of the latents, f = 8 in Stable Diffusion, D their
channels.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv
from deepmodels.models.diffusion import GroupNorm, ResBlock, SpatialAttention, doubled
from deepmodels.models.vae import reparametrize
from deepmodels.models.variant import Variant, images

_EPSILON = 1e-6


class _Middle(nn.Module):
    """A block, attention and a block: (B, h, w, C) to the same."""

    num_groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = ResBlock(x.shape[-1], self.num_groups, _EPSILON, name="block0")(x)
        x = SpatialAttention(1, self.num_groups, _EPSILON, name="attention")(x)
        return ResBlock(x.shape[-1], self.num_groups, _EPSILON, name="block1")(x)


class Encoder(nn.Module):
    """Images (B, H, W, C) to maps (B, h, w, features): blocks, halved behind each level but the last.

    Attributes:
      channels: of each level.
      num_blocks: of each level.
      features: channels of the result.
      num_groups: of the normalisations.
    """

    channels: tuple[int, ...]
    num_blocks: int
    features: int
    num_groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.channels[0], (3, 3), padding=1, name="conv_in")(x)
        for level, channels in enumerate(self.channels):
            for i in range(self.num_blocks):
                x = ResBlock(channels, self.num_groups, _EPSILON, name=f"down{level}_block{i}")(x)
            if level < len(self.channels) - 1:
                x = Conv(channels, (3, 3), 2, padding=((0, 1), (0, 1)), name=f"down{level}_sample")(x)
        x = _Middle(self.num_groups, name="middle")(x)
        x = nn.silu(GroupNorm(self.num_groups, _EPSILON, name="norm_out")(x))
        return Conv(self.features, (3, 3), padding=1, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents (B, h, w, D) to images (B, H, W, features): the encoder's way back, with a block more in each level.

    Attributes: see `Encoder`.
    """

    channels: tuple[int, ...]
    num_blocks: int
    features: int
    num_groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.channels[-1], (3, 3), padding=1, name="conv_in")(x)
        x = _Middle(self.num_groups, name="middle")(x)
        for level, channels in enumerate(reversed(self.channels)):
            for i in range(self.num_blocks + 1):
                x = ResBlock(channels, self.num_groups, _EPSILON, name=f"up{level}_block{i}")(x)
            if level < len(self.channels) - 1:
                x = Conv(channels, (3, 3), padding=1, name=f"up{level}_sample")(doubled(x))
        x = nn.silu(GroupNorm(self.num_groups, _EPSILON, name="norm_out")(x))
        return Conv(self.features, (3, 3), padding=1, name="conv_out")(x)


class AutoencoderKL(nn.Module):
    """An autoencoder whose latents are maps of normal distributions, kept near the standard one.

    The call takes images (B, H, W, C) in [-1, 1] and returns a dict of "mean" and "log_var" (B, h, w, D), "latent",
    drawn from them by `sampling_key` and else the mean, and "reconstruction" (B, H, W, C); with `samples` the last two
    have a leading axis of as many. Raises ShapeError if the height and width aren't divisible by f.

    Attributes:
      channels: of each level; f is 2 to the number of levels behind the first.
      num_blocks: of a level on the way down; one more on the way up.
      latent_size: D.
      in_channels: C.
      quant_conv: whether a layer of 1 x 1 stands between encoder and latents, and between those and the decoder.
      scaling_factor: by which latents are multiplied for a diffusion model, so that their variance is about 1.
      shift_factor: subtracted from them before.
      num_groups: of the normalisations.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    num_blocks: int = 2
    latent_size: int = 4
    in_channels: int = 3
    quant_conv: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float = 0.0
    num_groups: int = 32

    def setup(self) -> None:
        sizes = (self.channels, self.num_blocks)
        self.encoder = Encoder(*sizes, 2 * self.latent_size, self.num_groups)
        self.decoder = Decoder(*sizes, self.in_channels, self.num_groups)
        if self.quant_conv:
            self.to_latent = Conv(2 * self.latent_size, (1, 1))
            self.from_latent = Conv(self.latent_size, (1, 1))

    @property
    def factor(self) -> int:
        """Pixels of an image's side for each of the latents', f."""
        return 2 ** (len(self.channels) - 1)

    def __call__(
        self, images: Array, sampling_key: Array | None = None, samples: int | None = None, train: bool = False
    ) -> dict[str, Array]:
        mean, log_var = self.encode(images)
        latent = reparametrize(mean, log_var, sampling_key, samples)
        reconstruction = self.decode(latent.reshape(-1, *latent.shape[-3:]))
        reconstruction = reconstruction.reshape(*latent.shape[:-3], *reconstruction.shape[1:])
        return {"mean": mean, "log_var": log_var, "latent": latent, "reconstruction": reconstruction}

    def encode(self, images: Array) -> tuple[Array, Array]:
        """Returns the mean and the logarithm of the variance (B, h, w, D) of the latents of images (B, H, W, C)."""
        check_images(images, channels=self.in_channels, unit=self.factor)
        y = self.encoder(images)
        mean, log_var = jnp.split(self.to_latent(y) if self.quant_conv else y, 2, -1)
        return mean, jnp.clip(log_var, -30.0, 20.0)

    def decode(self, latents: Array) -> Array:
        """Returns images (B, H, W, C) of latents (B, h, w, D)."""
        return self.decoder(self.from_latent(latents) if self.quant_conv else latents)


def decode_in_tiles(
    decode: Callable[[Array], Array], latents: Array, *, tile: int = 64, factor: int = 8, overlap: float = 0.25
) -> np.ndarray:
    """Returns images (B, H, W, C) of latents (B, h, w, D), decoded part by part, in memory of one part.

    Neighbouring parts overlap and fade into each other there, as in diffusers' `AutoencoderKL.tiled_decode`. What
    depends on the whole picture, the attention and the normalisations, sees a part: the picture is nearly the one that
    would be decoded at once.

    Args:
      decode: `decode(latents) -> images`, called with at most four shapes, so compile it.
      latents: (B, h, w, D).
      tile: latents of a part's side.
      factor: pixels for each.
      overlap: share of a part that the next one has too, in [0, 1).

    Raises:
      ConfigError: the overlap isn't such, or leaves no step from part to part.
    """
    stride = int(tile * (1 - overlap)) if 0 <= overlap < 1 else 0
    if stride < 1:
        raise ConfigError(f"overlap: expected in [0, 1), and to leave a step of tiles of {tile}, got {overlap}")
    fade, kept = (tile - stride) * factor, stride * factor
    height, width = latents.shape[1:3]
    above: list[np.ndarray] = []
    bands = []
    for top in range(0, height, stride):
        row, pieces = [], []
        for number, left in enumerate(range(0, width, stride)):
            part = np.array(decode(latents[:, top : top + tile, left : left + tile]))
            if above:
                _fade(above[number], part, fade, 1)
            if row:
                _fade(row[-1], part, fade, 2)
            row.append(part)
            pieces.append(part[:, :kept, :kept])
        above = row
        bands.append(np.concatenate(pieces, 2))
    return np.concatenate(bands, 1)


def _fade(before: np.ndarray, part: np.ndarray, extent: int, axis: int) -> None:
    """Changes the beginning of a part, along an axis, from the end of the one before it into its own."""
    extent = min(extent, before.shape[axis], part.shape[axis])
    if not extent:
        return
    weights = (np.arange(extent, dtype=part.dtype) / extent).reshape(-1, *(1,) * (3 - axis))
    end = [slice(None)] * 4
    begin = end.copy()
    end[axis], begin[axis] = slice(before.shape[axis] - extent, None), slice(extent)
    part[tuple(begin)] = before[tuple(end)] * (1 - weights) + part[tuple(begin)] * weights


_LDM = "Rombach et al. (2021), arXiv:2112.10752"

VARIANTS = {
    "stable_diffusion_1_vae": Variant(AutoencoderKL, {}, images(512, 512, 3), 83_653_863, 2022, _LDM),
    "stable_diffusion_vae_tiny": Variant(
        AutoencoderKL,
        dict(channels=(8, 16), num_blocks=1, num_groups=4),
        images(8, 8, 3),
        43_711,
        2022,
        _LDM,
    ),
}
