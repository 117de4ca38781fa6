"""GPT-1, 2 and 3: Radford et al. (2018) and (2019), Brown et al. (2020), arXiv:2005.14165.

B batch, T positions, C channels, V words of the vocabulary, L layers, N heads, D size of a head.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError
from deepmodels.layers import cache as kept
from deepmodels.layers.attention import Attention
from deepmodels.layers.causal import text_positions, visible
from deepmodels.layers.checks import check_mask, check_tokens
from deepmodels.layers.layer_norm import LayerNorm
from deepmodels.layers.stack import scan_layers
from deepmodels.layers.unembedding import Unprojected
from deepmodels.models.variant import Variant, tokens

normal = nn.initializers.normal


class GPTLayer(nn.Module):
    """A layer: attention to what came before and two dense layers, each added to what came in.

    Attributes:
      num_heads: N.
      hidden_size: C.
      mlp_size: channels between the dense layers.
      dropout_rate: of both branches and of the attention's weights.
      epsilon: of the normalisations.
      post_norm: whether sums are normalised, as in GPT-1, or what enters a branch.
      branches: in the whole model; the initial weights of what ends one are smaller by the root of this, section 2.3 of
        GPT-2; 1 for GPT-1, where they aren't.
      window: positions that one sees, itself included; None for all before it.
    """

    num_heads: int
    hidden_size: int
    mlp_size: int
    dropout_rate: float
    epsilon: float
    post_norm: bool
    branches: int
    window: int | None = None

    def setup(self) -> None:
        last = normal(0.02 / self.branches**0.5)
        self.attention = Attention(
            self.num_heads,
            self.hidden_size,
            dropout_rate=self.dropout_rate,
            kernel_init=normal(0.02),
            out_init=last,
        )
        self.dense1 = nn.Dense(self.mlp_size, kernel_init=normal(0.02))
        self.dense2 = nn.Dense(self.hidden_size, kernel_init=last)
        self.norm1, self.norm2 = LayerNorm(self.epsilon), LayerNorm(self.epsilon)
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(self, x: Array, mask: Array | None, documents: Array | None, train: bool) -> Array:
        """Takes (B, T, C), and the mask and the documents of the tokens, (B, T) or None, and returns (B, T, C)."""
        seen = visible(x[..., 0], mask, documents, self.window)
        return self._rest(x, lambda y: self.attention(y, mask=seen, causal=True, train=train), train)

    def extend(self, x: Array, buffers: kept.Buffers, number: Array, plan: kept.Plan) -> tuple[Array, kept.Buffers]:
        """Takes new positions (B, T, C) and what is kept of those before them, and returns both anew."""

        def attend(y: Array) -> Array:
            nonlocal buffers
            key, value = self.attention.keys_and_values(y)
            buffers, held = kept.extend(buffers, number, {"keys": key, "values": value}, plan)
            return self.attention.attend(y, held["keys"], held["values"], mask=plan.mask)

        return self._rest(x, attend, train=False), buffers

    def _rest(self, x: Array, attend, train: bool) -> Array:
        dropout = partial(self.dropout, deterministic=not train)

        def dense(y: Array) -> Array:
            return self.dense2(nn.gelu(self.dense1(y)))  # by tanh, as all three have it

        if self.post_norm:
            x = self.norm1(x + dropout(attend(x)))
            return self.norm2(x + dropout(dense(x)))
        x += dropout(attend(self.norm1(x)))
        return x + dropout(dense(self.norm2(x)))


class GPTPair(nn.Module):
    """Two layers: in the first a position sees all before it, in the second a band of those right before it.

    Attributes:
      layer: arguments of `GPTLayer`.
      window: of the second one.
    """

    layer: dict
    window: int

    def setup(self) -> None:
        self.dense, self.banded = GPTLayer(**self.layer), GPTLayer(**self.layer, window=self.window)

    def __call__(self, x: Array, mask: Array | None, documents: Array | None, train: bool) -> Array:
        """See `GPTLayer`."""
        return self.banded(self.dense(x, mask, documents, train), mask, documents, train)

    def extend(
        self, x: Array, buffers: dict[str, kept.Buffers], number: Array, plans: dict[str, kept.Plan]
    ) -> tuple[Array, dict[str, kept.Buffers]]:
        """See `GPTLayer`; buffers and plans are those of "dense" and of "banded" layers."""
        x, dense = self.dense.extend(x, buffers["dense"], number, plans["dense"])
        x, banded = self.banded.extend(x, buffers["banded"], number, plans["banded"])
        return x, {"dense": dense, "banded": banded}


class GPT(nn.Module):
    """A decoder without encoder, which gives the next word.

    The call takes tokens (B, T) int32 and returns logits (B, T, V) of the word that follows each, or with
    `project=False` an `Unprojected`. `mask` (B, T) of bools is True where a token is; `documents` (B, T) integers:
    tokens see only those of their own number, and positions restart in each; `positions` (B, T) int32 are counted by
    `deepmodels.layers.causal.text_positions` if not given. With `train` it drops values at random, by the "dropout"
    stream. Raises ShapeError if tokens aren't integers (B, T), are more than the positions, or the others don't fit
    them.

    To write a text: `cache = start(batch_size, length)`, `logits, cache = extend(tokens, cache)` for the prompt, and
    then `logits, cache = step(tokens, cache)` for each token; see `deepmodels.sampling`.

    The layers are one scan, their parameters stacked on a leading axis ("layers"); with a window two by two ("dense"
    and "banded" in "layers").

    Attributes:
      vocab_size: V.
      hidden_size: C.
      num_layers: L.
      num_heads: N.
      mlp_size: channels between the dense layers of each layer; by default 4 C.
      max_length: embedded positions.
      window: None, or the width of the band of each second layer, as in GPT-3; L is even then.
      post_norm: whether sums are normalised, as in GPT-1, or what enters a branch and what leaves the last one.
      dropout_rate: of embeddings, branches and attention weights.
      epsilon: of the normalisations.
      unroll: layers, or pairs of them, per step of the scan; changes neither result nor parameters.
      remat: what the backward pass finds of each layer, see `deepmodels.layers.stack.REMAT`.
    """

    vocab_size: int = 50_257
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_size: int | None = None
    max_length: int = 1024
    window: int | None = None
    post_norm: bool = False
    dropout_rate: float = 0.1
    epsilon: float = 1e-5
    unroll: int = 1
    remat: str | None = None

    def setup(self) -> None:
        self.token_embed = nn.Embed(self.vocab_size, self.hidden_size, embedding_init=normal(0.02))
        self.position_embed = nn.Embed(
            self.max_length, self.hidden_size, embedding_init=normal(0.02 if self.post_norm else 0.01)
        )
        layer = dict(
            num_heads=self.num_heads,
            hidden_size=self.hidden_size,
            mlp_size=self.mlp_size or 4 * self.hidden_size,
            dropout_rate=self.dropout_rate,
            epsilon=self.epsilon,
            post_norm=self.post_norm,
            branches=1 if self.post_norm else 2 * self.num_layers,
        )
        if self.window is None:
            self.layers = GPTLayer(**layer)
        elif self.num_layers % 2 or self.window < 1:
            raise ConfigError(
                f"num_layers, window: expected an even number and a positive one, got {self.num_layers}, {self.window}"
            )
        else:
            self.layers = GPTPair(layer, self.window)
        if not self.post_norm:
            self.norm = LayerNorm(self.epsilon)
        self.dropout = nn.Dropout(self.dropout_rate)

    @property
    def _steps(self) -> int:
        return self.num_layers if self.window is None else self.num_layers // 2

    def __call__(
        self,
        tokens: Array,
        mask: Array | None = None,
        documents: Array | None = None,
        positions: Array | None = None,
        train: bool = False,
        *,
        project: bool = True,
    ) -> Array | Unprojected:
        check_tokens(tokens, length=self.max_length)
        check_mask(mask, tokens)
        if positions is None:
            positions = text_positions(tokens, mask, documents)
        x = self.dropout(self.token_embed(tokens) + self.position_embed(positions), deterministic=not train)
        x, _ = self._scan(lambda layer, x, _: (layer(x, mask, documents, train), None), x)
        unprojected = self._unprojected(x)
        return unprojected.logits() if project else unprojected

    def start(
        self, batch_size: int, length: int, dtype: jnp.dtype = jnp.float32, *, quantized: bool = False
    ) -> dict[str, Array]:
        """Returns what `extend` begins with: nothing kept, and room for `length` tokens of each row.

        It needs no parameters: `GPT(...).start(...)`. See `deepmodels.layers.cache.make`.

        Args:
          batch_size: B.
          length: tokens of a row at most, prompt included.
          dtype: of the keys and values.
          quantized: whether they are kept in int8.

        Raises:
          ConfigError: there aren't as many embedded positions.
        """
        if length > self.max_length:
            raise ConfigError(f"length: expected at most {self.max_length} positions, got {length}")

        def make(window: int | None) -> kept.Buffers:
            entries = dict.fromkeys(("keys", "values"), (self.num_heads, self.hidden_size // self.num_heads))
            return kept.make(batch_size, self._steps, length, entries, dtype, window=window, quantized=quantized)

        buffers = make(None) if self.window is None else {"dense": make(None), "banded": make(self.window)}
        return {"position": jnp.zeros(batch_size, jnp.int32), **buffers}

    def extend(
        self, tokens: Array, cache: dict[str, Array], lengths: Array | None = None, last: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        """Appends tokens to each row.

        Args:
          tokens: (B, T) int32.
          cache: of `start`, or of the last call.
          lengths: how many of each row's are real, (B,) int32; what is behind them is padding and changes nothing.
          last: whether only what follows the last real token of each row is wanted.

        Returns:
          Logits (B, V), or of all tokens (B, T, V), and the cache with the tokens.
        """
        check_tokens(tokens)
        position, buffers = cache["position"], {name: x for name, x in cache.items() if name != "position"}
        count = tokens.shape[1]
        if self.window is None:
            plan = kept.plan(buffers, position, count, lengths)
        else:
            windows = {"dense": None, "banded": self.window}
            plan = {name: kept.plan(buffers[name], position, count, lengths, w) for name, w in windows.items()}
        lengths = jnp.full_like(position, count) if lengths is None else lengths
        positions = position[:, None] + jnp.arange(count, dtype=jnp.int32)[None]
        x = self.token_embed(tokens) + self.position_embed(jnp.minimum(positions, self.max_length - 1))

        def call(layer: GPTLayer | GPTPair, carry: tuple, number: Array) -> tuple[tuple, None]:
            return layer.extend(*carry, number, plan), None

        numbers = jnp.arange(self._steps, dtype=jnp.int32)
        (x, buffers), _ = self._scan(call, (x, buffers), numbers)
        if last:
            x = jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)
        logits = self._unprojected(x).logits()
        return logits[:, 0] if last else logits, {"position": position + lengths, **buffers}

    def step(self, tokens: Array, cache: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Returns logits (B, V) of what follows tokens (B,), each the next of its row, and the cache with them."""
        return self.extend(tokens[:, None], cache)

    def _scan(self, call, carry, xs=None):
        return scan_layers(self.layers, call, carry, xs, length=self._steps, unroll=self.unroll, remat=self.remat)

    def _unprojected(self, x: Array) -> Unprojected:
        return Unprojected(x if self.post_norm else self.norm(x), embedding=self.token_embed.embedding)


_GPT1 = "Radford, Narasimhan, Salimans & Sutskever (2018), Improving Language Understanding by Generative Pre-Training"
_GPT2 = "Radford, Wu, Child, Luan, Amodei & Sutskever (2019), Language Models are Unsupervised Multitask Learners"
_GPT3 = "Brown et al. (2020), arXiv:2005.14165"


def _gpt2(layers: int, size: int, parameters: int) -> Variant:
    arguments = dict(num_layers=layers, hidden_size=size, num_heads=size // 64)
    return Variant(GPT, arguments, tokens(1024), parameters, 2019, _GPT2)


def _gpt3(layers: int, size: int, heads: int, parameters: int) -> Variant:
    # the paper gives neither the width of the bands, which GPT-Neo has as 256, nor a rate of dropout
    arguments = dict(
        num_layers=layers, hidden_size=size, num_heads=heads, max_length=2048, window=256, dropout_rate=0.0
    )
    return Variant(GPT, arguments, tokens(2048), parameters, 2020, _GPT3)


_TINY = dict(vocab_size=32, hidden_size=16, num_layers=2, num_heads=2, mlp_size=32, max_length=32, dropout_rate=0.0)

VARIANTS = {
    "gpt1": Variant(
        GPT, dict(vocab_size=40_478, max_length=512, post_norm=True), tokens(512), 116_534_784, 2018, _GPT1
    ),
    "gpt2": _gpt2(12, 768, 124_439_808),
    "gpt2_medium": _gpt2(24, 1024, 354_823_168),
    "gpt2_large": _gpt2(36, 1280, 774_030_080),
    "gpt2_xl": _gpt2(48, 1600, 1_557_611_200),
    # table 2.1, but for the XL's 24 heads, which don't divide its channels, and the 13B's 5140 channels: with those,
    # the parameters aren't what table D.1 says
    "gpt3_small": _gpt3(12, 768, 12, 125_226_240),
    "gpt3_medium": _gpt3(24, 1024, 16, 355_871_744),
    "gpt3_large": _gpt3(24, 1536, 16, 760_300_032),
    "gpt3_xl": _gpt3(24, 2048, 16, 1_315_723_264),
    "gpt3_2_7b": _gpt3(32, 2560, 32, 2_651_553_280),
    "gpt3_6_7b": _gpt3(32, 4096, 32, 6_658_404_352),
    "gpt3_13b": _gpt3(40, 5120, 40, 12_853_386_240),
    "gpt3_175b": _gpt3(96, 12_288, 96, 174_604_259_328),
    "gpt_tiny": Variant(GPT, _TINY, tokens(8), 5_504, 2019, _GPT2),
    "gpt3_tiny": Variant(GPT, _TINY | dict(window=3), tokens(8), 5_504, 2020, _GPT3),
}
