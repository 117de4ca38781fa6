"""CLIP. Radford et al. (2021), arXiv:2103.00020; larger towers: Cherti et al. (2022), arXiv:2212.07143.

Beside it, its text tower alone, with which Stable Diffusion reads prompts. B batch, T positions, H height, W width,
C channels of a tower, E size of the embeddings that both towers share, V words of the vocabulary.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError, unknown
from deepmodels.layers.attention import Attention
from deepmodels.layers.batch_norm import BatchNorm
from deepmodels.layers.checks import check_images, check_tokens
from deepmodels.layers.conv import Conv
from deepmodels.layers.dense import Dense
from deepmodels.layers.layer_norm import LayerNorm
from deepmodels.layers.pooling import avg_pool
from deepmodels.layers.stack import scan_layers
from deepmodels.models.variant import Variant, images, tokens
from deepmodels.models.vit import resize_position_embedding
from deepmodels.preprocessing import Preprocessing

EPSILON = 1e-5  # of the normalisations
FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0  # section 2.5: of the cosines

normal = nn.initializers.normal


def quick_gelu(x: Array) -> Array:
    """Returns x sigmoid(1.702 x): Hendrycks & Gimpel (2016), arXiv:1606.08415, section 2."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": quick_gelu,  # of the authors' weights
    "gelu": lambda x: nn.gelu(x, approximate=False),  # of those that others have trained
}


class CLIPLayer(nn.Module):
    """Attention and two dense layers, each of what is normalised before, added to what came in.

    Takes (B, T, C) and whether positions see only those before them, and returns (B, T, C).

    Attributes:
      num_heads: of the attention.
      mlp_size: channels between the dense layers.
      activation: a key of `ACTIVATIONS`.
      branches: in the whole tower; the initial weights of what ends one are smaller by the root of this.
    """

    num_heads: int
    mlp_size: int
    activation: str
    branches: int

    @nn.compact
    def __call__(self, x: Array, causal: bool) -> Array:
        size = x.shape[-1]
        inner, last = normal(size**-0.5), normal((size * self.branches) ** -0.5)
        attention = Attention(self.num_heads, size, kernel_init=inner, out_init=last, name="attention")
        x += attention(LayerNorm(EPSILON, name="norm1")(x), causal=causal)
        y = Dense(self.mlp_size, kernel_init=normal((2 * size) ** -0.5), name="dense1")(
            LayerNorm(EPSILON, name="norm2")(x)
        )
        return x + Dense(size, kernel_init=last, name="dense2")(ACTIVATIONS[self.activation](y))


def _run(x: Array, layers: int, heads: int, mlp_size: int | None, activation: str, causal: bool, unroll: int) -> tuple:
    """What the last of a tower's layers gives, and what it was given, both (B, T, C)."""
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    layer = CLIPLayer(heads, mlp_size or 4 * x.shape[-1], activation, 2 * layers, name="layers")

    def call(layer: CLIPLayer, carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        return (layer(carry[0], causal), carry[0]), None

    return scan_layers(layer, call, (x, x), length=layers, unroll=unroll)[0]


class CLIPText(nn.Module):
    """The text tower: each position sees those before it, and the last one stands for the text. Section 2.4.

    The call takes tokens (B, T) int32 and returns a dict of "hidden" (B, T, C), what the last layer gives, normalised;
    "penultimate" (B, T, C), what the one before it gives, as it is; "pooled" (B, C), "hidden" where the text ends; and
    with `embedding_size` "embedding" (B, E), its projection. The layers are one scan, their parameters stacked on a
    leading axis ("layers"). Raises ShapeError if tokens aren't integers (B, T) or are more than the positions, and
    ConfigError if the activation is unknown.

    Attributes:
      vocab_size: V.
      hidden_size: C.
      num_layers: of the tower.
      num_heads: of each attention.
      mlp_size: channels between the dense layers of each layer; by default 4 C.
      max_length: embedded positions.
      embedding_size: E; 0 for a tower without projection.
      activation: a key of `ACTIVATIONS`.
      end_id: the token that ends a text, whose first occurrence counts; by default the largest of each text, which it
        is in CLIP's own vocabulary.
      unroll: layers per step of the scan; changes neither result nor parameters.
    """

    vocab_size: int = 49_408
    hidden_size: int = 512
    num_layers: int = 12
    num_heads: int = 8
    mlp_size: int | None = None
    max_length: int = 77
    embedding_size: int = 512
    activation: str = "quick_gelu"
    end_id: int | None = None
    unroll: int = 1

    @nn.compact
    def __call__(self, tokens: Array, train: bool = False) -> dict[str, Array]:
        check_tokens(tokens, length=self.max_length)
        embed = nn.Embed(self.vocab_size, self.hidden_size, embedding_init=normal(0.02), name="token_embed")
        places = nn.Embed(self.max_length, self.hidden_size, embedding_init=normal(0.01), name="position_embed")
        x = embed(tokens) + places(jnp.arange(tokens.shape[1]))[None]
        sizes = self.num_layers, self.num_heads, self.mlp_size, self.activation
        x, before = _run(x, *sizes, causal=True, unroll=self.unroll)
        x = LayerNorm(EPSILON, name="norm")(x)
        ends = (tokens if self.end_id is None else tokens == self.end_id).argmax(1)
        pooled = jnp.take_along_axis(x, ends[:, None, None], 1)[:, 0]
        outputs = {"hidden": x, "penultimate": before, "pooled": pooled}
        if self.embedding_size:
            outputs["embedding"] = _projection(self.embedding_size, self.hidden_size)(pooled)
        return outputs


def _projection(size: int, channels: int) -> nn.Dense:
    return nn.Dense(size, use_bias=False, kernel_init=normal(channels**-0.5), name="projection")


class CLIPViT(nn.Module):
    """The vision transformer among the image towers: that of Dosovitskiy et al. with one more normalisation at first.

    The call takes images (B, H, W, 3) and returns embeddings (B, E). Height and width may be any multiples of the
    patch: the position embedding is resized to the grid of patches. The layers are one scan, their parameters stacked
    on a leading axis ("layers"). Raises ShapeError and ConfigError as `CLIP` does.

    Attributes:
      patch_size, image_size, hidden_size, num_layers, num_heads, mlp_size, embedding_size, activation, unroll: of the
        tower, see `CLIP`.
    """

    patch_size: int
    image_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int | None
    embedding_size: int
    activation: str
    unroll: int

    @nn.compact
    def __call__(self, images: Array) -> Array:
        patch, size = self.patch_size, self.hidden_size
        if self.image_size % patch:
            raise ConfigError(f"image_size: expected a multiple of the patch, {patch}, got {self.image_size}")
        check_images(images, unit=patch, unit_name="the patch")
        x = Conv(size, (patch, patch), patch, padding=0, use_bias=False, name="patch_embed")(images)
        grid = x.shape[1:3]
        token = self.param("class_token", normal(size**-0.5), (size,), jnp.float32).astype(x.dtype)
        first = jnp.broadcast_to(token[None, None], (x.shape[0], 1, size))
        x = jnp.concatenate([first, x.reshape(x.shape[0], -1, size)], 1)
        positions = 1 + (self.image_size // patch) ** 2
        places = self.param("position_embed", normal(size**-0.5), (positions, size), jnp.float32)
        x += resize_position_embedding(places[None], grid, antialias=False).astype(x.dtype)
        x = LayerNorm(EPSILON, name="norm_first")(x)
        x, _ = _run(x, self.num_layers, self.num_heads, self.mlp_size, self.activation, False, self.unroll)
        return _projection(self.embedding_size, size)(LayerNorm(EPSILON, name="norm")(x[:, 0]))


class CLIPBottleneck(nn.Module):
    """A bottleneck that averages where it strides, as its shortcut does. He et al. (2018), arXiv:1812.01187, ResNet-D.

    Takes (B, H, W, C) and returns (B, H / stride, W / stride, 4 * features).

    Attributes:
      features: a quarter of the channels that are returned.
      stride: of the averages.
    """

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = nn.relu(BatchNorm(name="norm1")(_conv(self.features, 1, name="conv1")(x), train))
        y = nn.relu(BatchNorm(name="norm2")(_conv(self.features, 3, name="conv2")(y), train))
        y = BatchNorm(name="norm3")(_conv(4 * self.features, 1, name="conv3")(_shrink(y, self.stride)), train)
        if self.stride > 1 or x.shape[-1] != 4 * self.features:
            x = _conv(4 * self.features, 1, name="conv_skip")(_shrink(x, self.stride))
            x = BatchNorm(name="norm_skip")(x, train)
        return nn.relu(x + y)


def _conv(features: int, size: int, stride: int = 1, *, name: str) -> Conv:
    return Conv(features, (size, size), stride, padding=size // 2, use_bias=False, name=name)


def _shrink(x: Array, stride: int) -> Array:
    return avg_pool(x, stride, stride) if stride > 1 else x


class CLIPResNet(nn.Module):
    """The ResNet among the image towers: three convolutions at first, averages for strides, attention for the pooling.

    The call takes images (B, H, W, 3) of the size it is made for, as the attention has positions, and returns
    embeddings (B, E). With `train` it normalises by the batch and updates "batch_stats". Raises ShapeError if images
    have another size. Section 2.4.

    Attributes:
      image_size, hidden_size, stage_sizes, num_heads, embedding_size: of the tower, see `CLIP`.
    """

    image_size: int
    hidden_size: int
    stage_sizes: tuple[int, ...]
    num_heads: int
    embedding_size: int

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        check_images(images, height=self.image_size, width=self.image_size)
        x, width = images, self.hidden_size
        for i, (features, stride) in enumerate(((width // 2, 2), (width // 2, 1), (width, 1)), start=1):
            x = nn.relu(BatchNorm(name=f"norm{i}")(_conv(features, 3, stride, name=f"conv{i}")(x), train))
        x = _shrink(x, 2)
        for stage, blocks in enumerate(self.stage_sizes, start=1):
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                x = CLIPBottleneck(2 ** (stage - 1) * width, stride, name=f"stage{stage}_block{block}")(x, train)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = jnp.concatenate([x.mean(1, keepdims=True), x], 1)
        size = x.shape[-1]
        x += self.param("pool_position_embed", normal(size**-0.5), x.shape[1:], jnp.float32).astype(x.dtype)[None]
        pool = Attention(
            self.num_heads, self.embedding_size, size // self.num_heads, kernel_init=normal(size**-0.5), name="pool"
        )
        return pool(x[:, :1], x)[:, 0]


class CLIP(nn.Module):
    """Two towers that learn to give a picture and its caption the same direction: figure 1, and 3 for what is computed.

    The call takes images (B, H, W, 3) and tokens (N, T) int32, and returns a dict of "image_embedding" (B, E) and
    "text_embedding" (N, E), all of length 1, and "scale" (), by which their products are the logits of which belong
    together; see `deepmodels.objectives.image_text_contrastive`. `encode_images` and `encode_text`
    are a tower alone. With `train` a ResNet normalises by the batch and updates "batch_stats".

    Raises ShapeError if images aren't floats (B, H, W, 3) of a size that fits, or tokens not integers (N, T) or more
    than the positions, and ConfigError if an argument doesn't fit.

    Attributes:
      embedding_size: E.
      image_size: pixels of the side of the images that the positions are made for.
      patch_size: pixels of a patch's side; None for a ResNet.
      vision_size: channels of the image tower; of a ResNet after its first three convolutions.
      vision_layers: of the image tower; of a ResNet the blocks of each stage.
      vision_heads: of each attention there; of a ResNet of the one that pools.
      vision_mlp_size: channels between the dense layers of each layer; by default 4 times as many as outside.
      vocab_size: V.
      max_length: embedded positions of a text.
      text_size, text_layers, text_heads, text_mlp_size: likewise of the text tower.
      activation: a key of `ACTIVATIONS`.
      end_id: the token that ends a text, see `CLIPText`.
      unroll: layers per step of the scans; changes neither result nor parameters.
    """

    embedding_size: int = 512
    image_size: int = 224
    patch_size: int | None = 32
    vision_size: int = 768
    vision_layers: int | tuple[int, ...] = 12
    vision_heads: int = 12
    vision_mlp_size: int | None = None
    vocab_size: int = 49_408
    max_length: int = 77
    text_size: int = 512
    text_layers: int = 12
    text_heads: int = 8
    text_mlp_size: int | None = None
    activation: str = "quick_gelu"
    end_id: int | None = None
    unroll: int = 1

    def setup(self) -> None:
        size, heads = self.vision_size, self.vision_heads
        if (self.patch_size is None) != isinstance(self.vision_layers, tuple):
            raise ConfigError(
                f"vision_layers: expected a number of layers with a patch_size, and without one a tuple of the blocks "
                f"of each stage of a ResNet; got {self.vision_layers!r} with patch_size={self.patch_size}"
            )
        if self.patch_size is None:
            self.vision = CLIPResNet(self.image_size, size, self.vision_layers, heads, self.embedding_size)
        else:
            sizes = size, self.vision_layers, heads, self.vision_mlp_size
            rest = self.embedding_size, self.activation, self.unroll
            self.vision = CLIPViT(self.patch_size, self.image_size, *sizes, *rest)
        self.text = CLIPText(
            *(self.vocab_size, self.text_size, self.text_layers, self.text_heads, self.text_mlp_size, self.max_length),
            *(self.embedding_size, self.activation, self.end_id, self.unroll),
        )
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(FIRST_SCALE)), (), jnp.float32)

    def __call__(self, images: Array, tokens: Array, train: bool = False) -> dict[str, Array]:
        # its value is limited, not its gradient, by which it comes down again
        excess = jax.lax.stop_gradient(jnp.maximum(self.logit_scale - math.log(LARGEST_SCALE), 0))
        return {
            "image_embedding": self.encode_images(images, train),
            "text_embedding": self.encode_text(tokens, train),
            "scale": jnp.exp(self.logit_scale - excess).astype(images.dtype),
        }

    def encode_images(self, images: Array, train: bool = False) -> Array:
        """Returns embeddings (B, E) of length 1 of images (B, H, W, 3)."""
        return _unit(self.vision(images, train) if self.patch_size is None else self.vision(images))

    def encode_text(self, tokens: Array, train: bool = False) -> Array:
        """Returns embeddings (N, E) of length 1 of tokens (N, T)."""
        return _unit(self.text(tokens, train)["embedding"])


def _unit(x: Array) -> Array:
    wide = x.astype(jnp.float32 if x.dtype.itemsize < 4 else x.dtype)
    return (wide / jnp.linalg.norm(wide, axis=-1, keepdims=True)).astype(x.dtype)


_CLIP = "Radford et al. (2021), arXiv:2103.00020"
_OPEN_CLIP = "Cherti et al. (2022), arXiv:2212.07143"
_LATENT = "Rombach et al. (2021), arXiv:2112.10752"
_XL = "Podell et al. (2023), arXiv:2307.01952"
_PREPROCESSING = Preprocessing(
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), 224, 224, "bicubic"
)


def _clip(parameters: int, year: int = 2021, paper: str = _CLIP, **arguments) -> Variant:
    side = arguments.get("image_size", 224)
    inputs = images(side, side, 3) | tokens(arguments.get("max_length", 77))
    preprocessing = _PREPROCESSING._replace(resize_size=side, crop_size=side)
    return Variant(CLIP, arguments, inputs, parameters, year, paper, preprocessing)


def _resnet(
    parameters: int, stages: tuple[int, ...], width: int, side: int, embedding_size: int, text_size: int
) -> Variant:
    return _clip(
        parameters, embedding_size=embedding_size, image_size=side, patch_size=None, vision_size=width,
        vision_layers=stages, vision_heads=width // 2, text_size=text_size, text_heads=text_size // 64,
    )  # fmt: skip


def _text(
    parameters: int, year: int, paper: str, size: int, layers: int, embedding_size: int, activation: str
) -> Variant:
    arguments = dict(
        hidden_size=size, num_layers=layers, num_heads=size // 64, embedding_size=embedding_size, activation=activation
    )
    return Variant(CLIPText, arguments, tokens(77), parameters, year, paper)


_LARGE = dict(
    embedding_size=768, patch_size=14, vision_size=1024, vision_layers=24, vision_heads=16, text_size=768,
    text_heads=12,
)  # fmt: skip
_TINY = dict(vocab_size=16, hidden_size=16, num_layers=2, num_heads=2, max_length=8, embedding_size=8)
_TINY_BOTH = dict(
    embedding_size=8, image_size=8, patch_size=4, vision_size=16, vision_layers=2, vision_heads=2, vocab_size=16,
    max_length=8, text_size=16, text_layers=2, text_heads=2,
)  # fmt: skip

VARIANTS = {  # tables 19 and 20
    "clip_vit_b_32": _clip(151_277_313),
    "clip_vit_b_16": _clip(149_620_737, patch_size=16),
    "clip_vit_l_14": _clip(427_616_513, **_LARGE),
    "clip_vit_l_14_336": _clip(427_944_193, **_LARGE, image_size=336),
    "clip_rn50": _resnet(102_007_137, (3, 4, 6, 3), 64, 224, 1024, 512),
    "clip_rn101": _resnet(119_688_033, (3, 4, 23, 3), 64, 224, 512, 512),
    "clip_rn50x4": _resnet(178_300_601, (4, 6, 10, 6), 80, 288, 640, 640),
    "clip_rn50x16": _resnet(290_979_217, (6, 8, 18, 8), 96, 384, 768, 768),
    "clip_rn50x64": _resnet(623_258_305, (3, 15, 36, 10), 128, 448, 1024, 1024),
    "clip_vit_h_14": _clip(
        *(986_109_441, 2022, _OPEN_CLIP),
        **dict(embedding_size=1024, patch_size=14, vision_size=1280, vision_layers=32, vision_heads=16),
        **dict(text_size=1024, text_layers=24, text_heads=16, activation="gelu"),
    ),
    "clip_vit_big_g_14": _clip(
        *(2_539_567_105, 2022, _OPEN_CLIP),
        **dict(embedding_size=1280, patch_size=14, vision_size=1664, vision_layers=48, vision_heads=16),
        **dict(vision_mlp_size=8192, text_size=1280, text_layers=32, text_heads=20, activation="gelu"),
    ),
    "clip_tiny": _clip(14_721, **_TINY_BOTH),
    "clip_rn_tiny": _clip(
        12_875, **_TINY_BOTH | dict(image_size=16, patch_size=None, vision_size=4, vision_layers=(1, 1))
    ),
    # what reads the prompts: in 1.x the tower of clip_vit_l_14; in 2.x that of clip_vit_h_14 without its last layer; in
    # XL, before their last layers, that of 1.x and that of clip_vit_big_g_14, whose embedding it takes too
    "stable_diffusion_1_text": _text(123_060_480, 2021, _LATENT, 768, 12, 0, "quick_gelu"),
    "stable_diffusion_2_text": _text(340_387_840, 2022, _LATENT, 1024, 23, 0, "gelu"),
    "stable_diffusion_xl_text_2": _text(694_659_840, 2023, _XL, 1280, 32, 1280, "gelu"),
    "clip_text_tiny": Variant(CLIPText, _TINY, tokens(8), 7_104, 2021, _CLIP),
}
