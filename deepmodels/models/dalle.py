"""DALL-E's decoder: a text, and behind it a picture as codes, one token after the other.

Ramesh et al. (2021), arXiv:2102.12092; the codes are those of `deepmodels.models.vae.DVAE`. B batch, T tokens of a
text, G codes of a picture's side, C channels, V words of the vocabulary, N codes of the codebook.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError, ShapeError, unknown
from deepmodels.layers import cache as kept
from deepmodels.layers.checks import check_mask, check_tokens
from deepmodels.layers.layer_norm import LayerNorm
from deepmodels.layers.stack import scan_layers
from deepmodels.models.gpt import GPTLayer
from deepmodels.models.variant import Variant, tokens

PATTERNS = ("row", "column", "convolution")

normal = nn.initializers.normal


def attention_pattern(kind: str, text_length: int, grid: int, kernel_size: int = 11) -> np.ndarray:
    """Returns which positions see which, (T + G * G, T + G * G) bools: figure 11.

    Each word sees itself and those before it, each code all words, itself, and of the codes before it, row by row,

    - "row": the last G, up to the one above it;
    - "column": those above it;
    - "convolution": those that a kernel around it covers, which goes on at the other side where the picture ends.

    Args:
      kind: one of `PATTERNS`.
      text_length: T.
      grid: G.
      kernel_size: of the convolution, an odd number.

    Raises:
      ConfigError: the kind is unknown, or the kernel's size isn't odd.
    """
    if kind not in PATTERNS:
        raise unknown("attention pattern", kind, PATTERNS)
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ConfigError(f"kernel_size: expected an odd number, got {kernel_size}")
    index = np.arange(grid * grid)
    distance = index[:, None] - index[None]
    if kind == "row":
        seen = (distance >= 0) & (distance <= grid)
    elif kind == "column":
        seen = (distance >= 0) & (distance % grid == 0)
    else:
        half = np.arange(kernel_size // 2 + 1)
        across = np.arange(-half[-1], half[-1] + 1)
        covered = (half[:, None] * grid + across[None]).ravel()
        seen = np.isin(distance, covered[covered >= 0])
    pattern = np.tril(np.ones((text_length + grid * grid,) * 2, bool))
    pattern[text_length:, text_length:] = seen
    return pattern


class DALLELayer(GPTLayer):
    """A layer of GPT whose positions see what they are told to."""

    def __call__(self, x: Array, seen: Array, train: bool) -> Array:
        """Takes (B, T, C) and bools that broadcast to (B, 1, T, T), and returns (B, T, C)."""
        return self._rest(x, lambda y: self.attention(y, mask=seen, train=train), train)


class DALLE(nn.Module):
    """The decoder of section 2.2 and appendix B.1.

    The call takes tokens (B, T) int32 and the picture's codes, row by row, (B, G * G) int32; `mask` (B, T) of bools is
    True where a word is, by default everywhere. Where none is, a vector of the position stands for it, which all see.
    It returns a dict of "text_logits" (B, T - 1, V), of the words behind the first, and "image_logits" (B, G * G, N),
    of the codes. With `train` it drops values at random, by the "dropout" stream. Raises ShapeError if an input hasn't
    this form, and ConfigError if an argument doesn't fit.

    To make pictures: `cache = start(batch_size)`, `logits, cache = extend(tokens, cache, lengths)` for the text, and
    then `logits, cache = step(codes, cache)` for each code; see `deepmodels.generation.generate_codes`.

    The layers are one scan, their parameters stacked on a leading axis ("layers"). The last one sees by "convolution",
    of the others number 2, 6, 10 and so on by "column", and the rest by "row".

    Attributes:
      vocab_size: V.
      codebook_size: N.
      text_length: T.
      grid: G.
      hidden_size: C.
      num_layers: of the decoder.
      num_heads: of each attention.
      mlp_size: channels between the dense layers of each layer; by default 4 C.
      kernel_size: of the last layer's pattern.
      dropout_rate: of embeddings, branches and attention weights.
      epsilon: of the normalisations.
      unroll: layers per step of the scan; changes neither result nor parameters.
      remat: what the backward pass finds of each layer, see `deepmodels.layers.stack.REMAT`.
    """

    vocab_size: int = 16_384
    codebook_size: int = 8_192
    text_length: int = 256
    grid: int = 32
    hidden_size: int = 3_968
    num_layers: int = 64
    num_heads: int = 62
    mlp_size: int | None = None
    kernel_size: int = 11
    dropout_rate: float = 0.0
    epsilon: float = 1e-5
    unroll: int = 1
    remat: str | None = None

    def setup(self) -> None:
        size, start = self.hidden_size, normal(0.02)

        def embed(rows: int) -> nn.Embed:
            return nn.Embed(rows, size, embedding_init=start)

        self.token_embed, self.image_embed = embed(self.vocab_size), embed(self.codebook_size)
        self.padding_embed, self.position_embed = embed(self.text_length), embed(self.text_length)
        self.row_embed, self.column_embed = embed(self.grid), embed(self.grid)
        self.layers = DALLELayer(
            num_heads=self.num_heads,
            hidden_size=size,
            mlp_size=self.mlp_size or 4 * size,
            dropout_rate=self.dropout_rate,
            epsilon=self.epsilon,
            post_norm=False,
            branches=2 * self.num_layers,
        )
        self.norm = LayerNorm(self.epsilon)
        self.text_head = nn.Dense(self.vocab_size, use_bias=False, kernel_init=start)
        self.image_head = nn.Dense(self.codebook_size, use_bias=False, kernel_init=start)
        self.dropout = nn.Dropout(self.dropout_rate)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The pattern of each layer's attention."""
        others = ("column" if number % 4 == 2 else "row" for number in range(1, self.num_layers))
        return (*others, "convolution")

    def __call__(
        self, tokens: Array, image_tokens: Array, mask: Array | None = None, train: bool = False
    ) -> dict[str, Array]:
        for name, given, length in (("tokens", tokens, self.text_length), ("image_tokens", image_tokens, self.grid**2)):
            check_tokens(given, name=name)
            if given.shape != (tokens.shape[0], length):
                raise ShapeError(f"{name}: expected shape ({tokens.shape[0]}, {length}), got {tuple(given.shape)}")
        check_mask(mask, tokens)
        codes = self._codes(image_tokens, jnp.arange(self.grid**2)[None])
        x = jnp.concatenate([self._words(tokens, mask), codes], 1)
        x = self.dropout(x, deterministic=not train)
        patterns, kinds = self._patterns()

        def call(layer: DALLELayer, x: Array, kind: Array) -> tuple[Array, None]:
            return layer(x, patterns[kind][None, None], train), None

        x, _ = scan_layers(self.layers, call, x, kinds, length=self.num_layers, unroll=self.unroll, remat=self.remat)
        x, last = self.norm(x), self.text_length - 1
        return {"text_logits": self.text_head(x[:, :last]), "image_logits": self.image_head(x[:, last:-1])}

    def start(self, batch_size: int, dtype: jnp.dtype = jnp.float32, *, quantized: bool = False) -> dict[str, Array]:
        """Returns what `extend` begins with: nothing kept, and room for a text and its picture in each row.

        Args:
          batch_size: B.
          dtype: of the keys and values.
          quantized: whether they are kept in int8.
        """
        entries = dict.fromkeys(("keys", "values"), (self.num_heads, self.hidden_size // self.num_heads))
        room = self.text_length + self.grid**2
        buffers = kept.make(batch_size, self.num_layers, room, entries, dtype, quantized=quantized)
        return {"position": jnp.zeros(batch_size, jnp.int32), **buffers}

    def extend(
        self, tokens: Array, cache: dict[str, Array], lengths: Array | None = None, last: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        """Reads the text of each row into an empty cache.

        Args:
          tokens: at most T of each row, (B, up to T) int32.
          cache: of `start`.
          lengths: how many of each row's are words, (B,) int32.
          last: has to be True.

        Returns:
          Logits of the first code (B, N), and the cache with the text.
        """
        check_tokens(tokens, length=self.text_length)
        if not last:
            raise ConfigError("last: a text is read as a whole, and what follows it is a code")
        mask = None
        missing = self.text_length - tokens.shape[1]
        if lengths is None and missing:
            lengths = jnp.full(tokens.shape[:1], tokens.shape[1], jnp.int32)
        if lengths is not None:
            mask = jnp.arange(self.text_length)[None] < lengths[:, None]
        return self._extend(self._words(jnp.pad(tokens, ((0, 0), (0, missing))), mask), cache)

    def step(self, tokens: Array, cache: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Returns logits (B, N) of what follows codes (B,), each the next of its row, and the cache with them."""
        return self._extend(self._codes(tokens[:, None], cache["position"][:, None] - self.text_length), cache)

    def _extend(self, x: Array, cache: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Logits (B, N) of what follows the last of new positions (B, t, C), and the cache with them."""
        position, buffers = cache["position"], {name: array for name, array in cache.items() if name != "position"}
        plan = kept.plan(buffers, position, x.shape[1])
        places = position[:, None] + jnp.arange(x.shape[1], dtype=jnp.int32)[None]
        patterns, kinds = self._patterns()

        def call(layer: DALLELayer, carry: tuple, xs: tuple[Array, Array]) -> tuple[tuple, None]:
            number, kind = xs
            seen = patterns[kind][places][:, None]
            return layer.extend(*carry, number, plan._replace(mask=plan.mask & seen)), None

        numbers = jnp.arange(self.num_layers, dtype=jnp.int32)
        (x, buffers), _ = scan_layers(
            self.layers, call, (x, buffers), (numbers, kinds), length=self.num_layers, unroll=self.unroll
        )
        return self.image_head(self.norm(x[:, -1])), {"position": position + places.shape[1], **buffers}

    def _patterns(self) -> tuple[Array, Array]:
        """The patterns there are, (3, T + G * G, T + G * G), and the number of each layer's."""
        sizes = self.text_length, self.grid, self.kernel_size
        patterns = np.stack([attention_pattern(kind, *sizes) for kind in PATTERNS])
        return jnp.asarray(patterns), jnp.array([PATTERNS.index(kind) for kind in self.kinds], jnp.int32)

    def _words(self, tokens: Array, mask: Array | None) -> Array:
        index = jnp.arange(self.text_length)
        x = self.token_embed(tokens)
        if mask is not None:
            x = jnp.where(mask[..., None], x, self.padding_embed(index)[None])
        elif self.is_initializing():
            self.padding_embed(index)
        return x + self.position_embed(index)[None]

    def _codes(self, codes: Array, index: Array) -> Array:
        return self.image_embed(codes) + self.row_embed(index // self.grid) + self.column_embed(index % self.grid)


_DALLE = "Ramesh et al. (2021), arXiv:2102.12092"


def _inputs(text_length: int, grid: int) -> dict:
    return tokens(text_length) | {"image_tokens": tokens(grid * grid)["tokens"]}


VARIANTS = {
    # the paper says 12 billion; the sizes are its own, and without the vectors of padding it would be 12,291,792,640
    "dalle_12b": Variant(DALLE, {}, _inputs(256, 32), 12_292_808_448, 2021, _DALLE),
    "dalle_tiny": Variant(
        DALLE,
        dict(
            vocab_size=16, codebook_size=16, text_length=6, grid=3, hidden_size=16, num_layers=3, num_heads=2,
            mlp_size=32, kernel_size=3,
        ),
        _inputs(6, 3),
        *(8_016, 2021, _DALLE),
    ),
}  # fmt: skip
