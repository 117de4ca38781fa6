"""T5. Raffel et al. (2019), arXiv:1910.10683; 1.1 with the gated layers of Shazeer (2020), arXiv:2002.05202.

B batch, S positions of the source, T positions of the target, C channels, V words of the vocabulary, L layers,
N heads, D size of a head.
"""

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
from deepmodels.layers.rms_norm import RMSNorm
from deepmodels.layers.stack import scan_layers
from deepmodels.models.variant import Variant, tokens

Cache = dict[str, Array]

fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class RelativePosition(nn.Module):
    """The bias of attention by the distance of key and query, section 2.1: one number for each bucket and head.

    Attributes:
      num_heads: N.
      bidirectional: whether keys after the query have buckets of their own.
      num_buckets: half of them for each direction if there are two; half of those for one distance each, the others
        for distances that grow by a factor.
      max_distance: from which on all are in the last bucket.
    """

    num_heads: int
    bidirectional: bool
    num_buckets: int = 32
    max_distance: int = 128

    def setup(self) -> None:
        self.embed = nn.Embed(self.num_buckets, self.num_heads, embedding_init=fan_in)

    def __call__(self, queries: int, keys: int) -> Array:
        """Returns the bias (1, N, queries, keys)."""
        distance = jnp.arange(keys)[None] - jnp.arange(queries)[:, None]
        return self.embed(self._buckets(distance)).transpose(2, 0, 1)[None]

    def at(self, position: Array, keys: int) -> Array:
        """Returns the bias (B, N, 1, keys) of a query at each position (B,)."""
        distance = jnp.arange(keys, dtype=position.dtype)[None] - position[:, None]
        return self.embed(self._buckets(distance)).transpose(0, 2, 1)[:, :, None]

    def _buckets(self, distance: Array) -> Array:
        far = self.max_distance  # from which on all share a bucket
        table = buckets(far + 1, 2 * far + 1, self.bidirectional, self.num_buckets, far)[far]
        return jnp.asarray(table)[jnp.clip(distance, -far, far) + far]


def buckets(queries: int, keys: int, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128) -> np.ndarray:
    """Returns the bucket of each key's distance from each query, (queries, keys) int32; see `RelativePosition`."""
    distance = np.arange(keys)[None] - np.arange(queries)[:, None]
    first = 0
    if bidirectional:
        num_buckets //= 2
        first = np.where(distance > 0, num_buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = num_buckets // 2
    # in float32, as the authors' code has it: it decides on which side of a border a distance falls
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        np.log(max_distance / exact)
    )
    far = exact + (ratio * np.float32(num_buckets - exact)).astype(np.int32)
    return (first + np.where(distance < exact, distance, np.minimum(far, num_buckets - 1))).astype(np.int32)


class T5Layer(nn.Module):
    """A layer: attention, in a decoder attention to the source, and dense layers, each of what is normalised before.

    Attributes:
      num_heads: N.
      hidden_size: C.
      head_size: D.
      mlp_size: channels between the dense layers.
      dropout_rate: of the branches, between the dense layers, and of the attention's weights.
      gated: whether what is between the dense layers is gelu(x W0) * (x W1), as in 1.1, or relu(x W).
      epsilon: of the normalisations.
      decodes: whether it is a decoder's.
    """

    num_heads: int
    hidden_size: int
    head_size: int
    mlp_size: int
    dropout_rate: float
    gated: bool
    epsilon: float
    decodes: bool

    def setup(self) -> None:
        # without a factor for the products: it is in the initial queries
        attention = partial(
            Attention, self.num_heads, self.hidden_size, self.head_size, use_bias=False, scale=1.0,
            dropout_rate=self.dropout_rate, kernel_init=fan_in,
            query_init=nn.initializers.variance_scaling(1 / self.head_size, "fan_in", "normal"),
        )  # fmt: skip
        dense = partial(Dense, use_bias=False, kernel_init=fan_in)
        self.attention = attention()
        if self.decodes:
            self.cross_attention = attention()
        if self.gated:
            self.wi_0, self.wi_1 = dense(self.mlp_size), dense(self.mlp_size)
        else:
            self.wi = dense(self.mlp_size)
        self.wo = dense(self.hidden_size)
        self.norm1, self.norm2, self.norm3 = (RMSNorm(self.epsilon) for _ in range(3))
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(
        self,
        x: Array,
        bias: Array,
        memory: Array | None,
        mask: Array | None,
        target_mask: Array | None,
        train: bool,
    ) -> Array:
        """Takes (B, T, C), the bias of the positions, a decoder also the encoder's output (B, S, C), and masks."""
        own = None if target_mask is None else key_mask(target_mask)
        y = self.attention(self.norm1(x), mask=own, bias=bias, causal=self.decodes, train=train)
        other = None if mask is None else key_mask(mask)
        return self._rest(x, y, lambda x: self.cross_attention(x, memory, mask=other, train=train), train)

    def memory(self, memory: Array) -> tuple[Array, Array]:
        """Returns keys and values (B, S, N, D) of the encoder's output (B, S, C)."""
        return self.cross_attention.keys_and_values(memory)

    def step(self, x: Array, bias: Array, kept: tuple[Array, ...], mask: Array, position: Array) -> tuple[Array, tuple]:
        """Takes one position (B, 1, C) and what is kept of the others, and returns both anew."""
        keys, values, memory_keys, memory_values = kept
        y, keys, values = self.attention.step(self.norm1(x), keys, values, position, bias)

        def cross(x: Array) -> Array:
            return self.cross_attention.attend(x, memory_keys, memory_values, mask=key_mask(mask))

        return self._rest(x, y, cross, train=False), (keys, values)

    def _rest(self, x: Array, y: Array, cross: Callable[[Array], Array], train: bool) -> Array:
        dropout = partial(self.dropout, deterministic=not train)
        x += dropout(y)
        if self.decodes:
            x += dropout(cross(self.norm2(x)))
        y = (self.norm3 if self.decodes else self.norm2)(x)
        y = nn.gelu(self.wi_0(y)) * self.wi_1(y) if self.gated else nn.relu(self.wi(y))
        return x + dropout(self.wo(dropout(y)))


class T5Stack(nn.Module):
    """The encoder or the decoder: the bias of the positions, the layers as one scan, a normalisation.

    Attributes:
      num_layers: L.
      layer: arguments of `T5Layer`.
      num_buckets: of `RelativePosition`.
      max_distance: likewise.
      unroll: layers per step of the scan.
    """

    num_layers: int
    layer: dict
    num_buckets: int
    max_distance: int
    unroll: int

    def setup(self) -> None:
        heads, decodes = self.layer["num_heads"], self.layer["decodes"]
        self.relative_position = RelativePosition(heads, not decodes, self.num_buckets, self.max_distance)
        self.layers = T5Layer(**self.layer)
        self.norm = RMSNorm(self.layer["epsilon"])
        self.dropout = nn.Dropout(self.layer["dropout_rate"])
        self.scan = partial(scan_layers, self.layers, length=self.num_layers, unroll=self.unroll)

    def __call__(
        self, x: Array, own_mask: Array | None, train: bool, memory: Array | None = None, mask: Array | None = None
    ) -> Array:
        """Takes (B, T, C) and its mask, a decoder also the encoder's output (B, S, C) and its mask."""
        bias = self.relative_position(x.shape[1], x.shape[1])
        x = self.dropout(x, deterministic=not train)
        x, _ = self.scan(lambda layer, x, _: (layer(x, bias, memory, mask, own_mask, train), None), x)
        return self.dropout(self.norm(x), deterministic=not train)

    def memory(self, memory: Array) -> tuple[Array, Array]:
        """Returns keys and values (B, L, S, N, D) of the encoder's output (B, S, C)."""
        return self.scan(lambda layer, memory, _: (memory, layer.memory(memory)), memory, axis=1)[1]

    def step(self, x: Array, kept: tuple[Array, ...], mask: Array, position: Array) -> tuple[Array, tuple]:
        """See `T5Layer`; what is kept has the layers on its second axis."""
        bias = self.relative_position.at(position, kept[0].shape[2])
        x, kept = self.scan(lambda layer, x, kept: layer.step(x, bias, kept, mask, position), x, kept, axis=1)
        return self.norm(x), kept


class T5(nn.Module):
    """The encoder and decoder of section 2.1.

    The call takes tokens (B, S) and targets (B, T) int32, the latter as the decoder reads them: behind a start token,
    which is the padding's, shifted by one. `mask` (B, S) and `target_mask` (B, T) are bools, True where a position
    holds a token. It returns logits (B, T, V), of the word that follows each position. With `train` it drops values at
    random, by the "dropout" stream. Raises ShapeError if tokens or targets aren't integers of two axes or a mask
    doesn't fit.

    To write a text: `memory = encode(tokens, mask)`, `cache = start(memory, mask, length=...)`, and then
    `logits, cache = step(tokens, cache)` for each position.

    The layers are scanned, their parameters stacked on a leading axis ("encoder/layers", "decoder/layers").

    Attributes:
      vocab_size: V.
      hidden_size: C.
      num_layers: L, of the encoder.
      num_heads: N.
      mlp_size: channels between the dense layers of each layer.
      head_size: D.
      num_decoder_layers: of the decoder; by default as many as of the encoder.
      gated: False for 1.0, whose dense layers have a ReLU between them and whose embedding also gives the logits; True
        for 1.1, with gated layers and a matrix of its own for the logits ("head").
      tied: whether the embedding also gives the logits; by default where the layers aren't gated.
      dropout_rate: of embeddings, branches, what the stacks return, and attention weights; 1.1 was trained without.
      num_buckets: see `RelativePosition`.
      max_distance: likewise.
      epsilon: of the normalisations.
      unroll: layers per step of the scan; changes neither result nor parameters.
    """

    vocab_size: int = 32_128
    hidden_size: int = 512
    num_layers: int = 6
    num_heads: int = 8
    mlp_size: int = 2048
    head_size: int = 64
    num_decoder_layers: int | None = None
    gated: bool = False
    tied: bool | None = None
    dropout_rate: float = 0.1
    num_buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6
    unroll: int = 1

    def setup(self) -> None:
        if self.num_buckets < 4 or self.num_buckets % 4:
            raise ConfigError(f"num_buckets: expected a multiple of 4, got {self.num_buckets}")
        self.token_embed = nn.Embed(self.vocab_size, self.hidden_size, embedding_init=nn.initializers.normal(1.0))
        layer = dict(
            num_heads=self.num_heads,
            hidden_size=self.hidden_size,
            head_size=self.head_size,
            mlp_size=self.mlp_size,
            dropout_rate=self.dropout_rate,
            gated=self.gated,
            epsilon=self.epsilon,
        )
        stack = partial(T5Stack, num_buckets=self.num_buckets, max_distance=self.max_distance, unroll=self.unroll)
        self.encoder = stack(self.num_layers, layer | {"decodes": False})
        self.decoder = stack(self.num_decoder_layers or self.num_layers, layer | {"decodes": True})
        if not self._tied:
            self.head = Dense(self.vocab_size, use_bias=False, kernel_init=fan_in)

    @property
    def _tied(self) -> bool:
        return not self.gated if self.tied is None else self.tied

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
        return self.encoder(self.token_embed(tokens), mask, train)

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
        return self._logits(self.decoder(self.token_embed(targets), target_mask, train, memory, mask))

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
        x = self.token_embed(tokens)[:, None]
        x, (keys, values) = self.decoder.step(x, kept, cache["memory_mask"], position)
        return self._logits(x[:, 0]), cache | {"position": position + 1, "keys": keys, "values": values}

    def _logits(self, x: Array) -> Array:
        if not self._tied:
            return self.head(x)
        return attend(self.token_embed, x * self.hidden_size**-0.5)


_2019 = "Raffel et al. (2019), arXiv:1910.10683"
_2020 = "Shazeer (2020), arXiv:2002.05202"


def _t5(size: int, layers: int, heads: int, mlp_size: int, parameters: int, head_size: int = 64) -> Variant:
    arguments = dict(hidden_size=size, num_layers=layers, num_heads=heads, mlp_size=mlp_size, head_size=head_size)
    return Variant(T5, arguments, tokens(512, 512), parameters, 2019, _2019)


def _v1_1(size: int, layers: int, heads: int, mlp_size: int, parameters: int) -> Variant:
    arguments = dict(hidden_size=size, num_layers=layers, num_heads=heads, mlp_size=mlp_size, gated=True)
    return Variant(T5, arguments, tokens(512, 512), parameters, 2020, _2020)


VARIANTS = {  # section 3.7, "model size", and the authors' table of released checkpoints for 1.1
    "t5_small": _t5(512, 6, 8, 2048, 60_506_624),
    "t5_base": _t5(768, 12, 12, 3072, 222_903_552),
    "t5_large": _t5(1024, 24, 16, 4096, 737_668_096),
    "t5_3b": _t5(1024, 24, 32, 16_384, 2_851_598_336, head_size=128),
    "t5_11b": _t5(1024, 24, 128, 65_536, 11_307_321_344, head_size=128),
    "t5_v1_1_small": _v1_1(512, 8, 6, 1024, 76_961_152),
    "t5_v1_1_base": _v1_1(768, 12, 12, 2048, 247_577_856),
    "t5_v1_1_large": _v1_1(1024, 24, 16, 2816, 783_150_080),
    "t5_v1_1_xl": _v1_1(2048, 24, 32, 5120, 2_849_757_184),
    "t5_v1_1_xxl": _v1_1(4096, 24, 64, 10_240, 11_135_332_352),
    "t5_tiny": Variant(
        T5,
        dict(vocab_size=32, hidden_size=16, num_layers=2, num_heads=2, mlp_size=32, head_size=8, dropout_rate=0.0),
        tokens(6, 5),
        11_072,
        2019,
        _2019,
    ),
}
