"""Vision transformers. Dosovitskiy et al. (2020), arXiv:2010.11929; DINOv2, Oquab et al. (2023), arXiv:2304.07193.

B batch, H height, W width, C channels, T tokens.
"""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError, ShapeError, unknown
from deepmodels.layers.attention import Attention
from deepmodels.layers.checks import check_images
from deepmodels.layers.dense import Dense
from deepmodels.layers.layer_norm import LayerNorm
from deepmodels.layers.stack import scan_layers
from deepmodels.layers.stochastic_depth import StochasticDepth
from deepmodels.models.variant import Variant, images
from deepmodels.preprocessing import GOOGLENET, IMAGENET, Preprocessing

normal = nn.initializers.normal(0.02)


class ViTLayer(nn.Module):
    """Figure 1, right: attention and two dense layers, each of what is normalised before, added to what came in.

    Takes (B, T, C) and the rate at which a branch is dropped, and returns (B, T, C).

    Attributes:
      num_heads: of the attention.
      mlp_size: channels between the dense layers.
      dropout_rate: of both branches.
      layer_scale: what DINOv2's factors of both branches start with, Touvron et al. (2021), arXiv:2103.17239; None
        for a network without them.
      epsilon: of the normalisations.
    """

    num_heads: int
    mlp_size: int
    dropout_rate: float
    layer_scale: float | None
    epsilon: float

    @nn.compact
    def __call__(self, x: Array, rate: float | Array, train: bool) -> Array:
        hidden_size = x.shape[-1]
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")
        y = Attention(self.num_heads, hidden_size, name="attention")(LayerNorm(self.epsilon, name="norm1")(x))
        x += StochasticDepth(name="stochastic_depth1")(self._scaled(dropout(y), "scale1"), rate, train)
        # section 3.1: Xavier's initialisation, biases of 1e-6 are as good as none
        y = Dense(self.mlp_size, kernel_init=nn.initializers.xavier_uniform(), name="dense1")(
            LayerNorm(self.epsilon, name="norm2")(x)
        )
        y = dropout(nn.gelu(y, approximate=False))
        y = Dense(hidden_size, kernel_init=nn.initializers.xavier_uniform(), name="dense2")(y)
        return x + StochasticDepth(name="stochastic_depth2")(self._scaled(dropout(y), "scale2"), rate, train)

    def _scaled(self, y: Array, name: str) -> Array:
        if self.layer_scale is None:
            return y
        scale = self.param(name, nn.initializers.constant(self.layer_scale), y.shape[-1:], jnp.float32)
        return y * scale.astype(y.dtype)[None, None]


class ViT(nn.Module):
    """The vision transformer of figure 1.

    The call takes images (B, H, W, 3) and returns logits (B, num_classes), or what the head would see if `num_classes`
    is 0. With `train` it drops values and branches at random, by the "dropout" stream. Height and width may be any
    multiples of the patch: the position embedding is resized to the grid of patches. Raises ShapeError if they aren't
    and ConfigError if an argument doesn't fit.

    The layers are one scan, their parameters stacked on a leading axis ("layers").

    Attributes:
      patch_size: pixels of a patch's side.
      hidden_size: C.
      num_layers: of the encoder.
      num_heads: of each attention.
      mlp_size: channels between the dense layers of each layer.
      image_size: pixels of the side of the images that the position embedding is made for.
      pooling: what the head sees of the normalised tokens: "token", the class token, or "mean", their mean; a network
        with "mean" has no class token.
      layer_scale: see `ViTLayer`.
      antialias: how the position embedding is resized, see `resize_position_embedding`.
      dropout_rate: of embeddings and branches.
      stochastic_depth_rate: at which the last layer's branches are dropped; it grows linearly from 0 at the first.
      epsilon: of the normalisations.
      num_classes: number of outputs; 0 for a network without its head.
      unroll: layers per step of the scan; changes neither result nor parameters.
    """

    patch_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    image_size: int = 224
    pooling: str = "token"
    layer_scale: float | None = None
    antialias: bool = True
    dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    epsilon: float = 1e-6
    num_classes: int = 1000
    unroll: int = 1

    def setup(self) -> None:
        if self.pooling not in ("token", "mean"):
            raise unknown("pooling", self.pooling, ("token", "mean"))
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size: expected a multiple of the patch, {self.patch_size}, got {self.image_size}")
        side, channels = self.image_size // self.patch_size, self.hidden_size
        patch, extra = (self.patch_size, self.patch_size), int(self.pooling == "token")
        self.patch_embed = nn.Conv(channels, patch, patch, padding="VALID", kernel_init=nn.initializers.lecun_normal())
        if self.pooling == "token":
            self.class_token = self.param("class_token", nn.initializers.zeros, (1, 1, channels), jnp.float32)
        self.position_embed = self.param("position_embed", normal, (1, extra + side * side, channels), jnp.float32)
        self.dropout = nn.Dropout(self.dropout_rate)
        self.layers = ViTLayer(self.num_heads, self.mlp_size, self.dropout_rate, self.layer_scale, self.epsilon)
        self.norm = LayerNorm(self.epsilon)
        if self.num_classes:
            self.head = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros)

    def __call__(self, images: Array, train: bool = False) -> Array:
        x = self.tokens(images, train)
        pooled = x[:, 0] if self.pooling == "token" else x.mean(1)
        return self.head(pooled) if self.num_classes else pooled

    def tokens(self, images: Array, train: bool = False) -> Array:
        """Returns the normalised tokens (B, T, C): the class token if there is one, then the patches row by row."""
        return self.norm(self._encode(images, train)[0])

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image per position of each feature map."""
        return {f"layer{i}": self.patch_size for i in range(self.num_layers)}

    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the patches after each layer, before the last normalisation, (B, H / patch, W / patch, C)."""
        _, layers = self._encode(images, train)
        patches = layers[:, :, int(self.pooling == "token") :]
        grid = (images.shape[1] // self.patch_size, images.shape[2] // self.patch_size)
        return {f"layer{i}": x.reshape(x.shape[0], *grid, -1) for i, x in enumerate(patches)}

    def _encode(self, images: Array, train: bool) -> tuple[Array, Array]:
        """The tokens after the last layer (B, T, C), and those after each (num_layers, B, T, C)."""
        check_images(images, unit=self.patch_size, unit_name="the patch")
        x = self.patch_embed(images)
        grid = x.shape[1:3]
        x = x.reshape(x.shape[0], -1, self.hidden_size)
        if self.pooling == "token":
            first = jnp.broadcast_to(self.class_token.astype(x.dtype), (x.shape[0], 1, self.hidden_size))
            x = jnp.concatenate([first, x], 1)
        x += resize_position_embedding(self.position_embed, grid, antialias=self.antialias).astype(x.dtype)
        x = self.dropout(x, deterministic=not train)
        rates = np.linspace(0, self.stochastic_depth_rate, self.num_layers, dtype=np.float32)

        def call(layer: ViTLayer, x: Array, rate: Array | None) -> tuple[Array, Array]:
            x = layer(x, 0.0 if rate is None else rate, train)
            return x, x

        xs = rates if self.stochastic_depth_rate else None
        return scan_layers(self.layers, call, x, xs, length=self.num_layers, unroll=self.unroll)


def resize_position_embedding(embedding: Array, grid: tuple[int, int], *, antialias: bool = True) -> Array:
    """Returns a position embedding for another grid of patches, by bicubic interpolation.

    Args:
      embedding: (1, T, C) of a square grid, row by row, behind the class token's if there is one.
      grid: rows and columns to be.
      antialias: True averages where the grid shrinks, as timm and Pillow do, with Keys' kernel of a = -0.5; False takes
        the four nearest, with a = -0.75, as DINOv2 and transformers do.

    Returns:
      (1, T', C) in the dtype of `embedding`, which is returned as it is if its grid is that one.

    Raises:
      ShapeError: the embedding isn't that of a square grid.
    """
    length = embedding.shape[1] if embedding.ndim == 3 else 0
    side = int(np.sqrt(length))
    if embedding.ndim != 3 or embedding.shape[0] != 1 or side < 1 or length - side * side > 1:
        raise ShapeError(
            f"embedding: expected shape (1, tokens, channels) with the tokens of a square grid, and at most one more, "
            f"got {tuple(embedding.shape)}"
        )
    if grid == (side, side):
        return embedding
    first, rest = jnp.split(embedding, [length - side * side], axis=1)
    rows, columns = (jnp.asarray(_bicubic(side, size, antialias), embedding.dtype) for size in grid)
    rest = jnp.einsum("ir,jc,rcd->ijd", rows, columns, rest.reshape(side, side, -1))
    return jnp.concatenate([first, rest.reshape(1, grid[0] * grid[1], -1)], 1)


@lru_cache
def _bicubic(size: int, new: int, antialias: bool) -> np.ndarray:
    """The weights (new, size) of the old positions in each new one. Keys (1981), doi:10.1109/TASSP.1981.1163711."""
    a = -0.5 if antialias else -0.75
    stretch = max(1.0, size / new) if antialias else 1.0
    centres = (np.arange(new) + 0.5) * size / new - 0.5
    if antialias:  # positions outside don't count, and the others' weights make up for them
        old = np.arange(size)
        weights = _keys((old[None] - centres[:, None]) / stretch, a)
        return weights / weights.sum(1, keepdims=True)
    weights, nearest = np.zeros((new, size)), np.floor(centres).astype(int)
    for offset in (-1, 0, 1, 2):  # positions outside have the value at the edge
        old = nearest + offset
        np.add.at(weights, (np.arange(new), old.clip(0, size - 1)), _keys(old - centres, a))
    return weights


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


_VIT = "Dosovitskiy et al. (2020), arXiv:2010.11929"
_DEIT = "Touvron et al. (2020), arXiv:2012.12877"
_DINOV2 = "Oquab et al. (2023), arXiv:2304.07193"
_SIZES = {  # hidden size, layers, heads; table 1, and table 1 of DeiT for the two small ones
    "ti": (192, 12, 3),
    "s": (384, 12, 6),
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
    "h": (1280, 32, 16),
}


def _vit(
    size: str, patch: int, parameters: int, year: int, paper: str, preprocessing: Preprocessing, **arguments
) -> Variant:
    hidden_size, layers, heads = _SIZES[size]
    sizes = dict(
        patch_size=patch, hidden_size=hidden_size, num_layers=layers, num_heads=heads, mlp_size=4 * hidden_size
    )
    side = arguments.get("image_size", 224)
    return Variant(ViT, sizes | arguments, images(side, side, 3), parameters, year, paper, preprocessing)


# timm's, for the weights that Google trained; torchvision's own are for ImageNet's normalisation
_GOOGLE = GOOGLENET._replace(resize_size=248, interpolation="bicubic")
_DINO = IMAGENET._replace(resize_size=518, crop_size=518, interpolation="bicubic")

VARIANTS = {
    "vit_ti_16": _vit("ti", 16, 5_717_416, 2020, _DEIT, _GOOGLE),
    "vit_s_16": _vit("s", 16, 22_050_664, 2020, _DEIT, _GOOGLE),
    "vit_b_16": _vit("b", 16, 86_567_656, 2020, _VIT, IMAGENET),
    "vit_b_32": _vit("b", 32, 88_224_232, 2020, _VIT, IMAGENET),
    "vit_l_16": _vit("l", 16, 304_326_632, 2020, _VIT, IMAGENET._replace(resize_size=242)),
    "vit_l_32": _vit("l", 32, 306_535_400, 2020, _VIT, IMAGENET),
    "vit_h_14": _vit("h", 14, 632_045_800, 2020, _VIT, IMAGENET._replace(resize_size=224, interpolation="bicubic")),
    "dinov2_s_14": _vit(
        *("s", 14, 22_056_192, 2023, _DINOV2, _DINO),
        **dict(image_size=518, layer_scale=1e-5, antialias=False, num_classes=0),
    ),
    "vit_tiny": Variant(
        ViT,
        dict(patch_size=4, hidden_size=16, num_layers=2, num_heads=2, mlp_size=32, image_size=8, num_classes=10),
        images(8, 8, 3),
        5_530,
        2020,
        _VIT,
    ),
}
