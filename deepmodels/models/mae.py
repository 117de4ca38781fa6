"""Masked autoencoders. He, Chen, Xie, Li, Dollar & Girshick (2021), arXiv:2111.06377.

B batch, H height, W width, C channels, T patches.
"""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.layers.checks import check_images
from deepmodels.layers.layer_norm import LayerNorm
from deepmodels.layers.stack import scan_layers
from deepmodels.models.variant import Variant, images
from deepmodels.models.vit import ViTLayer, normal
from deepmodels.preprocessing import IMAGENET


class MAE(nn.Module):
    """Figure 1: a vision transformer sees a quarter of the patches, a smaller one behind it fills in the rest.

    The call takes images (B, image_size, image_size, C) and `noise` (B, T) and returns a dict of "patches", the pixels
    that it makes of each patch (B, T, patch_size ** 2 * C), and "mask" (B, T), 1 where a patch was hidden from it. The
    patches of largest noise are hidden; without noise none is. Raises ShapeError if images or noise have other shapes
    and ConfigError if an argument doesn't fit.

    Both position embeddings are fixed sines; like the released weights, they are kept among the parameters, and count
    as such, but get no gradient.

    Attributes:
      patch_size: pixels of a patch's side.
      hidden_size: channels of the encoder.
      num_layers: of the encoder.
      num_heads: of each attention of the encoder.
      mlp_size: channels between the dense layers of each layer of the encoder.
      decoder_hidden_size, decoder_num_layers, decoder_num_heads, decoder_mlp_size: likewise, of the decoder.
      image_size: pixels of the images' side.
      image_channels: C.
      mask_ratio: share of the patches that is hidden.
      epsilon: of the normalisations.
      unroll: layers per step of the scans; changes neither result nor parameters.
    """

    patch_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    decoder_hidden_size: int = 512
    decoder_num_layers: int = 8
    decoder_num_heads: int = 16
    decoder_mlp_size: int = 2048
    image_size: int = 224
    image_channels: int = 3
    mask_ratio: float = 0.75
    epsilon: float = 1e-12
    unroll: int = 1

    def setup(self) -> None:
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size: expected a multiple of the patch, {self.patch_size}, got {self.image_size}")
        if not 0 <= self.mask_ratio < 1:
            raise ConfigError(f"mask_ratio: expected a share of at least 0 and less than 1, got {self.mask_ratio}")
        for name in ("hidden_size", "decoder_hidden_size"):
            if getattr(self, name) % 4:
                raise ConfigError(
                    f"{name}: expected a multiple of 4, for sines of rows and columns, got {getattr(self, name)}"
                )
        side, inner = self.image_size // self.patch_size, self.decoder_hidden_size
        patch = (self.patch_size, self.patch_size)
        xavier = nn.initializers.xavier_uniform()  # appendix A
        self.patch_embed = nn.Conv(
            self.hidden_size, patch, patch, padding="VALID", kernel_init=nn.initializers.lecun_normal()
        )
        self.class_token = self.param("class_token", normal, (1, 1, self.hidden_size), jnp.float32)
        self.position_embed = self._fixed("position_embed", self.hidden_size, side)
        self.layers = ViTLayer(self.num_heads, self.mlp_size, 0.0, None, self.epsilon)
        self.norm = LayerNorm(self.epsilon)
        self.decoder_embed = nn.Dense(inner, kernel_init=xavier)
        self.mask_token = self.param("mask_token", normal, (1, 1, inner), jnp.float32)
        self.decoder_position_embed = self._fixed("decoder_position_embed", inner, side)
        self.decoder_layers = ViTLayer(self.decoder_num_heads, self.decoder_mlp_size, 0.0, None, self.epsilon)
        self.decoder_norm = LayerNorm(self.epsilon)
        self.decoder_head = nn.Dense(self.patch_size**2 * self.image_channels, kernel_init=xavier)

    def _fixed(self, name: str, channels: int, side: int) -> Array:
        embedding = self.param(name, lambda _: jnp.asarray(_sines(channels, side), jnp.float32))
        return jnp.asarray(embedding)

    def __call__(self, images: Array, noise: Array | None = None, train: bool = False) -> dict[str, Array]:
        tokens, mask, restore = self._encode(images, noise, train)
        x = self.decoder_embed(tokens)
        batch, hidden = x.shape[0], mask.shape[1] + 1 - x.shape[1]
        fill = jnp.broadcast_to(self.mask_token.astype(x.dtype), (batch, hidden, x.shape[-1]))
        patches = jnp.take_along_axis(jnp.concatenate([x[:, 1:], fill], 1), restore[..., None], 1)
        x = jnp.concatenate([x[:, :1], patches], 1)
        x += _still(self.decoder_position_embed, x)
        x = self._scanned(self.decoder_layers, self.decoder_num_layers, x, train)
        return {"patches": self.decoder_head(self.decoder_norm(x))[:, 1:], "mask": mask}

    def tokens(self, images: Array, train: bool = False) -> Array:
        """Returns the encoder's normalised tokens (B, 1 + T, hidden_size) of images of which nothing is hidden."""
        return self._encode(images, None, train)[0]

    def _encode(self, images: Array, noise: Array | None, train: bool) -> tuple[Array, Array, Array]:
        check_images(images, height=self.image_size, width=self.image_size, channels=self.image_channels)
        x = self.patch_embed(images)
        x = x.reshape(x.shape[0], -1, self.hidden_size)
        batch, count, _ = x.shape
        if noise is not None and noise.shape != (batch, count):
            raise ShapeError(f"noise: expected shape {(batch, count)}, a number for each patch, got {noise.shape}")
        positions = _still(self.position_embed, x)
        x += positions[:, 1:]
        if noise is None:
            order, kept = jnp.broadcast_to(jnp.arange(count)[None], (batch, count)), count
        else:
            order, kept = jnp.argsort(noise, 1, stable=True), int(count * (1 - self.mask_ratio))
        restore = jnp.argsort(order, 1)
        x = jnp.take_along_axis(x, order[:, :kept, None], 1)
        first = self.class_token.astype(x.dtype) + positions[:, :1]
        x = jnp.concatenate([jnp.broadcast_to(first, (batch, 1, self.hidden_size)), x], 1)
        x = self._scanned(self.layers, self.num_layers, x, train)
        return self.norm(x), (restore >= kept).astype(x.dtype), restore

    def _scanned(self, layer: nn.Module, length: int, x: Array, train: bool) -> Array:
        def call(layer: ViTLayer, x: Array, _: None) -> tuple[Array, None]:
            return layer(x, 0.0, train), None

        return scan_layers(layer, call, x, length=length, unroll=self.unroll)[0]


def patchify(images: Array, patch_size: int) -> Array:
    """Returns the pixels of each patch, row by row: (B, H, W, C) -> (B, T, patch_size ** 2 * C).

    Raises:
      ShapeError: the patches don't divide the images.
    """
    check_images(images)
    batch, height, width, channels = images.shape
    if height % patch_size or width % patch_size:
        raise ShapeError(f"images: expected a height and width that are multiples of {patch_size}, got {images.shape}")
    x = images.reshape(batch, height // patch_size, patch_size, width // patch_size, patch_size, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, patch_size**2 * channels)


def unpatchify(patches: Array, height: int, width: int, channels: int = 3) -> Array:
    """Returns the images (B, H, W, C) of which patches (B, T, patch_size ** 2 * C) hold the pixels, row by row."""
    side = round((patches.shape[-1] // channels) ** 0.5)
    x = patches.reshape(patches.shape[0], height // side, width // side, side, side, channels)
    return x.swapaxes(2, 3).reshape(patches.shape[0], height, width, channels)


def _still(embedding: Array, x: Array) -> Array:
    return lax.stop_gradient(embedding).astype(x.dtype)


@lru_cache
def _sines(channels: int, side: int) -> np.ndarray:
    """Sines of columns in the first half of the channels, of rows in the second: (1, 1 + side * side, channels)."""
    rates = 1 / 10_000 ** (np.arange(channels // 4) / (channels / 4))
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    parts = [wave(place.reshape(-1, 1) * rates) for place in (columns, rows) for wave in (np.sin, np.cos)]
    return np.concatenate([np.zeros((1, channels)), np.concatenate(parts, 1)])[None]


_PAPER = "He, Chen, Xie, Li, Dollar & Girshick (2021), arXiv:2111.06377"


def _mae(hidden_size: int, layers: int, heads: int, patch: int, parameters: int) -> Variant:
    sizes = dict(
        patch_size=patch, hidden_size=hidden_size, num_layers=layers, num_heads=heads, mlp_size=4 * hidden_size
    )
    return Variant(MAE, sizes, images(224, 224, 3), parameters, 2021, _PAPER, IMAGENET)


VARIANTS = {
    "mae_vit_b_16": _mae(768, 12, 12, 16, 111_907_840),
    "mae_vit_l_16": _mae(1024, 24, 16, 16, 329_541_888),
    "mae_vit_h_14": _mae(1280, 32, 16, 14, 657_074_508),
    "mae_tiny": Variant(
        MAE,
        dict(
            patch_size=4,
            hidden_size=16,
            num_layers=2,
            num_heads=2,
            mlp_size=32,
            decoder_hidden_size=16,
            decoder_num_layers=1,
            decoder_num_heads=2,
            decoder_mlp_size=32,
            image_size=16,
        ),
        images(16, 16, 3),
        9_184,
        2021,
        _PAPER,
    ),
}
