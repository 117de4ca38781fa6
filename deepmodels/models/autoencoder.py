"""Autoencoders: a code that is small, sparse or robust, learned by giving back what came in.

Rumelhart, Hinton & Williams (1986), doi:10.1038/323533a0; Hinton & Salakhutdinov (2006), doi:10.1126/science.1127647;
Vincent, Larochelle, Bengio & Manzagol (2008), doi:10.1145/1390156.1390294. B batch, H height, W width, C channels.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError, unknown
from deepmodels.layers.checks import check_images
from deepmodels.layers.conv import Conv, ConvTranspose
from deepmodels.models.variant import Variant, images

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "linear": lambda x: x,
}


class Autoencoder(nn.Module):
    """Dense layers down to a code and, mirrored, up to the images again: figure 1 of the paper of 2006.

    The call takes images (B, H, W, C) and returns a dict of "code" (B, code_size), "reconstruction" (B, H, W, C) and,
    where the output is a sigmoid, its "logits" (B, H, W, C). Raises ShapeError if images have another shape than
    `image_shape` and ConfigError if an activation is unknown.

    Attributes:
      hidden_sizes: units of each layer between the images and the code.
      code_size: units of the code.
      activation: of the hidden layers: "sigmoid", "tanh", "relu" or "linear".
      code_activation: of the code, likewise.
      output: of the images: "sigmoid" for pixels in [0, 1], or "linear".
      tied: whether a layer up has the transposed kernel of its layer down, and only a bias of its own.
      image_shape: (H, W, C).
    """

    hidden_sizes: tuple[int, ...] = (256,)
    code_size: int = 32
    activation: str = "relu"
    code_activation: str = "linear"
    output: str = "sigmoid"
    tied: bool = False
    image_shape: tuple[int, int, int] = (28, 28, 1)

    def setup(self) -> None:
        for name in ("activation", "code_activation"):
            if getattr(self, name) not in ACTIVATIONS:
                raise unknown(name, getattr(self, name), ACTIVATIONS)
        _check_output(self.output)
        sizes = (math.prod(self.image_shape), *self.hidden_sizes, self.code_size)
        self.down = [nn.Dense(size, name=f"down{i}") for i, size in enumerate(sizes[1:])]
        if self.tied:
            zeros = nn.initializers.zeros
            self.biases = [self.param(f"up{i}_bias", zeros, (size,), jnp.float32) for i, size in enumerate(sizes[:-1])]
        else:
            self.up = [nn.Dense(size, name=f"up{i}") for i, size in enumerate(sizes[:-1])]

    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        code = self.encode(images)
        return {"code": code, **self.decode(code)}

    def encode(self, images: Array) -> Array:
        """Returns the code (B, code_size) of images (B, H, W, C)."""
        check_images(images, **dict(zip(("height", "width", "channels"), self.image_shape, strict=True)))
        x = images.reshape(images.shape[0], -1)
        for layer in self.down[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return ACTIVATIONS[self.code_activation](self.down[-1](x))

    def decode(self, code: Array) -> dict[str, Array]:
        """Returns the "reconstruction" (B, H, W, C) of a code (B, code_size) and, of a sigmoid, its "logits"."""
        x = code
        for i in reversed(range(len(self.down))):
            if self.tied:
                kernel = self.down[i].variables["params"]["kernel"].astype(x.dtype)
                x = x @ kernel.T + self.biases[i].astype(x.dtype)[None]
            else:
                x = self.up[i](x)
            x = ACTIVATIONS[self.activation](x) if i else x
        return as_output(x.reshape(x.shape[0], *self.image_shape), self.output)


class ConvAutoencoder(nn.Module):
    """Strided convolutions and a dense layer down to a code, a dense layer and transposed convolutions up again.

    Masci, Meier, Ciresan & Schmidhuber (2011), doi:10.1007/978-3-642-21735-7_7, with strides for pooling. Takes,
    returns and raises what `Autoencoder` does; a height and width that the halvings don't divide are a ConfigError.

    Attributes:
      channels: of each convolution, each of which halves the map.
      code_size: units of the code.
      output: of the images: "sigmoid" for pixels in [0, 1], or "linear".
      image_shape: (H, W, C).
    """

    channels: tuple[int, ...] = (16, 32)
    code_size: int = 32
    output: str = "sigmoid"
    image_shape: tuple[int, int, int] = (28, 28, 1)

    def setup(self) -> None:
        _check_output(self.output)
        out = self.image_shape[2]
        self.map_shape = smallest_map(self.channels, self.image_shape)
        self.down = [Conv(c, (4, 4), 2, padding=1, name=f"down{i}") for i, c in enumerate(self.channels)]
        self.code = nn.Dense(self.code_size)
        self.uncode = nn.Dense(math.prod(self.map_shape))
        self.up = [ConvTranspose(c, 4, 2, padding=1, name=f"up{i}") for i, c in enumerate((out, *self.channels[:-1]))]

    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        code = self.encode(images)
        return {"code": code, **self.decode(code)}

    def encode(self, images: Array) -> Array:
        """Returns the code (B, code_size) of images (B, H, W, C)."""
        check_images(images, **dict(zip(("height", "width", "channels"), self.image_shape, strict=True)))
        x = images
        for layer in self.down:
            x = nn.relu(layer(x))
        return self.code(x.reshape(x.shape[0], -1))

    def decode(self, code: Array) -> dict[str, Array]:
        """Returns the "reconstruction" (B, H, W, C) of a code (B, code_size) and, of a sigmoid, its "logits"."""
        x = nn.relu(self.uncode(code)).reshape(code.shape[0], *self.map_shape)
        for i in reversed(range(len(self.channels))):
            x = self.up[i](x)
            x = nn.relu(x) if i else x
        return as_output(x, self.output)


def smallest_map(channels: tuple[int, ...], image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns the shape (H, W, C) of the map after convolutions that halve the images, each with these channels.

    Raises:
      ConfigError: the halvings don't divide height and width.
    """
    height, width, _ = image_shape
    factor = 2 ** len(channels)
    if height % factor or width % factor:
        raise ConfigError(f"image_shape: expected a height and width divisible by {factor}, got {image_shape}")
    return height // factor, width // factor, channels[-1]


def as_output(x: Array, output: str) -> dict[str, Array]:
    """Returns a decoder's last values as "reconstruction", and as "logits" too if the output is a "sigmoid"."""
    return {"reconstruction": x} if output == "linear" else {"reconstruction": jax.nn.sigmoid(x), "logits": x}


def _check_output(output: str) -> None:
    if output not in ("sigmoid", "linear"):
        raise unknown("output", output, ("sigmoid", "linear"))


_1986 = "Rumelhart, Hinton & Williams (1986), doi:10.1038/323533a0"
_2006 = "Hinton & Salakhutdinov (2006), doi:10.1126/science.1127647"
_2008 = "Vincent, Larochelle, Bengio & Manzagol (2008), doi:10.1145/1390156.1390294"
_2011 = "Masci, Meier, Ciresan & Schmidhuber (2011), doi:10.1007/978-3-642-21735-7_7"
_MNIST = images(28, 28, 1)
_DEEP = dict(hidden_sizes=(1000, 500, 250), code_size=30, activation="sigmoid")
_OVERCOMPLETE = dict(hidden_sizes=(), code_size=1000, code_activation="sigmoid", tied=True)
_TINY = dict(hidden_sizes=(16,), code_size=8, image_shape=(8, 8, 1))

VARIANTS = {
    "autoencoder": Variant(Autoencoder, {}, _MNIST, 419_120, 1986, _1986),
    "autoencoder_2006": Variant(Autoencoder, _DEEP, _MNIST, 2_837_314, 2006, _2006),
    "denoising_autoencoder": Variant(Autoencoder, _OVERCOMPLETE, _MNIST, 785_784, 2008, _2008),
    "conv_autoencoder": Variant(ConvAutoencoder, {}, _MNIST, 118_913, 2011, _2011),
    "autoencoder_tiny": Variant(Autoencoder, _TINY, images(8, 8, 1), 2_408, 1986, _1986),
    "conv_autoencoder_tiny": Variant(
        ConvAutoencoder,
        dict(channels=(8, 8), code_size=8, image_shape=(8, 8, 1)),
        images(8, 8, 1),
        2_881,
        2011,
        _2011,
    ),
}
