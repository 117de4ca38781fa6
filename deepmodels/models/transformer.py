"""The Transformer. Vaswani et al. (2017), arXiv:1706.03762.

B batch, S positions of the source, T positions of the target, C channels, V words of the vocabulary, L layers,
N heads, D size of a head.
"""

import math
from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError
from deepmodels.layers.attention import Attention, decoder_cache, key_mask
from deepmodels.layers.checks import check_mask, check_tokens
from deepmodels.layers.dense import Dense, attend
from deepmodels.layers.layer_norm import LayerNorm
from deepmodels.layers.stack import scan_layers
from deepmodels.models.variant import Variant, tokens

dense = partial(Dense, kernel_init=nn.initializers.xavier_uniform())

Cache = dict[str, Array]


class EncoderLayer(nn.Module):
    """Figure 1, left: attention and two dense layers, each added to what came in and then normalised.

    Takes (B, S, C) and a mask of the positions (B, S) or None, and returns (B, S, C).

    Attributes:
      num_heads: of the attention.
      mlp_size: channels between the dense layers.
      dropout_rate: of both branches.
      attention_bias: whether the attention's projections have biases.
      epsilon: of the normalisations.
    """

    num_heads: int
    mlp_size: int
    dropout_rate: float
    attention_bias: bool
    epsilon: float

    @nn.compact
    def __call__(self, x: Array, mask: Array | None, train: bool) -> Array:
        hidden_size = x.shape[-1]
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")
        attention = Attention(self.num_heads, hidden_size, use_bias=self.attention_bias, name="attention")
        y = attention(x, mask=None if mask is None else key_mask(mask), train=train)
        x = LayerNorm(self.epsilon, name="norm1")(x + dropout(y))
        y = dense(hidden_size, name="dense2")(nn.relu(dense(self.mlp_size, name="dense1")(x)))
        return LayerNorm(self.epsilon, name="norm2")(x + dropout(y))


class DecoderLayer(nn.Module):
    """Figure 1, right: attention to the positions so far, attention to the source, and two dense layers.

    Attributes:
      num_heads: of both attentions.
      hidden_size: C.
      mlp_size: channels between the dense layers.
      dropout_rate: of the branches.
      attention_bias: whether the attentions' projections have biases.
      epsilon: of the normalisations.
    """

    num_heads: int
    hidden_size: int
    mlp_size: int
    dropout_rate: float
    attention_bias: bool
    epsilon: float

    def setup(self) -> None:
        attention = partial(Attention, self.num_heads, self.hidden_size, use_bias=self.attention_bias)
        self.attention, self.cross_attention = attention(), attention()
        self.dense1, self.dense2 = dense(self.mlp_size), dense(self.hidden_size)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(self.epsilon) for _ in range(3))
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(self, x: Array, memory: Array, mask: Array | None, target_mask: Array | None, train: bool) -> Array:
        """Takes (B, T, C), the encoder's output (B, S, C), masks of both or None, and returns (B, T, C)."""
        y = self.attention(x, mask=None if target_mask is None else key_mask(target_mask), causal=True, train=train)
        mask = None if mask is None else key_mask(mask)
        return self._rest(x, y, lambda x: self.cross_attention(x, memory, mask=mask, train=train), train)

    def memory(self, memory: Array) -> tuple[Array, Array]:
        """Returns keys and values (B, S, N, D) of the encoder's output (B, S, C)."""
        return self.cross_attention.keys_and_values(memory)

    def step(self, x: Array, kept: tuple[Array, ...], mask: Array, position: Array) -> tuple[Array, tuple]:
        """Takes one position (B, 1, C) and what is kept of the others, and returns both anew."""
        keys, values, memory_keys, memory_values = kept
        y, keys, values = self.attention.step(x, keys, values, position)

        def cross(x: Array) -> Array:
            return self.cross_attention.attend(x, memory_keys, memory_values, mask=key_mask(mask))

        return self._rest(x, y, cross, train=False), (keys, values)

    def _rest(self, x: Array, y: Array, cross: Callable[[Array], Array], train: bool) -> Array:
        dropout = partial(self.dropout, deterministic=not train)
        x = self.norm1(x + dropout(y))
        x = self.norm2(x + dropout(cross(x)))
        return self.norm3(x + dropout(self.dense2(nn.relu(self.dense1(x)))))


class Encoder(nn.Module):
    """The layers of the encoder as one scan.

    Attributes:
      num_layers: of the stack.
      layer: arguments of `EncoderLayer`.
      unroll: layers per step of the scan.
    """

    num_layers: int
    layer: dict
    unroll: int

    @nn.compact
    def __call__(self, x: Array, mask: Array | None, train: bool) -> Array:
        def call(layer: EncoderLayer, x: Array, _: None) -> tuple[Array, None]:
            return layer(x, mask, train), None

        layer = EncoderLayer(**self.layer, name="layers")
        return scan_layers(layer, call, x, length=self.num_layers, unroll=self.unroll)[0]


class Decoder(nn.Module):
    """The layers of the decoder as one scan.

    Attributes:
      num_layers: of the stack.
      layer: arguments of `DecoderLayer`.
      unroll: layers per step of the scan.
    """

    num_layers: int
    layer: dict
    unroll: int

    def setup(self) -> None:
        self.layers = DecoderLayer(**self.layer)
        self.scan = partial(scan_layers, self.layers, length=self.num_layers, unroll=self.unroll)

    def __call__(self, x: Array, memory: Array, mask: Array | None, target_mask: Array | None, train: bool) -> Array:
        """See `DecoderLayer`."""
        return self.scan(lambda layer, x, _: (layer(x, memory, mask, target_mask, train), None), x)[0]

    def memory(self, memory: Array) -> tuple[Array, Array]:
        """Returns keys and values (B, L, S, N, D) of the encoder's output (B, S, C)."""
        return self.scan(lambda layer, memory, _: (memory, layer.memory(memory)), memory, axis=1)[1]

    def step(self, x: Array, kept: tuple[Array, ...], mask: Array, position: Array) -> tuple[Array, tuple]:
        """See `DecoderLayer`; what is kept has the layers on its second axis."""
        return self.scan(lambda layer, x, kept: layer.step(x, kept, mask, position), x, kept, axis=1)


class Transformer(nn.Module):
    """The network of figure 1: the normalisations come after the additions, and one matrix embeds source and target
    and gives the logits.

    The call takes tokens (B, S) and targets (B, T) int32, the latter as the decoder reads them: behind a start token,
    shifted by one. `mask` (B, S) and `target_mask` (B, T) are bools, True where a position holds a token. It returns
    logits (B, T, V), of the word that follows each position. With `train` it drops values at random, by the "dropout"
    stream. Raises ShapeError if tokens or targets aren't integers of two axes or a mask doesn't fit.

    To write a text: `memory = encode(tokens, mask)`, `cache = start(memory, mask, length=...)`, and then
    `logits, cache = step(tokens, cache)` for each position.

    The layers are scanned, their parameters stacked on a leading axis ("encoder/layers", "decoder/layers").

    Attributes:
      vocab_size: V.
      hidden_size: C.
      num_layers: L, of the encoder and of the decoder.
      num_heads: N.
      mlp_size: channels between the dense layers of each layer.
      dropout_rate: of the embeddings and of each branch.
      attention_bias: whether the attentions' projections have biases, as later implementations do.
      epsilon: of the normalisations.
      unroll: layers per step of the scan; changes neither result nor parameters.
    """

    vocab_size: int = 37_000
    hidden_size: int = 512
    num_layers: int = 6
    num_heads: int = 8
    mlp_size: int = 2048
    dropout_rate: float = 0.1
    attention_bias: bool = False
    epsilon: float = 1e-6
    unroll: int = 1

    def setup(self) -> None:
        if self.hidden_size % 2:
            raise ConfigError(
                f"hidden_size: expected an even number, half sines and half cosines, got {self.hidden_size}"
            )
        init = nn.initializers.normal(self.hidden_size**-0.5)  # of one, after the scaling of section 3.4
        self.token_embed = nn.Embed(self.vocab_size, self.hidden_size, embedding_init=init)
        layer = dict(
            num_heads=self.num_heads,
            mlp_size=self.mlp_size,
            dropout_rate=self.dropout_rate,
            attention_bias=self.attention_bias,
            epsilon=self.epsilon,
        )
        self.encoder = Encoder(self.num_layers, layer, self.unroll)
        self.decoder = Decoder(self.num_layers, layer | {"hidden_size": self.hidden_size}, self.unroll)
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(
        self,
        tokens: Array,
        targets: Array,
        mask: Array | None = None,
        target_mask: Array | None = None,
        train: bool = False,
    ) -> Array:
        memory = self.encode(tokens, mask, train)
        return self.decode(targets, memory, mask, target_mask, train)

    def encode(self, tokens: Array, mask: Array | None = None, train: bool = False) -> Array:
        """Returns the encoder's output (B, S, C)."""
        check_tokens(tokens)
        check_mask(mask, tokens)
        return self.encoder(self._embed(tokens, train), mask, train)

    def decode(
        self,
        targets: Array,
        memory: Array,
        mask: Array | None = None,
        target_mask: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Returns logits (B, T, V) from targets (B, T) and the encoder's output (B, S, C), of which `mask` is."""
        check_tokens(targets, name="targets")
        check_mask(target_mask, targets, name="target_mask")
        x = self.decoder(self._embed(targets, train), memory, mask, target_mask, train)
        return attend(self.token_embed, x)

    def start(self, memory: Array, mask: Array | None = None, *, length: int) -> Cache:
        """Returns what `step` begins with, see `deepmodels.layers.attention.decoder_cache`.

        Args:
          memory: the encoder's output (B, S, C).
          mask: of the source, (B, S).
          length: positions that will be written at most.
        """
        return decoder_cache(*self.decoder.memory(memory), mask, length)

    def step(self, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
        """Returns logits (B, V) of what follows tokens (B,), each the next of its text, and the cache behind them.

        It is what `decode` returns for the same texts at that position.
        """
        kept = tuple(cache[name] for name in ("keys", "values", "memory_keys", "memory_values"))
        position = cache["position"]
        table = sinusoids(cache["keys"].shape[2], self.hidden_size)
        x = self._scaled(tokens) + jnp.asarray(table, kept[0].dtype)[position]
        x, (keys, values) = self.decoder.step(x[:, None], kept, cache["memory_mask"], position)
        logits = attend(self.token_embed, x[:, 0])
        return logits, cache | {"position": position + 1, "keys": keys, "values": values}

    def _embed(self, tokens: Array, train: bool) -> Array:
        x = self._scaled(tokens)
        x += jnp.asarray(sinusoids(tokens.shape[1], self.hidden_size), x.dtype)[None]
        return self.dropout(x, deterministic=not train)

    def _scaled(self, tokens: Array) -> Array:
        return self.token_embed(tokens) * math.sqrt(self.hidden_size)


def sinusoids(length: int, channels: int) -> np.ndarray:
    """Returns the encoding of positions (length, channels), section 3.5: sines and cosines in turn, float64."""
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, channels, 2) / channels)
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(length, channels)


_PAPER = "Vaswani et al. (2017), arXiv:1706.03762"

VARIANTS = {  # table 3, with the 37,000 words of English and German
    "transformer_base": Variant(Transformer, {}, tokens(128, 128), 63_045_632, 2017, _PAPER),
    "transformer_big": Variant(
        Transformer,
        dict(hidden_size=1024, num_heads=16, mlp_size=4096, dropout_rate=0.3),
        tokens(128, 128),
        214_171_648,
        2017,
        _PAPER,
    ),
    "transformer_tiny": Variant(
        Transformer,
        dict(vocab_size=32, hidden_size=16, num_layers=2, num_heads=2, mlp_size=32, dropout_rate=0.0),
        tokens(6, 5),
        11_264,
        2017,
        _PAPER,
    ),
}
